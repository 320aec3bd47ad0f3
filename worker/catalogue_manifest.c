/* Models described by a `model.json`: the folder given, or its direct subfolders. Everything in a manifest comes from
 * outside: a wrong one is skipped with a warning naming file and field, the others still load.
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "schema/plan.h"
#include "worker/catalogue.h"
#include "worker/log.h"
#include "worker/scratch.h"

#define MAX_MANIFEST_BYTES (1u << 20)
#define MAX_TEXTS 4096
#define MAX_SIDE 8192

/* A required or optional string: replaces *ret_text, which an absent one leaves alone. */
static enum rf_code read_text(const cJSON *object, const char *name, bool required, char **ret_text, struct rf_err *err)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (item == NULL && !required)
        return RF_OK;
    if (!cJSON_IsString(item) || item->valuestring[0] == '\0')
        return rf_fail(err, RF_ERR_FORMAT, "\"%s\" must be a text%s", name, item ? "" : "; it is missing");
    free(*ret_text);
    *ret_text = rf_strdup(item->valuestring);
    return RF_OK;
}

/* The same for a path, relative to the manifest's folder. */
static enum rf_code read_path(const cJSON *object, const char *name, bool required, const char *folder, char **ret_path,
                              struct rf_err *err)
{
    RF_AUTO(rf_free) char *text = NULL;
    enum rf_code rc = read_text(object, name, required, &text, err);
    if (rc == RF_OK && text != NULL)
        *ret_path = text[0] == '/' ? rf_strdup(text) : rf_asprintf("%s/%s", folder, text);
    return rc;
}

static enum rf_code read_texts(const cJSON *object, const char *name, char ***ret_texts, int *ret_n,
                               struct rf_err *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, name);
    if (list == NULL)
        return RF_OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > MAX_TEXTS)
        return rf_fail(err, RF_ERR_FORMAT, "\"%s\" must be a list of at most %d texts", name, MAX_TEXTS);
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        if (!cJSON_IsString(item))
            return rf_fail(err, RF_ERR_FORMAT, "\"%s\" must be a list of texts", name);
        rf_list_add(ret_texts, ret_n, item->valuestring);
    }
    return RF_OK;
}

static enum rf_code read_number(const cJSON *object, const char *name, double least, double most, double *ret_number,
                                struct rf_err *err)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (item == NULL)
        return RF_OK;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= least && item->valuedouble <= most))
        return rf_fail(err, RF_ERR_FORMAT, "\"%s\" must be a number between %g and %g", name, least, most);
    *ret_number = item->valuedouble;
    return RF_OK;
}

static enum rf_code read_int(const cJSON *object, const char *name, int least, int most, int *ret_number,
                             struct rf_err *err)
{
    double number = *ret_number;
    enum rf_code rc = read_number(object, name, least, most, &number, err);
    if (rc == RF_OK && number != (double)(int)number)
        return rf_fail(err, RF_ERR_FORMAT, "\"%s\" must be a whole number", name);
    *ret_number = (int)number;
    return rc;
}

static bool is_good_size(const char *text, int *ret_width, int *ret_height)
{
    return rf_size_parse(text, ret_width, ret_height) && *ret_width > 0 && *ret_height > 0 && *ret_width <= MAX_SIDE &&
           *ret_height <= MAX_SIDE && *ret_width % 16 == 0 && *ret_height % 16 == 0;
}

static enum rf_code read_defaults(const cJSON *manifest, struct rf_model_defaults *d, struct rf_err *err)
{
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(manifest, "defaults");
    if (object == NULL)
        return RF_OK;
    if (!cJSON_IsObject(object))
        return rf_fail(err, RF_ERR_FORMAT, "\"defaults\" must be an object");
    RF_AUTO(rf_free) char *size = NULL;
    enum rf_code rc = read_text(object, "size", false, &size, err);
    if (rc == RF_OK && size != NULL && !is_good_size(size, &d->width, &d->height))
        rc = rf_fail(err, RF_ERR_FORMAT, "\"size\" must be WIDTHxHEIGHT in multiples of 16, as \"832x480\"");
    if (rc == RF_OK)
        rc = read_int(object, "num_frames", 5, RF_MAX_FRAMES, &d->n_frames, err);
    if (rc == RF_OK)
        rc = read_int(object, "num_inference_steps", 1, 1000, &d->n_steps, err);
    if (rc == RF_OK)
        rc = read_int(object, "switch_step", 0, 1000, &d->switch_step, err);
    if (rc == RF_OK)
        rc = read_number(object, "flow_shift", 0.01, 1000, &d->flow_shift, err);
    if (rc == RF_OK)
        rc = read_number(object, "guidance_scale", 0, 100, &d->guidance_scale, err);
    if (rc == RF_OK)
        rc = read_number(object, "guidance_scale_2", 0, 100, &d->guidance_scale_2, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "defaults");
    return RF_OK;
}

