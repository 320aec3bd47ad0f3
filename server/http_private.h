/* What http.c and http_answer.c share: a request as libmicrohttpd and we know it together. For these two alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_HTTP_PRIVATE_H
#define RF_SERVER_HTTP_PRIVATE_H

#include "server/http.h"
#include "server/peers.h"

#include <microhttpd.h>

struct rf_http {
    struct MHD_Daemon *daemon;
    int listen_fd, port;
    const struct rf_route *routes;
    size_t n_routes;
    struct rf_app *app;
    uint64_t id_prefix;
    atomic_ullong next_id;
    struct rf_http_stats stats;
    struct rf_peers *peers;
    atomic_bool closing;
    atomic_int running;              /* handlers */
    atomic_int busy;                 /* requests from their handler's start until their answer has left */
};

/* A connection: what the library keeps for us from its start to its end. */
struct link {
    struct rf_peer *peer;
    struct exchange *unfinished; /* begun, and on_completed() has not been called */
};

struct exchange {
    struct rf_call call;             /* first: handlers hold its address */
    struct rf_http *http;
    struct MHD_Connection *connection;
    struct link *link;
    struct rf_peer *peer;
    int fd;
    bool begun, suspended, busy;
    double begun_s;                  /* when its headers were whole */
    bool unclear;                    /* headers_are_clear() said no */
    void (*then)(struct rf_call *c); /* what goes on after a suspension; at first the route's handler */
    struct { bool set; struct rf_err err; } query_failure;
    int64_t body_seen;
    size_t body_room;
    int status;                      /* 0: no answer yet */
    struct MHD_Response *response;
    const char *type;
    struct { const char *name; char *value; } header[RF_CALL_HEADERS];
    int n_headers;
    rf_stream_read stream_read;
    bool stream_sleeps;
};

static inline struct exchange *exchange_of(struct rf_call *c)
{
    return (struct exchange *)c;
}

#endif
