/* From a parsed request to a complete one: the model's defaults, the rules between fields, and the stored form.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/request_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const struct rf_model_defaults rf_model_defaults_builtin = {
    .name = "", .width = 832, .height = 480, .n_frames = 81, .n_steps = 4, .switch_step = 2,
    .max_segment_frames = RF_DEFAULT_SEGMENT_FRAMES, .flow_shift = 5, .guidance_scale = 1, .guidance_scale_2 = 1,
};
#define DEFAULT_CRF 18

static bool given(const struct rf_request *r, enum rf_field field)
{
    return (r->given & UINT32_C(1) << field) != 0;
}

static enum rf_code resolve_size(struct rf_request_reader *in, struct rf_request *r, const struct rf_model_defaults *m)
{
    bool size = given(r, RF_FIELD_SIZE), width = given(r, RF_FIELD_WIDTH), height = given(r, RF_FIELD_HEIGHT);
    if (size && (width || height))
        return rf_request_fail(in, width ? "width" : "height", "give either size or width and height");
    if (width != height)
        return rf_request_fail(in, width ? "height" : "width", "is missing; width and height go together");
    if (!size && !width) {
        bool own = m->width > 0 && m->height > 0;
        r->width = own ? m->width : rf_model_defaults_builtin.width;
        r->height = own ? m->height : rf_model_defaults_builtin.height;
    }
    return RF_OK;
}

static enum rf_code resolve_length(struct rf_request_reader *in, struct rf_request *r, const struct rf_model_defaults *m)
{
    if (given(r, RF_FIELD_SECONDS) && given(r, RF_FIELD_NUM_FRAMES))
        return rf_request_fail(in, "seconds", "give either seconds or num_frames");
    if (given(r, RF_FIELD_SECONDS))
        r->n_frames = rf_plan_frames_for_seconds(r->seconds);
    else if (!given(r, RF_FIELD_NUM_FRAMES))
        r->n_frames = m->n_frames > 0 ? m->n_frames : rf_model_defaults_builtin.n_frames;
    r->seconds = (double)r->n_frames / RF_MODEL_FPS;
    if (!given(r, RF_FIELD_FPS))
        r->fps = 2 * RF_MODEL_FPS;
    int most = m->max_segment_frames;
    if (!given(r, RF_FIELD_MAX_SEGMENT_FRAMES))
        r->max_segment_frames = most > 0 && most < RF_DEFAULT_SEGMENT_FRAMES ? most : RF_DEFAULT_SEGMENT_FRAMES;
    else if (most > 0 && r->max_segment_frames > most)
        return rf_request_fail(in, "max_segment_frames", "%d is more than model '%.60s' renders at once; at most %d",
                               r->max_segment_frames, m->name ? m->name : "", most);
    return RF_OK;
}

static enum rf_code resolve_sampling(struct rf_request_reader *in, struct rf_request *r, const struct rf_model_defaults *m)
{
    const struct rf_model_defaults *b = &rf_model_defaults_builtin;
    int steps = m->n_steps > 0 ? m->n_steps : b->n_steps;
    int switch_step = m->n_steps > 0 ? m->switch_step : b->switch_step;
    if (!given(r, RF_FIELD_NUM_INFERENCE_STEPS))
        r->n_steps = steps;
    if (!given(r, RF_FIELD_SWITCH_STEP)) /* the experts share the steps as the model's own default does */
        r->switch_step = (int)lround((double)r->n_steps * switch_step / steps);
    if (r->switch_step > r->n_steps)
        return rf_request_fail(in, "switch_step", "%d is more than num_inference_steps (%d)", r->switch_step, r->n_steps);
    if (!given(r, RF_FIELD_FLOW_SHIFT))
        r->flow_shift = m->flow_shift > 0 ? m->flow_shift : b->flow_shift;
    double low = m->guidance_scale > 0 ? m->guidance_scale : b->guidance_scale;
    if (!given(r, RF_FIELD_GUIDANCE_SCALE_2))
        r->guidance_scale_2 = given(r, RF_FIELD_GUIDANCE_SCALE) ? r->guidance_scale
                              : m->guidance_scale_2 > 0         ? m->guidance_scale_2 : low;
    if (!given(r, RF_FIELD_GUIDANCE_SCALE))
        r->guidance_scale = low;
    return RF_OK;
}

