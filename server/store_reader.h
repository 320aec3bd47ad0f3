/* Connections for reading: a pool, so that any thread may ask without owning one. Shared by store_read.c and store_list.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_READER_H
#define RF_SERVER_STORE_READER_H

#include "server/store_private.h"

enum rf_read_sql { READ_JOB, READ_ATTEMPTS, READ_FILES, READ_FILE, READ_TAIL, READ_GONE, READ_DISK_NAME,
                   READ_TOKENS_CHANGED, READ_SETTING, READ_DELIVERIES, READ_ENDED, READ_COUNT };

struct rf_reader {
    sqlite3 *db;
    sqlite3_stmt *sql[READ_COUNT];
};

/* NULL: cannot be opened, `err` says why. One snapshot lasts from take to give. */
struct rf_reader *rf_reader_take(struct rf_store *s, struct rf_err *err);
void rf_reader_give(struct rf_store *s, struct rf_reader *r);
sqlite3_stmt *rf_reader_sql(struct rf_reader *r, enum rf_read_sql id); /* reset; prepared on first use */

/* The whole job; RF_ERR_NOT_FOUND when the row is not there. `tail` is compared unless any_tail. */
enum rf_code rf_read_job(struct rf_store *s, struct rf_reader *r, int64_t row, const uint64_t *tail, unsigned with,
                         struct rf_job **ret_job, struct rf_err *err);
/* Rows of a query by_queue (store_queue.c). */
enum rf_code rf_read_queue_rows(struct rf_store *s, const struct rf_query *query, int limit, int64_t *rows, int *ret_n,
                                struct rf_err *err);
/* An attempt's timings text, one call each; false ends the walk. */
bool rf_read_timings(const char *text, bool (*each)(void *ctx, const struct rf_wire_timing *timing), void *ctx);
void rf_read_file_row(sqlite3_stmt *q, struct rf_file *ret_file); /* columns as in READ_FILE */

#endif
