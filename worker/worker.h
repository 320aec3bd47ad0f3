/* The worker: asks for work, does it, tells how it went, and leaves in good order.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_WORKER_H
#define RF_WORKER_WORKER_H

#include "worker/config.h"
#include "worker/task.h"

/* Exit statuses, also in --help. */
enum rf_exit { RF_EXIT_DONE = 0, RF_EXIT_ERROR = 1, RF_EXIT_USAGE = 2, RF_EXIT_DEVICE = 3 };

struct rf_worker;

/* Opens device, models and scratch folder. `config` is kept, not copied. Nothing is sent yet.
 *   any code  the message names what could not be opened */
enum rf_code rf_worker_create(const struct rf_config *config, struct rf_worker **ret_worker, struct rf_err *err);
void rf_worker_destroy(struct rf_worker **worker);

/* Works until told to leave, until one task is done with --once, or until it makes no sense any more. The caller has
 * called rf_leave_watch() first. */
enum rf_exit rf_worker_run(struct rf_worker *worker);

/* Asks the worker to leave: no further task, and the one at hand goes back unless --finish-on-term. Any thread. */
void rf_worker_drain(struct rf_worker *worker);
/* What is left to do when the renderer does not let go in time: releases its task and says goodbye over a connection of
 * its own. The process ends right after; the caller does that. */
void rf_worker_abandon(struct rf_worker *worker);

#endif
