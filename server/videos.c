/* See videos.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/videos.h"

#include "schema/json.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/store_call.h"
#include "server/video_json.h"

#include <stdio.h>
#include <string.h>

static void answer_json(struct rf_call *c, struct rf_out *t)
{
    size_t n;
    char *body = rf_out_take(t, &n);
    rf_answer_take(c, 200, "application/json", body, n);
}

static void answer_video(struct rf_call *c)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    struct rf_err err = {0};
    enum rf_code rc = rf_store_get(c->app->store, c->param[0], RF_WITH_ALL, &job, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    if (!rf_auth_may_see(c, job))
        return;
    if (job->state == RF_JOB_QUEUED || job->state == RF_JOB_IN_PROGRESS)
        rf_answer_header_printf(c, "openai-poll-after-ms", "%d", rf_video_poll_after_ms(job, rf_now_ms()));
    struct rf_out t = {0};
    rf_video_json(&t, NULL, job);
    answer_json(c, &t);
}

void rf_videos_get(struct rf_call *c)
{
    answer_video(c);
}

/* ---- list ---- */

/* "queued,failed": the words of both the stock API and ours. Stock "failed" includes our cancelled ones. */
static enum rf_code read_states(const char *text, unsigned *ret_states, struct rf_err *err)
{
    *ret_states = 0;
    while (text != NULL && *text) {
        char word[24];
        size_t n = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), text);
        enum rf_job_state state = rf_job_state_from_name(word);
        if (state == RF_JOB_STATE_COUNT)
            return rf_fail(err, RF_ERR_INVALID, "query parameter 'status' must be of queued, in_progress, completed, failed, "
                           "cancelled; got '%s'", word);
        *ret_states |= 1u << state;
        text += n + (text[n] == ',');
    }
    return RF_OK;
}

/* Unix seconds to milliseconds, both ends "at or after" and "before". */
static enum rf_code read_created(const struct rf_params *p, int64_t *ret_from_ms, int64_t *ret_to_ms, struct rf_err *err)
{
    enum rf_code rc = rf_params_int(p, "created_after", 0, INT32_MAX * 4LL, 0, ret_from_ms, err);
    if (rc == RF_OK)
        rc = rf_params_int(p, "created_before", 0, INT32_MAX * 4LL, 0, ret_to_ms, err);
    *ret_from_ms *= 1000;
    *ret_to_ms *= 1000;
    return rc;
}

static enum rf_code read_list_query(struct rf_call *c, struct rf_query *ret_query, struct rf_err *err)
{
    static const char *const known[] = {"status", "user", "q", "model", "created_after", "created_before", "after", "limit",
                                        "order", NULL};
    const struct rf_params *p = &c->query;
    int64_t limit = 0, from = 0, to = 0;
    enum rf_code rc = rf_params_only(p, known, err);
    if (rc == RF_OK)
        rc = rf_params_int(p, "limit", 0, 1000, 20, &limit, err);
    if (rc == RF_OK)
        rc = read_created(p, &from, &to, err);
    *ret_query = (struct rf_query){
        .user = rf_params_get(p, "user"),
        .model = rf_params_get(p, "model"),
        .text = rf_params_get(p, "q"),
        .after = rf_params_get(p, "after"),
        .limit = (int)limit,
        .with = RF_WITH_ALL,
        .created_from_ms = from,
        .created_to_ms = to,
    };
    const char *owner = rf_auth_owner(c);
    if (rc == RF_OK && owner != NULL && ret_query->user != NULL && strcmp(owner, ret_query->user) != 0)
        rc = rf_fail(err, RF_ERR_INVALID, "query parameter 'user': this token sees the jobs of '%s' alone", owner);
    if (owner != NULL)
        ret_query->user = owner;
    const char *order = rf_params_get(p, "order");
    ret_query->ascending = order != NULL && strcmp(order, "asc") == 0;
    ret_query->by_queue = order != NULL && strcmp(order, "queue") == 0;
    if (rc == RF_OK && order != NULL && !ret_query->ascending && !ret_query->by_queue && strcmp(order, "desc") != 0)
        rc = rf_fail(err, RF_ERR_INVALID, "query parameter 'order' must be asc, desc or queue");
    if (rc == RF_OK)
        rc = read_states(rf_params_get(p, "status"), &ret_query->states, err);
    bool narrow = ret_query->states == 1u << RF_JOB_QUEUED && ret_query->text == NULL && from == 0 && to == 0;
    if (rc == RF_OK && ret_query->by_queue && !narrow)
        rc = rf_fail(err, RF_ERR_INVALID, "query parameter 'order': queue goes with status=queued, and with user and model "
                     "as the only other filters");
    return rc;
}

