/* A worker's introduction: its device and its models. SPDX-License-Identifier: Apache-2.0 */
#include "schema/wire_private.h"

#include <stdio.h>
#include <string.h>

static enum rf_code read_defaults(const cJSON *json, struct rf_wire_model *m, struct rf_err *err)
{
    struct rf_model_defaults *d = &m->defaults;
    *d = (struct rf_model_defaults){.max_segment_frames = m->max_segment_frames, .takes_no_text = !m->takes_text,
                                    .takes_no_image = !m->takes_image};
    const cJSON *defaults = rf_wire_get(json, "defaults");
    if (defaults == NULL)
        return RF_OK;
    const struct rf_field_info *f = rf_request_fields;
    RF_AUTO(rf_free) char *size = NULL;
    enum rf_code rc = rf_wire_object(defaults, "defaults", err);
    if (rc == RF_OK)
        rc = rf_wire_string(defaults, "size", 11, false, &size, err);
    if (rc == RF_OK && size[0] != '\0' && (!rf_size_parse(size, &d->width, &d->height) || d->width % 16 || d->height % 16 ||
                                           d->width < 64 || d->height < 64 || d->width > 2048 || d->height > 2048))
        rc = rf_fail(err, RF_ERR_INVALID, "defaults.size '%s' is not a size", size);
    if (rc == RF_OK)
        rc = rf_wire_int32(defaults, "num_frames", 5, RF_MAX_FRAMES, 0, &d->n_frames, err);
    if (rc == RF_OK && d->n_frames != 0 && d->n_frames % 4 != 1)
        rc = rf_fail(err, RF_ERR_INVALID, "defaults.num_frames must be a multiple of 4 plus 1");
    if (rc == RF_OK)
        rc = rf_wire_int32(defaults, "num_inference_steps", 1, 100, 0, &d->n_steps, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(defaults, "switch_step", 0, d->n_steps, 0, &d->switch_step, err);
    if (rc == RF_OK)
        rc = rf_wire_double(defaults, "flow_shift", f[RF_FIELD_FLOW_SHIFT].min, f[RF_FIELD_FLOW_SHIFT].max, 0,
                            &d->flow_shift, err);
    if (rc == RF_OK)
        rc = rf_wire_double(defaults, "guidance_scale", 0, f[RF_FIELD_GUIDANCE_SCALE].max, 0, &d->guidance_scale, err);
    if (rc == RF_OK)
        rc = rf_wire_double(defaults, "guidance_scale_2", 0, f[RF_FIELD_GUIDANCE_SCALE].max, 0, &d->guidance_scale_2, err);
    return rc;
}

static enum rf_code read_model(const cJSON *json, struct rf_wire_model *m, struct rf_err *err)
{
    enum rf_code rc = rf_wire_object(json, "a model", err);
    if (rc == RF_OK)
        rc = rf_wire_string(json, "name", 127, true, &m->name, err);
    if (rc == RF_OK)
        rc = rf_wire_string(json, "title", 200, false, &m->title, err);
    if (rc == RF_OK)
        rc = rf_wire_string(json, "hash", 64, false, &m->hash, err);
    if (rc == RF_OK && (strlen(m->hash) % 64 != 0 || m->hash[strspn(m->hash, "0123456789abcdef")] != '\0'))
        rc = rf_fail(err, RF_ERR_INVALID, "hash must be 64 lower-case hex digits");
    if (rc == RF_OK)
        rc = rf_wire_string(json, "note", 2000, false, &m->note, err);
    if (rc == RF_OK)
        rc = rf_wire_bool(json, "takes_text", true, &m->takes_text, err);
    if (rc == RF_OK)
        rc = rf_wire_bool(json, "takes_image", false, &m->takes_image, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(json, "max_segment_frames", 5, RF_MAX_FRAMES, RF_DEFAULT_SEGMENT_FRAMES, &m->max_segment_frames,
                           err);
    if (rc == RF_OK && m->max_segment_frames % 4 != 1)
        rc = rf_fail(err, RF_ERR_INVALID, "max_segment_frames must be a multiple of 4 plus 1");
    if (rc == RF_OK)
        rc = rf_wire_strings(json, "sizes", 64, 11, &m->sizes, &m->n_sizes, err);
    if (rc == RF_OK)
        rc = rf_wire_strings(json, "loras", 1024, 127, &m->loras, &m->n_loras, err);
    if (rc == RF_OK)
        rc = rf_wire_strings(json, "examples", 64, 1000, &m->examples, &m->n_examples, err);
    if (rc == RF_OK)
        rc = rf_wire_strings(json, "vocabulary", 1024, 64, &m->vocabulary, &m->n_vocabulary, err);
    if (rc == RF_OK)
        rc = read_defaults(json, m, err);
    if (rc == RF_OK)
        m->defaults.name = m->name;
    return rc;
}

static enum rf_code read_device(const cJSON *json, struct rf_wire_register *m, struct rf_err *err)
{
    const cJSON *device = rf_wire_get(json, "device");
    enum rf_code rc = rf_wire_object(device, "device", err);
    if (rc == RF_OK)
        rc = rf_wire_string(device, "kind", 15, true, &m->device_kind, err);
    if (rc == RF_OK)
        rc = rf_wire_string(device, "name", 200, false, &m->device_name, err);
    if (rc == RF_OK)
        rc = rf_wire_string(device, "precision", 15, false, &m->precision, err);
    if (rc == RF_OK)
        rc = rf_wire_int(device, "memory_bytes", 0, RF_MAX_SEED, 0, &m->memory_bytes, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "device");
}

static enum rf_code read_register(const cJSON *json, struct rf_wire_register *m, struct rf_err *err)
{
    enum rf_code rc = rf_wire_object(json, "the registration", err);
    if (rc == RF_OK)
        rc = rf_wire_int32(json, "protocol", 0, 1000000, RF_WIRE_REQUIRED, &m->protocol, err);
    if (rc == RF_OK)
        rc = rf_wire_string(json, "name", 100, true, &m->name, err);
    if (rc == RF_OK)
        rc = rf_wire_string(json, "build", 100, false, &m->build, err);
    if (rc == RF_OK)
        rc = rf_wire_string(json, "host", 255, false, &m->host, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "pid", 0, INT32_MAX, 0, &m->pid, err);
    if (rc == RF_OK)
        rc = read_device(json, m, err);
    if (rc != RF_OK)
        return rc;
    const cJSON *models = rf_wire_get(json, "models");
    int n = cJSON_IsArray(models) ? cJSON_GetArraySize(models) : -1;
    if (n < 0 || n > RF_WIRE_MAX_MODELS)
        return rf_fail(err, RF_ERR_INVALID, "models must be a list of at most %d", RF_WIRE_MAX_MODELS);
    m->models = rf_new_array(struct rf_wire_model, (size_t)n);
    for (const cJSON *item = models->child; item != NULL; item = item->next) {
        int index = m->n_models++; /* counted first: destroy then frees a half-read one */
        rc = read_model(item, &m->models[index], err);
        if (rc != RF_OK)
            return rf_wrap(err, rc, "models[%d]", index);
        for (int i = 0; i < index; i++)
            if (strcmp(m->models[i].name, m->models[index].name) == 0)
                return rf_fail(err, RF_ERR_INVALID, "models[%d]: '%s' is given twice", index, m->models[i].name);
    }
    return RF_OK;
}

enum rf_code rf_wire_register_read(const cJSON *json, struct rf_wire_register **ret_message, struct rf_err *err)
{
    RF_AUTO(rf_wire_register_destroy) struct rf_wire_register *m = rf_new(struct rf_wire_register);
    enum rf_code rc = read_register(json, m, err);
    if (rc != RF_OK)
        return rc;
    *ret_message = m;
    m = NULL;
    return RF_OK;
}

static void add_defaults(cJSON *json, const struct rf_model_defaults *d)
{
    cJSON *out = cJSON_AddObjectToObject(json, "defaults");
    if (d->width > 0 && d->height > 0) {
        char size[32];
        snprintf(size, sizeof size, "%dx%d", d->width, d->height);
        cJSON_AddStringToObject(out, "size", size);
    }
    if (d->n_frames > 0)
        cJSON_AddNumberToObject(out, "num_frames", d->n_frames);
    if (d->n_steps > 0) {
        cJSON_AddNumberToObject(out, "num_inference_steps", d->n_steps);
        cJSON_AddNumberToObject(out, "switch_step", d->switch_step);
    }
    if (d->flow_shift > 0)
        cJSON_AddNumberToObject(out, "flow_shift", d->flow_shift);
    if (d->guidance_scale > 0)
        cJSON_AddNumberToObject(out, "guidance_scale", d->guidance_scale);
    if (d->guidance_scale_2 > 0)
        cJSON_AddNumberToObject(out, "guidance_scale_2", d->guidance_scale_2);
}

static void add_text(cJSON *json, const char *name, const char *text)
{
    cJSON_AddStringToObject(json, name, text ? text : "");
}

cJSON *rf_wire_models_build(const struct rf_wire_model *models, int n_models)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < n_models; i++) {
        const struct rf_wire_model *m = &models[i];
        cJSON *json = cJSON_CreateObject();
        add_text(json, "name", m->name);
        add_text(json, "title", m->title);
        add_text(json, "hash", m->hash);
        cJSON_AddBoolToObject(json, "takes_text", m->takes_text);
        cJSON_AddBoolToObject(json, "takes_image", m->takes_image);
        cJSON_AddNumberToObject(json, "max_segment_frames", m->max_segment_frames);
        rf_wire_add_strings(json, "sizes", m->sizes, m->n_sizes);
        add_defaults(json, &m->defaults);
        rf_wire_add_strings(json, "loras", m->loras, m->n_loras);
        rf_wire_add_strings(json, "examples", m->examples, m->n_examples);
        rf_wire_add_strings(json, "vocabulary", m->vocabulary, m->n_vocabulary);
        add_text(json, "note", m->note);
        cJSON_AddItemToArray(list, json);
    }
    return list;
}

