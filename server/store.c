/* The store's doors: opening, closing, posting, and the blocking ways in. The rest is listed in store_private.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_expect.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char *const job_states[] = {"queued", "in_progress", "completed", "failed", "cancelled"};
static const char *const task_states[] = {"blocked", "ready", "leased", "done", "failed", "cancelled"};
static const char *const outcomes[] = {"done", "failed", "expired", "released", "cancelled"};
static const char *const worker_states[] = {"idle", "busy", "draining", "lost", "left"};
_Static_assert(RF_COUNT_OF(job_states) == RF_JOB_STATE_COUNT && RF_COUNT_OF(task_states) == RF_TASK_STATE_COUNT &&
               RF_COUNT_OF(outcomes) == RF_OUTCOME_COUNT && RF_COUNT_OF(worker_states) == RF_WORKER_STATE_COUNT,
               "a state has no name");

const char *rf_job_state_name(enum rf_job_state state)
{
    return (unsigned)state < RF_JOB_STATE_COUNT ? job_states[state] : "unknown";
}

enum rf_job_state rf_job_state_from_name(const char *name)
{
    int i = 0;
    while (i < RF_JOB_STATE_COUNT && strcmp(job_states[i], name) != 0)
        i++;
    return (enum rf_job_state)i;
}

const char *rf_task_state_name(enum rf_task_state state)
{
    return (unsigned)state < RF_TASK_STATE_COUNT ? task_states[state] : "unknown";
}

const char *rf_outcome_name(enum rf_outcome outcome)
{
    return (unsigned)outcome < RF_OUTCOME_COUNT ? outcomes[outcome] : "unknown";
}

const char *rf_worker_state_name(enum rf_worker_state state)
{
    return (unsigned)state < RF_WORKER_STATE_COUNT ? worker_states[state] : "unknown";
}

/* ---- opening and closing ---- */

static void fill_defaults(struct rf_store_config *c)
{
    c->lease_ms = c->lease_ms > 0 ? c->lease_ms : 30000;
    c->heartbeat_ms = c->heartbeat_ms > 0 ? c->heartbeat_ms : 5000;
    c->max_attempts = c->max_attempts > 0 ? c->max_attempts : 3;
    c->backoff_ms = c->backoff_ms > 0 ? c->backoff_ms : 2000;
    c->backoff_max_ms = c->backoff_max_ms > 0 ? c->backoff_max_ms : 300000;
    c->worker_lost_ms = c->worker_lost_ms > 0 ? c->worker_lost_ms : 90000;
    c->key_keep_ms = c->key_keep_ms > 0 ? c->key_keep_ms : INT64_C(86400000);
    c->max_unfinished = c->max_unfinished > 0 ? c->max_unfinished : 1000000;
}

/* Two servers on one folder would hand out the same work twice. */
static enum rf_code lock_database(struct rf_store *s, struct rf_err *err)
{
    RF_AUTO(rf_free) char *path = rf_asprintf("%s-lock", s->path);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return rf_fail(err, RF_ERR_IO, "open '%s': %s", path, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return rf_fail(err, RF_ERR_IO, "another server has '%s' open", s->path);
    return RF_OK;
}

enum rf_code rf_store_open(const struct rf_store_config *config, struct rf_store **ret_store, struct rf_err *err)
{
    RF_AUTO(rf_store_destroy) struct rf_store *s = rf_new(struct rf_store);
    s->config = *config;
    s->config.path = s->path = rf_strdup(config->path);
    fill_defaults(&s->config);
    s->answered_last = &s->answered;
    s->lock_fd = -1;
    s->clock_last_ms = s->wall_ms = config->now_ms;
    s->sched = rf_sched_create();
    s->expect = rf_expect_create();
    pthread_mutex_init(&s->mint_lock, NULL);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->models_lock, NULL);
    pthread_mutex_init(&s->readers_lock, NULL);
    pthread_mutex_init(&s->checkpoint_lock, NULL);
    pthread_mutex_init(&s->checkpoint_pass, NULL);
    pthread_cond_init(&s->checkpoint_cond, NULL);
    enum rf_code rc = lock_database(s, err);
    if (rc == RF_OK)
        rc = rf_db_open(s, err);
    if (rc == RF_OK)
        rc = rf_db_load(s, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "database '%s'", s->path);
    rf_models_refresh(s);
    rf_db_start_checkpointer(s);
    s->writer = rf_writer_create(rf_group_run, s);
    *ret_store = s;
    s = NULL;
    return RF_OK;
}

