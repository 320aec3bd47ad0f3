/* What people do to jobs: submit, cancel, delete, retry, move. SPDX-License-Identifier: Apache-2.0 */
#include "server/eta.h"
#include "server/store_private.h"

#include <string.h>

void rf_job_prepare(struct rf_op *op)
{
    for (int i = 0; op->kind == RF_OP_SUBMIT && i < op->u.submit.n_jobs; i++) {
        free(op->u.submit.jobs[i].prepared_);
        op->u.submit.jobs[i].prepared_ = rf_request_to_text(op->u.submit.jobs[i].request);
    }
}

/* ---- submit ---- */

/* Looks the key up. True: the job is answered by it, one way or the other. */
static bool replay(struct rf_store *s, struct rf_submit *job)
{
    sqlite3_stmt *q = rf_sql(s, SQL_KEY_FIND);
    rf_bind_text(q, 1, job->key);
    bool known = rf_sql_row(s, q);
    if (known && (sqlite3_column_bytes(q, 0) != 32 || memcmp(sqlite3_column_blob(q, 0), job->fingerprint, 32) != 0)) {
        job->code = rf_fail(&job->err, RF_ERR_CONFLICT, "this Idempotency-Key was used for a different request");
    } else if (known) {
        rf_id_format((struct rf_id){sqlite3_column_int64(q, 1), (uint64_t)sqlite3_column_int64(q, 2)}, job->id);
        job->replayed = true;
    }
    sqlite3_reset(q);
    return known;
}

static bool insert_key(struct rf_store *s, const struct rf_submit *job, int64_t row, int64_t now_ms)
{
    sqlite3_stmt *q = rf_sql(s, SQL_KEY_PUT);
    rf_bind_text(q, 1, job->key);
    sqlite3_bind_blob(q, 2, job->fingerprint, 32, SQLITE_STATIC);
    sqlite3_bind_int64(q, 3, row);
    sqlite3_bind_int64(q, 4, now_ms);
    return rf_sql_run(s, q);
}

bool rf_file_insert(struct rf_store *s, int64_t row, const char *job_id, int64_t lease, const struct rf_file *file)
{
    sqlite3_stmt *q = rf_sql(s, SQL_INSERT_FILE);
    sqlite3_bind_int64(q, 1, row);
    rf_bind_text(q, 2, file->name);
    rf_bind_text(q, 3, file->disk_name);
    sqlite3_bind_int64(q, 4, file->size_bytes);
    rf_bind_text(q, 5, file->sha256);
    rf_bind_text(q, 6, file->content_type);
    sqlite3_bind_int64(q, 7, file->created_ms);
    rf_bind_text(q, 8, job_id);
    sqlite3_bind_int64(q, 9, lease);
    return rf_sql_run(s, q);
}

static bool insert_job(struct rf_store *s, const struct rf_submit *job, struct rf_id id, int n_tasks, int64_t disk_bytes,
                       int64_t now_ms)
{
    const struct rf_request *r = job->request;
    sqlite3_stmt *q = rf_sql(s, SQL_INSERT_JOB);
    int i = 1;
    sqlite3_bind_int64(q, i++, id.row);
    sqlite3_bind_int64(q, i++, (int64_t)id.tail);
    sqlite3_bind_int(q, i++, r->priority);
    rf_bind_text(q, i++, r->user);
    rf_bind_text(q, i++, r->model);
    rf_bind_text(q, i++, job->prepared_);
    sqlite3_bind_int(q, i++, r->width);
    sqlite3_bind_int(q, i++, r->height);
    sqlite3_bind_int(q, i++, r->n_frames);
    sqlite3_bind_int(q, i++, r->fps);
    sqlite3_bind_int(q, i++, r->n_steps);
    sqlite3_bind_int(q, i++, r->max_segment_frames);
    sqlite3_bind_int(q, i++, job->input != NULL);
    sqlite3_bind_int(q, i++, n_tasks);
    sqlite3_bind_int64(q, i++, now_ms);
    rf_bind_text(q, i++, job->remixed_from);
    sqlite3_bind_int64(q, i++, disk_bytes);
    return rf_sql_run(s, q);
}

