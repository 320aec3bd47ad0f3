/* The worker's private folder for files in the making, and the two ways to touch a small file.
 *
 * One folder per process, mode 0700, below TMPDIR. A worker that was killed leaves its folder behind; the next one
 * on the same host finds it unlocked and sweeps it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_SCRATCH_H
#define RF_WORKER_SCRATCH_H

#include "schema/err.h"

struct rf_scratch;

/* Sweeps what dead workers left, then makes our own folder.
 *   RF_ERR_IO  cannot be made; the message says where */
enum rf_code rf_scratch_create(struct rf_scratch **ret_scratch, struct rf_err *err);
void rf_scratch_destroy(struct rf_scratch **scratch); /* removes it with all in it */

const char *rf_scratch_path(const struct rf_scratch *s);
/* "<folder>/<name>", new; free() it. */
char *rf_scratch_file(const struct rf_scratch *s, const char *name);
/* Removes all files in it: between two tasks. */
void rf_scratch_clear(const struct rf_scratch *s);

/*   ret_bytes  new, one zero byte behind it; free() it
 *   RF_ERR_NOT_FOUND / RF_ERR_IO
 *   RF_ERR_LIMIT  more than max_bytes */
enum rf_code rf_read_file(const char *path, size_t max_bytes, void **ret_bytes, size_t *ret_size_bytes,
                          struct rf_err *err);
enum rf_code rf_write_file(const char *path, const void *bytes, size_t size_bytes, struct rf_err *err);

#endif
