/* One job as a snapshot: what the database says, and what memory adds (place in the queue, progress).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_reader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FILE_COLUMNS "name, disk_name, size_bytes, sha256, content_type, created_ms"
#define ASSEMBLE_SHARE 0.02 /* of a job's progress; joining streams takes no time to speak of */

static const char *const read_texts[READ_COUNT] = {
    [READ_JOB] = "SELECT tail, state, priority, request, created_ms, started_ms, finished_ms, remixed_from, n_tasks, task, "
        "attempts, lease, worker, result, error_code, error_message, made_with, expired_ms FROM jobs WHERE row = ?1",
    [READ_ATTEMPTS] = "SELECT task, attempt, lease, started_ms, ended_ms, outcome, worker, code, message, notes, timings "
        "FROM attempts WHERE job = ?1 ORDER BY lease",
    [READ_FILES] = "SELECT " FILE_COLUMNS " FROM files WHERE job = ?1 AND gone_ms IS NULL ORDER BY row",
    [READ_FILE] = "SELECT " FILE_COLUMNS " FROM files WHERE job = ?1 AND name = ?2 AND gone_ms IS NULL AND job_id = ?3",
    [READ_TAIL] = "SELECT tail FROM jobs WHERE row = ?1",
    [READ_GONE] = "SELECT row, job_id, disk_name FROM files WHERE gone_ms IS NOT NULL ORDER BY gone_ms LIMIT ?1",
    [READ_TOKENS_CHANGED] = "SELECT value FROM meta WHERE name = 'tokens_changed'",
    [READ_DELIVERIES] = "SELECT row, event_id, job_id, completed, url, created_ms, attempts FROM deliveries "
        "WHERE next_ms <= ?1 ORDER BY next_ms LIMIT ?2",
    [READ_SETTING] = "SELECT value FROM settings WHERE name = ?1",
    [READ_ENDED] = "SELECT total(state = 2), total(state = 3), total(state = 4) FROM jobs "
        "WHERE finished_ms >= ?1 AND finished_ms < ?2",
    [READ_DISK_NAME] = "SELECT 1 FROM files WHERE job_id = ?1 AND disk_name = ?2",
};

/* ---- the pool ---- */

static void close_reader(struct rf_reader *r)
{
    for (int i = 0; i < READ_COUNT; i++)
        sqlite3_finalize(r->sql[i]);
    sqlite3_close(r->db);
    free(r);
}

struct rf_reader *rf_reader_take(struct rf_store *s, struct rf_err *err)
{
    struct rf_reader *r = NULL;
    pthread_mutex_lock(&s->readers_lock);
    if (s->n_readers > 0)
        r = s->readers[--s->n_readers];
    pthread_mutex_unlock(&s->readers_lock);
    if (r == NULL) {
        r = rf_new(struct rf_reader);
        if (sqlite3_open_v2(s->path, &r->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
            rf_db_fail(r->db, err, "open for reading");
            close_reader(r);
            return NULL;
        }
        sqlite3_busy_timeout(r->db, 10000);
        sqlite3_exec(r->db, "PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY", NULL, NULL, NULL);
    }
    sqlite3_exec(r->db, "BEGIN", NULL, NULL, NULL); /* one snapshot over several statements */
    return r;
}

void rf_reader_give(struct rf_store *s, struct rf_reader *r)
{
    for (int i = 0; i < READ_COUNT; i++)
        sqlite3_reset(r->sql[i]);
    sqlite3_exec(r->db, "COMMIT", NULL, NULL, NULL);
    pthread_mutex_lock(&s->readers_lock);
    bool kept = s->n_readers < RF_READERS;
    if (kept)
        s->readers[s->n_readers++] = r;
    pthread_mutex_unlock(&s->readers_lock);
    if (!kept)
        close_reader(r);
}

void rf_readers_close(struct rf_store *s)
{
    while (s->n_readers > 0)
        close_reader(s->readers[--s->n_readers]);
}

sqlite3_stmt *rf_reader_sql(struct rf_reader *r, enum rf_read_sql id)
{
    if (r->sql[id] == NULL)
        sqlite3_prepare_v3(r->db, read_texts[id], -1, SQLITE_PREPARE_PERSISTENT, &r->sql[id], NULL);
    sqlite3_reset(r->sql[id]); /* a statement that failed to prepare is NULL, and every step of it an error */
    return r->sql[id];
}

static char *copy_column(sqlite3_stmt *q, int column)
{
    return rf_strdup((const char *)sqlite3_column_text(q, column));
}

void rf_job_destroy(struct rf_job **job_address)
{
    struct rf_job *job = *job_address;
    if (job == NULL)
        return;
    rf_request_destroy(&job->request);
    for (int i = 0; job->tasks != NULL && i < job->n_tasks; i++)
        free(job->tasks[i].worker);
    for (int i = 0; i < job->n_attempts; i++) {
        free(job->attempts[i].worker);
        free(job->attempts[i].code);
        free(job->attempts[i].message);
        free(job->attempts[i].notes_text);
    }
    free(job->tasks);
    free(job->attempts);
    free(job->files);
    free(job->stages);
    free(job->error_code);
    free(job->error_message);
    free(job->remixed_from);
    free(job->made_with_text);
    free(job);
    *job_address = NULL;
}

/* ---- parts ---- */

static enum rf_code read_request(const char *text, struct rf_request **ret_request, struct rf_err *err)
{
    RF_AUTO(rf_json_destroy) cJSON *json = text != NULL ? cJSON_Parse(text) : NULL; /* our own text: no guard needed */
    return rf_request_from_json(json, ret_request, err);
}

static void read_result(const char *text, struct rf_wire_result *ret)
{
    RF_AUTO(rf_json_destroy) cJSON *json = text != NULL ? cJSON_Parse(text) : NULL;
    *ret = (struct rf_wire_result){.colour_shift = NAN};
    if (json == NULL)
        return;
    const struct { const char *name; int *to; } parts[] = {
        {"num_frames", &ret->n_frames}, {"width", &ret->width}, {"height", &ret->height}, {"fps", &ret->fps}};
    for (size_t i = 0; i < RF_COUNT_OF(parts); i++)
        *parts[i].to = (int)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, parts[i].name));
    ret->seconds = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, "seconds"));
    ret->colour_shift = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, "colour_shift"));
}