static int64_t disk_bytes(const struct rf_submit *job, const struct rf_plan *plan)
{
    return rf_plan_disk_bytes(plan, job->request->width, job->request->height, job->request->crf);
}

static struct rf_live_job *live_job(const struct rf_submit *job, struct rf_id id, const struct rf_plan *plan)
{
    const struct rf_request *r = job->request;
    struct rf_live_job *live = rf_new(struct rf_live_job);
    *live = (struct rf_live_job){.row = id.row, .turn = id.row, .tail = id.tail, .priority = r->priority,
                                 .n_tasks = plan->n_segments + 1, .reserved_bytes = disk_bytes(job, plan),
                                 .width = r->width, .height = r->height, .n_frames = r->n_frames, .fps = r->fps,
                                 .n_steps = r->n_steps, .max_segment_frames = r->max_segment_frames,
                                 .has_image = job->input != NULL,
                                 .n_passes = rf_eta_passes(r->n_steps, r->switch_step, r->guidance_scale, r->guidance_scale_2)};
    return live;
}

static bool insert_webhook(struct rf_store *s, int64_t row, const char *url)
{
    sqlite3_stmt *q = rf_sql(s, SQL_WEBHOOK_PUT);
    sqlite3_bind_int64(q, 1, row);
    rf_bind_text(q, 2, url);
    return rf_sql_run(s, q);
}

/* Whoever asked to be told is told once this is committed, however long that takes. */
static bool add_delivery(struct rf_store *s, const struct rf_live_job *job, enum rf_job_state state, int64_t now_ms)
{
    char id[RF_JOB_ID_SIZE];
    rf_id_format((struct rf_id){job->row, job->tail}, id);
    sqlite3_stmt *q = rf_sql(s, SQL_DELIVERY_ADD);
    sqlite3_bind_int64(q, 1, job->row);
    rf_bind_text(q, 2, id);
    sqlite3_bind_int(q, 3, state == RF_JOB_COMPLETED);
    sqlite3_bind_int64(q, 4, now_ms);
    return rf_sql_run(s, q);
}

#define DELIVERY_KEEP_MS (7 * INT64_C(86400000)) /* settled ones: for whoever asks why nothing came */

void rf_op_delivery(struct rf_store *s, struct rf_op *op)
{
    sqlite3_stmt *q = rf_sql(s, SQL_DELIVERY_PUT);
    sqlite3_bind_int64(q, 1, op->u.delivery.row);
    sqlite3_bind_int(q, 2, op->u.delivery.attempts);
    sqlite3_bind_int64(q, 3, op->u.delivery.next_ms);
    sqlite3_bind_int(q, 4, op->u.delivery.delivered);
    rf_bind_text(q, 5, op->u.delivery.error);
    if (!rf_sql_run(s, q))
        return;
    q = rf_sql(s, SQL_DELIVERY_SWEEP);
    sqlite3_bind_int64(q, 1, op->now_ms - DELIVERY_KEEP_MS);
    rf_sql_run(s, q);
}

/* What is free above the floor must do for all that was accepted before, and for this one. */
static enum rf_code check_disk(const struct rf_store *s, int64_t reserved, int64_t wanted, struct rf_err *err)
{
    int64_t spare = s->disk_free_bytes - s->disk_floor_bytes;
    if (!s->disk_known || s->config.trust_outputs || spare >= reserved + wanted)
        return RF_OK;
    return rf_fail(err, RF_ERR_NO_SPACE, "the disk is too full: this job may need %lld MiB; %lld MiB can be used, of which %lld "
                   "MiB are set aside for jobs that wait", (long long)(wanted >> 20),
                   (long long)(spare > 0 ? spare >> 20 : 0), (long long)(reserved >> 20));
}

