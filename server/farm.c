/* Register, lease, heartbeat, reports; the files are in farm_files.c. Each call is: read the message (schema/wire.h), post
 * one op, answer. Whether a worker may do what it asks is decided by the store alone, under the lease.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/farm.h"

#include "schema/json.h"
#include "server/app.h"
#include "server/metrics.h"
#include "server/store_call.h"

#include <pthread.h>
#include <string.h>

struct ask {
    struct rf_op op;
    struct rf_wire_register *registration;
    struct rf_wire_heartbeat heartbeat;
    struct rf_wire_report *report;
    struct rf_wire_lease lease;
    char worker_id[RF_WORKER_ID_SIZE];
    struct rf_call *call;
    bool lost;                          /* the worker has hung up: the lease goes back */
    struct rf_polls *polls;             /* not NULL while in the list */
    struct ask *next, **link;
};

struct rf_polls {
    pthread_mutex_t lock;
    struct ask *first;
};

struct rf_polls *rf_polls_create(void)
{
    struct rf_polls *p = rf_new(struct rf_polls);
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void rf_polls_destroy(struct rf_polls **polls)
{
    if (*polls != NULL) {
        RF_ASSERT((*polls)->first == NULL);
        pthread_mutex_destroy(&(*polls)->lock);
    }
    rf_free(polls);
}

static void enter_polls(struct ask *a, struct rf_polls *p)
{
    pthread_mutex_lock(&p->lock);
    a->polls = p;
    a->next = p->first;
    a->link = &p->first;
    if (a->next != NULL)
        a->next->link = &a->next;
    p->first = a;
    pthread_mutex_unlock(&p->lock);
}

static void leave_polls(struct ask *a)
{
    if (a->polls == NULL)
        return;
    pthread_mutex_lock(&a->polls->lock);
    *a->link = a->next;
    if (a->next != NULL)
        a->next->link = a->link;
    pthread_mutex_unlock(&a->polls->lock);
    a->polls = NULL;
}

static void free_unpark(struct rf_op *op)
{
    free(op);
}

void rf_polls_end(struct rf_polls *p, struct rf_app *app)
{
    /* Under the lock no ask leaves the list, so every address is good when its op is posted; the store compares addresses
     * only, so one that has been answered meanwhile is no harm. */
    pthread_mutex_lock(&p->lock);
    for (struct ask *a = p->first; a != NULL; a = a->next) {
        struct rf_op *op = rf_new(struct rf_op);
        op->kind = RF_OP_UNPARK;
        op->done = free_unpark;
        op->now_ms = rf_now_ms();
        op->u.unpark.parked = &a->op;
        rf_store_post(app->store, op);
    }
    pthread_mutex_unlock(&p->lock);
}

struct give_back {
    struct rf_op op;
    struct rf_wire_report report;
    char task_id[RF_TASK_ID_SIZE];
};

static void free_give_back(struct rf_op *op)
{
    free(op); /* its first member */
}

/* A lease whose worker hung up while it waited, or before the answer was on its way, goes back at once instead of after its
 * whole time. */
static void give_back(struct ask *a)
{
    struct give_back *g = rf_new(struct give_back);
    g->report.kind = RF_REPORT_RELEASE;
    g->report.lease = a->lease.lease;
    memcpy(g->report.worker_id, a->worker_id, sizeof g->report.worker_id);
    memcpy(g->task_id, a->lease.task_id, sizeof g->task_id);
    g->op.kind = RF_OP_RELEASE;
    g->op.done = free_give_back;
    g->op.now_ms = rf_now_ms();
    g->op.u.report.task_id = g->task_id;
    g->op.u.report.report = &g->report;
    rf_store_post(a->call->app->store, &g->op);
}

static void free_ask(void **state)
{
    struct ask *a = *state;
    leave_polls(a);
    if (a->op.kind == RF_OP_CLAIM && a->op.code == RF_OK)
        a->lease = a->op.u.claim.lease; /* also when the connection ended before after_claim() had its turn */
    if (a->lease.lease > 0 && (a->lost || !a->call->delivered))
        give_back(a);
    rf_wire_register_destroy(&a->registration);
    rf_wire_report_destroy(&a->report);
    rf_wire_lease_finish(&a->lease);
    free(a);
    *state = NULL;
}

static struct ask *new_ask(struct rf_call *c, enum rf_op_kind kind)
{
    struct ask *a = rf_new(struct ask);
    a->op.kind = kind;
    a->call = c;
    c->state = a;
    c->free_state = free_ask;
    return a;
}

/* Takes the tree, prints it, answers it. */
static void answer_tree(struct rf_call *c, cJSON *json)
{
    char *body = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    RF_ASSERT(body != NULL);
    rf_answer_take(c, 200, "application/json", body, strlen(body));
}

static void answer_nothing(struct rf_call *c)
{
    rf_answer_static(c, 200, "application/json", "{}", 2);
}

static void answer_unknown_worker(struct rf_call *c)
{
    rf_answer_error(c, 404, "worker_id", "unknown_worker", "no such worker: register (again)");
}

/* ---- register, leave ---- */

static void after_register(struct rf_call *c)
{
    struct ask *a = c->state;
    if (!rf_call_op_ok(c, &a->op))
        return;
    struct rf_wire_registered answer = {.lease_ms = RF_LEASE_MS, .heartbeat_ms = RF_HEARTBEAT_MS};
    memcpy(answer.worker_id, a->op.u.reg.worker_id, sizeof answer.worker_id);
    answer_tree(c, rf_wire_registered_build(&answer));
}

void rf_farm_register(struct rf_call *c)
{
    struct ask *a = new_ask(c, RF_OP_REGISTER);
    struct rf_err err = {0};
    cJSON *json = rf_call_json(c, RF_WIRE_MAX_BYTES, false);
    if (json == NULL)
        return;
    enum rf_code rc = rf_wire_register_read(json, &a->registration, &err);
    cJSON_Delete(json);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    if (a->registration->protocol != RF_PROTOCOL) {
        rf_answer_error(c, 409, "protocol", "protocol", "this server speaks protocol %d, the worker %d: use the same release",
                        RF_PROTOCOL, a->registration->protocol);
        return;
    }
    a->op.u.reg.message = a->registration;
    rf_call_post(c, &a->op, after_register);
}

static void after_leave(struct rf_call *c)
{
    struct ask *a = c->state;
    if (a->op.code == RF_ERR_NOT_FOUND)
        answer_unknown_worker(c);
    else if (rf_call_op_ok(c, &a->op))
        answer_nothing(c);
}

void rf_farm_leave(struct rf_call *c)
{
    struct ask *a = new_ask(c, RF_OP_LEAVE);
    struct rf_err err = {0};
    cJSON *json = rf_call_json(c, 4096, false);
    if (json == NULL)
        return;
    enum rf_code rc = rf_wire_worker_id_read(json, a->worker_id, &err);
    cJSON_Delete(json);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    a->op.u.worker.id = a->worker_id;
    rf_call_post(c, &a->op, after_leave);
}

/* ---- lease ---- */

static void after_claim(struct rf_call *c)
{
    struct ask *a = c->state;
    leave_polls(a);
    if (a->op.code == RF_ERR_NOT_FOUND || a->op.code == RF_ERR_CANCELLED) {
        rf_answer_empty(c, 204);
        return;
    }
    if (a->op.code == RF_ERR_CONFLICT) {
        answer_unknown_worker(c);
        return;
    }
    if (!rf_call_op_ok(c, &a->op))
        return;
    a->lost = rf_call_is_gone(c);
    if (a->lost) {
        rf_answer_empty(c, 204);
        return;
    }
    char *body = rf_wire_lease_text(&a->op.u.claim.lease);
    rf_answer_take(c, 200, "application/json", body, strlen(body));
}

/* False: answered. */
static bool read_lease_ask(struct rf_call *c, struct rf_wire_lease_ask *ret)
{
    struct rf_err err = {0};
    if (rf_call_is_json(c) && c->body_n > 0 && c->body_n <= 4096 && rf_wire_lease_ask_scan(c->body, c->body_n, ret))
        return true;
    cJSON *json = rf_call_json(c, 4096, false);
    if (json == NULL)
        return false;
    enum rf_code rc = rf_wire_lease_ask_read(json, ret, &err);
    cJSON_Delete(json);
    if (rc != RF_OK)
        rf_answer_failed(c, rc, NULL, &err);
    return rc == RF_OK;
}

void rf_farm_lease(struct rf_call *c)
{
    struct ask *a = new_ask(c, RF_OP_CLAIM);
    struct rf_wire_lease_ask message;
    if (!read_lease_ask(c, &message))
        return;
    memcpy(a->worker_id, message.worker_id, sizeof a->worker_id);
    a->op.u.claim.worker_id = a->worker_id;
    a->op.u.claim.wait_ms = message.wait_ms;
    a->op.u.claim.device = message.device;
    enter_polls(a, c->app->polls);
    /* Asked again behind the list: a stop has either set the flag before this, or will find the claim in the list. */
    if (atomic_load(&c->app->stopping))
        a->op.u.claim.wait_ms = 0;
    rf_call_post(c, &a->op, after_claim);
}

/* ---- about a leased task ---- */

static void after_heartbeat(struct rf_call *c)
{
    struct ask *a = c->state;
    if (!rf_call_op_ok(c, &a->op))
        return;
    const struct rf_wire_heartbeat_answer answer = {.cancel = a->op.u.heartbeat.cancel,
                                                    .lease_ms = a->op.u.heartbeat.lease_ms};
    answer_tree(c, rf_wire_heartbeat_answer_build(&answer));
}

/* The task's id comes from the address; the store refuses what is no id. */
void rf_farm_heartbeat(struct rf_call *c)
{
    struct ask *a = new_ask(c, RF_OP_HEARTBEAT);
    struct rf_err err = {0};
    cJSON *json = rf_call_json(c, 16384, false);
    if (json == NULL)
        return;
    enum rf_code rc = rf_wire_heartbeat_read(json, &a->heartbeat, &err);
    cJSON_Delete(json);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    a->op.u.heartbeat.task_id = c->param[0];
    a->op.u.heartbeat.message = &a->heartbeat;
    rf_call_post(c, &a->op, after_heartbeat);
}

static void after_report(struct rf_call *c)
{
    struct ask *a = c->state;
    if (!rf_call_op_ok(c, &a->op))
        return;
    rf_metrics_add_timings(c->app->metrics, a->report->timings, a->report->n_timings);
    answer_nothing(c);
}

/* False: answered. */
static bool read_report(struct rf_call *c, enum rf_wire_report_kind kind, struct rf_wire_report **ret)
{
    struct rf_err err = {0};
    if (kind == RF_REPORT_COMPLETE && rf_call_is_json(c) && c->body_n > 0 &&
        (*ret = rf_wire_complete_scan(c->body, c->body_n)) != NULL)
        return true;
    cJSON *json = rf_call_json(c, RF_WIRE_MAX_BYTES, false);
    if (json == NULL)
        return false;
    enum rf_code rc = rf_wire_report_read(json, kind, ret, &err);
    cJSON_Delete(json);
    if (rc != RF_OK)
        rf_answer_failed(c, rc, NULL, &err);
    return rc == RF_OK;
}

static void take_report(struct rf_call *c, enum rf_op_kind op, enum rf_wire_report_kind kind)
{
    struct ask *a = new_ask(c, op);
    if (!read_report(c, kind, &a->report))
        return;
    a->op.u.report.task_id = c->param[0];
    a->op.u.report.report = a->report;
    rf_call_post(c, &a->op, after_report);
}

void rf_farm_complete(struct rf_call *c)
{
    take_report(c, RF_OP_COMPLETE, RF_REPORT_COMPLETE);
}

void rf_farm_fail(struct rf_call *c)
{
    take_report(c, RF_OP_FAIL, RF_REPORT_FAIL);
}

void rf_farm_release(struct rf_call *c)
{
    take_report(c, RF_OP_RELEASE, RF_REPORT_RELEASE);
}
