/* What workers do to tasks: take one, tell how it goes, end it. The only file that gives and takes leases.
 *
 * Fencing: every lease has a number larger than all before it, over restarts too, and every call about a task carries
 * it. A call whose number is not the task's current one changes nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_expect.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define LEASE_BLOCK 4096 /* numbers reserved on disk at a time; a restart skips the rest */

/* ---- texts, made on the poster's thread ---- */

static char *timings_text(const struct rf_wire_report *r)
{
    struct rf_text t = {0};
    if (r->n_timings == 0)
        return NULL;
    for (int i = 0; i < r->n_timings; i++) {
        const struct rf_wire_timing *m = &r->timings[i];
        rf_text_add(&t, i ? ",[" : "[[");
        rf_text_add_string(&t, m->stage);
        rf_text_add(&t, ",");
        if (m->step >= 0)
            rf_text_add_int(&t, m->step);
        else
            rf_text_add(&t, "null");
        rf_text_add(&t, ",");
        rf_text_add_int(&t, m->started_at_ms);
        rf_text_add(&t, ",");
        rf_text_add_double(&t, m->seconds);
        rf_text_add(&t, "]");
    }
    rf_text_add(&t, "]");
    return t.text;
}

static char *notes_text(const struct rf_wire_report *r)
{
    struct rf_text t = {0};
    if (r->n_notes == 0)
        return NULL;
    for (int i = 0; i < r->n_notes; i++) {
        rf_text_add(&t, i ? "," : "[");
        rf_text_add_string(&t, r->notes[i]);
    }
    rf_text_add(&t, "]");
    return t.text;
}

static char *result_text(const struct rf_wire_result *m)
{
    struct rf_text t = {0};
    const struct { const char *name; double x; } parts[] = {
        {"{\"num_frames\":", m->n_frames}, {",\"width\":", m->width}, {",\"height\":", m->height}, {",\"fps\":", m->fps},
        {",\"seconds\":", m->seconds}, {",\"colour_shift\":", m->colour_shift}};
    for (size_t i = 0; i < RF_COUNT_OF(parts); i++) {
        rf_text_add(&t, parts[i].name);
        rf_text_add_double(&t, parts[i].x);
    }
    rf_text_add(&t, "}");
    return t.text;
}

void rf_op_unprepare(struct rf_op *op)
{
    for (int i = 0; op->kind == RF_OP_SUBMIT && i < op->u.submit.n_jobs; i++)
        rf_free(&op->u.submit.jobs[i].prepared_);
    for (size_t i = 0; i < RF_COUNT_OF(op->prepared_); i++)
        rf_free(&op->prepared_[i]);
}

void rf_task_prepare(struct rf_op *op)
{
    for (size_t i = 0; i < RF_COUNT_OF(op->prepared_); i++)
        op->prepared_[i] = NULL;
    if (op->kind != RF_OP_COMPLETE && op->kind != RF_OP_FAIL)
        return;
    op->prepared_[0] = timings_text(op->u.report.report);
    op->prepared_[1] = notes_text(op->u.report.report);
    op->prepared_[2] = op->kind == RF_OP_COMPLETE ? result_text(&op->u.report.report->result) : NULL;
}

/* ---- giving ---- */

static bool next_lease(struct rf_store *s, int64_t *ret_lease)
{
    if (s->next_lease > s->lease_ceiling) {
        sqlite3_stmt *q = rf_sql(s, SQL_META_PUT);
        rf_bind_text(q, 1, "lease_ceiling");
        sqlite3_bind_int64(q, 2, s->next_lease + LEASE_BLOCK);
        if (!rf_sql_run(s, q))
            return false;
        s->lease_ceiling = s->next_lease + LEASE_BLOCK;
    }
    *ret_lease = s->next_lease++;
    return true;
}

