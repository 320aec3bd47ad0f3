/* A few threads for what would make an event loop wait: syncing files, reading long lists, parsing large batches.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_OFFLOAD_H
#define RF_SERVER_OFFLOAD_H

#include "schema/base.h"

struct rf_offload;

struct rf_offload *rf_offload_create(int n_threads);
/* Runs what is queued, then ends the threads. */
void rf_offload_destroy(struct rf_offload **offload);

/* Runs work(arg) soon, in the order of the calls when there is one thread. The queue has no limit of its own: each entry
 * belongs to a connection, and those are limited. Any thread. */
void rf_offload_run(struct rf_offload *offload, void (*work)(void *arg), void *arg);

#endif
