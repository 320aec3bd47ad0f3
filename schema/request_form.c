/* Forms as objects: bracket names unfolded; and the guess at what an unknown field was meant to be.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/request_private.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_FORM_FIELDS 128
#define MAX_FORM_BYTES (32 << 20)

struct rf_form {
    cJSON *root;
    int n_fields;
    size_t n_bytes;
};

struct rf_form *rf_form_create(void)
{
    struct rf_form *form = rf_new(struct rf_form);
    form->root = cJSON_CreateObject();
    RF_ASSERT(form->root != NULL);
    return form;
}

void rf_form_destroy(struct rf_form **form)
{
    if (*form == NULL)
        return;
    cJSON_Delete((*form)->root);
    free(*form);
    *form = NULL;
}

/* "base[a][b]" cut into its parts; parts[i] "" for "[]". */
struct bracket_name {
    char text[128];
    const char *part[3];
    int n_parts;
};

static bool split_name(const char *name, struct bracket_name *out)
{
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof out->text || name[0] == '[')
        return false;
    memcpy(out->text, name, n + 1);
    out->part[0] = out->text;
    out->n_parts = 1;
    char *p = strchr(out->text, '[');
    while (p != NULL) {
        *p++ = '\0';
        char *close = strchr(p, ']');
        if (close == NULL || out->n_parts == 3 || (close[1] != '\0' && close[1] != '['))
            return false;
        *close = '\0';
        out->part[out->n_parts++] = p;
        p = close[1] == '[' ? close + 1 : NULL;
    }
    return true;
}

static cJSON *child_of(cJSON *parent, const char *key, cJSON *(*create)(void))
{
    cJSON *child = cJSON_GetObjectItemCaseSensitive(parent, key);
    if (child == NULL) {
        child = create();
        cJSON_AddItemToObject(parent, key, child);
    }
    return child;
}

/* The element of `list` that `key` of this field belongs to: "[]" goes on with the last one until a key repeats, "[3]"
 * names it, in order. NULL when the number skips ahead. */
static cJSON *element_of(cJSON *list, const char *index, const char *key)
{
    int n = cJSON_GetArraySize(list);
    cJSON *last = n > 0 ? cJSON_GetArrayItem(list, n - 1) : NULL;
    bool fresh = last == NULL || cJSON_GetObjectItemCaseSensitive(last, key) != NULL;
    if (index[0] != '\0') {
        if (strspn(index, "0123456789") != strlen(index) || strlen(index) > 2 || atoi(index) > n)
            return NULL;
        if (atoi(index) < n)
            return cJSON_GetArrayItem(list, atoi(index));
        fresh = true;
    }
    if (fresh) {
        last = cJSON_CreateObject();
        cJSON_AddItemToArray(list, last);
    }
    return last;
}

/* A list or an object may come as JSON text in one field: curl -F 'loras=[{"name":"x"}]' */
static cJSON *value_of(const char *name, const char *value, struct rf_err *err, enum rf_code *ret_rc)
{
    int field = rf_request_field_find(name);
    bool structured = field == RF_FIELD_LORAS || field == RF_FIELD_INPUT_REFERENCE;
    *ret_rc = RF_OK;
    if (structured && (value[0] == '[' || value[0] == '{')) {
        cJSON *json = NULL;
        *ret_rc = rf_json_parse(value, strlen(value), MAX_FORM_BYTES, &json, err);
        return json;
    }
    cJSON *json = cJSON_CreateString(value);
    if (json == NULL)
        *ret_rc = rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a field of %zu bytes", strlen(value));
    return json;
}

/* Finds the place for the field; false when the brackets make no sense there. */
static bool place(struct rf_form *form, const struct bracket_name *name, cJSON **ret_parent, const char **ret_key)
{
    *ret_parent = form->root;
    *ret_key = name->part[0];
    if (name->n_parts == 1)
        return true;
    bool is_list = name->part[1][0] == '\0' || isdigit((unsigned char)name->part[1][0]);
    if (is_list != (name->n_parts == 3))
        return false; /* base[key] or base[][key]; nothing of ours is deeper or a list of plain values */
    cJSON *base = child_of(form->root, name->part[0], is_list ? cJSON_CreateArray : cJSON_CreateObject);
    if (is_list ? !cJSON_IsArray(base) : !cJSON_IsObject(base))
        return false;
    *ret_key = name->part[name->n_parts - 1];
    *ret_parent = is_list ? element_of(base, name->part[1], *ret_key) : base;
    return cJSON_IsObject(*ret_parent);
}

enum rf_code rf_form_add(struct rf_form *form, const char *name, const char *value, size_t n_bytes, char *ret_param,
                         struct rf_err *err)
{
    struct rf_request_reader in = {.err = err};
    struct bracket_name parts;
    cJSON *parent = NULL, *item = NULL;
    const char *key = NULL;
    enum rf_code rc = RF_OK;
    char shown[RF_PARAM_SIZE];
    snprintf(shown, sizeof shown, "%.40s", rf_utf8_valid(name, strlen(name), NULL) ? name : "(a field)");
    form->n_bytes += n_bytes;
    char *text = NULL;
    if (++form->n_fields > MAX_FORM_FIELDS || form->n_bytes > MAX_FORM_BYTES)
        rc = rf_fail(err, RF_ERR_LIMIT, "a form has at most %d fields and %d MiB", MAX_FORM_FIELDS, MAX_FORM_BYTES >> 20);
    else if (!rf_utf8_valid(value, n_bytes, NULL))
        rc = rf_request_fail(&in, shown, "is not valid UTF-8");
    else if (!split_name(name, &parts) || !place(form, &parts, &parent, &key))
        rc = rf_request_fail(&in, shown, "the brackets of this name are not understood");
    else if (cJSON_GetObjectItemCaseSensitive(parent, key) != NULL)
        rc = rf_request_fail(&in, shown, "is given twice");
    else if ((text = malloc(n_bytes + 1)) == NULL)
        rc = rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a field of %zu bytes", n_bytes);
    if (rc == RF_OK) {
        memcpy(text, value, n_bytes);
        text[n_bytes] = '\0';
        item = value_of(parent == form->root ? key : "", text, err, &rc);
        if (rc == RF_OK)
            cJSON_AddItemToObject(parent, key, item);
        else if (rc == RF_ERR_INVALID) {
            snprintf(in.param, sizeof in.param, "%s", shown);
            rf_wrap(err, rc, "%s", shown);
        }
    }
    free(text);
    rf_request_tell_param(&in, rc, ret_param);
    return rc;
}

