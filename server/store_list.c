/* Pages of jobs, files, timings; and the database as a whole: backup and check. SPDX-License-Identifier: Apache-2.0 */
#include "server/store_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_LIMIT 1000

/* ---- pages ---- */

void rf_page_destroy(struct rf_page **page)
{
    if (*page == NULL)
        return;
    for (int i = 0; i < (*page)->n_jobs; i++)
        rf_job_destroy(&(*page)->jobs[i]);
    free((*page)->jobs);
    free(*page);
    *page = NULL;
}

/* LIKE's own signs in what a person typed are ordinary characters. */
static char *like_pattern(const char *text)
{
    struct rf_text t = {0};
    rf_text_add(&t, "%");
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '%' || *p == '_' || *p == '\\')
            rf_text_add_bytes(&t, "\\", 1);
        rf_text_add_bytes(&t, p, 1);
    }
    rf_text_add(&t, "%");
    return t.text;
}

/* The rows of one page. ?1 after-row, ?2 limit, ?3 user, ?4 model, ?5 pattern, ?6 the row where it ends. Jobs of one state are read off its index;
 * several states are several such reads merged, for an index scan over "state IN" would have to sort them all. */
static char *page_sql(const struct rf_query *query)
{
    struct rf_text t = {0};
    const char *order = query->ascending ? "ASC" : "DESC";
    bool by_user = query->user != NULL && query->user[0] != '\0';
    unsigned states = query->states & ((1u << RF_JOB_STATE_COUNT) - 1);
    unsigned all = (1u << RF_JOB_STATE_COUNT) - 1;
    bool by_state = states != 0 && states != all && !by_user;
    bool first = true;
    for (int state = 0; state < RF_JOB_STATE_COUNT; state++) {
        if (by_state ? !(states & 1u << state) : state > 0)
            continue;
        RF_AUTO(rf_free) char *head = by_state ? rf_asprintf("state = %d", state) : rf_strdup("1");
        rf_text_add(&t, first ? "SELECT row FROM (" : " UNION ALL SELECT row FROM (");
        rf_text_add(&t, "SELECT row FROM jobs WHERE ");
        rf_text_add(&t, head);
        rf_text_add(&t, query->ascending ? " AND row > ?1 AND row < ?6" : " AND row < ?1 AND row >= ?6");
        if (query->user != NULL)
            rf_text_add(&t, by_user ? " AND user = ?3 AND user <> ''" : " AND user = ?3");
        if (query->model != NULL)
            rf_text_add(&t, by_user || by_state ? " AND +model = ?4" : " AND model = ?4");
        if (query->text != NULL)
            rf_text_add(&t, " AND json_extract(request, '$.prompt') LIKE ?5 ESCAPE '\\'");
        for (int k = 0; by_user && states != 0 && k < RF_JOB_STATE_COUNT; k++)
            if (!(states & 1u << k)) {
                RF_AUTO(rf_free) char *no = rf_asprintf(" AND +state <> %d", k);
                rf_text_add(&t, no);
            }
        RF_AUTO(rf_free) char *tail = rf_asprintf(" ORDER BY row %s LIMIT ?2)", order);
        rf_text_add(&t, tail);
        first = false;
    }
    RF_AUTO(rf_free) char *end = rf_asprintf(" ORDER BY row %s LIMIT ?2", order);
    rf_text_add(&t, end);
    return t.text;
}

/* The first row that was created too late; rows begin with the time (server/id.h). */
static int64_t end_row(const struct rf_query *query)
{
    return query->created_to_ms > 0 ? rf_id_first_row(query->created_to_ms) : INT64_MAX;
}

