/* Workers as the store sees them: who is here, who waits for work, who went silent; and the tick that notices.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_private.h"

#include <stdio.h>
#include <string.h>

#define SWEEP_MS 60000
#define FORGET_WORKER_MS INT64_C(86400000)

enum { ROW_HERE, ROW_DRAINING, ROW_LOST, ROW_LEFT }; /* workers.state on disk */

static bool write_state(struct rf_store *s, struct rf_live_worker *w, enum rf_worker_state state, int64_t now_ms)
{
    sqlite3_stmt *q = rf_sql(s, SQL_WORKER_STATE);
    rf_bind_text(q, 1, w->id);
    sqlite3_bind_int(q, 2, state == RF_WORKER_DRAINING ? ROW_DRAINING : state == RF_WORKER_LOST ? ROW_LOST
                           : state == RF_WORKER_LEFT   ? ROW_LEFT : ROW_HERE);
    sqlite3_bind_int64(q, 3, w->seen_wall_ms);
    if (!rf_sql_run(s, q))
        return false;
    w->state = state;
    rf_sched_workers_changed(s->sched);
    rf_group_event(s, RF_EVENT_WORKER, w->id, now_ms);
    return true;
}

struct rf_live_worker *rf_worker_touch(struct rf_store *s, const char *id, int64_t now_ms)
{
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, id);
    if (w == NULL || w->state == RF_WORKER_LEFT)
        return NULL;
    w->seen_ms = rf_store_clock(s, now_ms);
    w->seen_wall_ms = now_ms;
    if (w->state == RF_WORKER_LOST)
        write_state(s, w, RF_WORKER_IDLE, now_ms);
    return w;
}

void rf_worker_told(struct rf_live_worker *w, const struct rf_wire_gauges *device, int64_t now_ms)
{
    w->gauges = *device;
    w->gauges_ms = now_ms;
}

/* ---- parked claims: first come, first served ---- */

void rf_park(struct rf_store *s, struct rf_live_worker *w, struct rf_op *op)
{
    w->parked = op;
    w->prev_parked = s->parked_last;
    w->next_parked = NULL;
    if (s->parked_last != NULL)
        s->parked_last->next_parked = w;
    else
        s->parked_first = w;
    s->parked_last = w;
}

struct rf_op *rf_unpark_worker(struct rf_store *s, struct rf_live_worker *w)
{
    struct rf_op *op = w->parked;
    if (op == NULL)
        return NULL;
    *(w->prev_parked ? &w->prev_parked->next_parked : &s->parked_first) = w->next_parked;
    *(w->next_parked ? &w->next_parked->prev_parked : &s->parked_last) = w->prev_parked;
    w->parked = NULL;
    return op;
}

static void end_parked(struct rf_store *s, struct rf_live_worker *w, enum rf_code code, const char *why)
{
    struct rf_op *op = rf_unpark_worker(s, w);
    if (op == NULL)
        return;
    op->code = rf_fail(&op->err, code, "%s", why);
    rf_group_answer(s, op);
}

bool rf_op_claim(struct rf_store *s, struct rf_op *op)
{
    struct rf_live_worker *w = rf_worker_touch(s, op->u.claim.worker_id, op->now_ms);
    int64_t now_ms = rf_store_clock(s, op->now_ms);
    op->u.claim.lease = (struct rf_wire_lease){0};
    if (w == NULL) {
        op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "this worker is not registered");
        return true;
    }
    rf_worker_told(w, &op->u.claim.device, op->now_ms);
    end_parked(s, w, RF_ERR_NOT_FOUND, "the worker asked again");
    if (rf_sched_wake(s->sched, now_ms) > 0)
        s->fresh = true; /* perhaps more woke than this one takes */
    bool serving = w->state == RF_WORKER_IDLE;
    struct rf_live_job *job = serving && !s->paused && !s->disk_low ? rf_sched_pick(s->sched, w) : NULL;
    if (job != NULL) {
        rf_task_give(s, op, w, job);
        return true;
    }
    if (serving && op->u.claim.wait_ms > 0) {
        op->deadline_ms_ = now_ms + op->u.claim.wait_ms;
        rf_park(s, w, op);
        return false;
    }
    op->code = rf_fail(&op->err, RF_ERR_NOT_FOUND, "nothing to do");
    return true;
}

