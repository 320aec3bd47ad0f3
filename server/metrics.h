/* Prometheus text, and the little that must be summed up for it while the server runs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_METRICS_H
#define RF_SERVER_METRICS_H

#include "server/http.h"

struct rf_metrics;
struct rf_wire_timing;

struct rf_metrics *rf_metrics_create(void);
void rf_metrics_destroy(struct rf_metrics **metrics);

/* Adds what a worker measured. Any thread. */
void rf_metrics_add_timings(struct rf_metrics *metrics, const struct rf_wire_timing *timings, int n);

/* GET /metrics */
void rf_metrics_handle(struct rf_call *c);

#endif
