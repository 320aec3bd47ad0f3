/* The calls of workers, as schema/api.md draws them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_FARM_H
#define RF_SERVER_FARM_H

#include "server/http.h"

/* The claims that wait in the store for work, so that a stopping server can send them home. */
struct rf_polls;
struct rf_polls *rf_polls_create(void);
void rf_polls_destroy(struct rf_polls **polls);
/* Every waiting claim is answered "nothing" soon. */
void rf_polls_end(struct rf_polls *polls, struct rf_app *app);

void rf_farm_register(struct rf_call *c);
void rf_farm_lease(struct rf_call *c);
void rf_farm_heartbeat(struct rf_call *c);
void rf_farm_complete(struct rf_call *c);
void rf_farm_fail(struct rf_call *c);
void rf_farm_release(struct rf_call *c);
void rf_farm_leave(struct rf_call *c);
void rf_farm_get_file(struct rf_call *c);
void rf_farm_put_begin(struct rf_call *c);
void rf_farm_put_file(struct rf_call *c);

#define RF_FARM_MAX_FILE_BYTES (16LL << 30)

#endif