bool rf_read_timings(const char *text, bool (*each)(void *ctx, const struct rf_wire_timing *timing), void *ctx)
{
    RF_AUTO(rf_json_destroy) cJSON *list = text != NULL ? cJSON_Parse(text) : NULL;
    for (const cJSON *item = list ? list->child : NULL; item != NULL; item = item->next) {
        const cJSON *stage = item->child, *step = stage ? stage->next : NULL, *start = step ? step->next : NULL;
        struct rf_wire_timing t = {.step = cJSON_IsNumber(step) ? step->valueint : -1};
        if (!cJSON_IsString(stage) || start == NULL || start->next == NULL)
            continue;
        snprintf(t.stage, sizeof t.stage, "%s", stage->valuestring);
        t.started_at_ms = (int64_t)start->valuedouble;
        t.seconds = start->next->valuedouble;
        if (!each(ctx, &t))
            return false;
    }
    return true;
}

static bool add_stage(void *ctx, const struct rf_wire_timing *t)
{
    struct rf_job *job = ctx;
    int i = 0;
    while (i < job->n_stages && strcmp(job->stages[i].stage, t->stage) != 0)
        i++;
    if (i == job->n_stages) {
        job->stages = rf_realloc(job->stages, (size_t)job->n_stages + 1, sizeof *job->stages);
        job->stages[job->n_stages] = (struct rf_stage_seconds){0};
        memcpy(job->stages[job->n_stages++].stage, t->stage, sizeof t->stage);
    }
    job->stages[i].seconds += t->seconds;
    return true;
}

static void add_attempt(struct rf_job *job, sqlite3_stmt *q)
{
    job->attempts = rf_realloc(job->attempts, (size_t)job->n_attempts + 1, sizeof *job->attempts);
    job->attempts[job->n_attempts++] = (struct rf_attempt){
        .task = sqlite3_column_int(q, 0), .attempt = sqlite3_column_int(q, 1), .lease = sqlite3_column_int64(q, 2),
        .started_ms = sqlite3_column_int64(q, 3), .ended_ms = sqlite3_column_int64(q, 4),
        .outcome = (enum rf_outcome)sqlite3_column_int(q, 5), .worker = copy_column(q, 6),
        .code = rf_strdup(sqlite3_column_type(q, 7) == SQLITE_NULL ? "" : (const char *)sqlite3_column_text(q, 7)),
        .message = rf_strdup(sqlite3_column_type(q, 8) == SQLITE_NULL ? "" : (const char *)sqlite3_column_text(q, 8)),
        .notes_text = rf_strdup(sqlite3_column_type(q, 9) == SQLITE_NULL ? "" : (const char *)sqlite3_column_text(q, 9))};
}