static void fill_lease(const struct rf_live_job *job, struct rf_wire_lease *l)
{
    struct rf_plan plan;
    rf_id_format((struct rf_id){job->row, job->tail}, l->job_id);
    snprintf(l->task_id, sizeof l->task_id, "%s.%d", l->job_id, job->task);
    RF_ASSERT(rf_plan_make(job->n_frames, job->fps, job->max_segment_frames, &plan, NULL) == RF_OK);
    l->index = job->task;
    l->n_segments = job->n_tasks - 1;
    l->attempt = job->attempts;
    l->small_memory = job->n_no_memory > 0;
    if (job->task == l->n_segments) {
        l->kind = RF_TASK_ASSEMBLE;
        l->n_frames_out = plan.n_frames_out;
        return;
    }
    l->kind = RF_TASK_SEGMENT;
    l->first_frame = plan.segment[job->task].first_frame;
    l->n_frames = plan.segment[job->task].n_frames;
    l->n_frames_out = plan.segment[job->task].n_frames_out;
    if (job->task > 0)
        snprintf(l->start_image, sizeof l->start_image, "last-%d.png", job->task - 1);
    else if (job->has_image)
        strcpy(l->start_image, "input");
}

void rf_task_give(struct rf_store *s, struct rf_op *op, struct rf_live_worker *w, struct rf_live_job *job)
{
    struct rf_wire_lease *l = &op->u.claim.lease;
    int64_t lease;
    *l = (struct rf_wire_lease){.lease_ms = s->config.lease_ms};
    if (!next_lease(s, &lease))
        return;
    sqlite3_stmt *q = rf_sql(s, job->begun ? SQL_CLAIM_NEXT : SQL_CLAIM);
    sqlite3_bind_int64(q, 1, job->row);
    sqlite3_bind_int64(q, 2, op->now_ms);
    sqlite3_bind_int(q, 3, job->attempts + 1);
    sqlite3_bind_int64(q, 4, lease);
    rf_bind_text(q, 5, w->id);
    if (!rf_sql_run(s, q))
        return;
    q = rf_sql(s, SQL_REQUEST); /* RETURNING would make a temporary table for it */
    sqlite3_bind_int64(q, 1, job->row);
    if (rf_sql_row(s, q))
        l->request_text = rf_strdup((const char *)sqlite3_column_text(q, 0));
    sqlite3_reset(q);
    if (s->sql_failed)
        return;
    RF_ASSERT(l->request_text != NULL); /* a job in memory that is not on disk */
    if (!job->begun)
        rf_store_count(s, RF_JOB_QUEUED, RF_JOB_IN_PROGRESS);
    job->attempts++;
    l->lease = lease;
    fill_lease(job, l);
    struct rf_run *run = rf_new(struct rf_run);
    run->lease = lease;
    run->leased_ms = run->told_ms = op->now_ms;
    memcpy(run->worker_id, w->id, sizeof run->worker_id);
    rf_sched_make_leased(s->sched, job, run, rf_store_clock(s, op->now_ms) + s->config.lease_ms);
    memcpy(w->task_id, l->task_id, sizeof w->task_id);
    if (w->n_held++ == 0)
        rf_group_event(s, RF_EVENT_WORKER, w->id, op->now_ms);
    rf_group_job_event(s, RF_EVENT_JOB_CHANGED, job, op->now_ms);
}

/* ---- ending ---- */

bool rf_task_end_lease(struct rf_store *s, struct rf_live_job *job, const struct rf_ending *end, int64_t now_ms)
{
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, job->run->worker_id);
    sqlite3_stmt *q = rf_sql(s, SQL_INSERT_ATTEMPT);
    int i = 1;
    sqlite3_bind_int64(q, i++, job->row);
    sqlite3_bind_int64(q, i++, job->run->lease);
    sqlite3_bind_int(q, i++, job->task);
    sqlite3_bind_int(q, i++, job->attempts);
    sqlite3_bind_int(q, i++, (int)end->outcome);
    rf_bind_text(q, i++, w != NULL ? w->reg->name : job->run->worker_id);
    rf_bind_text(q, i++, job->run->worker_id);
    sqlite3_bind_int64(q, i++, job->run->leased_ms);
    sqlite3_bind_int64(q, i++, now_ms);
    rf_bind_text(q, i++, end->code);
    rf_bind_text(q, i++, end->message);
    rf_bind_text(q, i++, end->notes);
    rf_bind_text(q, i++, end->timings);
    if (!rf_sql_run(s, q))
        return false;
    if (w != NULL) {
        w->n_done += end->outcome == RF_OUTCOME_DONE;
        w->n_failed += end->outcome == RF_OUTCOME_FAILED || end->outcome == RF_OUTCOME_EXPIRED;
        if (w->n_held > 0 && --w->n_held == 0) {
            w->task_id[0] = '\0';
            rf_group_event(s, RF_EVENT_WORKER, w->id, now_ms);
        }
    }
    return true;
}