void rf_op_unpark(struct rf_store *s, struct rf_op *op)
{
    struct rf_live_worker *w = s->parked_first;
    while (w != NULL && w->parked != op->u.unpark.parked)
        w = w->next_parked;
    if (w != NULL)
        end_parked(s, w, RF_ERR_CANCELLED, "its connection is gone");
}

void rf_serve_parked(struct rf_store *s)
{
    for (struct rf_live_worker *w = s->parked_first, *next; w != NULL && !s->sql_failed; w = next) {
        next = w->next_parked;
        if (s->paused || s->disk_low || !rf_sched_any_ready(s->sched))
            return;
        struct rf_live_job *job = rf_sched_pick(s->sched, w);
        if (job == NULL)
            continue;
        struct rf_op *op = rf_unpark_worker(s, w);
        op->code = RF_OK;
        op->now_ms = s->wall_ms > op->now_ms ? s->wall_ms : op->now_ms;
        rf_task_give(s, op, w, job);
        rf_group_answer(s, op);
    }
}

/* ---- coming and going ---- */

void rf_worker_prepare(struct rf_op *op)
{
    if (op->kind != RF_OP_REGISTER)
        return;
    RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_register_build(op->u.reg.message);
    op->prepared_[0] = cJSON_PrintUnformatted(json);
    RF_ASSERT(op->prepared_[0] != NULL);
}

/* A process that registers again is the same worker under a new id; its old self would linger as lost. Leases it may still
 * hold go on by their numbers. */
struct same_process {
    struct rf_store *s;
    const struct rf_wire_register *reg;
    int64_t now_ms;
};

static void retire_same(void *ctx, struct rf_live_worker *w)
{
    const struct same_process *c = ctx;
    if (w->state == RF_WORKER_LEFT || w->reg->pid == 0 || w->reg->pid != c->reg->pid ||
        strcmp(w->reg->name, c->reg->name) != 0 || strcmp(w->reg->host, c->reg->host) != 0)
        return;
    end_parked(c->s, w, RF_ERR_CONFLICT, "the worker registered again");
    write_state(c->s, w, RF_WORKER_LEFT, c->now_ms);
}

static bool store_models(struct rf_store *s, const struct rf_wire_register *reg, int64_t now_ms)
{
    for (int i = 0; i < reg->n_models; i++) {
        struct rf_wire_register one = *reg;
        one.models = &reg->models[i];
        one.n_models = 1;
        RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_register_build(&one);
        RF_AUTO(rf_free) char *text = cJSON_PrintUnformatted(json);
        sqlite3_stmt *q = rf_sql(s, SQL_MODEL_PUT);
        rf_bind_text(q, 1, reg->models[i].name);
        sqlite3_bind_int64(q, 2, now_ms + i); /* keeps the order within one registration */
        rf_bind_text(q, 3, text);
        if (!rf_sql_run(s, q))
            return false;
        rf_model_learn(s, &reg->models[i]);
    }
    return true;
}

void rf_op_register(struct rf_store *s, struct rf_op *op)
{
    if (op->u.reg.message->protocol != RF_PROTOCOL) {
        op->code = rf_fail(&op->err, RF_ERR_INVALID, "protocol: this server speaks %d, the worker (build %.40s) speaks %d",
                           RF_PROTOCOL, op->u.reg.message->build, op->u.reg.message->protocol);
        return;
    }
    RF_AUTO(rf_json_destroy) cJSON *json = cJSON_Parse(op->prepared_[0]);
    struct rf_live_worker *w = rf_new(struct rf_live_worker);
    op->code = rf_wire_register_read(json, &w->reg, &op->err); /* a deep copy, checked like any other */
    if (op->code != RF_OK) {
        free(w);
        return;
    }
    rf_random_id("worker_", w->id, sizeof w->id);
    w->registration_text = rf_strdup(op->prepared_[0]);
    w->registered_ms = w->seen_wall_ms = op->now_ms;
    w->seen_ms = rf_store_clock(s, op->now_ms);
    struct same_process same = {s, w->reg, op->now_ms};
    rf_sched_each_worker(s->sched, retire_same, &same);
    rf_sched_add_worker(s->sched, w);
    sqlite3_stmt *q = rf_sql(s, SQL_WORKER_PUT);
    rf_bind_text(q, 1, w->id);
    rf_bind_text(q, 2, w->reg->name);
    sqlite3_bind_int(q, 3, ROW_HERE);
    rf_bind_text(q, 4, w->registration_text);
    sqlite3_bind_int64(q, 5, op->now_ms);
    if (!rf_sql_run(s, q) || !store_models(s, w->reg, op->now_ms)) {
        rf_sched_remove_worker(s->sched, w);
        return;
    }
    memcpy(op->u.reg.worker_id, w->id, sizeof w->id);
    rf_group_event(s, RF_EVENT_WORKER, w->id, op->now_ms);
}

