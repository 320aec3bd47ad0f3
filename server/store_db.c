/* SQLite: the connection that writes, its statements, migrations, loading, checkpoints.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/eta.h"
#include "server/store_expect.h"

#include "schema/sql.h"

#include <stdio.h>
#include <string.h>

#define BUSY_MS 10000
/* Pages of the log not yet moved into the database that wake the checkpointer. It moves each page once however often it was
 * written since, so fewer and larger moves are cheaper; 8 MiB are read in no time after a crash. */
#define WAL_WANTED_PAGES 2000
/* The log begins anew only when all of it has been moved and nobody reads it, which the checkpointer alone seldom catches
 * while commits never pause. From here on (32 MiB) it hurries until few pages are left, and those the writer moves itself,
 * waiting for nobody. Readers that overlap, commits of many pages or a slow disk can still prevent that, so at 64 MiB the
 * writer waits: for the checkpointer's pass, and for readers up to WAL_READERS_MS. The log therefore has at most 64 MiB and
 * one commit, and 8 MiB more for each time that somebody (a backup) went on reading for longer than that. */
#define WAL_RESTART_PAGES 8192
#define WAL_REST_PAGES 300
#define WAL_FORCED_PAGES 16384
#define WAL_READERS_MS 1000
/* 40 MiB, a step more than it usually has: what is beyond, a log that a reader made long and that then begins anew by
 * itself gives back. */
#define WAL_KEPT_BYTES "41943040"

#define LIVE_COLUMNS "row, tail, state, priority, user, model, model_hash, precision, width, height, n_frames, fps, n_steps, " \
    "max_segment_frames, has_image, n_tasks, task, attempts, n_no_memory, not_before_ms, avoid_worker, lease, worker, " \
    "leased_ms, (SELECT n_starts FROM unheard WHERE unheard.lease = jobs.lease), reserved_bytes, coalesce(turn, row), " \
    "json_extract(request, '$.switch_step'), json_extract(request, '$.guidance_scale'), " \
    "json_extract(request, '$.guidance_scale_2')"
#define FREE_LEASE "lease = NULL, worker = NULL, leased_ms = NULL"
#define FRESH_TASK "attempts = 0, n_no_memory = 0, not_before_ms = 0, avoid_worker = NULL, " FREE_LEASE