/* The current task is nobody's again, to be tried from due_ms (wall time) on. */
static bool put_back(struct rf_store *s, struct rf_live_job *job, int64_t due_ms, int64_t now_ms)
{
    sqlite3_stmt *q = rf_sql(s, SQL_BACK);
    sqlite3_bind_int64(q, 1, job->row);
    sqlite3_bind_int(q, 2, job->attempts);
    sqlite3_bind_int(q, 3, job->n_no_memory);
    sqlite3_bind_int64(q, 4, due_ms);
    rf_bind_text(q, 5, job->avoid);
    if (!rf_sql_run(s, q))
        return false;
    if (due_ms > now_ms) {
        rf_sched_make_waiting(s->sched, job, rf_store_clock(s, now_ms) + due_ms - now_ms);
    } else {
        rf_sched_make_ready(s->sched, job);
        s->fresh = true;
    }
    rf_group_job_event(s, RF_EVENT_JOB_CHANGED, job, now_ms);
    return true;
}

static bool fail_job(struct rf_store *s, struct rf_live_job *job, const struct rf_ending *end, const char *worker_name,
                     int64_t now_ms)
{
    char task[32], tries[48] = "";
    if (job->task == job->n_tasks - 1)
        strcpy(task, "assembling");
    else
        snprintf(task, sizeof task, "segment %d", job->task);
    if (job->attempts > 1)
        snprintf(tries, sizeof tries, " %d times, the last time", job->attempts);
    RF_AUTO(rf_free) char *message = rf_asprintf("%s failed%s on worker %s: %s", task, tries, worker_name,
                                                 end->message != NULL && end->message[0] ? end->message : end->code);
    return rf_job_finish(s, job, RF_JOB_FAILED, NULL, end->code, message, now_ms);
}

int64_t rf_task_backoff_ms(const struct rf_store *s, int n_attempts)
{
    int64_t wait_ms = s->config.backoff_ms;
    for (int i = 1; i < n_attempts && wait_ms < s->config.backoff_max_ms; i++)
        wait_ms *= 2;
    return wait_ms < s->config.backoff_max_ms ? wait_ms : s->config.backoff_max_ms;
}

bool rf_task_retry_or_fail(struct rf_store *s, struct rf_live_job *job, const struct rf_ending *end, bool retryable,
                           const char *worker_id, const char *worker_name, int64_t now_ms)
{
    if (!retryable || job->attempts >= s->config.max_attempts)
        return fail_job(s, job, end, worker_name, now_ms);
    bool no_memory = strcmp(end->code, rf_code_name(RF_ERR_NO_MEMORY)) == 0;
    job->n_no_memory += no_memory;
    if (no_memory && job->n_no_memory == 1)
        return put_back(s, job, 0, now_ms); /* at once, in a smaller plan; the same worker is as good as any */
    free(job->avoid);
    job->avoid = rf_strdup(worker_id);
    return put_back(s, job, now_ms + rf_task_backoff_ms(s, job->attempts), now_ms);
}

bool rf_task_release(struct rf_store *s, struct rf_live_job *job, int64_t now_ms)
{
    struct rf_ending end = {.outcome = RF_OUTCOME_RELEASED};
    if (!rf_task_end_lease(s, job, &end, now_ms))
        return false;
    job->attempts--; /* it was no fault of the job's */
    return put_back(s, job, 0, now_ms);
}

/* ---- the calls ---- */

/* The live job whose current task is under this lease; NULL otherwise. */
static struct rf_live_job *held(struct rf_store *s, const char *task_id, int64_t lease, struct rf_id *ret_id)
{
    char job_id[RF_JOB_ID_SIZE];
    int index;
    *ret_id = (struct rf_id){0};
    if (!rf_task_id_parse(task_id, job_id, &index) || !rf_id_parse(job_id, ret_id))
        return NULL;
    struct rf_live_job *job = rf_sched_find(s->sched, ret_id->row);
    bool current = job != NULL && job->tail == ret_id->tail && job->run != NULL && job->run->lease == lease &&
                   job->task == index;
    return current ? job : NULL;
}