/* Checks and inserts one job. False: sql_failed. Whether it was added is in job->code and job->replayed. */
static bool submit_one(struct rf_store *s, struct rf_submit *job, int64_t n_waiting, int64_t *reserved, int64_t now_ms)
{
    struct rf_plan plan;
    struct rf_id id;
    job->code = RF_OK;
    job->replayed = false;
    if (job->key != NULL && replay(s, job))
        return !s->sql_failed;
    if (!rf_id_parse(job->id, &id))
        job->code = rf_fail(&job->err, RF_ERR_INVALID, "'%.40s' is not an id of rf_store_new_id()", job->id);
    else if (n_waiting >= s->config.max_unfinished)
        job->code = rf_fail(&job->err, RF_ERR_LIMIT, "the queue is full: %lld jobs wait already; try later",
                            (long long)n_waiting);
    else
        job->code = rf_request_plan(job->request, &plan, &job->err);
    int64_t wanted = job->code == RF_OK ? disk_bytes(job, &plan) : 0;
    if (job->code == RF_OK)
        job->code = check_disk(s, *reserved, wanted, &job->err);
    if (job->code != RF_OK)
        return true;
    *reserved += wanted;
    if (!insert_job(s, job, id, plan.n_segments + 1, wanted, now_ms) ||
        (job->input != NULL && !rf_file_insert(s, id.row, job->id, 0, job->input)) ||
        (job->key != NULL && !insert_key(s, job, id.row, now_ms)))
        return false;
    return job->request->webhook_url == NULL || insert_webhook(s, id.row, job->request->webhook_url);
}

/* The inserted ones enter memory, once all of the op is written. */
static void enter_memory(struct rf_store *s, struct rf_submit *job, int64_t now_ms)
{
    struct rf_plan plan;
    struct rf_id id;
    if (job->code != RF_OK || job->replayed)
        return;
    RF_ASSERT(rf_id_parse(job->id, &id) && rf_request_plan(job->request, &plan, NULL) == RF_OK);
    struct rf_live_job *live = live_job(job, id, &plan);
    rf_sched_add(s->sched, live, job->request->user, job->request->model, NULL, NULL);
    rf_sched_make_ready(s->sched, live);
    rf_store_count(s, RF_JOB_STATE_COUNT, RF_JOB_QUEUED);
    rf_group_event(s, RF_EVENT_JOB_CREATED, job->id, now_ms);
    s->fresh = true;
}

void rf_op_submit(struct rf_store *s, struct rf_op *op)
{
    struct rf_submit *jobs = op->u.submit.jobs;
    int n = op->u.submit.n_jobs, n_good = 0, n_new = 0, bad = -1;
    bool atomic = op->u.submit.atomic && n > 1;
    int64_t reserved = rf_sched_reserved_bytes(s->sched);
    if (atomic && !rf_sql_run(s, rf_sql(s, SQL_SAVEPOINT)))
        return;
    for (int i = 0; i < n && !(atomic && bad >= 0); i++) {
        if (!submit_one(s, &jobs[i], rf_sched_n_jobs(s->sched) + n_new, &reserved, op->now_ms))
            return;
        n_good += jobs[i].code == RF_OK;
        n_new += jobs[i].code == RF_OK && !jobs[i].replayed;
        if (jobs[i].code != RF_OK && bad < 0)
            bad = i;
    }
    if (bad >= 0 && (n_good == 0 || atomic))
        op->code = rf_fail(&op->err, jobs[bad].code, "%s", jobs[bad].err.msg);
    if (atomic && bad >= 0) {
        if (!rf_sql_run(s, rf_sql(s, SQL_SAVEPOINT_UNDO)))
            return;
        for (int i = 0; i < n; i++)
            if (i != bad)
                jobs[i].code = rf_fail(&jobs[i].err, RF_ERR_CANCELLED, "not added, because of another line");
    }
    if (atomic && !rf_sql_run(s, rf_sql(s, SQL_SAVEPOINT_KEEP)))
        return;
    for (int i = 0; i < n; i++)
        enter_memory(s, &jobs[i], op->now_ms);
}

/* ---- the others ---- */