static const char *const sql_texts[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_INSERT_JOB] = "INSERT INTO jobs (row, tail, state, priority, user, model, request, width, height, n_frames, fps, "
        "n_steps, max_segment_frames, has_image, n_tasks, created_ms, remixed_from, reserved_bytes) "
        "VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    [SQL_INSERT_FILE] = "INSERT INTO files (job, name, disk_name, size_bytes, sha256, content_type, created_ms, job_id, "
        "lease) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [SQL_KEY_FIND] = "SELECT k.fingerprint, j.row, j.tail FROM idempotency AS k JOIN jobs AS j ON j.row = k.job WHERE k.key = ?1",
    [SQL_KEY_PUT] = "INSERT OR REPLACE INTO idempotency (key, fingerprint, job, created_ms) VALUES (?1, ?2, ?3, ?4)",
    [SQL_KEY_SWEEP] = "DELETE FROM idempotency WHERE created_ms < ?1",
    [SQL_CLAIM] = "UPDATE jobs SET state = 1, started_ms = coalesce(started_ms, ?2), attempts = ?3, lease = ?4, worker = ?5, "
        "leased_ms = ?2 WHERE row = ?1",
    /* The same for a job that has begun: without `state` no index is touched. */
    [SQL_CLAIM_NEXT] = "UPDATE jobs SET attempts = ?3, lease = ?4, worker = ?5, leased_ms = ?2 WHERE row = ?1",
    [SQL_HEARD] = "DELETE FROM unheard WHERE lease = ?1",
    [SQL_REQUEST] = "SELECT request FROM jobs WHERE row = ?1",
    [SQL_INSERT_ATTEMPT] = "INSERT INTO attempts (job, lease, task, attempt, outcome, worker, worker_id, started_ms, ended_ms, "
        "code, message, notes, timings) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    [SQL_NEXT_TASK] = "UPDATE jobs SET task = ?2, " FRESH_TASK " WHERE row = ?1",
    [SQL_NEXT_TASK_SETTLED] = "UPDATE jobs SET task = ?2, " FRESH_TASK ", made_with = ?3, model_hash = ?4, precision = ?5 "
        "WHERE row = ?1",
    [SQL_FINISH] = "UPDATE jobs SET state = ?2, finished_ms = ?3, task = ?4, result = ?5, error_code = ?6, error_message = ?7, "
        FREE_LEASE " WHERE row = ?1",
    [SQL_BACK] = "UPDATE jobs SET attempts = ?2, n_no_memory = ?3, not_before_ms = ?4, avoid_worker = ?5, " FREE_LEASE
        " WHERE row = ?1",
    [SQL_RETRY] = "UPDATE jobs SET state = 0, finished_ms = NULL, error_code = NULL, error_message = NULL, attempts = 0, "
        "n_no_memory = 0, not_before_ms = 0, avoid_worker = NULL WHERE row = ?1",
    [SQL_START_OVER] = "UPDATE jobs SET task = 0, made_with = NULL, model_hash = NULL, precision = NULL WHERE row = ?1",
    [SQL_PRIORITY] = "UPDATE jobs SET priority = ?2 WHERE row = ?1",
    [SQL_TURN] = "UPDATE jobs SET turn = ?2, priority = ?3 WHERE row = ?1",
    [SQL_DELETE_JOB] = "DELETE FROM jobs WHERE row = ?1",
    [SQL_DELETE_ATTEMPTS] = "DELETE FROM attempts WHERE job = ?1",
    [SQL_GONE_ALL] = "UPDATE files SET gone_ms = ?2 WHERE job = ?1 AND gone_ms IS NULL",
    [SQL_GONE_NAME] = "UPDATE files SET gone_ms = ?2 WHERE job = ?1 AND gone_ms IS NULL AND name = ?3",
    [SQL_GONE_SCRATCH] = "UPDATE files SET gone_ms = ?2 WHERE job = ?1 AND gone_ms IS NULL AND "
        "(name GLOB 'segment-*' OR name GLOB 'last-*' OR name GLOB 'preview-*')",
    [SQL_FILE_THERE] = "SELECT 1 FROM files WHERE job = ?1 AND name = ?2 AND lease = ?3 AND gone_ms IS NULL",
    [SQL_LOAD_ONE] = "SELECT " LIVE_COLUMNS " FROM jobs WHERE row = ?1",
    [SQL_LOAD_ALL] = "SELECT " LIVE_COLUMNS " FROM jobs WHERE state IN (0, 1)",
    [SQL_JOB_STATE] = "SELECT tail, state, expired_ms FROM jobs WHERE row = ?1",
    [SQL_EXPIRE] = "UPDATE jobs SET expired_ms = ?2 WHERE row = ?1",
    [SQL_ATTEMPT_OUTCOME] = "SELECT outcome FROM attempts WHERE job = ?1 AND lease = ?2",
    [SQL_FORGET_FILE] = "DELETE FROM files WHERE row = ?1 AND gone_ms IS NOT NULL",
    [SQL_SETTING_PUT] = "INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)",
    [SQL_META_PUT] = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
    [SQL_WORKER_PUT] = "INSERT INTO workers (id, name, state, registration, registered_ms, seen_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    [SQL_WORKER_STATE] = "UPDATE workers SET state = ?2, seen_ms = ?3 WHERE id = ?1",
    [SQL_WORKER_DELETE] = "DELETE FROM workers WHERE id = ?1",
    [SQL_MODEL_PUT] = "INSERT INTO models (name, first_ms, registration) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (name) DO UPDATE SET registration = excluded.registration",
    [SQL_SAVEPOINT] = "SAVEPOINT batch",
    [SQL_SAVEPOINT_KEEP] = "RELEASE batch",
    [SQL_SAVEPOINT_UNDO] = "ROLLBACK TO batch",
    [SQL_WEBHOOK_PUT] = "INSERT INTO webhooks (job, url) VALUES (?1, ?2)",
    [SQL_WEBHOOK_DELETE] = "DELETE FROM webhooks WHERE job = ?1",
    [SQL_DELIVERY_ADD] = "INSERT INTO deliveries (event_id, job_id, completed, url, created_ms, next_ms) "
        "SELECT 'evt_' || lower(hex(randomblob(12))), ?2, ?3, url, ?4, ?4 FROM webhooks WHERE job = ?1",
    [SQL_DELIVERY_PUT] = "UPDATE deliveries SET attempts = ?2, next_ms = nullif(?3, 0), delivered = ?4, last_error = ?5 "
        "WHERE row = ?1",
    [SQL_DELIVERY_SWEEP] = "DELETE FROM deliveries WHERE next_ms IS NULL AND created_ms < ?1",
};