/* How a lease that is not current ended; RF_OUTCOME_COUNT: never heard of it. */
static enum rf_outcome past_outcome(struct rf_store *s, struct rf_id id, int64_t lease)
{
    sqlite3_stmt *q = rf_sql(s, SQL_ATTEMPT_OUTCOME);
    sqlite3_bind_int64(q, 1, id.row);
    sqlite3_bind_int64(q, 2, lease);
    enum rf_outcome outcome = rf_sql_row(s, q) ? (enum rf_outcome)sqlite3_column_int(q, 0) : RF_OUTCOME_COUNT;
    sqlite3_reset(q);
    return outcome;
}

static bool job_exists(struct rf_store *s, struct rf_id id)
{
    sqlite3_stmt *q = rf_sql(s, SQL_JOB_STATE);
    sqlite3_bind_int64(q, 1, id.row);
    bool exists = rf_sql_row(s, q) && (uint64_t)sqlite3_column_int64(q, 0) == id.tail;
    sqlite3_reset(q);
    return exists;
}

static void refuse_lease(struct rf_op *op, int64_t lease, enum rf_outcome outcome)
{
    const char *why = "is not one of this task's";
    switch (outcome) {
    case RF_OUTCOME_DONE: why = "has completed"; break;
    case RF_OUTCOME_FAILED: why = "has failed"; break;
    case RF_OUTCOME_EXPIRED: why = "ran out; somebody else may have the task by now"; break;
    case RF_OUTCOME_RELEASED: why = "was handed back"; break;
    case RF_OUTCOME_CANCELLED: why = "ended when the job was cancelled"; break;
    case RF_OUTCOME_COUNT: break;
    }
    op->code = rf_fail(&op->err, RF_ERR_CONFLICT, "lease %lld %s", (long long)lease, why);
}

void rf_op_heartbeat(struct rf_store *s, struct rf_op *op)
{
    const struct rf_wire_heartbeat *m = op->u.heartbeat.message;
    struct rf_id id;
    struct rf_live_job *job = held(s, op->u.heartbeat.task_id, m->lease, &id);
    struct rf_live_worker *worker = rf_worker_touch(s, m->worker_id, op->now_ms);
    if (worker != NULL)
        rf_worker_told(worker, &m->device, op->now_ms);
    op->u.heartbeat.cancel = false;
    op->u.heartbeat.lease_ms = s->config.lease_ms;
    if (job == NULL) {
        enum rf_outcome outcome = past_outcome(s, id, m->lease);
        if (outcome == RF_OUTCOME_CANCELLED || (outcome == RF_OUTCOME_COUNT && !job_exists(s, id)))
            op->u.heartbeat.cancel = true;
        else
            refuse_lease(op, m->lease, outcome);
        return;
    }
    if (job->run->unheard) {
        sqlite3_stmt *q = rf_sql(s, SQL_HEARD);
        sqlite3_bind_int64(q, 1, m->lease);
        if (!rf_sql_run(s, q))
            return;
        job->run->unheard = false;
    }
    memcpy(job->run->stage, m->stage, sizeof job->run->stage);
    job->run->told_ms = op->now_ms;
    job->run->step = m->step;
    job->run->steps = m->steps;
    job->run->fraction = m->fraction;
    rf_sched_extend(s->sched, job, rf_store_clock(s, op->now_ms) + s->config.lease_ms);
    rf_group_job_event(s, RF_EVENT_JOB_PROGRESS, job, op->now_ms);
}

/* The files a segment task may write, with its number in them. */
struct segment_files {
    char video[RF_FILE_NAME_SIZE], last[RF_FILE_NAME_SIZE], preview[RF_FILE_NAME_SIZE];
};

static struct segment_files segment_files(int index)
{
    struct segment_files f;
    snprintf(f.video, sizeof f.video, "segment-%d.mp4", index);
    snprintf(f.last, sizeof f.last, "last-%d.png", index);
    snprintf(f.preview, sizeof f.preview, "preview-%d.webp", index);
    return f;
}

