/* One thread and the line in front of it. Whoever has something to write posts an op; the thread takes the whole line at
 * once and hands it to `run`, so that everything that arrived during one disk sync shares the next one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_WRITER_H
#define RF_SERVER_WRITER_H

#include "server/store.h"

struct rf_writer;

/* `run` gets the ops in the order they were posted, linked by next_, on the writer's thread. They are its own from then on. */
struct rf_writer *rf_writer_create(void (*run)(void *self, struct rf_op *ops), void *self);
/* Runs what was posted before, then ends the thread. Nobody may post during or after it, except `run` itself. */
void rf_writer_destroy(struct rf_writer **writer);
/* Any thread; never waits for more than a short lock. */
void rf_writer_post(struct rf_writer *writer, struct rf_op *op);
bool rf_writer_is_current(const struct rf_writer *writer);

#endif
