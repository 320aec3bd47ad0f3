/* The request's table of fields, its reader and its stored form; request.h tells the story.
 * Forms are turned into objects in request_form.c, model defaults come in request_resolve.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/request.h"

#include "schema/json.h"
#include "schema/request_private.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SEGMENT_ABOUT "longest piece rendered at once, 4k+1; longer clips are split and joined"
const struct rf_field_info rf_request_fields[RF_FIELD_COUNT] = {
    [RF_FIELD_PROMPT] = {"prompt", RF_KIND_TEXT, 1, RF_MAX_PROMPT_CHARS, 0, 0, NULL, "what to show; required"},
    [RF_FIELD_NEGATIVE_PROMPT] = {"negative_prompt", RF_KIND_TEXT, 0, RF_MAX_PROMPT_CHARS, 0, 0, "",
                                  "what to avoid; only heard when a guidance scale is above 1"},
    [RF_FIELD_MODEL] = {"model", RF_KIND_TEXT, 1, 127, 0, 0, "the farm's first", "name of a registered model"},
    [RF_FIELD_SECONDS] = {"seconds", RF_KIND_NUMBER, 0.25, RF_MAX_FRAMES / 16.0, 0, 0, NULL,
                          "length, text or number; the nearest 4k+1 frames at 16 per second; excludes num_frames"},
    [RF_FIELD_NUM_FRAMES] = {"num_frames", RF_KIND_INTEGER, 5, RF_MAX_FRAMES, 4, 1, "model", "rendered frames, 4k+1"},
    [RF_FIELD_SIZE] = {"size", RF_KIND_OTHER, 0, 0, 0, 0, "model", "WIDTHxHEIGHT"},
    [RF_FIELD_WIDTH] = {"width", RF_KIND_INTEGER, 64, 2048, 16, 0, "model", "with height, instead of size"},
    [RF_FIELD_HEIGHT] = {"height", RF_KIND_INTEGER, 64, 2048, 16, 0, "model", "with width, instead of size"},
    [RF_FIELD_FPS] = {"fps", RF_KIND_INTEGER, 16, 32, 16, 0, "32", "32 interpolated, 16 as rendered"},
    [RF_FIELD_SEED] = {"seed", RF_KIND_INTEGER, 0, (double)RF_MAX_SEED, 0, 0, "random", "recorded either way"},
    [RF_FIELD_NUM_INFERENCE_STEPS] = {"num_inference_steps", RF_KIND_INTEGER, 1, 100, 0, 0, "model", "sampling steps"},
    [RF_FIELD_SWITCH_STEP] = {"switch_step", RF_KIND_INTEGER, 0, 100, 0, 0, "model",
                              "steps done by the high-noise expert before the low-noise one takes over"},
    [RF_FIELD_GUIDANCE_SCALE] = {"guidance_scale", RF_KIND_NUMBER, 0, 20, 0, 0, "model", "of the low-noise expert"},
    [RF_FIELD_GUIDANCE_SCALE_2] = {"guidance_scale_2", RF_KIND_NUMBER, 0, 20, 0, 0, "guidance_scale",
                                   "of the high-noise expert"},
    [RF_FIELD_FLOW_SHIFT] = {"flow_shift", RF_KIND_NUMBER, 0.1, 100, 0, 0, "model", "bends the noise schedule"},
    [RF_FIELD_LORAS] = {"loras", RF_KIND_OTHER, 0, RF_REQUEST_MAX_LORAS, 0, 0, "model", "list of {name, strength}; [] for none"},
    [RF_FIELD_MAX_SEGMENT_FRAMES] = {"max_segment_frames", RF_KIND_INTEGER, 5, RF_MAX_FRAMES, 4, 1, "model", SEGMENT_ABOUT},
    [RF_FIELD_INPUT_REFERENCE] = {"input_reference", RF_KIND_OTHER, 0, RF_MAX_IMAGE_URL_BYTES, 0, 0, NULL,
                                  "start image: a file part, or {image_url} with a data URL"},
    [RF_FIELD_USER] = {"user", RF_KIND_TEXT, 0, 64, 0, 0, "", "who asks; the farm shares fairly between users"},
    [RF_FIELD_PRIORITY] = {"priority", RF_KIND_INTEGER, -100, 100, 0, 0, "0", "higher goes first"},
    [RF_FIELD_CRF] = {"crf", RF_KIND_INTEGER, 1, 40, 0, 0, "18", "H.264 quality; lower is better and larger"},
    [RF_FIELD_WEBHOOK_URL] = {"webhook_url", RF_KIND_TEXT, 0, 2048, 0, 0, NULL,
                              "http(s) address that is told when the job has ended, signed"},
    [RF_FIELD_QUALITY] = {"quality", RF_KIND_OTHER, 0, 0, 0, 0, "standard", "only 'standard'; use crf"},
    [RF_FIELD_EXTRA_BODY] = {"extra_body", RF_KIND_OTHER, 0, 0, 0, 0, NULL, "JSON object with further fields"},
};

struct rf_request *rf_request_create(void)
{
    struct rf_request *r = rf_new(struct rf_request);
    r->prompt = rf_strdup("");
    r->negative_prompt = rf_strdup("");
    return r;
}

void rf_request_destroy(struct rf_request **request)
{
    struct rf_request *r = *request;
    if (r == NULL)
        return;
    free(r->prompt);
    free(r->negative_prompt);
    free(r->webhook_url);
    free(r->image);
    free(r);
    *request = NULL;
}

enum rf_code rf_request_fail(struct rf_request_reader *in, const char *param, const char *format, ...)
{
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!rf_utf8_valid(text, strlen(text), NULL)) /* quoted bytes, cut in the middle of a character */
        for (char *p = text; *p != '\0'; p++)
            *p = *p & 0x80 ? '?' : *p;
    snprintf(in->param, sizeof in->param, "%s", param);
    return rf_fail(in->err, RF_ERR_INVALID, "%s: %s", param, text);
}