static enum rf_code read_rows(struct rf_reader *r, const struct rf_query *query, int64_t after, int limit, int64_t *rows,
                              int *ret_n, struct rf_err *err)
{
    RF_AUTO(rf_free) char *sql = page_sql(query);
    RF_AUTO(rf_free) char *pattern = query->text != NULL ? like_pattern(query->text) : NULL;
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(r->db, sql, -1, &q, NULL) != SQLITE_OK)
        return rf_db_fail(r->db, err, "list");
    sqlite3_bind_int64(q, 1, after);
    sqlite3_bind_int(q, 2, limit);
    rf_bind_text(q, 3, query->user);
    rf_bind_text(q, 4, query->model);
    rf_bind_text(q, 5, pattern);
    sqlite3_bind_int64(q, 6, query->ascending ? end_row(query) : rf_id_first_row(query->created_from_ms));
    int rc;
    *ret_n = 0;
    while ((rc = sqlite3_step(q)) == SQLITE_ROW)
        rows[(*ret_n)++] = sqlite3_column_int64(q, 0);
    enum rf_code code = rc == SQLITE_DONE ? RF_OK : rf_db_fail(r->db, err, "list");
    sqlite3_finalize(q);
    return code;
}

static enum rf_code find_after(struct rf_reader *r, const struct rf_query *query, int64_t *ret_after, struct rf_err *err)
{
    struct rf_id id;
    int64_t start = query->ascending ? rf_id_first_row(query->created_from_ms) - 1 : end_row(query);
    *ret_after = start;
    if (query->after == NULL)
        return RF_OK;
    bool there = false;
    if (rf_id_parse(query->after, &id)) {
        sqlite3_stmt *q = rf_reader_sql(r, READ_TAIL);
        sqlite3_bind_int64(q, 1, id.row);
        there = sqlite3_step(q) == SQLITE_ROW && (uint64_t)sqlite3_column_int64(q, 0) == id.tail;
        bool beyond = query->ascending ? id.row < start : id.row > start;
        *ret_after = beyond ? start : id.row;
    }
    return there ? RF_OK : rf_fail(err, RF_ERR_NOT_FOUND, "after: there is no job '%.40s'", query->after);
}

static enum rf_code fill_page(struct rf_store *s, struct rf_reader *r, const struct rf_query *query, struct rf_page *page,
                              struct rf_err *err)
{
    int64_t after = 0, rows[MAX_LIMIT + 1];
    int limit = query->limit < 0 ? 0 : query->limit > MAX_LIMIT ? MAX_LIMIT : query->limit, n = 0;
    enum rf_code rc = query->by_queue ? rf_read_queue_rows(s, query, limit + 1, rows, &n, err)
                                      : find_after(r, query, &after, err);
    if (rc == RF_OK && !query->by_queue)
        rc = read_rows(r, query, after, limit + 1, rows, &n, err);
    page->has_more = n > limit;
    page->jobs = rf_new_array(struct rf_job *, (size_t)limit);
    for (int i = 0; rc == RF_OK && i < n && i < limit; i++) {
        rc = rf_read_job(s, r, rows[i], NULL, query->with, &page->jobs[page->n_jobs], err);
        page->n_jobs += rc == RF_OK;
    }
    return rc;
}

enum rf_code rf_store_list(struct rf_store *s, const struct rf_query *query, struct rf_page **ret_page, struct rf_err *err)
{
    RF_AUTO(rf_page_destroy) struct rf_page *page = rf_new(struct rf_page);
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    enum rf_code rc = fill_page(s, r, query, page, err);
    rf_reader_give(s, r);
    if (rc != RF_OK)
        return rc;
    *ret_page = page;
    page = NULL;
    return RF_OK;
}

/* ---- files ---- */

enum rf_code rf_store_file(struct rf_store *s, const char *id, const char *name, struct rf_file *ret_file,
                           struct rf_err *err)
{
    struct rf_id parsed;
    struct rf_reader *r = rf_id_parse(id, &parsed) ? rf_reader_take(s, err) : NULL;
    if (r == NULL)
        return rf_fail(err, RF_ERR_NOT_FOUND, "there is no job '%.40s'", id);
    sqlite3_stmt *q = rf_reader_sql(r, READ_FILE);
    sqlite3_bind_int64(q, 1, parsed.row);
    rf_bind_text(q, 2, name);
    rf_bind_text(q, 3, id);
    bool found = sqlite3_step(q) == SQLITE_ROW;
    if (found)
        rf_read_file_row(q, ret_file);
    rf_reader_give(s, r);
    return found ? RF_OK : rf_fail(err, RF_ERR_NOT_FOUND, "job %s has no file '%.60s'", id, name);
}