static enum rf_code read_sizes(const cJSON *manifest, struct rf_catalogue_model *m, struct rf_err *err)
{
    enum rf_code rc = read_texts(manifest, "sizes", &m->about.sizes, &m->about.n_sizes, err);
    for (int i = 0; rc == RF_OK && i < m->about.n_sizes; i++) {
        int width, height;
        if (!is_good_size(m->about.sizes[i], &width, &height))
            rc = rf_fail(err, RF_ERR_FORMAT, "\"sizes\" holds \"%.20s\"; sizes are WIDTHxHEIGHT in multiples of 16",
                         m->about.sizes[i]);
    }
    return rc;
}

static enum rf_code read_default_lora(const cJSON *manifest, const char *folder, struct rf_catalogue_model *m,
                                      struct rf_err *err)
{
    RF_AUTO(rf_free) char *high = NULL, *low = NULL;
    enum rf_code rc = read_path(manifest, "lora_high", false, folder, &high, err);
    if (rc == RF_OK)
        rc = read_path(manifest, "lora_low", false, folder, &low, err);
    if (rc != RF_OK || (high == NULL && low == NULL))
        return rc;
    char side;
    RF_AUTO(rf_free) char *name = rf_pair_name(high ? high : low, &side);
    rf_catalogue_add_lora(m, name, high, low);
    if (m->n_loras == 0)
        return rf_fail(err, RF_ERR_FORMAT, "\"lora_high\": a request could not name '%.100s'", name);
    m->default_lora_text = 0;
    return RF_OK;
}

static bool is_model_name(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    return n <= 64 && strspn(name, allowed) == n;
}

static enum rf_code read_manifest(const cJSON *manifest, const char *folder, struct rf_catalogue_model *m,
                                  struct rf_err *err)
{
    if (!cJSON_IsObject(manifest))
        return rf_fail(err, RF_ERR_FORMAT, "is not a JSON object");
    enum rf_code rc = read_text(manifest, "name", true, &m->about.name, err);
    if (rc == RF_OK && !is_model_name(m->about.name))
        rc = rf_fail(err, RF_ERR_FORMAT, "\"name\" may hold letters, digits, '.', '_' and '-', at most 64");
    if (rc == RF_OK)
        rc = read_text(manifest, "title", false, &m->about.title, err);
    if (rc == RF_OK)
        rc = read_text(manifest, "note", false, &m->about.note, err);
    if (rc == RF_OK)
        rc = read_path(manifest, "high", true, folder, &m->text_experts.high, err);
    if (rc == RF_OK)
        rc = read_path(manifest, "low", true, folder, &m->text_experts.low, err);
    if (rc == RF_OK)
        rc = read_path(manifest, "text_encoder", true, folder, &m->text_encoder, err);
    if (rc == RF_OK)
        rc = read_path(manifest, "vae", true, folder, &m->vae, err);
    if (rc == RF_OK)
        rc = read_default_lora(manifest, folder, m, err);
    if (rc == RF_OK)
        rc = read_defaults(manifest, &m->about.defaults, err);
    if (rc == RF_OK)
        rc = read_sizes(manifest, m, err);
    if (rc == RF_OK)
        rc = read_int(manifest, "max_segment_frames", 5, RF_MAX_FRAMES, &m->about.max_segment_frames, err);
    if (rc == RF_OK && m->about.max_segment_frames % 4 != 1)
        rc = rf_fail(err, RF_ERR_FORMAT, "\"max_segment_frames\" must be a multiple of 4 plus 1");
    if (rc == RF_OK)
        rc = read_texts(manifest, "vocabulary", &m->about.vocabulary, &m->about.n_vocabulary, err);
    if (rc == RF_OK)
        rc = read_texts(manifest, "examples", &m->about.examples, &m->about.n_examples, err);
    if (rc == RF_OK && m->about.title == NULL)
        m->about.title = rf_strdup(m->about.name);
    return rc;
}

enum rf_code rf_catalogue_parse_manifest(const char *text, size_t n_bytes, const char *folder,
                                         struct rf_catalogue_model **ret_model, struct rf_err *err)
{
    RF_AUTO(rf_catalogue_model_destroy) struct rf_catalogue_model *m = rf_catalogue_model_create();
    RF_AUTO(rf_json_destroy) cJSON *manifest = NULL;
    enum rf_code rc = rf_json_parse(text, n_bytes, MAX_MANIFEST_BYTES, &manifest, err);
    if (rc == RF_OK)
        rc = read_manifest(manifest, folder, m, err);
    if (rc != RF_OK)
        return rc;
    *ret_model = m;
    m = NULL;
    return RF_OK;
}

bool rf_catalogue_read_manifest(struct rf_catalogue *c, const char *folder)
{
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/model.json", folder);
    RF_AUTO(rf_free) void *bytes = NULL;
    size_t n_bytes = 0;
    struct rf_catalogue_model *m = NULL;
    struct rf_err err;
    enum rf_code rc = rf_read_file(path, MAX_MANIFEST_BYTES, &bytes, &n_bytes, &err);
    if (rc == RF_ERR_NOT_FOUND)
        return false;
    if (rc == RF_OK)
        rc = rf_catalogue_parse_manifest(bytes, n_bytes, folder, &m, &err);
    if (rc != RF_OK) {
        rf_log(RF_LOG_WARN, "catalogue", rc, "%s is skipped: %s", path, err.msg);
        c->n_warnings++;
        return true;
    }
    rf_catalogue_add(c, m, path);
    return true;
}
