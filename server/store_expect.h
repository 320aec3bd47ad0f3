/* When jobs will start and end: the store's part of server/eta.h (how long a task takes) and server/eta_queue.h (the
 * queue played forward).
 *
 * Learning: a finished task's times are put aside by the writer thread and taken into the curves by the next reader; at
 * start they are read from the newest finished jobs. Forecasting: whoever asks about a job and finds the forecast more
 * than a second old makes a new one, on their own thread; the others go on with the old one meanwhile. So nobody asking
 * costs nothing, and the writer never waits for a forecast. "A second" is one of the ops' clock.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_EXPECT_H
#define RF_SERVER_STORE_EXPECT_H

#include "server/store_private.h"

struct rf_expect *rf_expect_create(void);
void rf_expect_destroy(struct rf_expect **e);

/* From the attempts of the newest finished jobs. While the store opens. */
enum rf_code rf_expect_load(struct rf_store *s, struct rf_err *err);
/* `job`'s current task was done by `w`. With the store's lock held. */
void rf_expect_learn(struct rf_store *s, const struct rf_live_job *job, const struct rf_live_worker *w,
                     const struct rf_wire_report *report, int64_t now_ms);

#endif