enum rf_code rf_store_gone_files(struct rf_store *s, int limit, struct rf_gone_file **ret_files, int *ret_n,
                                 struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    struct rf_gone_file *files = rf_new_array(struct rf_gone_file, (size_t)limit);
    int n = 0;
    sqlite3_stmt *q = rf_reader_sql(r, READ_GONE);
    sqlite3_bind_int(q, 1, limit);
    for (; n < limit && sqlite3_step(q) == SQLITE_ROW; n++) {
        files[n].row = sqlite3_column_int64(q, 0);
        snprintf(files[n].job_id, sizeof files[n].job_id, "%s", (const char *)sqlite3_column_text(q, 1));
        snprintf(files[n].disk_name, sizeof files[n].disk_name, "%s", (const char *)sqlite3_column_text(q, 2));
    }
    rf_reader_give(s, r);
    *ret_files = files;
    *ret_n = n;
    return RF_OK;
}

enum rf_code rf_store_disk_name_known(struct rf_store *s, const char *job_id, const char *disk_name, bool *ret_known,
                                      struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    sqlite3_stmt *q = rf_reader_sql(r, READ_DISK_NAME);
    rf_bind_text(q, 1, job_id);
    rf_bind_text(q, 2, disk_name);
    int rc = sqlite3_step(q);
    enum rf_code code = rc == SQLITE_ROW || rc == SQLITE_DONE ? RF_OK : rf_db_fail(r->db, err, "look up file");
    *ret_known = rc == SQLITE_ROW;
    rf_reader_give(s, r);
    return code;
}

/* ---- timings ---- */

struct timing_walk {
    bool (*row)(void *ctx, const struct rf_timing_row *timing);
    void *ctx;
    struct rf_timing_row current;
};

static bool pass_on(void *ctx, const struct rf_wire_timing *t)
{
    struct timing_walk *w = ctx;
    w->current.timing = *t;
    return w->row(w->ctx, &w->current);
}

