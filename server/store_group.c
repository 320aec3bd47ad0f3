/* A group of ops: run in order, committed once, answered. And the slow way when that fails.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_private.h"

#include <stdio.h>

/* One commit's worth. More would only make the first of them wait longer. */
#define MAX_GROUP 4096

int64_t rf_store_clock(struct rf_store *s, int64_t now_ms)
{
    int64_t last = s->clock_last_ms, jump = s->config.clock_jump_ms;
    if (jump > 0 && last > 0 && (now_ms - last > jump || last - now_ms > jump)) {
        s->clock_skew_ms += now_ms - last; /* as if no time had passed */
        s->clock_last_ms = now_ms;
    } else if (now_ms > last) { /* callers' clocks are read before they post: a little disorder is normal */
        s->clock_last_ms = now_ms;
    } else if (jump == 0) {
        return now_ms;
    }
    return s->clock_last_ms - s->clock_skew_ms;
}

void rf_store_count(struct rf_store *s, enum rf_job_state from, enum rf_job_state to)
{
    if (from != RF_JOB_STATE_COUNT)
        s->n_jobs[from]--;
    if (to != RF_JOB_STATE_COUNT)
        s->n_jobs[to]++;
}

void rf_group_event(struct rf_store *s, enum rf_event_kind kind, const char *id, int64_t now_ms)
{
    if (s->config.on_event == NULL)
        return;
    if (s->n_events == s->events_capacity) {
        s->events_capacity = s->events_capacity ? 2 * s->events_capacity : 256;
        s->events = rf_realloc(s->events, (size_t)s->events_capacity, sizeof *s->events);
    }
    struct rf_event *e = &s->events[s->n_events++];
    *e = (struct rf_event){.kind = kind, .now_ms = now_ms};
    snprintf(e->id, sizeof e->id, "%s", id);
}

void rf_group_job_event(struct rf_store *s, enum rf_event_kind kind, const struct rf_live_job *job, int64_t now_ms)
{
    char id[RF_JOB_ID_SIZE];
    rf_id_format((struct rf_id){job->row, job->tail}, id);
    rf_group_event(s, kind, id, now_ms);
}

void rf_group_answer(struct rf_store *s, struct rf_op *op)
{
    op->next_ = NULL;
    *s->answered_last = op;
    s->answered_last = &op->next_;
}

/* False: the op is parked. */
static bool run_op(struct rf_store *s, struct rf_op *op)
{
    op->code = RF_OK;
    s->wall_ms = op->now_ms > s->wall_ms ? op->now_ms : s->wall_ms;
    switch (op->kind) {
    case RF_OP_SUBMIT: rf_op_submit(s, op); return true;
    case RF_OP_CANCEL: rf_op_cancel(s, op); return true;
    case RF_OP_DELETE: rf_op_delete(s, op); return true;
    case RF_OP_RETRY: rf_op_retry(s, op); return true;
    case RF_OP_PRIORITY: rf_op_priority(s, op); return true;
    case RF_OP_MOVE: rf_op_move(s, op); return true;
    case RF_OP_REGISTER: rf_op_register(s, op); return true;
    case RF_OP_LEAVE: rf_op_leave(s, op); return true;
    case RF_OP_DIED: rf_op_died(s, op); return true;
    case RF_OP_DRAIN: rf_op_drain(s, op); return true;
    case RF_OP_CLAIM: return rf_op_claim(s, op);
    case RF_OP_UNPARK: rf_op_unpark(s, op); return true;
    case RF_OP_HEARTBEAT: rf_op_heartbeat(s, op); return true;
    case RF_OP_COMPLETE:
    case RF_OP_FAIL:
    case RF_OP_RELEASE: rf_op_report(s, op); return true;
    case RF_OP_CHECK_LEASE: rf_op_check_lease(s, op); return true;
    case RF_OP_PUT_FILE: rf_op_put_file(s, op); return true;
    case RF_OP_FORGET_FILES: rf_op_forget_files(s, op); return true;
    case RF_OP_PAUSE: rf_op_pause(s, op); return true;
    case RF_OP_TICK: rf_op_tick(s, op); return true;
    case RF_OP_EXPIRE: rf_op_expire(s, op); return true;
    case RF_OP_DISK: rf_op_disk(s, op); return true;
    case RF_OP_DELIVERY: rf_op_delivery(s, op); return true;
    case RF_OP_KIND_COUNT: break;
    }
    RF_ASSERT(!"an op of no kind");
}

