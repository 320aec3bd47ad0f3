/* Models, workers, queue, health; see operate.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/operate.h"

#include "schema/json.h"
#include "server/app.h"
#include "server/store_call.h"
#include "server/submit.h"
#include "server/video_json.h"

#include <stdio.h>
#include <string.h>

static void answer_text(struct rf_call *c, struct rf_out *t)
{
    size_t n;
    char *body = rf_out_take(t, &n);
    rf_answer_take(c, 200, "application/json", body, n);
}

static void open_list(struct rf_out *t)
{
    rf_json_open(t, NULL, '{');
    rf_json_str(t, "object", "list");
    rf_json_open(t, "data", '[');
}

static void close_list(struct rf_out *t)
{
    rf_json_close(t, ']');
    rf_json_close(t, '}');
}

static void strings(struct rf_out *t, const char *key, char **text, int n)
{
    rf_json_open(t, key, '[');
    for (int i = 0; i < n; i++)
        rf_json_str(t, NULL, text[i]);
    rf_json_close(t, ']');
}

/* What a request gets when it says nothing: the model's own values, ours where it has none. */
static void defaults_json(struct rf_out *t, const struct rf_model_defaults *d)
{
    const struct rf_model_defaults *b = &rf_model_defaults_builtin;
    char size[32];
    snprintf(size, sizeof size, "%dx%d", d->width ? d->width : b->width, d->height ? d->height : b->height);
    rf_json_open(t, "defaults", '{');
    rf_json_str(t, "size", size);
    rf_json_int(t, "num_frames", d->n_frames ? d->n_frames : b->n_frames);
    rf_json_int(t, "num_inference_steps", d->n_steps ? d->n_steps : b->n_steps);
    rf_json_int(t, "switch_step", d->switch_step ? d->switch_step : b->switch_step);
    rf_json_num(t, "flow_shift", d->flow_shift > 0 ? d->flow_shift : b->flow_shift);
    rf_json_num(t, "guidance_scale", d->guidance_scale > 0 ? d->guidance_scale : b->guidance_scale);
    rf_json_close(t, '}');
}

static void model_json(struct rf_out *t, const struct rf_known_model *known)
{
    const struct rf_wire_model *m = &known->model;
    rf_json_open(t, NULL, '{');
    rf_json_str(t, "id", m->name);
    rf_json_str(t, "object", "model");
    rf_json_str(t, "owned_by", "framefarm");
    rf_json_str(t, "title", m->title);
    rf_json_str(t, "hash", m->hash);
    rf_json_bool(t, "takes_text", m->takes_text);
    rf_json_bool(t, "takes_image", m->takes_image);
    rf_json_int(t, "max_segment_frames", m->max_segment_frames);
    strings(t, "sizes", m->sizes, m->n_sizes);
    strings(t, "loras", m->loras, m->n_loras);
    strings(t, "examples", m->examples, m->n_examples);
    strings(t, "vocabulary", m->vocabulary, m->n_vocabulary);
    rf_json_str(t, "note", m->note);
    defaults_json(t, &m->defaults);
    rf_json_int(t, "workers", known->n_alive);
    rf_json_close(t, '}');
}

void rf_models_handle(struct rf_call *c)
{
    struct rf_known_model **models = NULL;
    int n = 0;
    rf_store_models(c->app->store, &models, &n);
    struct rf_out t = {0};
    open_list(&t);
    for (int i = 0; i < n; i++) {
        model_json(&t, models[i]);
        rf_known_model_destroy(&models[i]);
    }
    free(models);
    close_list(&t);
    answer_text(c, &t);
}

void rf_workers_handle(struct rf_call *c)
{
    RF_AUTO(rf_workers_destroy) struct rf_workers *all = NULL;
    rf_store_workers(c->app->store, &all);
    struct rf_out t = {0};
    open_list(&t);
    for (int i = 0; i < all->n_workers; i++)
        rf_worker_json(&t, NULL, &all->workers[i]);
    close_list(&t);
    answer_text(c, &t);
}

static void after_drain(struct rf_call *c)
{
    if (!rf_call_op_ok(c, c->state))
        return;
    struct rf_out t = {0};
    if (rf_worker_json_by_id(&t, c->app, c->param[0]))
        answer_text(c, &t);
    else
        rf_answer_error(c, 404, NULL, "not_found", "no such worker");
}