static enum rf_code resolve(struct rf_request_reader *in, struct rf_request *r, const struct rf_model_defaults *m,
                            uint64_t random)
{
    if (r->model[0] == '\0')
        snprintf(r->model, sizeof r->model, "%s", m->name ? m->name : "");
    if (m->takes_no_image && r->has_image)
        return rf_request_fail(in, "input_reference", "model '%.60s' takes no start image", r->model);
    if (m->takes_no_text && !r->has_image)
        return rf_request_fail(in, "input_reference", "is missing; model '%.60s' needs a start image", r->model);
    enum rf_code rc = resolve_size(in, r, m);
    if (rc == RF_OK)
        rc = resolve_length(in, r, m);
    if (rc == RF_OK)
        rc = resolve_sampling(in, r, m);
    if (!given(r, RF_FIELD_CRF))
        r->crf = DEFAULT_CRF;
    if (!given(r, RF_FIELD_SEED))
        r->seed = (int64_t)(random >> 11);
    return rc;
}

enum rf_code rf_request_resolve(struct rf_request *r, const struct rf_model_defaults *model, uint64_t random,
                                struct rf_plan *ret_plan, char *ret_param, struct rf_err *err)
{
    struct rf_request_reader in = {.err = err};
    struct rf_plan plan;
    enum rf_code rc = resolve(&in, r, model, random);
    if (rc == RF_OK) {
        rc = rf_plan_make(r->n_frames, r->fps, r->max_segment_frames, &plan, err);
        /* Each number is in its range by now, so only their combination (too many segments) can be at fault. */
        if (rc != RF_OK)
            snprintf(in.param, sizeof in.param, "%s",
                     given(r, RF_FIELD_MAX_SEGMENT_FRAMES) ? "max_segment_frames" : "num_frames");
    }
    rf_request_tell_param(&in, rc, ret_param);
    if (rc != RF_OK)
        return rc;
    r->resolved = true;
    if (ret_plan != NULL)
        *ret_plan = plan;
    return RF_OK;
}

enum rf_code rf_request_plan(const struct rf_request *r, struct rf_plan *ret_plan, struct rf_err *err)
{
    return rf_plan_make(r->n_frames, r->fps, r->max_segment_frames, ret_plan, err);
}

/* ---- the stored form ---- */

static void key(struct rf_text *t, const char *name)
{
    rf_text_add(t, t->n_bytes > 1 ? ",\"" : "\"");
    rf_text_add(t, name);
    rf_text_add_bytes(t, "\":", 2);
}

static void key_int(struct rf_text *t, const char *name, int64_t n)
{
    key(t, name);
    rf_text_add_int(t, n);
}

static void key_double(struct rf_text *t, const char *name, double x)
{
    key(t, name);
    rf_text_add_double(t, x);
}

static void key_string(struct rf_text *t, const char *name, const char *text)
{
    key(t, name);
    rf_text_add_string(t, text);
}

