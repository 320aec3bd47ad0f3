/* The reporter: a thread beside the renderer that keeps the lease alive and the page lively.
 *
 * It sends a heartbeat every heartbeat_ms and at each step, always the newest; a server that is away costs nothing but
 * the news of that time. It raises the task's stops when the server says cancel or that the lease is lost, and uploads a
 * preview at most once a second.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_REPORTS_H
#define RF_WORKER_REPORTS_H

#include "worker/farm/client.h"
#include "worker/nvml.h"
#include "worker/progress.h"

struct rf_reporter;

/* Starts the thread, with a connection of its own.
 *   lease       kept, not copied: must outlive the reporter
 *   nvml        the device, asked before each heartbeat; kept; NULL: it tells nothing
 *   stop, gone  both are raised on cancel and on a lost lease */
struct rf_reporter *rf_reporter_start(struct rf_farm *farm, const struct rf_wire_lease *lease, struct rf_nvml *nvml,
                                      struct rf_stop *stop, struct rf_stop *gone);
/* The renderer will now send its report, which ends the lease. Heartbeats go on until it is taken; one that comes a moment
 * after it is refused, which is no news and must not break off the report's answer. */
void rf_reporter_conclude(struct rf_reporter *r);
/* Ends the thread within a moment; nothing more is sent. */
void rf_reporter_finish(struct rf_reporter **reporter);

/* The news, from the renderer. The fraction never goes back, whatever is told. */
void rf_reporter_tell(struct rf_reporter *r, enum rf_part part, int step, int steps, double fraction);
/* A preview [height, width, 3]; copied, the newest wins. */
void rf_reporter_preview(struct rf_reporter *r, const uint8_t *rgb, int width, int height);

#endif