static struct rf_live_worker *find(struct rf_store *s, struct rf_op *op)
{
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, op->u.worker.id);
    if (w == NULL)
        op->code = rf_fail(&op->err, RF_ERR_NOT_FOUND, "there is no worker '%.40s'", op->u.worker.id);
    return w;
}

void rf_op_leave(struct rf_store *s, struct rf_op *op)
{
    struct rf_live_worker *w = find(s, op);
    if (w == NULL)
        return;
    end_parked(s, w, RF_ERR_NOT_FOUND, "the worker leaves");
    struct rf_live_job *job;
    for (int i = 0; (job = rf_sched_leased(s->sched, i)) != NULL;) {
        if (strcmp(job->run->worker_id, w->id) != 0) {
            i++;
            continue;
        }
        if (!rf_task_release(s, job, op->now_ms))
            return;
        i = 0; /* the heap has moved */
    }
    w->seen_wall_ms = op->now_ms;
    write_state(s, w, RF_WORKER_LEFT, op->now_ms);
}

void rf_op_drain(struct rf_store *s, struct rf_op *op)
{
    struct rf_live_worker *w = find(s, op);
    if (w == NULL)
        return;
    if (w->state != RF_WORKER_IDLE && w->state != RF_WORKER_DRAINING) {
        op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "the worker is not here any more");
        return;
    }
    if (op->u.worker.on)
        end_parked(s, w, RF_ERR_NOT_FOUND, "the worker is drained");
    write_state(s, w, op->u.worker.on ? RF_WORKER_DRAINING : RF_WORKER_IDLE, op->now_ms);
    s->fresh = true;
}

void rf_op_pause(struct rf_store *s, struct rf_op *op)
{
    sqlite3_stmt *q = rf_sql(s, SQL_SETTING_PUT);
    rf_bind_text(q, 1, "paused");
    rf_bind_text(q, 2, op->u.pause.on ? "1" : "0");
    if (!rf_sql_run(s, q))
        return;
    s->paused = op->u.pause.on;
    s->fresh = true;
    rf_group_event(s, RF_EVENT_QUEUE, "", op->now_ms);
}

/* ---- going without a word ---- */

/* The job's worker is no more: the attempt has failed. */
static bool lose(struct rf_store *s, struct rf_live_job *job, const char *message, int64_t now_ms)
{
    struct rf_ending end = {.outcome = RF_OUTCOME_EXPIRED, .code = "worker_lost", .message = message};
    char worker_id[RF_WORKER_ID_SIZE];
    memcpy(worker_id, job->run->worker_id, sizeof worker_id);
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, worker_id);
    return rf_task_end_lease(s, job, &end, now_ms) &&
           rf_task_retry_or_fail(s, job, &end, true, worker_id, w != NULL ? w->reg->name : worker_id, now_ms);
}

struct death {
    struct rf_store *s;
    const struct rf_op *op;
    struct rf_live_worker *dead; /* the newest that is this process */
};

static void find_dead(void *ctx, struct rf_live_worker *w)
{
    struct death *d = ctx;
    const struct rf_op *op = d->op;
    if (w->reg->pid == op->u.died.pid && strcmp(w->reg->name, op->u.died.name) == 0 &&
        strcmp(w->reg->host, op->u.died.host) == 0 && (d->dead == NULL || d->dead->registered_ms <= w->registered_ms))
        d->dead = w;
}