/* Nobody will bring them work any more. */
static void end_parked(struct rf_store *s)
{
    while (s->parked_first != NULL) {
        struct rf_op *op = rf_unpark_worker(s, s->parked_first);
        op->code = rf_fail(&op->err, RF_ERR_NOT_FOUND, "the server stops");
        op->done(op);
    }
}

void rf_store_destroy(struct rf_store **store)
{
    struct rf_store *s = *store;
    if (s == NULL)
        return;
    rf_writer_destroy(&s->writer);
    end_parked(s);
    rf_readers_close(s);
    rf_db_close(s);
    rf_expect_destroy(&s->expect);
    rf_sched_destroy(&s->sched);
    for (int i = 0; i < s->n_models; i++)
        rf_known_model_destroy(&s->models[i]);
    free(s->models);
    free(s->events);
    free(s->path);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    pthread_mutex_destroy(&s->mint_lock);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->models_lock);
    pthread_mutex_destroy(&s->readers_lock);
    pthread_mutex_destroy(&s->checkpoint_lock);
    pthread_mutex_destroy(&s->checkpoint_pass);
    pthread_cond_destroy(&s->checkpoint_cond);
    free(s);
    *store = NULL;
}

/* ---- posting ---- */

static void mint(struct rf_store *s, int64_t now_ms, char ret_id[RF_JOB_ID_SIZE])
{
    s->last_row = rf_id_next_row(s->last_row, now_ms);
    rf_id_format((struct rf_id){s->last_row, rf_random64()}, ret_id);
}

void rf_store_new_id(struct rf_store *s, int64_t now_ms, char ret_id[RF_JOB_ID_SIZE])
{
    pthread_mutex_lock(&s->mint_lock);
    mint(s, now_ms, ret_id);
    pthread_mutex_unlock(&s->mint_lock);
}

void rf_store_post(struct rf_store *s, struct rf_op *op)
{
    RF_ASSERT(op->done != NULL);
    op->deadline_ms_ = 0;
    op->err = (struct rf_err){0};
    rf_job_prepare(op);
    rf_task_prepare(op);
    rf_worker_prepare(op);
    if (op->kind != RF_OP_SUBMIT) {
        rf_writer_post(s->writer, op);
        return;
    }
    pthread_mutex_lock(&s->mint_lock);
    for (int i = 0; i < op->u.submit.n_jobs; i++)
        if (op->u.submit.jobs[i].id[0] == '\0')
            mint(s, op->now_ms, op->u.submit.jobs[i].id);
    rf_writer_post(s->writer, op);
    pthread_mutex_unlock(&s->mint_lock);
}

