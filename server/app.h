/* What every handler can reach: the server's parts, put together by main.c. All of it outlives all requests.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_APP_H
#define RF_SERVER_APP_H

#include "server/files.h"
#include "server/http.h"
#include "server/store.h"

#define RF_LEASE_MS 30000
#define RF_HEARTBEAT_MS 5000

struct rf_app {
    const struct rf_config *config;
    struct rf_store *store;
    struct rf_files *files;
    struct rf_http *http;
    struct rf_auth *auth;
    struct rf_webhooks *webhooks;
    struct rf_events *events;
    struct rf_polls *polls;
    struct rf_offload *offload;
    struct rf_recent *recent;
    struct rf_metrics *metrics;
    int64_t started_ms;
    atomic_bool stopping;      /* new work is refused, polls are answered empty */
};

/* Unix milliseconds. The store reads no clock; this is where its times come from. */
int64_t rf_now_ms(void);

/* The table of routes (routes.c). */
extern const struct rf_route rf_routes[];
extern const size_t rf_n_routes;

#endif