static void run_locked(struct rf_store *s, struct rf_op *op)
{
    pthread_mutex_lock(&s->lock); /* per op, so that readers get in between */
    if (run_op(s, op))
        rf_group_answer(s, op);
    pthread_mutex_unlock(&s->lock);
}

static void serve_locked(struct rf_store *s)
{
    if (!s->fresh)
        return;
    s->fresh = false;
    pthread_mutex_lock(&s->lock);
    rf_serve_parked(s);
    pthread_mutex_unlock(&s->lock);
}

static void tell(struct rf_store *s)
{
    rf_models_refresh(s);
    int n = s->n_events;
    s->n_events = s->n_sure = 0;
    for (int i = 0; i < n; i++)
        s->config.on_event(s->config.event_ctx, &s->events[i]);
    struct rf_op *op = s->answered;
    s->answered = NULL;
    s->answered_last = &s->answered;
    while (op != NULL) {
        struct rf_op *next = op->next_; /* done may free the op */
        rf_op_unprepare(op);
        op->done(op);
        op = next;
    }
}

/* What is in memory may be ahead of what is on disk: throw it away. */
static void reload(struct rf_store *s)
{
    struct rf_err err = {0};
    rf_sql_rollback(s);
    pthread_mutex_lock(&s->lock);
    enum rf_code rc = rf_db_load_jobs(s, &err);
    pthread_mutex_unlock(&s->lock);
    if (rc != RF_OK) /* not even reading works: going on would hand out work that may be done already */
        fprintf(stderr, "level=error doing=reload code=%s msg=\"%s\"\n", rf_code_name(rc), err.msg);
    RF_ASSERT(rc == RF_OK);
    s->n_events = s->n_sure; /* the page must hear of what is on disk, and of nothing else */
}

static void fail_op(struct rf_op *op, const struct rf_err *err)
{
    op->code = rf_fail(&op->err, err->code, "%s", err->msg);
    if (op->kind == RF_OP_CLAIM)
        rf_wire_lease_finish(&op->u.claim.lease);
    for (int i = 0; op->kind == RF_OP_SUBMIT && i < op->u.submit.n_jobs; i++) {
        op->u.submit.jobs[i].code = err->code;
        op->u.submit.jobs[i].err = *err;
    }
}

/* The group failed as a whole. Each op once more, alone. A full disk fails every submit alike, so after the first one the
 * others are not tried; ending a task writes little and may still fit. */
static void run_singly(struct rf_store *s, struct rf_op *ops)
{
    struct rf_err full = {0};
    for (struct rf_op *op = ops, *next; op != NULL; op = next) {
        next = op->next_;
        if (op->kind == RF_OP_SUBMIT && full.code != RF_OK) {
            fail_op(op, &full);
            rf_group_answer(s, op);
            continue;
        }
        run_locked(s, op);
        if (!s->sql_failed && rf_sql_commit(s)) {
            s->n_sure = s->n_events;
            continue;
        }
        struct rf_err err = s->sql_err;
        if (op->kind == RF_OP_SUBMIT)
            full = err;
        reload(s);
        fail_op(op, &err);
    }
    serve_locked(s);
    if (s->sql_failed || !rf_sql_commit(s))
        reload(s); /* parked claims that were just served hold leases nobody knows: they run out and come again */
}

/* The ops as they were before the group. A parked claim that was served in it simply claims again. */
static struct rf_op *take_back(struct rf_store *s)
{
    struct rf_op *ops = s->answered;
    s->answered = NULL;
    s->answered_last = &s->answered;
    for (struct rf_op *op = ops; op != NULL; op = op->next_)
        if (op->kind == RF_OP_CLAIM)
            rf_wire_lease_finish(&op->u.claim.lease);
    return ops;
}

static void run_group(struct rf_store *s, struct rf_op *ops)
{
    for (struct rf_op *op = ops, *next; op != NULL; op = next) {
        next = op->next_;
        if (s->sql_failed)
            rf_group_answer(s, op); /* only to keep it in the list that take_back() returns */
        else
            run_locked(s, op);
    }
    if (!s->sql_failed)
        serve_locked(s);
    if (s->sql_failed || !rf_sql_commit(s)) {
        reload(s);
        run_singly(s, take_back(s));
    }
    tell(s);
}

void rf_group_run(void *store, struct rf_op *ops)
{
    struct rf_store *s = store;
    while (ops != NULL) {
        struct rf_op *last = ops;
        for (int n = 1; n < MAX_GROUP && last->next_ != NULL; n++)
            last = last->next_;
        struct rf_op *rest = last->next_;
        last->next_ = NULL;
        run_group(s, ops);
        ops = rest;
    }
}
