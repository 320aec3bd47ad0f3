/* See store_call.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_call.h"

#include "schema/json.h"
#include "server/app.h"
#include "server/offload.h"

#include <string.h>
#include <strings.h>

static void on_done(struct rf_op *op)
{
    struct rf_call *c = op->ctx;
    rf_call_resume(c, c->after_op);
}

void rf_call_post_suspended(struct rf_call *c, struct rf_op *op, void (*then)(struct rf_call *c))
{
    c->after_op = then;
    op->ctx = c;
    op->done = on_done;
    op->now_ms = rf_now_ms();
    rf_store_post(c->app->store, op);
}

void rf_call_post(struct rf_call *c, struct rf_op *op, void (*then)(struct rf_call *c))
{
    rf_call_suspend(c);
    rf_call_post_suspended(c, op, then);
}

void rf_call_offload(struct rf_call *c, void (*work)(void *call))
{
    rf_call_suspend(c);
    rf_offload_run(c->app->offload, work, c);
}

static void free_op(void **state)
{
    rf_free(state);
}

struct rf_op *rf_call_new_op(struct rf_call *c, enum rf_op_kind kind)
{
    struct rf_op *op = rf_new(struct rf_op);
    op->kind = kind;
    c->state = op;
    c->free_state = free_op;
    return op;
}

bool rf_call_op_ok(struct rf_call *c, const struct rf_op *op)
{
    if (op->code != RF_OK)
        rf_answer_failed(c, op->code, NULL, &op->err);
    return op->code == RF_OK;
}

bool rf_call_is_json(struct rf_call *c)
{
    const char *type = rf_call_content_type(c);
    return type == NULL || strncasecmp(type, "application/json", 16) == 0;
}

struct cJSON *rf_call_json(struct rf_call *c, size_t max_bytes, bool may_be_empty)
{
    if (c->body_n == 0 && may_be_empty)
        return cJSON_CreateObject();
    if (!rf_call_is_json(c)) {
        rf_answer_error(c, 415, NULL, "unsupported_media_type", "Content-Type must be application/json, got '%.60s'",
                        rf_call_content_type(c));
        return NULL;
    }
    struct rf_err err = {0};
    cJSON *json = NULL;
    enum rf_code rc = rf_json_parse(c->body ? c->body : "", c->body_n, max_bytes, &json, &err);
    if (rc == RF_OK && cJSON_IsObject(json))
        return json;
    if (rc == RF_OK)
        rf_answer_error(c, 400, NULL, "invalid", "the body must be a JSON object");
    else
        rf_answer_error(c, rc == RF_ERR_LIMIT ? 413 : 400, NULL, "invalid_json", "body: %s", err.msg);
    cJSON_Delete(json);
    return NULL;
}
