/* POST /v1/videos/batch: one request per line, one transaction for all, one answer per line.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_BATCH_H
#define RF_SERVER_BATCH_H

#include "server/http.h"

#define RF_BATCH_MAX_BYTES (64LL << 20)

void rf_batch_handle(struct rf_call *c);

/* Walks the lines of an NDJSON body. Sets *line (not NUL-terminated) and *n without its line end and surrounding blanks;
 * false after the last. *at starts at 0. */
bool rf_batch_next_line(const char *body, size_t body_n, size_t *at, const char **ret_line, size_t *ret_n);

#endif