enum rf_code rf_form_parse(struct rf_form *form, struct rf_request **ret_request, char *ret_param, struct rf_err *err)
{
    struct rf_request_reader in = {.form = true, .err = err};
    enum rf_code rc = rf_request_read(&in, form->root, ret_request);
    rf_request_tell_param(&in, rc, ret_param);
    return rc;
}

/* ---- names ---- */

int rf_request_field_find(const char *name)
{
    int field = 0;
    while (field < RF_FIELD_COUNT && strcmp(rf_request_fields[field].name, name) != 0)
        field++;
    return field;
}

/* What other servers and tools call the same thing (and where spelling alone would not lead). */
static const struct {
    const char *theirs;
    enum rf_field ours;
} other_names[] = {
    {"steps", RF_FIELD_NUM_INFERENCE_STEPS}, {"infer_steps", RF_FIELD_NUM_INFERENCE_STEPS},
    {"sample_steps", RF_FIELD_NUM_INFERENCE_STEPS}, {"frames", RF_FIELD_NUM_FRAMES}, {"length", RF_FIELD_NUM_FRAMES},
    {"video_frames", RF_FIELD_NUM_FRAMES}, {"target_video_length", RF_FIELD_NUM_FRAMES}, {"duration", RF_FIELD_SECONDS},
    {"cfg", RF_FIELD_GUIDANCE_SCALE}, {"cfg_scale", RF_FIELD_GUIDANCE_SCALE}, {"guidance", RF_FIELD_GUIDANCE_SCALE},
    {"txt_cfg", RF_FIELD_GUIDANCE_SCALE}, {"shift", RF_FIELD_FLOW_SHIFT}, {"lora", RF_FIELD_LORAS},
    {"lora_name", RF_FIELD_LORAS}, {"lora_strength", RF_FIELD_LORAS}, {"image", RF_FIELD_INPUT_REFERENCE},
    {"start_image", RF_FIELD_INPUT_REFERENCE}, {"init_image", RF_FIELD_INPUT_REFERENCE},
    {"image_path", RF_FIELD_INPUT_REFERENCE}, {"image_url", RF_FIELD_INPUT_REFERENCE},
    {"reference_url", RF_FIELD_INPUT_REFERENCE}, {"image_reference", RF_FIELD_INPUT_REFERENCE},
    {"negative", RF_FIELD_NEGATIVE_PROMPT}, {"text", RF_FIELD_PROMPT}, {"resolution", RF_FIELD_SIZE},
    {"target_shape", RF_FIELD_SIZE}, {"target_fps", RF_FIELD_FPS}, {"frame_rate", RF_FIELD_FPS},
    {"boundary_ratio", RF_FIELD_SWITCH_STEP}, {"boundary", RF_FIELD_SWITCH_STEP}, {"extra_params", RF_FIELD_EXTRA_BODY},
};

/* Edits (one letter in, out, changed, or two neighbours swapped) between two short words; 99 beyond 40 letters. */
static int distance(const char *a, const char *b)
{
    enum { MAX = 40 };
    int d[MAX + 1][MAX + 1], n = (int)strlen(a), m = (int)strlen(b);
    if (n > MAX || m > MAX)
        return 99;
    for (int i = 0; i <= n; i++)
        for (int j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            int best = d[i - 1][j - 1] + (tolower((unsigned char)a[i - 1]) != b[j - 1]);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

enum rf_code rf_request_unknown(struct rf_request_reader *in, const char *name)
{
    const char *meant = NULL;
    int best = 3;
    for (size_t i = 0; i < RF_COUNT_OF(other_names); i++)
        if (strcasecmp(name, other_names[i].theirs) == 0)
            meant = rf_request_fields[other_names[i].ours].name;
    for (int i = 0; meant == NULL && best > 0 && i < RF_FIELD_COUNT; i++) {
        int d = distance(name, rf_request_fields[i].name);
        int allowed = strlen(rf_request_fields[i].name) <= 4 ? 1 : 2;
        if (d <= allowed && d < best)
            best = d;
    }
    for (int i = 0; meant == NULL && best < 3 && i < RF_FIELD_COUNT; i++)
        if (distance(name, rf_request_fields[i].name) == best)
            meant = rf_request_fields[i].name;
    char param[RF_PARAM_SIZE];
    snprintf(param, sizeof param, "%.40s", name);
    size_t n = strlen(param); /* a cut in the middle of a character would make the error itself invalid UTF-8 */
    while (n > 0 && !rf_utf8_valid(param, n, NULL))
        n--;
    param[n] = '\0';
    return meant ? rf_request_fail(in, param, "unknown field; did you mean '%s'?", meant)
                 : rf_request_fail(in, param, "unknown field");
}
