/* The calls that show and steer the farm as a whole.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_OPERATE_H
#define RF_SERVER_OPERATE_H

#include "server/http.h"

void rf_models_handle(struct rf_call *c);
void rf_workers_handle(struct rf_call *c);
void rf_worker_drain(struct rf_call *c);
void rf_queue_handle(struct rf_call *c);
/* How many jobs ended in each of the last hours. */
void rf_throughput_handle(struct rf_call *c);
void rf_queue_pause(struct rf_call *c);
void rf_queue_resume(struct rf_call *c);
/* Alive: the process answers. */
void rf_healthz_handle(struct rf_call *c);
/* Ready: the database takes writes; 503 while it does not or the server stops. */
void rf_readyz_handle(struct rf_call *c);

#endif
