/* Room on the disk: tells the store how much there is, and takes away what may go (--keep-days, --keep-bytes, --forget-days).
 * Never anything of a job that is not finished. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_RETENTION_H
#define RF_SERVER_RETENTION_H

#include "schema/err.h"

struct rf_app;

/* Asks the file system and tells the store. Blocks on the store, like the other one. */
enum rf_code rf_retention_look(struct rf_app *app, int64_t now_ms, struct rf_err *err);
/* Expires and forgets what is due, a few hundred jobs a call. Their files go at the next rf_files_collect(). */
enum rf_code rf_retention_run(struct rf_app *app, int64_t now_ms, struct rf_err *err);

#endif
