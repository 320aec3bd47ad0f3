/* Histograms for /metrics: fixed buckets, counted without a lock.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_HISTOGRAM_H
#define RF_SERVER_HISTOGRAM_H

#include "server/out.h"

#include <stdatomic.h>

#define RF_HISTOGRAM_BOUNDS 14

/* Zeroed, it is empty. `bounds` are given with each call, so that many of a kind share them: seconds, growing, without
 * the last bucket for all that is longer. */
struct rf_histogram {
    atomic_llong count[RF_HISTOGRAM_BOUNDS + 1], sum_us;
};

/* Any thread. */
void rf_histogram_add(struct rf_histogram *h, const double bounds[RF_HISTOGRAM_BOUNDS], double seconds);
/* The samples of one label in Prometheus' text form; HELP and TYPE stand before the first. Called while others add, it
 * shows a sum that may be some measurements ahead of the counts, but counts that fit each other. */
void rf_histogram_print(struct rf_out *to, const char *name, const char *label, const char *value,
                        struct rf_histogram *h, const double bounds[RF_HISTOGRAM_BOUNDS]);

#endif