void rf_request_tell_param(const struct rf_request_reader *in, enum rf_code rc, char *ret_param)
{
    if (ret_param != NULL)
        snprintf(ret_param, RF_PARAM_SIZE, "%s", rc == RF_OK ? "" : in->param);
}

/* ---- numbers ---- */

/* Decimal text, all of it. strtod alone would take "inf", "0x1p3" and leading blanks. */
static bool number_from_text(const char *text, double *ret_x)
{
    size_t n = strlen(text);
    if (n == 0 || n > 40 || strspn(text, "0123456789+-.eE") != n)
        return false;
    char *end;
    *ret_x = strtod(text, &end);
    return *end == '\0' && isfinite(*ret_x);
}

static void format_bound(double x, char *out, size_t size)
{
    if (x == floor(x))
        snprintf(out, size, "%.0f", x);
    else
        snprintf(out, size, "%g", x);
}

enum rf_code rf_request_check_number(struct rf_request_reader *in, const struct rf_field_info *f, double x)
{
    if (!isfinite(x) || x < f->min || x > f->max) {
        char low[32], high[32];
        format_bound(f->min, low, sizeof low);
        format_bound(f->max, high, sizeof high);
        return rf_request_fail(in, f->name, "%.6g is out of range; it must lie between %s and %s", x, low, high);
    }
    if (f->kind == RF_KIND_INTEGER && x != floor(x))
        return rf_request_fail(in, f->name, "%.6g is not a whole number", x);
    if (f->multiple != 0) {
        int64_t n = (int64_t)x, off = (n % f->multiple + f->multiple - f->remainder) % f->multiple;
        if (off != 0) {
            int64_t below = n - off >= (int64_t)f->min ? n - off : n - off + f->multiple;
            return rf_request_fail(in, f->name, "%lld must be a multiple of %d%s, for example %lld or %lld", (long long)n,
                                   f->multiple, f->remainder ? " plus 1" : "", (long long)below,
                                   (long long)(below + f->multiple <= (int64_t)f->max ? below + f->multiple
                                                                                      : below - f->multiple));
        }
    }
    return RF_OK;
}