static int by_stage_order(const void *a, const void *b)
{
    int x = 0, y = 0;
    while (rf_stage_names[x] != NULL && strcmp(rf_stage_names[x], ((const struct rf_stage_seconds *)a)->stage) != 0)
        x++;
    while (rf_stage_names[y] != NULL && strcmp(rf_stage_names[y], ((const struct rf_stage_seconds *)b)->stage) != 0)
        y++;
    return x - y;
}

/* The log of attempts: who did each task, and what it cost. */
static void read_attempts(struct rf_reader *r, int64_t row, unsigned with, struct rf_job *job)
{
    sqlite3_stmt *q = rf_reader_sql(r, READ_ATTEMPTS);
    sqlite3_bind_int64(q, 1, row);
    if ((with & RF_WITH_STAGES) && job->started_ms != 0) {
        struct rf_wire_timing queue = {.stage = "queue", .seconds = (double)(job->started_ms - job->created_ms) / 1000};
        add_stage(job, &queue);
    }
    while (sqlite3_step(q) == SQLITE_ROW) {
        int task = sqlite3_column_int(q, 0);
        if (task >= 0 && task < job->n_tasks) {
            free(job->tasks[task].worker);
            job->tasks[task].worker = copy_column(q, 6);
            job->tasks[task].attempt = sqlite3_column_int(q, 1);
        }
        if ((with & RF_WITH_STAGES) && sqlite3_column_int(q, 5) == RF_OUTCOME_DONE)
            rf_read_timings((const char *)sqlite3_column_text(q, 10), add_stage, job);
        if (with & RF_WITH_ATTEMPTS)
            add_attempt(job, q);
    }
    if (job->n_stages > 0)
        qsort(job->stages, (size_t)job->n_stages, sizeof job->stages[0], by_stage_order);
}

void rf_read_file_row(sqlite3_stmt *q, struct rf_file *f)
{
    *f = (struct rf_file){.size_bytes = sqlite3_column_int64(q, 2), .created_ms = sqlite3_column_int64(q, 5)};
    snprintf(f->name, sizeof f->name, "%s", (const char *)sqlite3_column_text(q, 0));
    snprintf(f->disk_name, sizeof f->disk_name, "%s", (const char *)sqlite3_column_text(q, 1));
    snprintf(f->sha256, sizeof f->sha256, "%s", (const char *)sqlite3_column_text(q, 3));
    snprintf(f->content_type, sizeof f->content_type, "%s", (const char *)sqlite3_column_text(q, 4));
}

static void read_files(struct rf_reader *r, int64_t row, struct rf_job *job)
{
    sqlite3_stmt *q = rf_reader_sql(r, READ_FILES);
    sqlite3_bind_int64(q, 1, row);
    while (sqlite3_step(q) == SQLITE_ROW) {
        job->files = rf_realloc(job->files, (size_t)job->n_files + 1, sizeof *job->files);
        rf_read_file_row(q, &job->files[job->n_files++]);
    }
}

/* States of all tasks follow from the current one's number. */
static void fill_tasks(struct rf_job *job, int current, bool leased)
{
    job->tasks = rf_new_array(struct rf_task, (size_t)job->n_tasks);
    for (int i = 0; i < job->n_tasks; i++) {
        struct rf_task *t = &job->tasks[i];
        t->kind = i == job->n_tasks - 1 ? RF_TASK_ASSEMBLE : RF_TASK_SEGMENT;
        if (i < current) {
            t->state = RF_TASK_DONE;
            t->fraction = 1;
        } else if (job->state == RF_JOB_CANCELLED) {
            t->state = RF_TASK_CANCELLED;
        } else if (i > current) {
            t->state = RF_TASK_BLOCKED;
        } else {
            t->state = job->state == RF_JOB_FAILED ? RF_TASK_FAILED : leased ? RF_TASK_LEASED : RF_TASK_READY;
        }
    }
}

