/* Which finished jobs are old, or too much. SPDX-License-Identifier: Apache-2.0 */
#include "server/store_reader.h"

#include <string.h>

/* Files of finished jobs that are beyond the sum, newest end first, so what is named is the oldest. */
static const char over_sum[] =
    "SELECT row FROM (SELECT j.row AS row, j.finished_ms AS ended, sum(sum(f.size_bytes)) OVER "
    "(ORDER BY j.finished_ms DESC, j.row DESC) AS kept FROM jobs AS j JOIN files AS f ON f.job = j.row AND f.gone_ms IS NULL "
    "WHERE j.finished_ms IS NOT NULL AND j.expired_ms IS NULL GROUP BY j.row) WHERE kept > ?1 ORDER BY ended, row LIMIT ?2";
static const char over_age[] =
    "SELECT row FROM jobs WHERE finished_ms < ?1 AND finished_ms IS NOT NULL AND expired_ms IS NULL ORDER BY finished_ms LIMIT ?2";

static enum rf_code read_rows(struct rf_reader *r, const char *sql, int64_t bound, int limit, int64_t *rows, int *n,
                              struct rf_err *err)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(r->db, sql, -1, &q, NULL);
    sqlite3_bind_int64(q, 1, bound);
    sqlite3_bind_int(q, 2, limit - *n);
    while (rc == SQLITE_OK && *n < limit && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        rows[(*n)++] = sqlite3_column_int64(q, 0);
        rc = SQLITE_OK;
    }
    enum rf_code code = rc == SQLITE_OK || rc == SQLITE_DONE ? RF_OK : rf_db_fail(r->db, err, "look for old jobs");
    sqlite3_finalize(q);
    return code;
}

enum rf_code rf_store_expirable(struct rf_store *s, int64_t before_ms, int64_t keep_bytes, int limit, int64_t **ret_rows,
                                int *ret_n, struct rf_err *err)
{
    enum rf_code rc = RF_OK;
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    *ret_rows = rf_new_array(int64_t, (size_t)limit);
    *ret_n = 0;
    if (before_ms > 0)
        rc = read_rows(r, over_age, before_ms, limit, *ret_rows, ret_n, err);
    if (rc == RF_OK && keep_bytes > 0 && *ret_n == 0) /* what age takes away changes the sum: look again after it */
        rc = read_rows(r, over_sum, keep_bytes, limit, *ret_rows, ret_n, err);
    rf_reader_give(s, r);
    if (rc != RF_OK)
        rf_free(ret_rows);
    return rc;
}

enum rf_code rf_store_ended_before(struct rf_store *s, int64_t before_ms, int limit, char (**ret_ids)[RF_JOB_ID_SIZE],
                                   int *ret_n, struct rf_err *err)
{
    /* A job that ended before then was made before then, and rows begin with the time they were made. */
    static const char sql[] = "SELECT row, tail FROM jobs WHERE row < ?1 << 20 AND finished_ms < ?1 LIMIT ?2";
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(r->db, sql, -1, &q, NULL);
    char (*ids)[RF_JOB_ID_SIZE] = rf_calloc((size_t)limit, sizeof *ids);
    sqlite3_bind_int64(q, 1, before_ms);
    sqlite3_bind_int(q, 2, limit);
    for (*ret_n = 0; rc == SQLITE_OK && *ret_n < limit && (rc = sqlite3_step(q)) == SQLITE_ROW; rc = SQLITE_OK)
        rf_id_format((struct rf_id){sqlite3_column_int64(q, 0), (uint64_t)sqlite3_column_int64(q, 1)}, ids[(*ret_n)++]);
    enum rf_code code = rc == SQLITE_OK || rc == SQLITE_DONE ? RF_OK : rf_db_fail(r->db, err, "look for old jobs");
    sqlite3_finalize(q);
    rf_reader_give(s, r);
    if (code == RF_OK)
        *ret_ids = ids;
    else
        free(ids);
    return code;
}