static enum rf_code read_number(struct rf_request_reader *in, enum rf_field field, const cJSON *value, double *ret_x)
{
    const struct rf_field_info *f = &rf_request_fields[field];
    bool text_is_fine = in->form || field == RF_FIELD_SECONDS;
    double x = 0;
    if (cJSON_IsNumber(value))
        x = value->valuedouble;
    else if (!cJSON_IsString(value) || !text_is_fine)
        return rf_request_fail(in, f->name, "must be a number");
    else if (!number_from_text(value->valuestring, &x))
        return rf_request_fail(in, f->name, "'%.40s' is not a number", value->valuestring);
    *ret_x = x;
    return rf_request_check_number(in, f, x);
}

static void set_number(struct rf_request *r, enum rf_field field, double x)
{
    switch (field) {
    case RF_FIELD_SECONDS: r->seconds = x; break;
    case RF_FIELD_NUM_FRAMES: r->n_frames = (int)x; break;
    case RF_FIELD_WIDTH: r->width = (int)x; break;
    case RF_FIELD_HEIGHT: r->height = (int)x; break;
    case RF_FIELD_FPS: r->fps = (int)x; break;
    case RF_FIELD_SEED: r->seed = (int64_t)x; break;
    case RF_FIELD_NUM_INFERENCE_STEPS: r->n_steps = (int)x; break;
    case RF_FIELD_SWITCH_STEP: r->switch_step = (int)x; break;
    case RF_FIELD_GUIDANCE_SCALE: r->guidance_scale = x; break;
    case RF_FIELD_GUIDANCE_SCALE_2: r->guidance_scale_2 = x; break;
    case RF_FIELD_FLOW_SHIFT: r->flow_shift = x; break;
    case RF_FIELD_MAX_SEGMENT_FRAMES: r->max_segment_frames = (int)x; break;
    case RF_FIELD_PRIORITY: r->priority = (int)x; break;
    case RF_FIELD_CRF: r->crf = (int)x; break;
    case RF_FIELD_PROMPT: case RF_FIELD_NEGATIVE_PROMPT: case RF_FIELD_MODEL: case RF_FIELD_SIZE: case RF_FIELD_LORAS:
    case RF_FIELD_INPUT_REFERENCE: case RF_FIELD_USER: case RF_FIELD_WEBHOOK_URL: case RF_FIELD_QUALITY: case RF_FIELD_EXTRA_BODY:
    case RF_FIELD_COUNT:
        RF_ASSERT(!"a field that is not a number");
    }
}

/* ---- texts ---- */

/* Control characters other than line ends and tabs have no business in a prompt, and none at all in a name. */
static bool has_control(const char *text, bool is_prose)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        if ((*p < 0x20 && !(is_prose && (*p == '\n' || *p == '\t' || *p == '\r'))) || *p == 0x7F)
            return true;
    return false;
}

/* "http://host…" or "https://host…", without blanks (which control characters are refused with) or a name and password:
 * those would end up in logs and in front of whoever reads the table. Where the address leads is looked at on the way. */
static bool web_address_valid(const char *text)
{
    size_t scheme = strncasecmp(text, "http://", 7) == 0 ? 7 : strncasecmp(text, "https://", 8) == 0 ? 8 : 0;
    size_t host = strcspn(text + scheme, "/?#");
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~' || *p == '\\')
            return false;
    return scheme > 0 && host > 0 && memchr(text + scheme, '@', host) == NULL && text[scheme] != ':';
}

