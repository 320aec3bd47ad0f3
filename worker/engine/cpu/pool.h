/* A small thread pool for data-parallel loops inside one op. One loop runs at a time; the calling thread works too.
 *
 * Items are handed out one by one from a shared counter, so uneven items balance themselves; make items coarse (tens of
 * microseconds) and more numerous than threads. Results must not depend on which thread runs an item: then the same
 * input gives the same bits whatever the number of threads.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CPU_POOL_H
#define RF_ENGINE_CPU_POOL_H

#include "schema/err.h"

struct rf_pool;

/* n_threads in all, the caller included; 0: one per core this process may use.
 *   RF_ERR_NO_MEMORY  a thread could not be started */
enum rf_code rf_pool_create(int n_threads, struct rf_pool **ret_pool, struct rf_err *err);
void rf_pool_destroy(struct rf_pool **pool);
int rf_pool_n_threads(const struct rf_pool *pool);

/* item: 0..n_items-1, each exactly once. worker: 0..n_threads-1, stable while the item runs: indexes scratch. */
typedef void rf_pool_fn(void *ctx, int64_t item, int worker);

/* Runs fn for every item and returns when all are done. Not from inside fn. One caller thread at a time. */
void rf_pool_run(struct rf_pool *pool, int64_t n_items, rf_pool_fn *fn, void *ctx);

#endif