enum rf_code rf_db_fail(sqlite3 *db, struct rf_err *err, const char *doing)
{
    int code = db == NULL ? SQLITE_NOMEM : sqlite3_errcode(db);
    bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
    return rf_fail(err, damaged ? RF_ERR_FORMAT : code == SQLITE_FULL ? RF_ERR_NO_SPACE : RF_ERR_IO, "%s: %s", doing,
                   db ? sqlite3_errmsg(db) : "out of memory");
}

/* ---- statements ---- */

sqlite3_stmt *rf_sql(struct rf_store *s, enum rf_sql id)
{
    sqlite3_reset(s->sql[id]);
    return s->sql[id];
}

static bool failed(struct rf_store *s, const char *doing)
{
    if (!s->sql_failed)
        rf_db_fail(s->db, &s->sql_err, doing);
    s->sql_failed = true;
    return false;
}

bool rf_sql_begin(struct rf_store *s)
{
    if (s->in_transaction)
        return true;
    int rc = sqlite3_step(rf_sql(s, SQL_BEGIN));
    sqlite3_reset(s->sql[SQL_BEGIN]);
    if (rc != SQLITE_DONE)
        return failed(s, "begin");
    s->in_transaction = true;
    return true;
}

bool rf_sql_run(struct rf_store *s, sqlite3_stmt *stmt)
{
    if (s->sql_failed || !rf_sql_begin(s))
        return false;
    int rc;
    do
        rc = sqlite3_step(stmt);
    while (rc == SQLITE_ROW);
    sqlite3_reset(stmt);
    return rc == SQLITE_DONE || failed(s, "write");
}

bool rf_sql_row(struct rf_store *s, sqlite3_stmt *stmt)
{
    if (s->sql_failed)
        return false;
    int rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        failed(s, "read");
    return rc == SQLITE_ROW;
}

/* Moves all that is left and starts the log anew, with all who read it out of the way. */
static void force_log_anew(struct rf_store *s)
{
    pthread_mutex_lock(&s->checkpoint_pass);
    sqlite3_busy_timeout(s->db, WAL_READERS_MS);
    if (sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) == SQLITE_OK) {
        s->wal_pages = s->wal_next_try = 0;
        atomic_store(&s->wal_moved, 0);
    }
    sqlite3_busy_timeout(s->db, BUSY_MS);
    pthread_mutex_unlock(&s->checkpoint_pass);
}

static void keep_log_short(struct rf_store *s)
{
    int moved = atomic_load(&s->wal_moved);
    if (moved > s->wal_pages) { /* the log has begun anew */
        atomic_store(&s->wal_moved, moved = 0);
        s->wal_next_try = 0;
    }
    int left = s->wal_pages - moved;
    bool forced = s->wal_pages >= WAL_FORCED_PAGES;
    bool due = s->wal_pages >= WAL_RESTART_PAGES && s->wal_pages >= s->wal_next_try;
    if (due && (left <= WAL_REST_PAGES || forced)) {
        s->wal_next_try = s->wal_pages + WAL_WANTED_PAGES; /* a reader in its middle holds the log: not again at once */
        if (forced)
            force_log_anew(s);
        else
            sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    } else if (left >= (due ? WAL_REST_PAGES : WAL_WANTED_PAGES) && s->has_checkpointer) {
        pthread_mutex_lock(&s->checkpoint_lock);
        s->checkpoint_wanted = true;
        pthread_cond_signal(&s->checkpoint_cond);
        pthread_mutex_unlock(&s->checkpoint_lock);
    }
}

bool rf_sql_commit(struct rf_store *s)
{
    if (!s->in_transaction)
        return true;
    int rc = sqlite3_step(rf_sql(s, SQL_COMMIT));
    sqlite3_reset(s->sql[SQL_COMMIT]);
    if (rc != SQLITE_DONE)
        return failed(s, "commit");
    s->in_transaction = false;
    keep_log_short(s);
    return true;
}

void rf_sql_rollback(struct rf_store *s)
{
    if (!sqlite3_get_autocommit(s->db)) { /* some failures have rolled back by themselves */
        sqlite3_step(rf_sql(s, SQL_ROLLBACK));
        sqlite3_reset(s->sql[SQL_ROLLBACK]);
    }
    s->in_transaction = false;
    s->sql_failed = false;
}