enum rf_code rf_store_timings(struct rf_store *s, const char *id, int64_t from_ms, int64_t to_ms,
                              bool (*row)(void *ctx, const struct rf_timing_row *timing), void *ctx, struct rf_err *err)
{
    struct rf_id parsed = {0};
    if (id != NULL && !rf_id_parse(id, &parsed))
        return rf_fail(err, RF_ERR_NOT_FOUND, "there is no job '%.40s'", id);
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    sqlite3_stmt *q = NULL;
    const char *sql = id != NULL
        ? "SELECT j.row, j.tail, j.created_ms, j.started_ms, a.started_ms, a.task, a.attempt, a.worker, a.outcome, a.timings "
          "FROM jobs AS j JOIN attempts AS a ON a.job = j.row WHERE j.row = ?1 AND j.tail = ?2 ORDER BY a.lease"
        : "SELECT j.row, j.tail, j.created_ms, j.started_ms, a.started_ms, a.task, a.attempt, a.worker, a.outcome, a.timings "
          "FROM attempts AS a CROSS JOIN jobs AS j ON j.row = a.job WHERE a.ended_ms >= ?1 AND a.ended_ms < ?2 "
          "ORDER BY a.job, a.lease";
    enum rf_code rc = RF_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &q, NULL) != SQLITE_OK)
        rc = rf_db_fail(r->db, err, "timings");
    sqlite3_bind_int64(q, 1, id != NULL ? parsed.row : from_ms);
    sqlite3_bind_int64(q, 2, id != NULL ? (int64_t)parsed.tail : to_ms);
    struct timing_walk walk = {row, ctx, {{0}, 0, 0, NULL, RF_OUTCOME_DONE, {{0}, 0, 0, 0}}};
    bool on = true;
    int64_t last_row = 0;
    while (rc == RF_OK && on && sqlite3_step(q) == SQLITE_ROW) {
        rf_id_format((struct rf_id){sqlite3_column_int64(q, 0), (uint64_t)sqlite3_column_int64(q, 1)}, walk.current.id);
        int64_t created_ms = sqlite3_column_int64(q, 2), started_ms = sqlite3_column_int64(q, 3);
        walk.current.task = sqlite3_column_int(q, 5);
        walk.current.attempt = sqlite3_column_int(q, 6);
        walk.current.worker = (const char *)sqlite3_column_text(q, 7);
        walk.current.outcome = (enum rf_outcome)sqlite3_column_int(q, 8);
        bool first = sqlite3_column_int64(q, 4) == started_ms && sqlite3_column_int64(q, 0) != last_row;
        last_row = sqlite3_column_int64(q, 0);
        if (first) { /* the job's first lease ended its wait */
            struct rf_wire_timing queue = {.stage = "queue", .step = -1, .started_at_ms = created_ms,
                                           .seconds = (double)(started_ms - created_ms) / 1000};
            on = pass_on(&walk, &queue);
        }
        on = on && rf_read_timings((const char *)sqlite3_column_text(q, 9), pass_on, &walk);
    }
    sqlite3_finalize(q);
    if (rc == RF_OK && id != NULL) { /* no attempts yet is fine, no job is not */
        sqlite3_stmt *tail = rf_reader_sql(r, READ_TAIL);
        sqlite3_bind_int64(tail, 1, parsed.row);
        if (sqlite3_step(tail) != SQLITE_ROW || (uint64_t)sqlite3_column_int64(tail, 0) != parsed.tail)
            rc = rf_fail(err, RF_ERR_NOT_FOUND, "there is no job '%s'", id);
    }
    rf_reader_give(s, r);
    return rc;
}

/* ---- the whole ---- */