static enum rf_code read_text(struct rf_request_reader *in, enum rf_field field, const cJSON *value, struct rf_request *r)
{
    const struct rf_field_info *f = &rf_request_fields[field];
    if (!cJSON_IsString(value))
        return rf_request_fail(in, f->name, "must be a string");
    const char *text = value->valuestring;
    size_t n_bytes = strlen(text), n_chars = 0;
    if (!rf_utf8_valid(text, n_bytes, &n_chars))
        return rf_request_fail(in, f->name, "is not valid UTF-8");
    if (n_chars > f->max)
        return rf_request_fail(in, f->name, "has %zu characters; at most %.0f", n_chars, f->max);
    bool is_prose = field == RF_FIELD_PROMPT || field == RF_FIELD_NEGATIVE_PROMPT;
    if (has_control(text, is_prose))
        return rf_request_fail(in, f->name, "holds a control character");
    if (n_chars < f->min || (f->min > 0 && strspn(text, " \t\r\n") == n_bytes))
        return rf_request_fail(in, f->name, "must not be blank");
    if (field == RF_FIELD_MODEL && n_bytes >= sizeof r->model)
        return rf_request_fail(in, f->name, "has %zu bytes; at most %zu", n_bytes, sizeof r->model - 1);
    if (field == RF_FIELD_WEBHOOK_URL) {
        if (n_bytes > 0 && !web_address_valid(text))
            return rf_request_fail(in, f->name, "must be an address such as https://example.org/hook, without user and password");
        free(r->webhook_url);
        r->webhook_url = n_bytes > 0 ? rf_strdup(text) : NULL;
        return RF_OK;
    }
    if (is_prose) {
        char **slot = field == RF_FIELD_PROMPT ? &r->prompt : &r->negative_prompt;
        free(*slot);
        *slot = rf_strndup(text, n_bytes);
    } else {
        memcpy(field == RF_FIELD_MODEL ? r->model : r->user, text, n_bytes + 1);
    }
    return RF_OK;
}

bool rf_size_parse(const char *text, int *ret_width, int *ret_height)
{
    int used = 0;
    if (strlen(text) > 11 || !isdigit((unsigned char)text[0]) ||
        sscanf(text, "%5d%*1[xX]%n", ret_width, &used) != 1 || used == 0 || !isdigit((unsigned char)text[used]))
        return false;
    int end = 0;
    return sscanf(text + used, "%5d%n", ret_height, &end) == 1 && text[used + end] == '\0';
}

static enum rf_code read_size(struct rf_request_reader *in, const cJSON *value, struct rf_request *r)
{
    int width, height;
    if (!cJSON_IsString(value) || !rf_size_parse(value->valuestring, &width, &height))
        return rf_request_fail(in, "size", "must be WIDTHxHEIGHT, for example 832x480");
    struct rf_field_info side = rf_request_fields[RF_FIELD_WIDTH];
    side.name = "size";
    enum rf_code rc = rf_request_check_number(in, &side, width);
    if (rc == RF_OK)
        rc = rf_request_check_number(in, &side, height);
    if (rc == RF_OK) {
        r->width = width;
        r->height = height;
    }
    return rc;
}

/* ---- lists and objects ---- */

/* A name that a worker may turn into a file's name: no separator, no leading dot. */
static bool lora_name_valid(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof((struct rf_request_lora *)0)->name || name[0] == '.')
        return false;
    for (const char *p = name; *p != '\0'; p++)
        if (!isalnum((unsigned char)*p) && strchr("._+-", *p) == NULL)
            return false;
    return true;
}