void rf_bind_text(sqlite3_stmt *stmt, int index, const char *text)
{
    if (text == NULL)
        sqlite3_bind_null(stmt, index);
    else
        sqlite3_bind_text(stmt, index, text, -1, SQLITE_STATIC);
}

/* ---- checkpoints ---- */

static int on_commit(void *store, sqlite3 *db, const char *name, int n_pages)
{
    ((struct rf_store *)store)->wal_pages = n_pages;
    return SQLITE_OK;
}

/* PASSIVE never makes a commit wait. When it has moved everything and nobody reads, the next commit starts the log anew. */
static void *checkpoint(void *arg)
{
    struct rf_store *s = arg;
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(s->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        sqlite3_close(db);
        return NULL; /* the writer's own limit still holds */
    }
    sqlite3_exec(db, "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0", NULL, NULL, NULL);
    pthread_mutex_lock(&s->checkpoint_lock);
    while (!s->checkpoint_ending) {
        if (!s->checkpoint_wanted) {
            pthread_cond_wait(&s->checkpoint_cond, &s->checkpoint_lock);
            continue;
        }
        s->checkpoint_wanted = false;
        pthread_mutex_unlock(&s->checkpoint_lock);
        int n_log = 0, n_moved = 0;
        pthread_mutex_lock(&s->checkpoint_pass);
        if (sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_log, &n_moved) == SQLITE_OK && n_moved >= 0)
            atomic_store(&s->wal_moved, n_moved);
        pthread_mutex_unlock(&s->checkpoint_pass);
        pthread_mutex_lock(&s->checkpoint_lock);
    }
    pthread_mutex_unlock(&s->checkpoint_lock);
    sqlite3_close(db);
    return NULL;
}

void rf_db_start_checkpointer(struct rf_store *s)
{
    s->has_checkpointer = pthread_create(&s->checkpointer, NULL, checkpoint, s) == 0;
    if (s->has_checkpointer)
        pthread_setname_np(s->checkpointer, "store-wal");
}

/* ---- opening ---- */

static enum rf_code exec(struct rf_store *s, const char *sql, const char *doing, struct rf_err *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? RF_OK : rf_db_fail(s->db, err, doing);
}

static enum rf_code read_int(struct rf_store *s, const char *sql, int64_t *ret_n, struct rf_err *err)
{
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return rf_db_fail(s->db, err, "read");
    int rc = sqlite3_step(stmt);
    *ret_n = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    enum rf_code result = rc == SQLITE_ROW || rc == SQLITE_DONE ? RF_OK : rf_db_fail(s->db, err, "read");
    sqlite3_finalize(stmt);
    return result;
}