static void answer_list(struct rf_call *c)
{
    struct rf_query query;
    struct rf_err err = {0};
    RF_AUTO(rf_page_destroy) struct rf_page *page = NULL;
    enum rf_code rc = read_list_query(c, &query, &err);
    if (rc == RF_OK)
        rc = rf_store_list(c->app->store, &query, &page, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    struct rf_out t = {0};
    rf_json_open(&t, NULL, '{');
    rf_json_str(&t, "object", "list");
    rf_json_open(&t, "data", '[');
    for (int i = 0; i < page->n_jobs; i++)
        rf_video_json(&t, NULL, page->jobs[i]);
    rf_json_close(&t, ']');
    rf_json_str(&t, "first_id", page->n_jobs ? page->jobs[0]->id : NULL);
    rf_json_str(&t, "last_id", page->n_jobs ? page->jobs[page->n_jobs - 1]->id : NULL);
    rf_json_bool(&t, "has_more", page->has_more);
    rf_json_close(&t, '}');
    answer_json(c, &t);
}

static void list_offloaded(void *call)
{
    answer_list(call);
    rf_call_resume(call, NULL);
}

void rf_videos_list(struct rf_call *c)
{
    /* A search by text may walk all jobs, a long page builds megabytes: neither belongs on an event loop. */
    int64_t limit = 0;
    bool slow = rf_params_get(&c->query, "q") != NULL ||
                rf_params_int(&c->query, "limit", 0, 1000, 20, &limit, NULL) != RF_OK || limit > 50;
    if (slow)
        rf_call_offload(c, list_offloaded);
    else
        answer_list(c);
}

/* ---- steering ---- */

static void after_steering(struct rf_call *c)
{
    if (rf_call_op_ok(c, c->state))
        answer_video(c);
}

static void steer(struct rf_call *c, enum rf_op_kind kind, int priority)
{
    if (!rf_auth_may_touch(c, c->param[0]))
        return;
    struct rf_op *op = rf_call_new_op(c, kind);
    op->u.job.id = c->param[0];
    op->u.job.priority = priority;
    rf_call_post(c, op, after_steering);
}

void rf_videos_cancel(struct rf_call *c)
{
    steer(c, RF_OP_CANCEL, 0);
}

void rf_videos_retry(struct rf_call *c)
{
    steer(c, RF_OP_RETRY, 0);
}

void rf_videos_priority(struct rf_call *c)
{
    cJSON *json = rf_call_json(c, 4096, false);
    if (json == NULL)
        return;
    const struct rf_field_info *field = &rf_request_fields[RF_FIELD_PRIORITY];
    const cJSON *priority = cJSON_GetObjectItemCaseSensitive(json, "priority");
    double value = cJSON_IsNumber(priority) ? priority->valuedouble : field->min - 1;
    int n_keys = cJSON_GetArraySize(json);
    cJSON_Delete(json);
    if (n_keys != 1 || value < field->min || value > field->max || value != (int)value) {
        rf_answer_error(c, 400, "priority", "invalid", "'priority' must be a whole number from %g to %g, and the only field",
                        field->min, field->max);
        return;
    }
    if (value > 0 && rf_auth_owner(c) != NULL) {
        rf_answer_error(c, 403, "priority", "not_allowed", "a priority above 0 takes an operator's token");
        return;
    }
    steer(c, RF_OP_PRIORITY, (int)value);
}

/* Where the job may go: beside one of the caller's own, and not up to a priority that it could not ask for. */
static bool may_stand_beside(struct rf_call *c, const char *beside)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL, *other = NULL;
    if (rf_auth_owner(c) == NULL)
        return true;
    if (!rf_auth_may_touch(c, c->param[0]) || !rf_auth_may_touch(c, beside))
        return false;
    bool known = rf_store_get(c->app->store, c->param[0], 0, &job, NULL) == RF_OK &&
                 rf_store_get(c->app->store, beside, 0, &other, NULL) == RF_OK;
    if (known && other->priority > 0 && other->priority > job->priority) {
        rf_answer_error(c, 403, "priority", "not_allowed", "a priority above 0 takes an operator's token");
        return false;
    }
    return true; /* gone meanwhile: the op says so */
}

void rf_videos_move(struct rf_call *c)
{
    cJSON *json = rf_call_json(c, 4096, false);
    if (json == NULL)
        return;
    const cJSON *place = json->child;
    bool after = place != NULL && strcmp(place->string, "after") == 0;
    bool good = cJSON_GetArraySize(json) == 1 && cJSON_IsString(place) && (after || strcmp(place->string, "before") == 0);
    char *beside = c->param[1]; /* the pattern has one parameter, so this room lives as long as the call */
    snprintf(beside, sizeof c->param[1], "%s", good ? place->valuestring : "");
    cJSON_Delete(json);
    if (!good) {
        rf_answer_error(c, 400, "before", "invalid", "either 'before' or 'after' must be there, the id of a waiting job");
        return;
    }
    if (!may_stand_beside(c, beside))
        return;
    struct rf_op *op = rf_call_new_op(c, RF_OP_MOVE);
    op->u.job.id = c->param[0];
    op->u.job.beside = beside;
    op->u.job.after = after;
    rf_call_post(c, op, after_steering);
}

static void after_delete(struct rf_call *c)
{
    if (!rf_call_op_ok(c, c->state))
        return;
    struct rf_out t = {0};
    rf_json_open(&t, NULL, '{');
    rf_json_str(&t, "id", c->param[0]);
    rf_json_str(&t, "object", "video.deleted");
    rf_json_bool(&t, "deleted", true);
    rf_json_close(&t, '}');
    answer_json(c, &t);
}

void rf_videos_delete(struct rf_call *c)
{
    if (!rf_auth_may_touch(c, c->param[0]))
        return;
    struct rf_op *op = rf_call_new_op(c, RF_OP_DELETE);
    op->u.job.id = c->param[0];
    rf_call_post(c, op, after_delete);
}