static enum rf_code read_loras(struct rf_request_reader *in, const cJSON *value, struct rf_request *r)
{
    if (!cJSON_IsArray(value))
        return rf_request_fail(in, "loras", "must be a list of {name, strength}");
    r->n_loras = 0;
    for (const cJSON *item = value->child; item != NULL; item = item->next) {
        char param[RF_PARAM_SIZE];
        if (r->n_loras == RF_REQUEST_MAX_LORAS)
            return rf_request_fail(in, "loras", "at most %d", RF_REQUEST_MAX_LORAS);
        struct rf_request_lora *l = &r->lora[r->n_loras];
        *l = (struct rf_request_lora){.strength = 1};
        snprintf(param, sizeof param, "loras[%d]", r->n_loras);
        if (!cJSON_IsObject(item))
            return rf_request_fail(in, param, "must be an object with name and strength");
        for (const cJSON *part = item->child; part != NULL; part = part->next) {
            snprintf(param, sizeof param, "loras[%d].%.32s", r->n_loras, part->string);
            if (strcmp(part->string, "name") == 0) {
                if (!cJSON_IsString(part) || !lora_name_valid(part->valuestring))
                    return rf_request_fail(in, param, "must be a LoRA's name: letters, digits and . _ + - only");
                strcpy(l->name, part->valuestring);
            } else if (strcmp(part->string, "strength") == 0) {
                bool text = in->form && cJSON_IsString(part) && number_from_text(part->valuestring, &l->strength);
                if (cJSON_IsNumber(part))
                    l->strength = part->valuedouble;
                else if (!text)
                    return rf_request_fail(in, param, "must be a number");
                if (!(fabs(l->strength) <= 10))
                    return rf_request_fail(in, param, "%g must lie between -10 and 10", l->strength);
            } else {
                return rf_request_fail(in, param, "unknown; a LoRA has name and strength");
            }
        }
        snprintf(param, sizeof param, "loras[%d].name", r->n_loras);
        if (l->name[0] == '\0')
            return rf_request_fail(in, param, "is missing");
        r->n_loras++;
    }
    r->no_loras = r->n_loras == 0;
    return RF_OK;
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes strict base64 with its padding; false when it is not. */
static bool base64_decode(const char *text, size_t n, uint8_t *out, size_t *ret_n)
{
    size_t n_out = 0, n_pad = n >= 2 && text[n - 1] == '=' ? text[n - 2] == '=' ? 2 : 1 : 0;
    if (n == 0 || n % 4 != 0)
        return false;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        size_t n_here = i + 4 == n ? 4 - n_pad : 4;
        for (size_t k = 0; k < 4; k++) {
            int digit = k < n_here ? base64_digit(text[i + k]) : 0;
            if (digit < 0)
                return false;
            bits = bits << 6 | (uint32_t)digit;
        }
        for (size_t k = 0; k + 1 < n_here; k++)
            out[n_out++] = (uint8_t)(bits >> (16 - 8 * k));
    }
    *ret_n = n_out;
    return true;
}

static enum rf_code read_data_url(struct rf_request_reader *in, const char *url, struct rf_request *r)
{
    const char *param = "input_reference.image_url";
    size_t n = strlen(url);
    if (strncasecmp(url, "http:", 5) == 0 || strncasecmp(url, "https:", 6) == 0)
        return rf_request_fail(in, param, "this server fetches nothing from the net; send the image as a file part "
                               "named input_reference, or as a data: URL");
    if (n > RF_MAX_IMAGE_URL_BYTES)
        return rf_request_fail(in, param, "has %zu characters; at most %d", n, RF_MAX_IMAGE_URL_BYTES);
    const char *comma = strchr(url, ',');
    if (strncasecmp(url, "data:image/", 11) != 0 || comma == NULL || comma - url < 18 || comma - url > 80 ||
        strncasecmp(comma - 7, ";base64", 7) != 0)
        return rf_request_fail(in, param, "must be a data URL: data:image/png;base64,…");
    size_t n_text = strlen(comma + 1);
    uint8_t *bytes = malloc(n_text / 4 * 3 + 1);
    if (bytes == NULL)
        return rf_fail(in->err, RF_ERR_NO_MEMORY, "no memory for an image of %zu bytes", n_text);
    if (!base64_decode(comma + 1, n_text, bytes, &r->image_bytes)) {
        free(bytes);
        return rf_request_fail(in, param, "the image is not valid base64");
    }
    free(r->image);
    r->image = bytes;
    r->has_image = true;
    return RF_OK;
}

static enum rf_code read_input_reference(struct rf_request_reader *in, const cJSON *value, struct rf_request *r)
{
    if (!cJSON_IsObject(value))
        return rf_request_fail(in, "input_reference", "must be a file part or an object with image_url");
    const cJSON *url = NULL;
    for (const cJSON *part = value->child; part != NULL; part = part->next) {
        if (cJSON_IsNull(part))
            continue;
        if (strcmp(part->string, "image_url") == 0)
            url = part;
        else if (strcmp(part->string, "file_id") == 0)
            return rf_request_fail(in, "input_reference.file_id", "files are not kept here; send the image itself");
        else
            return rf_request_fail(in, "input_reference", "unknown part '%.40s'; it has image_url", part->string);
    }
    if (!cJSON_IsString(url))
        return rf_request_fail(in, "input_reference.image_url", "must be a data URL");
    return read_data_url(in, url->valuestring, r);
}