/* All that is missing, in one transaction: either the newest tables or the old ones. */
static enum rf_code migrate(struct rf_store *s, struct rf_err *err)
{
    int64_t version = 0;
    enum rf_code rc = read_int(s, "PRAGMA user_version", &version, err);
    if (rc != RF_OK)
        return rc;
    if (version > rf_n_migrations)
        return rf_fail(err, RF_ERR_FORMAT, "this database was written by a newer framefarm (tables version %lld, this one "
                       "knows up to %d); run that version, or give this one another data folder", (long long)version,
                       rf_n_migrations);
    if (version == rf_n_migrations)
        return RF_OK;
    int64_t n_tables = 0;
    rc = read_int(s, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'", &n_tables, err);
    if (rc == RF_OK && version == 0 && n_tables > 0)
        return rf_fail(err, RF_ERR_FORMAT, "this file is a database, but not one of framefarm's");
    if (rc == RF_OK)
        rc = exec(s, "BEGIN IMMEDIATE", "upgrade", err);
    for (int64_t i = version; rc == RF_OK && i < rf_n_migrations; i++)
        rc = exec(s, rf_migrations[i].sql, rf_migrations[i].name, err);
    char done[64];
    snprintf(done, sizeof done, "PRAGMA user_version = %d; COMMIT", rf_n_migrations);
    if (rc == RF_OK)
        rc = exec(s, done, "upgrade", err);
    if (rc != RF_OK && !sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* A damaged database is better found at start than at 3 a.m. Reading it all takes about a second per 256 MiB from a cold disk;
 * larger ones are left to `framefarm-server check`. */
#define QUICK_CHECK_BYTES (256LL << 20)

static enum rf_code check_small(struct rf_store *s, struct rf_err *err)
{
    int64_t n_bytes = 0;
    enum rf_code rc = read_int(s, "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()", &n_bytes, err);
    return rc == RF_OK && n_bytes <= QUICK_CHECK_BYTES ? rf_db_check(s->db, "quick_check", err) : rc;
}

enum rf_code rf_db_open(struct rf_store *s, struct rf_err *err)
{
    if (sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return rf_db_fail(s->db, err, "open");
    sqlite3_busy_timeout(s->db, BUSY_MS);
    /* FULL: a commit is on disk when it says so. The page cache holds the tables' hot ends. */
    enum rf_code rc = exec(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; "
                           "PRAGMA journal_size_limit = " WAL_KEPT_BYTES "; "
                           "PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF", "open", err);
    if (rc == RF_OK)
        rc = check_small(s, err);
    if (rc == RF_OK)
        rc = migrate(s, err);
    char text[64];
    snprintf(text, sizeof text, "PRAGMA max_page_count = %lld", (long long)s->config.max_pages);
    if (rc == RF_OK && s->config.max_pages > 0)
        rc = exec(s, text, "limit", err);
    for (int i = 0; rc == RF_OK && i < SQL_COUNT; i++)
        if (sqlite3_prepare_v3(s->db, sql_texts[i], -1, SQLITE_PREPARE_PERSISTENT, &s->sql[i], NULL) != SQLITE_OK)
            rc = rf_db_fail(s->db, err, "prepare");
    sqlite3_wal_hook(s->db, on_commit, s);
    return rc;
}

void rf_db_close(struct rf_store *s)
{
    if (s->has_checkpointer) {
        pthread_mutex_lock(&s->checkpoint_lock);
        s->checkpoint_ending = true;
        pthread_cond_signal(&s->checkpoint_cond);
        pthread_mutex_unlock(&s->checkpoint_lock);
        pthread_join(s->checkpointer, NULL);
    }
    for (int i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(s->sql[i]);
    sqlite3_close(s->db); /* the last connection moves the log into the database and removes it */
}

/* ---- loading ---- */

static const char *text_at(sqlite3_stmt *stmt, int column)
{
    return (const char *)sqlite3_column_text(stmt, column);
}

/* A row of LIVE_COLUMNS. A lease found gets a fresh deadline: its holder could not reach us. From the second start in a row
 * that it says nothing it gets half the time of the start before, so that a holder who never had our answer cannot keep
 * the task for as long as the server keeps restarting. */
static void load_row(struct rf_store *s, sqlite3_stmt *q, int64_t now_ms)
{
    struct rf_live_job *job = rf_new(struct rf_live_job);
    const char *user, *model, *hash, *precision;
    int c = 0;
    job->row = sqlite3_column_int64(q, c++);
    job->tail = (uint64_t)sqlite3_column_int64(q, c++);
    job->begun = sqlite3_column_int(q, c++) == RF_JOB_IN_PROGRESS;
    job->priority = sqlite3_column_int(q, c++);
    user = text_at(q, c++);
    model = text_at(q, c++);
    hash = text_at(q, c++);
    precision = text_at(q, c++);
    job->width = sqlite3_column_int(q, c++);
    job->height = sqlite3_column_int(q, c++);
    job->n_frames = sqlite3_column_int(q, c++);
    job->fps = sqlite3_column_int(q, c++);
    job->n_steps = sqlite3_column_int(q, c++);
    job->max_segment_frames = sqlite3_column_int(q, c++);
    job->has_image = sqlite3_column_int(q, c++);
    job->n_tasks = sqlite3_column_int(q, c++);
    job->task = sqlite3_column_int(q, c++);
    job->attempts = sqlite3_column_int(q, c++);
    job->n_no_memory = sqlite3_column_int(q, c++);
    int64_t not_before_ms = sqlite3_column_int64(q, c++);
    job->avoid = rf_strdup(text_at(q, c++));
    int64_t lease = sqlite3_column_int64(q, c++);
    const char *worker = text_at(q, c++);
    int64_t leased_ms = sqlite3_column_int64(q, c++);
    int n_unheard = sqlite3_column_int(q, c++);
    job->reserved_bytes = sqlite3_column_int64(q, c++);
    job->turn = sqlite3_column_int64(q, c++);
    int switch_step = sqlite3_column_int(q, c++);
    double guidance_low = sqlite3_column_double(q, c++), guidance_high = sqlite3_column_double(q, c++);
    job->n_passes = rf_eta_passes(job->n_steps, switch_step, guidance_low, guidance_high);
    rf_sched_add(s->sched, job, user, model, hash, precision);
    if (lease != 0) {
        struct rf_run *run = rf_new(struct rf_run);
        run->lease = lease;
        run->leased_ms = run->told_ms = leased_ms;
        snprintf(run->worker_id, sizeof run->worker_id, "%s", worker);
        run->unheard = n_unheard > 0;
        int n_halvings = n_unheard < 1 ? 0 : n_unheard > 16 ? 15 : n_unheard - 1;
        rf_sched_make_leased(s->sched, job, run, rf_store_clock(s, now_ms) + (s->config.lease_ms >> n_halvings));
    } else if (not_before_ms > now_ms) {
        /* Never longer than was meant: the clock may have gone back a day while nobody was here to see it. */
        int64_t rest_ms = not_before_ms - now_ms, most_ms = rf_task_backoff_ms(s, job->attempts);
        rf_sched_make_waiting(s->sched, job, rf_store_clock(s, now_ms) + (rest_ms < most_ms ? rest_ms : most_ms));
    } else {
        rf_sched_make_ready(s->sched, job);
    }
}

bool rf_db_load_one(struct rf_store *s, int64_t row, int64_t now_ms)
{
    sqlite3_stmt *q = rf_sql(s, SQL_LOAD_ONE);
    sqlite3_bind_int64(q, 1, row);
    bool found = rf_sql_row(s, q);
    if (found)
        load_row(s, q, now_ms);
    sqlite3_reset(q);
    return found;
}

static void release_held(void *ctx, struct rf_live_worker *w)
{
    w->n_held = 0;
}

/* A run that is known already, and until when. */
struct known_run {
    int64_t row, due_ms;
    struct rf_run run;
};

/* What holders have told is in memory alone: it outlives a reading of the rows when the lease does. */
static void restore_runs(struct rf_store *s, const struct known_run *known, int n)
{
    for (int i = 0; i < n; i++) {
        struct rf_live_job *job = rf_sched_find(s->sched, known[i].row);
        if (job == NULL || job->run == NULL || job->run->lease != known[i].run.lease)
            continue;
        *job->run = known[i].run;
        rf_sched_extend(s->sched, job, known[i].due_ms);
    }
}

enum rf_code rf_db_load_jobs(struct rf_store *s, struct rf_err *err)
{
    int64_t now_ms = s->clock_last_ms;
    int n_known = 0;
    RF_AUTO(rf_free) struct known_run *known = rf_new_array(struct known_run, (size_t)rf_sched_n_leased(s->sched));
    for (struct rf_live_job *job; (job = rf_sched_leased(s->sched, n_known)) != NULL;)
        known[n_known++] = (struct known_run){job->row, job->due_ms, *job->run};
    s->lease_ceiling = s->next_lease - 1; /* what a rolled-back group reserved is not on disk: reserve anew */
    rf_sched_clear_jobs(s->sched);
    rf_sched_each_worker(s->sched, release_held, NULL);
    sqlite3_stmt *q = rf_sql(s, SQL_LOAD_ALL);
    while (rf_sql_row(s, q))
        load_row(s, q, now_ms);
    sqlite3_reset(q);
    restore_runs(s, known, n_known);
    struct rf_live_job *job;
    for (int i = 0; (job = rf_sched_leased(s->sched, i)) != NULL; i++) {
        struct rf_live_worker *w = rf_sched_find_worker(s->sched, job->run->worker_id);
        if (w != NULL)
            w->n_held++;
    }
    memset(s->n_jobs, 0, sizeof s->n_jobs);
    sqlite3_stmt *counts = NULL;
    if (sqlite3_prepare_v2(s->db, "SELECT state, count(*) FROM jobs GROUP BY state", -1, &counts, NULL) != SQLITE_OK)
        return rf_db_fail(s->db, err, "count jobs");
    while (rf_sql_row(s, counts))
        if ((unsigned)sqlite3_column_int(counts, 0) < RF_JOB_STATE_COUNT)
            s->n_jobs[sqlite3_column_int(counts, 0)] = sqlite3_column_int64(counts, 1);
    sqlite3_finalize(counts);
    s->fresh = true;
    if (s->sql_failed && err != NULL)
        *err = s->sql_err;
    return s->sql_failed ? s->sql_err.code : RF_OK;
}

static void load_worker(struct rf_store *s, sqlite3_stmt *q)
{
    cJSON *json = NULL;
    struct rf_live_worker *w = rf_new(struct rf_live_worker);
    snprintf(w->id, sizeof w->id, "%s", text_at(q, 0));
    w->registration_text = rf_strdup(text_at(q, 2));
    w->registered_ms = sqlite3_column_int64(q, 3);
    w->seen_wall_ms = sqlite3_column_int64(q, 4);
    int state = sqlite3_column_int(q, 1);
    w->state = state == 0 ? RF_WORKER_IDLE : state == 1 ? RF_WORKER_DRAINING : state == 2 ? RF_WORKER_LOST : RF_WORKER_LEFT;
    if (state <= 1)
        w->seen_ms = s->clock_last_ms; /* it may have called while nobody was there to hear it */
    if (rf_json_parse(w->registration_text, strlen(w->registration_text), RF_WIRE_MAX_BYTES, &json, NULL) == RF_OK)
        rf_wire_register_read(json, &w->reg, NULL);
    cJSON_Delete(json);
    if (w->reg == NULL) { /* an older form that we no longer read: it will register anew */
        free(w->registration_text);
        free(w);
        return;
    }
    rf_sched_add_worker(s->sched, w);
}

static enum rf_code load_rows(struct rf_store *s, const char *sql, void (*each)(struct rf_store *s, sqlite3_stmt *q),
                              struct rf_err *err)
{
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) != SQLITE_OK)
        return rf_db_fail(s->db, err, "load");
    int rc;
    while ((rc = sqlite3_step(q)) == SQLITE_ROW)
        each(s, q);
    enum rf_code result = rc == SQLITE_DONE ? RF_OK : rf_db_fail(s->db, err, "load");
    sqlite3_finalize(q);
    return result;
}

static void load_paused(struct rf_store *s, sqlite3_stmt *q)
{
    s->paused = strcmp(text_at(q, 0), "1") == 0;
}

/* A registration with one model in it, as rf_model_learn() stored it. */
static void load_model(struct rf_store *s, sqlite3_stmt *q)
{
    cJSON *json = NULL;
    struct rf_wire_register *reg = NULL;
    const char *text = text_at(q, 0);
    if (rf_json_parse(text, strlen(text), RF_WIRE_MAX_BYTES, &json, NULL) == RF_OK &&
        rf_wire_register_read(json, &reg, NULL) == RF_OK && reg->n_models == 1)
        rf_model_learn(s, &reg->models[0]);
    rf_wire_register_destroy(&reg);
    cJSON_Delete(json);
}

enum rf_code rf_db_load(struct rf_store *s, struct rf_err *err)
{
    enum rf_code rc = read_int(s, "SELECT max(row) FROM jobs", &s->last_row, err);
    if (rc == RF_OK)
        rc = read_int(s, "SELECT value FROM meta WHERE name = 'lease_ceiling'", &s->lease_ceiling, err);
    s->next_lease = s->lease_ceiling + 1; /* the rest of the last block is skipped: numbers only ever grow */
    if (rc == RF_OK)
        rc = load_rows(s, "SELECT value FROM settings WHERE name = 'paused'", load_paused, err);
    if (rc == RF_OK)
        rc = load_rows(s, "SELECT registration FROM models ORDER BY first_ms, name", load_model, err);
    if (rc == RF_OK)
        rc = load_rows(s, "SELECT id, state, registration, registered_ms, seen_ms FROM workers", load_worker, err);
    /* Should the disk be full, leases have their whole time once more. */
    exec(s, "DELETE FROM unheard WHERE lease NOT IN (SELECT lease FROM jobs WHERE state = 1 AND lease IS NOT NULL); "
         "INSERT INTO unheard SELECT lease, 1 FROM jobs WHERE state = 1 AND lease IS NOT NULL "
         "ON CONFLICT (lease) DO UPDATE SET n_starts = n_starts + 1", "count the unheard", NULL);
    if (rc == RF_OK)
        rc = rf_db_load_jobs(s, err);
    if (rc == RF_OK)
        rc = rf_expect_load(s, err);
    return rc;
}