char *rf_request_to_text(const struct rf_request *r)
{
    RF_ASSERT(r->resolved);
    struct rf_text t = {0};
    rf_text_add_bytes(&t, "{", 1);
    key_string(&t, "prompt", r->prompt);
    key_string(&t, "negative_prompt", r->negative_prompt);
    key_string(&t, "model", r->model);
    key_int(&t, "width", r->width);
    key_int(&t, "height", r->height);
    key_int(&t, "num_frames", r->n_frames);
    key_int(&t, "fps", r->fps);
    key_int(&t, "seed", r->seed);
    key_int(&t, "num_inference_steps", r->n_steps);
    key_int(&t, "switch_step", r->switch_step);
    key_double(&t, "flow_shift", r->flow_shift);
    key_double(&t, "guidance_scale", r->guidance_scale);
    key_double(&t, "guidance_scale_2", r->guidance_scale_2);
    key(&t, "loras");
    rf_text_add_bytes(&t, "[", 1);
    for (int i = 0; i < r->n_loras; i++) {
        rf_text_add(&t, i ? ",{\"name\":" : "{\"name\":");
        rf_text_add_string(&t, r->lora[i].name);
        rf_text_add(&t, ",\"strength\":");
        rf_text_add_double(&t, r->lora[i].strength);
        rf_text_add_bytes(&t, "}", 1);
    }
    rf_text_add_bytes(&t, "]", 1);
    if (r->no_loras) { /* beside the list, which alone has always meant the model's own when empty */
        key(&t, "no_loras");
        rf_text_add(&t, "true");
    }
    key_int(&t, "max_segment_frames", r->max_segment_frames);
    key_string(&t, "user", r->user);
    key_int(&t, "priority", r->priority);
    key_int(&t, "crf", r->crf);
    key(&t, "has_input_reference");
    rf_text_add(&t, r->has_image ? "true}" : "false}");
    return t.text;
}

struct cJSON *rf_request_to_json(const struct rf_request *r)
{
    RF_AUTO(rf_free) char *text = rf_request_to_text(r);
    cJSON *json = cJSON_Parse(text);
    RF_ASSERT(json != NULL);
    return json;
}

/* Every field a stored request must have; the rest of its keys are somebody's newer ones. */
static const enum rf_field stored_fields[] = {
    RF_FIELD_PROMPT, RF_FIELD_NEGATIVE_PROMPT, RF_FIELD_MODEL, RF_FIELD_WIDTH, RF_FIELD_HEIGHT, RF_FIELD_NUM_FRAMES,
    RF_FIELD_FPS, RF_FIELD_SEED, RF_FIELD_NUM_INFERENCE_STEPS, RF_FIELD_SWITCH_STEP, RF_FIELD_FLOW_SHIFT,
    RF_FIELD_GUIDANCE_SCALE, RF_FIELD_GUIDANCE_SCALE_2, RF_FIELD_LORAS, RF_FIELD_MAX_SEGMENT_FRAMES, RF_FIELD_USER,
    RF_FIELD_PRIORITY, RF_FIELD_CRF,
};

enum rf_code rf_request_from_json(const struct cJSON *object, struct rf_request **ret_request, struct rf_err *err)
{
    if (!cJSON_IsObject(object))
        return rf_fail(err, RF_ERR_FORMAT, "a stored request must be an object");
    struct rf_request_reader in = {.err = err};
    RF_AUTO(rf_request_destroy) struct rf_request *r = rf_request_create();
    for (size_t i = 0; i < RF_COUNT_OF(stored_fields); i++) {
        const struct rf_field_info *f = &rf_request_fields[stored_fields[i]];
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, f->name);
        if (value == NULL)
            return rf_fail(err, RF_ERR_FORMAT, "stored request: %s is missing", f->name);
        /* "" stands for any model; a request may not say so, a stored one may. */
        if (stored_fields[i] == RF_FIELD_MODEL && cJSON_IsString(value) && value->valuestring[0] == '\0')
            continue;
        enum rf_code rc = rf_request_read_field(&in, stored_fields[i], value, r);
        if (rc != RF_OK)
            return rf_wrap(err, RF_ERR_FORMAT, "stored request");
    }
    const cJSON *image = cJSON_GetObjectItemCaseSensitive(object, "has_input_reference");
    r->has_image = cJSON_IsTrue(image);
    r->no_loras = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, "no_loras"));
    r->seconds = (double)r->n_frames / RF_MODEL_FPS;
    struct rf_plan plan;
    if (r->switch_step > r->n_steps || rf_request_plan(r, &plan, NULL) != RF_OK)
        return rf_fail(err, RF_ERR_FORMAT, "stored request: its numbers do not fit each other");
    r->resolved = true;
    *ret_request = r;
    r = NULL;
    return RF_OK;
}