static bool file_there(struct rf_store *s, const struct rf_live_job *job, const char *name)
{
    sqlite3_stmt *q = rf_sql(s, SQL_FILE_THERE);
    sqlite3_bind_int64(q, 1, job->row);
    rf_bind_text(q, 2, name);
    sqlite3_bind_int64(q, 3, job->run->lease);
    bool there = rf_sql_row(s, q);
    sqlite3_reset(q);
    return there;
}

/* Under this very lease: what an earlier holder left behind does not count. */
static bool outputs_there(struct rf_store *s, const struct rf_live_job *job, struct rf_op *op)
{
    const char *missing = NULL;
    if (s->config.trust_outputs)
        return true;
    struct segment_files own = segment_files(job->task);
    if (job->task == job->n_tasks - 1)
        missing = file_there(s, job, "video.mp4") ? NULL : "video.mp4";
    else if (!file_there(s, job, own.video))
        missing = own.video;
    else if (job->task < job->n_tasks - 2 && !file_there(s, job, own.last))
        missing = own.last;
    if (missing != NULL)
        op->code = rf_fail(&op->err, RF_ERR_INVALID, "not complete: %s was not uploaded under this lease", missing);
    return missing == NULL;
}

/* Writes down that the next task is due. The first finished segment also settles what the others are rendered with. */
static bool next_task(struct rf_store *s, struct rf_live_job *job, const struct rf_live_worker *w)
{
    const struct rf_wire_model *model = NULL;
    if (job->task == 0 && w != NULL)
        rf_sched_can_run(w, job, &model);
    sqlite3_stmt *q = rf_sql(s, model != NULL ? SQL_NEXT_TASK_SETTLED : SQL_NEXT_TASK);
    sqlite3_bind_int64(q, 1, job->row);
    sqlite3_bind_int(q, 2, job->task + 1);
    if (model == NULL)
        return rf_sql_run(s, q);
    struct rf_text t = {0};
    const struct { const char *name, *value; } parts[] = {
        {"{\"worker\":", w->reg->name}, {",\"host\":", w->reg->host}, {",\"build\":", w->reg->build},
        {",\"device\":", w->reg->device_name}, {",\"device_kind\":", w->reg->device_kind},
        {",\"precision\":", w->reg->precision}, {",\"model\":", model->name}, {",\"hash\":", model->hash}};
    for (size_t i = 0; i < RF_COUNT_OF(parts); i++) {
        rf_text_add(&t, parts[i].name);
        rf_text_add_string(&t, parts[i].value);
    }
    rf_text_add(&t, "}");
    rf_bind_text(q, 3, t.text);
    rf_bind_text(q, 4, model->hash);
    rf_bind_text(q, 5, w->reg->precision);
    bool ok = rf_sql_run(s, q);
    if (ok)
        rf_sched_settle(s->sched, job, model->hash, w->reg->precision);
    rf_text_finish(&t);
    return ok;
}

static void complete(struct rf_store *s, struct rf_op *op, struct rf_live_job *job)
{
    struct rf_ending end = {.outcome = RF_OUTCOME_DONE, .notes = op->prepared_[1], .timings = op->prepared_[0]};
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, job->run->worker_id);
    if (!outputs_there(s, job, op) || !rf_task_end_lease(s, job, &end, op->now_ms))
        return;
    if (w != NULL)
        rf_expect_learn(s, job, w, op->u.report.report, op->now_ms);
    if (job->task == job->n_tasks - 1) {
        rf_job_finish(s, job, RF_JOB_COMPLETED, op->prepared_[2], NULL, NULL, op->now_ms);
        return;
    }
    if (!next_task(s, job, w))
        return;
    job->task++;
    job->attempts = job->n_no_memory = 0;
    rf_free(&job->avoid);
    rf_sched_make_ready(s->sched, job);
    rf_group_job_event(s, RF_EVENT_JOB_CHANGED, job, op->now_ms);
    s->fresh = true;
}