/* What only memory knows. The job may have moved on since the row was read: then only what fits is taken. */
static void add_memory(struct rf_store *s, int64_t row, int current, int attempts, int64_t lease, struct rf_job *job)
{
    pthread_mutex_lock(&s->lock);
    struct rf_live_job *live = rf_sched_find(s->sched, row);
    if (live != NULL && live->run != NULL && live->run->lease == lease && live->task == current) {
        struct rf_task *t = &job->tasks[current];
        const struct rf_live_worker *w = rf_sched_find_worker(s->sched, live->run->worker_id);
        memcpy(t->stage, live->run->stage, sizeof t->stage);
        t->step = live->run->step;
        t->steps = live->run->steps;
        t->fraction = live->run->fraction;
        t->attempt = attempts;
        free(t->worker);
        t->worker = rf_strdup(w != NULL ? w->reg->name : live->run->worker_id);
    }
    pthread_mutex_unlock(&s->lock);
    rf_store_expect(s, job);
}

/* Segments weigh as many frames as they have. */
static void add_progress(struct rf_job *job)
{
    struct rf_plan plan;
    double done = 0, all = 0;
    if (rf_request_plan(job->request, &plan, NULL) != RF_OK || plan.n_segments != job->n_tasks - 1)
        return;
    for (int i = 0; i < plan.n_segments; i++) {
        all += plan.segment[i].n_frames;
        done += plan.segment[i].n_frames * job->tasks[i].fraction;
    }
    job->progress = (1 - ASSEMBLE_SHARE) * done / all + ASSEMBLE_SHARE * job->tasks[plan.n_segments].fraction;
}

enum rf_code rf_read_job(struct rf_store *s, struct rf_reader *r, int64_t row, const uint64_t *tail, unsigned with,
                         struct rf_job **ret_job, struct rf_err *err)
{
    sqlite3_stmt *q = rf_reader_sql(r, READ_JOB);
    sqlite3_bind_int64(q, 1, row);
    int rc = sqlite3_step(q);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return rf_db_fail(r->db, err, "read job");
    if (rc == SQLITE_DONE || (tail != NULL && (uint64_t)sqlite3_column_int64(q, 0) != *tail))
        return rf_fail(err, RF_ERR_NOT_FOUND, "there is no such job");
    RF_AUTO(rf_job_destroy) struct rf_job *job = rf_new(struct rf_job);
    rf_id_format((struct rf_id){row, (uint64_t)sqlite3_column_int64(q, 0)}, job->id);
    job->state = (enum rf_job_state)sqlite3_column_int(q, 1);
    job->priority = sqlite3_column_int(q, 2);
    job->created_ms = sqlite3_column_int64(q, 4);
    job->started_ms = sqlite3_column_int64(q, 5);
    job->finished_ms = sqlite3_column_int64(q, 6);
    job->remixed_from = copy_column(q, 7);
    job->n_tasks = sqlite3_column_int(q, 8);
    int current = sqlite3_column_int(q, 9), attempts = sqlite3_column_int(q, 10);
    int64_t lease = sqlite3_column_int64(q, 11);
    read_result((const char *)sqlite3_column_text(q, 13), &job->result);
    job->error_code = copy_column(q, 14);
    job->error_message = copy_column(q, 15);
    job->made_with_text = copy_column(q, 16);
    job->expires_ms = sqlite3_column_int64(q, 17);
    job->expired = job->expires_ms != 0;
    if (!job->expired && s->config.keep_ms > 0 && job->finished_ms > 0)
        job->expires_ms = job->finished_ms + s->config.keep_ms;
    enum rf_code code = read_request((const char *)sqlite3_column_text(q, 3), &job->request, err);
    if (code != RF_OK)
        return rf_wrap(err, code, "job %s", job->id);
    fill_tasks(job, current, lease != 0);
    read_attempts(r, row, with, job);
    if (with & RF_WITH_FILES)
        read_files(r, row, job);
    if (job->state == RF_JOB_QUEUED || job->state == RF_JOB_IN_PROGRESS)
        add_memory(s, row, current, attempts, lease, job);
    add_progress(job);
    *ret_job = job;
    job = NULL;
    return RF_OK;
}

enum rf_code rf_store_get(struct rf_store *s, const char *id, unsigned with, struct rf_job **ret_job, struct rf_err *err)
{
    struct rf_id parsed;
    if (!rf_id_parse(id, &parsed))
        return rf_fail(err, RF_ERR_NOT_FOUND, "there is no job '%.40s'", id);
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    enum rf_code rc = rf_read_job(s, r, parsed.row, &parsed.tail, with, ret_job, err);
    rf_reader_give(s, r);
    return rc == RF_ERR_NOT_FOUND ? rf_fail(err, rc, "there is no job '%s'", id) : rc;
}