cJSON *rf_wire_register_build(const struct rf_wire_register *m)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "protocol", m->protocol);
    add_text(json, "name", m->name);
    add_text(json, "build", m->build);
    add_text(json, "host", m->host);
    cJSON_AddNumberToObject(json, "pid", (double)m->pid);
    cJSON *device = cJSON_AddObjectToObject(json, "device");
    add_text(device, "kind", m->device_kind);
    add_text(device, "name", m->device_name);
    cJSON_AddNumberToObject(device, "memory_bytes", (double)m->memory_bytes);
    add_text(device, "precision", m->precision);
    cJSON_AddItemToObject(json, "models", rf_wire_models_build(m->models, m->n_models));
    return json;
}

void rf_wire_register_destroy(struct rf_wire_register **message)
{
    struct rf_wire_register *m = *message;
    if (m == NULL)
        return;
    for (int i = 0; i < m->n_models; i++) {
        struct rf_wire_model *model = &m->models[i];
        free(model->name);
        free(model->title);
        free(model->hash);
        free(model->note);
        rf_wire_strings_free(model->sizes, model->n_sizes);
        rf_wire_strings_free(model->loras, model->n_loras);
        rf_wire_strings_free(model->examples, model->n_examples);
        rf_wire_strings_free(model->vocabulary, model->n_vocabulary);
    }
    free(m->models);
    free(m->name);
    free(m->build);
    free(m->host);
    free(m->device_kind);
    free(m->device_name);
    free(m->precision);
    free(m);
    *message = NULL;
}