static enum rf_code copy_database(sqlite3 *from, const char *path, struct rf_err *err)
{
    sqlite3 *to = NULL;
    enum rf_code rc = RF_OK;
    if (sqlite3_open_v2(path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        rc = rf_db_fail(to, err, "backup");
    sqlite3_backup *copy = rc == RF_OK ? sqlite3_backup_init(to, "main", from, "main") : NULL;
    if (rc == RF_OK && copy == NULL)
        rc = rf_db_fail(to, err, "backup");
    if (copy != NULL && sqlite3_backup_step(copy, -1) != SQLITE_DONE)
        rc = rf_db_fail(to, err, "backup");
    if (copy != NULL && sqlite3_backup_finish(copy) != SQLITE_OK && rc == RF_OK)
        rc = rf_db_fail(to, err, "backup");
    sqlite3_close(to);
    return rc;
}

static enum rf_code sync_path(const char *path, int flags, struct rf_err *err)
{
    int fd = open(path, flags | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0)
        close(fd);
    return ok ? RF_OK : rf_fail(err, RF_ERR_IO, "sync '%s': %s", path, strerror(why));
}

enum rf_code rf_db_backup(sqlite3 *db, const char *path, struct rf_err *err)
{
    RF_AUTO(rf_free) char *beside = rf_asprintf("%s.tmp", path);
    RF_AUTO(rf_free) char *folder = rf_strdup(path);
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        slash[slash == folder ? 1 : 0] = '\0';
    unlink(beside);
    enum rf_code rc = copy_database(db, beside, err);
    if (rc == RF_OK)
        rc = sync_path(beside, O_RDONLY, err);
    if (rc == RF_OK && rename(beside, path) != 0)
        rc = rf_fail(err, RF_ERR_IO, "rename '%s': %s", beside, strerror(errno));
    if (rc == RF_OK)
        rc = sync_path(slash != NULL ? folder : ".", O_RDONLY | O_DIRECTORY, err);
    if (rc != RF_OK)
        unlink(beside);
    return rc;
}

enum rf_code rf_store_backup(struct rf_store *s, const char *path, struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    enum rf_code rc = rf_db_backup(r->db, path, err);
    rf_reader_give(s, r);
    return rc;
}

enum rf_code rf_db_check(sqlite3 *db, const char *pragma, struct rf_err *err)
{
    RF_AUTO(rf_free) char *sql = rf_asprintf("PRAGMA %s(1)", pragma);
    sqlite3_stmt *q = NULL;
    enum rf_code rc = RF_OK;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK || sqlite3_step(q) != SQLITE_ROW)
        rc = rf_db_fail(db, err, "check");
    else if (strcmp((const char *)sqlite3_column_text(q, 0), "ok") != 0)
        rc = rf_fail(err, RF_ERR_FORMAT, "the database is damaged: %s", (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    return rc;
}

enum rf_code rf_store_check(struct rf_store *s, struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    enum rf_code rc = rf_db_check(r->db, "integrity_check", err);
    rf_reader_give(s, r);
    return rc;
}

/* ---- what the server reads of the commands' doing ---- */

enum rf_code rf_store_tokens(struct rf_store *s, int64_t *generation, struct rf_token **ret_tokens, int *ret_n,
                             struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    sqlite3_stmt *q = rf_reader_sql(r, READ_TOKENS_CHANGED);
    int64_t now = sqlite3_step(q) == SQLITE_ROW ? sqlite3_column_int64(q, 0) : -1;
    enum rf_code rc = now < 0 ? rf_db_fail(r->db, err, "read tokens") : RF_OK;
    *ret_tokens = NULL;
    if (rc == RF_OK && now != *generation && (rc = rf_db_tokens(r->db, ret_tokens, ret_n, err)) == RF_OK)
        *generation = now;
    rf_reader_give(s, r);
    return rc;
}

enum rf_code rf_store_deliveries(struct rf_store *s, int64_t now_ms, int limit, struct rf_delivery **ret_list, int *ret_n,
                                 struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    struct rf_delivery *list = rf_new_array(struct rf_delivery, (size_t)limit);
    int n = 0;
    sqlite3_stmt *q = rf_reader_sql(r, READ_DELIVERIES);
    sqlite3_bind_int64(q, 1, now_ms);
    sqlite3_bind_int(q, 2, limit);
    for (; n < limit && sqlite3_step(q) == SQLITE_ROW; n++) {
        struct rf_delivery *d = &list[n];
        d->row = sqlite3_column_int64(q, 0);
        snprintf(d->event_id, sizeof d->event_id, "%s", (const char *)sqlite3_column_text(q, 1));
        snprintf(d->job_id, sizeof d->job_id, "%s", (const char *)sqlite3_column_text(q, 2));
        d->completed = sqlite3_column_int(q, 3);
        d->url = rf_strdup((const char *)sqlite3_column_text(q, 4));
        d->created_ms = sqlite3_column_int64(q, 5);
        d->attempts = sqlite3_column_int(q, 6);
    }
    rf_reader_give(s, r);
    *ret_list = list;
    *ret_n = n;
    return RF_OK;
}

bool rf_store_setting(struct rf_store *s, const char *name, char *ret_value, size_t room)
{
    struct rf_reader *r = rf_reader_take(s, NULL);
    if (r == NULL)
        return false;
    sqlite3_stmt *q = rf_reader_sql(r, READ_SETTING);
    rf_bind_text(q, 1, name);
    bool found = sqlite3_step(q) == SQLITE_ROW;
    if (found)
        snprintf(ret_value, room, "%s", (const char *)sqlite3_column_text(q, 0));
    rf_reader_give(s, r);
    return found;
}