/* The job's live form, or its state when it is finished. RF_ERR_NOT_FOUND is filled into the op. */
static bool find_named(struct rf_store *s, struct rf_op *op, const char *name, struct rf_id *ret_id,
                       struct rf_live_job **ret_live, enum rf_job_state *ret_state)
{
    *ret_live = NULL;
    *ret_state = RF_JOB_STATE_COUNT;
    if (rf_id_parse(name, ret_id)) {
        *ret_live = rf_sched_find(s->sched, ret_id->row);
        if (*ret_live != NULL && (*ret_live)->tail == ret_id->tail)
            return true;
        *ret_live = NULL;
        sqlite3_stmt *q = rf_sql(s, SQL_JOB_STATE);
        sqlite3_bind_int64(q, 1, ret_id->row);
        if (rf_sql_row(s, q) && (uint64_t)sqlite3_column_int64(q, 0) == ret_id->tail)
            *ret_state = (enum rf_job_state)sqlite3_column_int(q, 1);
        sqlite3_reset(q);
    }
    if (*ret_state == RF_JOB_STATE_COUNT)
        op->code = rf_fail(&op->err, RF_ERR_NOT_FOUND, "there is no job '%.40s'", name ? name : "");
    return *ret_state != RF_JOB_STATE_COUNT;
}

static bool find_job(struct rf_store *s, struct rf_op *op, struct rf_id *ret_id, struct rf_live_job **ret_live,
                     enum rf_job_state *ret_state)
{
    return find_named(s, op, op->u.job.id, ret_id, ret_live, ret_state);
}

bool rf_job_finish(struct rf_store *s, struct rf_live_job *job, enum rf_job_state state, const char *result,
                   const char *error_code, const char *error_message, int64_t now_ms)
{
    sqlite3_stmt *q = rf_sql(s, SQL_FINISH);
    sqlite3_bind_int64(q, 1, job->row);
    sqlite3_bind_int(q, 2, (int)state);
    sqlite3_bind_int64(q, 3, now_ms);
    sqlite3_bind_int(q, 4, state == RF_JOB_COMPLETED ? job->n_tasks : job->task);
    rf_bind_text(q, 5, result);
    rf_bind_text(q, 6, error_code);
    rf_bind_text(q, 7, error_message);
    if (!rf_sql_run(s, q) || !add_delivery(s, job, state, now_ms))
        return false;
    /* Segments of a failed or cancelled job stay until it is deleted: a retry goes on from them. */
    if (state == RF_JOB_COMPLETED) {
        q = rf_sql(s, SQL_GONE_SCRATCH);
        sqlite3_bind_int64(q, 1, job->row);
        sqlite3_bind_int64(q, 2, now_ms);
        if (!rf_sql_run(s, q))
            return false;
    }
    rf_store_count(s, job->begun ? RF_JOB_IN_PROGRESS : RF_JOB_QUEUED, state);
    rf_group_job_event(s, RF_EVENT_JOB_FINISHED, job, now_ms);
    rf_sched_remove(s->sched, job);
    return true;
}

void rf_op_cancel(struct rf_store *s, struct rf_op *op)
{
    struct rf_id id;
    struct rf_live_job *job;
    enum rf_job_state state;
    if (!find_job(s, op, &id, &job, &state))
        return;
    if (job == NULL) {
        if (state != RF_JOB_CANCELLED)
            op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "too late to cancel: the job has %s", rf_job_state_name(state));
        return;
    }
    struct rf_ending end = {.outcome = RF_OUTCOME_CANCELLED};
    if (job->run != NULL && !rf_task_end_lease(s, job, &end, op->now_ms))
        return;
    rf_job_finish(s, job, RF_JOB_CANCELLED, NULL, "cancelled", "The job was cancelled.", op->now_ms);
}

