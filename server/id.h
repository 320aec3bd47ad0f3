/* Job ids: `video_` and 26 characters of lower-case Crockford base32, in which the row number hides.
 *
 * The first 13 characters are the job's row number in the database (63 bits: milliseconds since 1970 in the upper 43,
 * a counter in the lower 20), the last 13 are random. So ids sort by age, looking a job up needs no index besides the
 * table itself, inserts always go to the table's end, and nobody guesses another's id. Nothing here reads a clock.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_ID_H
#define RF_SERVER_ID_H

#include "schema/wire.h"

struct rf_id {
    int64_t row;        /* > 0 */
    uint64_t tail;      /* random */
};

/* The next row number after `last` at time now_ms: larger than `last` whatever the clock says. */
int64_t rf_id_next_row(int64_t last, int64_t now_ms);
/* The least row number of that millisecond. */
int64_t rf_id_first_row(int64_t now_ms);

void rf_id_format(struct rf_id id, char ret_text[RF_JOB_ID_SIZE]);
/* False when `text` is not a job id in exactly the form above. */
bool rf_id_parse(const char *text, struct rf_id *ret_id);

/* 64 random bits from the kernel. */
uint64_t rf_random64(void);
/* `prefix` + 26 random characters; for ids that need no order (workers, requests). */
void rf_random_id(const char *prefix, char *ret_text, size_t size);

#endif