/* {"drain": false} takes the worker back into service; no body drains it. */
void rf_worker_drain(struct rf_call *c)
{
    cJSON *json = rf_call_json(c, 4096, true);
    if (json == NULL)
        return;
    const cJSON *on = cJSON_GetObjectItemCaseSensitive(json, "drain");
    bool good = cJSON_GetArraySize(json) == (on != NULL) && (on == NULL || cJSON_IsBool(on));
    bool drain = on == NULL || cJSON_IsTrue(on);
    cJSON_Delete(json);
    if (!good) {
        rf_answer_error(c, 400, "drain", "invalid", "'drain' must be true or false, and the only field");
        return;
    }
    struct rf_op *op = rf_call_new_op(c, RF_OP_DRAIN);
    op->u.worker.id = c->param[0];
    op->u.worker.on = drain;
    rf_call_post(c, op, after_drain);
}

void rf_queue_handle(struct rf_call *c)
{
    struct rf_out t = {0};
    rf_queue_json(&t, c->app);
    answer_text(c, &t);
}

#define MAX_HOURS 744 /* a month of 31 days */

static void count_hours(void *call)
{
    struct rf_call *c = call;
    static const char *const known[] = {"hours", NULL};
    struct rf_err err = {0};
    int64_t n = 0;
    RF_AUTO(rf_free) struct rf_hour *hours = rf_new_array(struct rf_hour, MAX_HOURS);
    enum rf_code rc = rf_params_only(&c->query, known, &err);
    if (rc == RF_OK)
        rc = rf_params_int(&c->query, "hours", 1, MAX_HOURS, 24, &n, &err);
    if (rc == RF_OK)
        rc = rf_store_hours(c->app->store, rf_now_ms(), (int)n, hours, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        rf_call_resume(c, NULL);
        return;
    }
    struct rf_out t = {0};
    open_list(&t);
    for (int i = 0; i < (int)n; i++) {
        rf_json_open(&t, NULL, '{');
        rf_json_int(&t, "start_at", hours[i].start_ms / 1000);
        for (unsigned k = RF_JOB_COMPLETED; k < RF_JOB_STATE_COUNT; k++)
            rf_json_int(&t, rf_job_state_name((enum rf_job_state)k), hours[i].ended[k]);
        rf_json_close(&t, '}');
    }
    close_list(&t);
    answer_text(c, &t);
    rf_call_resume(c, NULL);
}

void rf_throughput_handle(struct rf_call *c)
{
    rf_call_offload(c, count_hours);
}

static void after_pause(struct rf_call *c)
{
    if (rf_call_op_ok(c, c->state))
        rf_queue_handle(c);
}

void rf_queue_pause(struct rf_call *c)
{
    struct rf_op *op = rf_call_new_op(c, RF_OP_PAUSE);
    op->u.pause.on = true;
    rf_call_post(c, op, after_pause);
}

void rf_queue_resume(struct rf_call *c)
{
    struct rf_op *op = rf_call_new_op(c, RF_OP_PAUSE);
    op->u.pause.on = false;
    rf_call_post(c, op, after_pause);
}

void rf_healthz_handle(struct rf_call *c)
{
    static const char body[] = "{\"status\":\"ok\",\"version\":\"" FRAMEFARM_VERSION "\"}";
    rf_answer_static(c, 200, "application/json", body, sizeof body - 1);
}

static void after_write(struct rf_call *c)
{
    if (!rf_call_op_ok(c, c->state))
        return;
    /* Ready all the same: what is there can be seen, fetched and delivered. */
    static const char ready[] = "{\"status\":\"ready\"}", low[] = "{\"status\":\"low_disk\"}";
    struct rf_store_counts counts;
    rf_store_counts(c->app->store, &counts);
    rf_answer_static(c, 200, "application/json", counts.disk_low ? low : ready, strlen(counts.disk_low ? low : ready));
}

void rf_readyz_handle(struct rf_call *c)
{
    if (atomic_load(&c->app->stopping)) {
        rf_answer_error(c, 503, NULL, "stopping", "the server is being stopped");
        return;
    }
    if (rf_submit_is_early(c->app)) {
        rf_answer_error(c, 503, NULL, "starting", "the first local worker has not yet said what it can render");
        return;
    }
    struct rf_op *op = rf_call_new_op(c, RF_OP_TICK); /* goes all the way through the writer */
    rf_call_post(c, op, after_write);
}