void rf_op_delete(struct rf_store *s, struct rf_op *op)
{
    struct rf_id id;
    struct rf_live_job *job;
    enum rf_job_state state;
    if (!find_job(s, op, &id, &job, &state))
        return;
    struct rf_ending end = {.outcome = RF_OUTCOME_CANCELLED};
    if (job != NULL && job->run != NULL && !rf_task_end_lease(s, job, &end, op->now_ms))
        return;
    static const enum rf_sql steps[] = {SQL_GONE_ALL, SQL_DELETE_ATTEMPTS, SQL_WEBHOOK_DELETE, SQL_DELETE_JOB};
    for (size_t i = 0; i < RF_COUNT_OF(steps); i++) {
        sqlite3_stmt *q = rf_sql(s, steps[i]);
        sqlite3_bind_int64(q, 1, id.row);
        if (steps[i] == SQL_GONE_ALL)
            sqlite3_bind_int64(q, 2, op->now_ms);
        if (!rf_sql_run(s, q))
            return;
    }
    rf_store_count(s, job == NULL ? state : job->begun ? RF_JOB_IN_PROGRESS : RF_JOB_QUEUED, RF_JOB_STATE_COUNT);
    if (job != NULL)
        rf_sched_remove(s->sched, job);
    rf_group_event(s, RF_EVENT_JOB_DELETED, op->u.job.id, op->now_ms);
}

void rf_op_retry(struct rf_store *s, struct rf_op *op)
{
    struct rf_id id;
    struct rf_live_job *job;
    enum rf_job_state state;
    if (!find_job(s, op, &id, &job, &state))
        return;
    if (job != NULL || state == RF_JOB_COMPLETED) {
        op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "only a failed or cancelled job can be tried again; this one %s",
                           job != NULL ? "is not finished" : "has completed");
        return;
    }
    sqlite3_stmt *q = rf_sql(s, SQL_JOB_STATE);
    sqlite3_bind_int64(q, 1, id.row);
    bool expired = rf_sql_row(s, q) && sqlite3_column_int64(q, 2) != 0;
    sqlite3_reset(q);
    if (expired) {
        op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "this job has expired: its files are gone; submit it anew");
        return;
    }
    q = rf_sql(s, SQL_RETRY);
    sqlite3_bind_int64(q, 1, id.row);
    if (!rf_sql_run(s, q) || !rf_db_load_one(s, id.row, op->now_ms))
        return;
    job = rf_sched_find(s->sched, id.row);
    bool renders = job->task < job->n_tasks - 1; /* assembling mixes nothing in: it waits for any worker */
    if (job->task > 0 && renders && rf_sched_nobody_can_run(s->sched, job)) {
        /* The weights of its first segments are not here any more; mixing others in is no way to go on. */
        rf_sched_remove(s->sched, job);
        q = rf_sql(s, SQL_START_OVER);
        sqlite3_bind_int64(q, 1, id.row);
        if (!rf_sql_run(s, q) || !rf_db_load_one(s, id.row, op->now_ms))
            return;
    }
    rf_store_count(s, state, RF_JOB_QUEUED);
    rf_group_event(s, RF_EVENT_JOB_CHANGED, op->u.job.id, op->now_ms);
    s->fresh = true;
}

void rf_op_priority(struct rf_store *s, struct rf_op *op)
{
    struct rf_id id;
    struct rf_live_job *job;
    enum rf_job_state state;
    const struct rf_field_info *f = &rf_request_fields[RF_FIELD_PRIORITY];
    if (op->u.job.priority < f->min || op->u.job.priority > f->max) {
        op->code = rf_fail(&op->err, RF_ERR_INVALID, "priority: %d is out of range; it must lie between %.0f and %.0f",
                           op->u.job.priority, f->min, f->max);
        return;
    }
    if (!find_job(s, op, &id, &job, &state))
        return;
    if (job == NULL) {
        op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "the job has already %s", rf_job_state_name(state));
        return;
    }
    sqlite3_stmt *q = rf_sql(s, SQL_PRIORITY);
    sqlite3_bind_int64(q, 1, id.row);
    sqlite3_bind_int(q, 2, op->u.job.priority);
    if (!rf_sql_run(s, q))
        return;
    rf_sched_set_priority(s->sched, job, op->u.job.priority);
    rf_group_event(s, RF_EVENT_JOB_CHANGED, op->u.job.id, op->now_ms);
}