void rf_op_died(struct rf_store *s, struct rf_op *op)
{
    struct death death = {s, op, NULL};
    rf_sched_each_worker(s->sched, find_dead, &death);
    struct rf_live_worker *w = death.dead;
    if (w == NULL || (w->state == RF_WORKER_LEFT && w->n_held == 0))
        return; /* it never came so far, or it said goodbye */
    end_parked(s, w, RF_ERR_NOT_FOUND, "the worker's process has ended");
    RF_AUTO(rf_free) char *message = rf_asprintf("the worker's process ended: %s", op->u.died.how);
    struct rf_live_job *job;
    for (int i = 0; (job = rf_sched_leased(s->sched, i)) != NULL;) {
        if (strcmp(job->run->worker_id, w->id) != 0) {
            i++;
            continue;
        }
        if (!lose(s, job, message, op->now_ms))
            return;
        i = 0; /* the heap has moved */
    }
    if (w->state != RF_WORKER_LEFT)
        write_state(s, w, RF_WORKER_LEFT, op->now_ms);
}

/* ---- the tick ---- */

struct tick {
    struct rf_store *s;
    int64_t now_ms, clock_ms;
    struct rf_live_worker *old;   /* chained by next_parked: a worker that is gone is not parked */
};

static void look_after(void *ctx, struct rf_live_worker *w)
{
    struct tick *t = ctx;
    bool here = w->state == RF_WORKER_IDLE || w->state == RF_WORKER_DRAINING;
    if (here && w->parked == NULL && t->clock_ms - w->seen_ms > t->s->config.worker_lost_ms) {
        write_state(t->s, w, RF_WORKER_LOST, t->now_ms);
    } else if (!here && w->n_held == 0 && t->now_ms - w->seen_wall_ms > FORGET_WORKER_MS) {
        w->next_parked = t->old;
        t->old = w;
    }
}

static void sweep(struct rf_store *s, struct tick *t)
{
    rf_sched_each_worker(s->sched, look_after, t);
    for (struct rf_live_worker *w = t->old, *next; w != NULL; w = next) {
        next = w->next_parked;
        sqlite3_stmt *q = rf_sql(s, SQL_WORKER_DELETE);
        rf_bind_text(q, 1, w->id);
        if (!rf_sql_run(s, q))
            return;
        rf_sched_remove_worker(s->sched, w);
    }
    if (t->now_ms < s->next_sweep_ms)
        return;
    s->next_sweep_ms = t->now_ms + SWEEP_MS;
    sqlite3_stmt *q = rf_sql(s, SQL_KEY_SWEEP);
    sqlite3_bind_int64(q, 1, t->now_ms - s->config.key_keep_ms);
    rf_sql_run(s, q);
}

void rf_op_tick(struct rf_store *s, struct rf_op *op)
{
    struct tick t = {s, op->now_ms, rf_store_clock(s, op->now_ms), NULL};
    struct rf_live_job *job;
    op->u.tick.n_expired = 0;
    for (; (job = rf_sched_overdue(s->sched, t.clock_ms)) != NULL; op->u.tick.n_expired++)
        if (!lose(s, job, "the worker stopped answering and its lease ran out", op->now_ms))
            return;
    if (rf_sched_wake(s->sched, t.clock_ms) > 0)
        s->fresh = true;
    int64_t next_ms = rf_sched_next_due(s->sched);
    for (struct rf_live_worker *w = s->parked_first, *next; w != NULL; w = next) {
        next = w->next_parked;
        if (w->parked->deadline_ms_ <= t.clock_ms)
            end_parked(s, w, RF_ERR_NOT_FOUND, "nothing to do");
        else if (w->parked->deadline_ms_ < next_ms)
            next_ms = w->parked->deadline_ms_;
    }
    sweep(s, &t);
    op->u.tick.next_ms = next_ms == INT64_MAX ? next_ms : next_ms - t.clock_ms + op->now_ms;
}