static void fail(struct rf_store *s, struct rf_op *op, struct rf_live_job *job)
{
    const struct rf_wire_report *r = op->u.report.report;
    struct rf_ending end = {.outcome = RF_OUTCOME_FAILED, .code = r->code, .message = r->message,
                            .timings = op->prepared_[0]};
    enum rf_code known = rf_code_from_name(r->code);
    bool retryable = r->retryable && (known == RF_CODE_COUNT || rf_code_retryable(known));
    char worker_id[RF_WORKER_ID_SIZE];
    memcpy(worker_id, job->run->worker_id, sizeof worker_id);
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, worker_id);
    if (rf_task_end_lease(s, job, &end, op->now_ms))
        rf_task_retry_or_fail(s, job, &end, retryable, worker_id, w != NULL ? w->reg->name : worker_id, op->now_ms);
}

void rf_op_report(struct rf_store *s, struct rf_op *op)
{
    static const enum rf_outcome wanted[] = {[RF_REPORT_COMPLETE] = RF_OUTCOME_DONE, [RF_REPORT_FAIL] = RF_OUTCOME_FAILED,
                                             [RF_REPORT_RELEASE] = RF_OUTCOME_RELEASED};
    const struct rf_wire_report *r = op->u.report.report;
    struct rf_id id;
    struct rf_live_job *job = held(s, op->u.report.task_id, r->lease, &id);
    rf_worker_touch(s, r->worker_id, op->now_ms);
    if (job == NULL) {
        enum rf_outcome outcome = past_outcome(s, id, r->lease);
        if (outcome != wanted[r->kind]) /* the same report again: its first answer was lost */
            refuse_lease(op, r->lease, outcome);
        return;
    }
    switch (r->kind) {
    case RF_REPORT_COMPLETE: complete(s, op, job); return;
    case RF_REPORT_FAIL: fail(s, op, job); return;
    case RF_REPORT_RELEASE: rf_task_release(s, job, op->now_ms); return;
    case RF_REPORT_KIND_COUNT: break;
    }
    RF_ASSERT(!"a report of no kind");
}

/* ---- files of a task ---- */

void rf_op_check_lease(struct rf_store *s, struct rf_op *op)
{
    struct rf_id id;
    if (held(s, op->u.file.task_id, op->u.file.lease, &id) == NULL)
        refuse_lease(op, op->u.file.lease, past_outcome(s, id, op->u.file.lease));
}

/* A task may only write its own files. */
static bool name_belongs(const struct rf_live_job *job, const char *name)
{
    if (job->task == job->n_tasks - 1)
        return strcmp(name, "video.mp4") == 0 || strcmp(name, "thumbnail.webp") == 0 ||
               strcmp(name, "spritesheet.webp") == 0;
    struct segment_files own = segment_files(job->task);
    return strcmp(name, own.video) == 0 || strcmp(name, own.last) == 0 || strcmp(name, own.preview) == 0;
}

void rf_op_put_file(struct rf_store *s, struct rf_op *op)
{
    struct rf_id id;
    const struct rf_file *file = op->u.file.file;
    struct rf_live_job *job = held(s, op->u.file.task_id, op->u.file.lease, &id);
    if (job == NULL) {
        refuse_lease(op, op->u.file.lease, past_outcome(s, id, op->u.file.lease));
        return;
    }
    if (!name_belongs(job, file->name)) {
        op->code = rf_fail(&op->err, RF_ERR_INVALID, "'%s' is not a file of task %s", file->name, op->u.file.task_id);
        return;
    }
    char job_id[RF_JOB_ID_SIZE];
    rf_id_format(id, job_id);
    sqlite3_stmt *q = rf_sql(s, SQL_GONE_NAME);
    sqlite3_bind_int64(q, 1, job->row);
    sqlite3_bind_int64(q, 2, op->now_ms);
    rf_bind_text(q, 3, file->name);
    if (rf_sql_run(s, q) && rf_file_insert(s, job->row, job_id, op->u.file.lease, file))
        rf_group_job_event(s, RF_EVENT_JOB_PROGRESS, job, op->now_ms);
}

void rf_op_forget_files(struct rf_store *s, struct rf_op *op)
{
    for (int i = 0; i < op->u.forget.n_rows; i++) {
        sqlite3_stmt *q = rf_sql(s, SQL_FORGET_FILE);
        sqlite3_bind_int64(q, 1, op->u.forget.rows[i]);
        if (!rf_sql_run(s, q))
            return;
    }
}