/* ---- blocking ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void wake(struct rf_op *op)
{
    struct waiter *w = op->ctx;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

enum rf_code rf_store_run(struct rf_store *s, struct rf_op *op, struct rf_err *err)
{
    RF_ASSERT(!rf_writer_is_current(s->writer));
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    op->done = wake;
    op->ctx = &w;
    rf_store_post(s, op);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    if (op->code != RF_OK && err != NULL)
        *err = op->err;
    return op->code;
}

enum rf_code rf_store_submit(struct rf_store *s, const struct rf_request *request, int64_t now_ms,
                             char ret_id[RF_JOB_ID_SIZE], struct rf_err *err)
{
    struct rf_submit job = {.request = request};
    struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = now_ms, .u.submit = {.jobs = &job, .n_jobs = 1}};
    enum rf_code rc = rf_store_run(s, &op, err);
    if (rc == RF_OK && ret_id != NULL)
        memcpy(ret_id, job.id, RF_JOB_ID_SIZE);
    return rc;
}

enum rf_code rf_store_register(struct rf_store *s, const struct rf_wire_register *message, int64_t now_ms,
                               char ret_worker_id[RF_WORKER_ID_SIZE], struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_REGISTER, .now_ms = now_ms, .u.reg.message = message};
    enum rf_code rc = rf_store_run(s, &op, err);
    if (rc == RF_OK)
        memcpy(ret_worker_id, op.u.reg.worker_id, RF_WORKER_ID_SIZE);
    return rc;
}

enum rf_code rf_store_claim(struct rf_store *s, const char *worker_id, int64_t now_ms, struct rf_wire_lease *ret_lease,
                            struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_CLAIM, .now_ms = now_ms, .u.claim.worker_id = worker_id};
    enum rf_code rc = rf_store_run(s, &op, err);
    if (rc == RF_OK)
        *ret_lease = op.u.claim.lease;
    return rc;
}

enum rf_code rf_store_heartbeat(struct rf_store *s, const char *task_id, const struct rf_wire_heartbeat *message,
                                int64_t now_ms, bool *ret_cancel, struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_HEARTBEAT, .now_ms = now_ms, .u.heartbeat = {.task_id = task_id, .message = message}};
    enum rf_code rc = rf_store_run(s, &op, err);
    if (ret_cancel != NULL)
        *ret_cancel = rc == RF_OK && op.u.heartbeat.cancel;
    return rc;
}

enum rf_code rf_store_report(struct rf_store *s, const char *task_id, const struct rf_wire_report *report, int64_t now_ms,
                             struct rf_err *err)
{
    static const enum rf_op_kind kinds[] = {[RF_REPORT_COMPLETE] = RF_OP_COMPLETE, [RF_REPORT_FAIL] = RF_OP_FAIL,
                                            [RF_REPORT_RELEASE] = RF_OP_RELEASE};
    struct rf_op op = {.kind = kinds[report->kind], .now_ms = now_ms, .u.report = {.task_id = task_id, .report = report}};
    return rf_store_run(s, &op, err);
}

enum rf_code rf_store_put_file(struct rf_store *s, const char *task_id, int64_t lease, const struct rf_file *file,
                               int64_t now_ms, struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_PUT_FILE, .now_ms = now_ms,
                       .u.file = {.task_id = task_id, .lease = lease, .file = file}};
    return rf_store_run(s, &op, err);
}

static enum rf_code run_job_op(struct rf_store *s, enum rf_op_kind kind, const char *id, int priority, int64_t now_ms,
                               struct rf_err *err)
{
    struct rf_op op = {.kind = kind, .now_ms = now_ms, .u.job = {.id = id, .priority = priority}};
    return rf_store_run(s, &op, err);
}

enum rf_code rf_store_cancel(struct rf_store *s, const char *id, int64_t now_ms, struct rf_err *err)
{
    return run_job_op(s, RF_OP_CANCEL, id, 0, now_ms, err);
}

enum rf_code rf_store_delete(struct rf_store *s, const char *id, int64_t now_ms, struct rf_err *err)
{
    return run_job_op(s, RF_OP_DELETE, id, 0, now_ms, err);
}

enum rf_code rf_store_retry(struct rf_store *s, const char *id, int64_t now_ms, struct rf_err *err)
{
    return run_job_op(s, RF_OP_RETRY, id, 0, now_ms, err);
}

enum rf_code rf_store_set_priority(struct rf_store *s, const char *id, int priority, int64_t now_ms, struct rf_err *err)
{
    return run_job_op(s, RF_OP_PRIORITY, id, priority, now_ms, err);
}

enum rf_code rf_store_move(struct rf_store *s, const char *id, const char *beside, bool after, int64_t now_ms,
                           struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_MOVE, .now_ms = now_ms, .u.job = {.id = id, .beside = beside, .after = after}};
    return rf_store_run(s, &op, err);
}

enum rf_code rf_store_pause(struct rf_store *s, bool on, int64_t now_ms, struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_PAUSE, .now_ms = now_ms, .u.pause.on = on};
    return rf_store_run(s, &op, err);
}

enum rf_code rf_store_tick(struct rf_store *s, int64_t now_ms, int64_t *ret_next_ms, struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_TICK, .now_ms = now_ms};
    enum rf_code rc = rf_store_run(s, &op, err);
    if (ret_next_ms != NULL)
        *ret_next_ms = op.u.tick.next_ms;
    return rc;
}