static enum rf_code read_object(struct rf_request_reader *in, const cJSON *object, bool is_extra, struct rf_request *r);

static enum rf_code read_extra_body(struct rf_request_reader *in, const cJSON *value, struct rf_request *r)
{
    if (cJSON_IsObject(value))
        return read_object(in, value, true, r);
    if (!cJSON_IsString(value))
        return rf_request_fail(in, "extra_body", "must be a JSON object");
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    struct rf_err inner = {0};
    enum rf_code rc = rf_json_parse(value->valuestring, strlen(value->valuestring), 32 << 20, &json, &inner);
    if (rc != RF_OK)
        return rf_request_fail(in, "extra_body", "%.150s", inner.msg);
    if (!cJSON_IsObject(json))
        return rf_request_fail(in, "extra_body", "must be a JSON object");
    bool form = in->form;
    in->form = false; /* real JSON again: numbers are numbers */
    rc = read_object(in, json, true, r);
    in->form = form;
    return rc;
}

enum rf_code rf_request_read_field(struct rf_request_reader *in, enum rf_field field, const cJSON *value,
                                   struct rf_request *r)
{
    double x = 0;
    enum rf_code rc;
    switch (rf_request_fields[field].kind) {
    case RF_KIND_TEXT:
        return read_text(in, field, value, r);
    case RF_KIND_INTEGER:
    case RF_KIND_NUMBER:
        rc = read_number(in, field, value, &x);
        if (rc == RF_OK)
            set_number(r, field, x);
        return rc;
    case RF_KIND_OTHER:
    case RF_KIND_COUNT:
        break;
    }
    if (field == RF_FIELD_SIZE)
        return read_size(in, value, r);
    if (field == RF_FIELD_LORAS)
        return read_loras(in, value, r);
    if (field == RF_FIELD_INPUT_REFERENCE)
        return read_input_reference(in, value, r);
    if (field == RF_FIELD_QUALITY)
        return cJSON_IsString(value) && strcmp(value->valuestring, "standard") == 0
                   ? RF_OK : rf_request_fail(in, "quality", "only 'standard' is known; use crf for the file's quality");
    return read_extra_body(in, value, r);
}

/* null means not given, as JSON clients write it. */
static enum rf_code read_object(struct rf_request_reader *in, const cJSON *object, bool is_extra, struct rf_request *r)
{
    for (const cJSON *value = object->child; value != NULL; value = value->next) {
        int field = rf_request_field_find(value->string);
        if (field == RF_FIELD_COUNT)
            return rf_request_unknown(in, value->string);
        if (cJSON_IsNull(value))
            continue;
        if (is_extra && field == RF_FIELD_EXTRA_BODY)
            return rf_request_fail(in, "extra_body", "holds another extra_body");
        if (r->given & UINT32_C(1) << field)
            return rf_request_fail(in, rf_request_fields[field].name, "is given twice");
        r->given |= UINT32_C(1) << field;
        enum rf_code rc = rf_request_read_field(in, (enum rf_field)field, value, r);
        if (rc != RF_OK)
            return rc;
    }
    return RF_OK;
}

enum rf_code rf_request_read(struct rf_request_reader *in, const cJSON *object, struct rf_request **ret_request)
{
    if (!cJSON_IsObject(object))
        return rf_fail(in->err, RF_ERR_INVALID, "the request must be a JSON object");
    RF_AUTO(rf_request_destroy) struct rf_request *r = rf_request_create();
    enum rf_code rc = read_object(in, object, false, r);
    if (rc == RF_OK && !(r->given & UINT32_C(1) << RF_FIELD_PROMPT))
        rc = rf_request_fail(in, "prompt", "is missing");
    if (rc != RF_OK)
        return rc;
    *ret_request = r;
    r = NULL;
    return RF_OK;
}

enum rf_code rf_request_parse(const struct cJSON *object, struct rf_request **ret_request, char *ret_param,
                              struct rf_err *err)
{
    struct rf_request_reader in = {.err = err};
    enum rf_code rc = rf_request_read(&in, object, ret_request);
    rf_request_tell_param(&in, rc, ret_param);
    return rc;
}