/* The job, if it waits and has not begun; otherwise the op says why it cannot be moved. */
static struct rf_live_job *find_waiting(struct rf_store *s, struct rf_op *op, const char *name)
{
    struct rf_id id;
    struct rf_live_job *job;
    enum rf_job_state state;
    if (!find_named(s, op, name, &id, &job, &state))
        return NULL;
    if (job != NULL && job->place == RF_PLACE_READY && !job->begun)
        return job;
    op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "only waiting jobs have an order; %.40s has %s", name,
                       job != NULL ? "begun" : rf_job_state_name(state));
    return NULL;
}

void rf_op_move(struct rf_store *s, struct rf_op *op)
{
    struct rf_live_job *job = find_waiting(s, op, op->u.job.id), *beside = NULL;
    if (job == NULL || (beside = find_waiting(s, op, op->u.job.beside)) == NULL)
        return;
    if (job == beside || job->share != beside->share) {
        op->code = job == beside ? rf_fail(&op->err, RF_ERR_INVALID, "a job cannot be moved beside itself")
                                 : rf_fail(&op->err, RF_ERR_CONFLICT, "jobs of two users take turns; only one user's own "
                                           "jobs, or priorities, can be put in order");
        return;
    }
    struct rf_live_job **changed = NULL;
    int n = rf_sched_move(s->sched, job, beside, op->u.job.after, RF_QUEUE_LIST_MAX, &changed);
    if (n < 0)
        op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "more than %d jobs lie between the two", RF_QUEUE_LIST_MAX);
    for (int i = 0; i < n; i++) {
        sqlite3_stmt *q = rf_sql(s, SQL_TURN);
        sqlite3_bind_int64(q, 1, changed[i]->row);
        sqlite3_bind_int64(q, 2, changed[i]->turn);
        sqlite3_bind_int(q, 3, changed[i]->priority);
        if (!rf_sql_run(s, q))
            break; /* the whole group is undone and the queue read again */
    }
    free(changed);
    if (op->code == RF_OK)
        rf_group_event(s, RF_EVENT_JOB_CHANGED, op->u.job.id, op->now_ms);
}

/* Removes the files of finished jobs and keeps the records. What is not finished (any more: a retry came first) is left. */
void rf_op_expire(struct rf_store *s, struct rf_op *op)
{
    for (int i = 0; i < op->u.expire.n_rows; i++) {
        int64_t row = op->u.expire.rows[i];
        sqlite3_stmt *q = rf_sql(s, SQL_JOB_STATE);
        sqlite3_bind_int64(q, 1, row);
        bool over = rf_sql_row(s, q) && sqlite3_column_int(q, 1) > RF_JOB_IN_PROGRESS;
        struct rf_id id = {row, over ? (uint64_t)sqlite3_column_int64(q, 0) : 0};
        sqlite3_reset(q);
        static const enum rf_sql steps[] = {SQL_GONE_ALL, SQL_EXPIRE};
        for (size_t k = 0; over && k < RF_COUNT_OF(steps); k++) {
            q = rf_sql(s, steps[k]);
            sqlite3_bind_int64(q, 1, row);
            sqlite3_bind_int64(q, 2, op->now_ms);
            if (!rf_sql_run(s, q))
                return;
        }
        char text[RF_JOB_ID_SIZE];
        rf_id_format(id, text);
        if (over)
            rf_group_event(s, RF_EVENT_JOB_CHANGED, text, op->now_ms);
    }
}

/* Begins again only well above the floor: at the floor itself every file would switch it. */
void rf_op_disk(struct rf_store *s, struct rf_op *op)
{
    int64_t floor = op->u.disk.floor_bytes, free_bytes = op->u.disk.free_bytes;
    bool low = free_bytes < floor + (s->disk_low ? floor / 8 : 0), changed = low != s->disk_low;
    s->disk_known = true;
    s->disk_free_bytes = free_bytes;
    s->disk_floor_bytes = floor;
    s->disk_low = low;
    if (!changed)
        return;
    s->fresh = true;
    rf_group_event(s, RF_EVENT_QUEUE, "", op->now_ms);
}
