/* The live page's feed: GET /v1/events, server-sent events.
 *
 * The store tells what changed, by kind and id; a ring keeps the last few thousand of these. A client's stream walks the
 * ring and sends the state as it is when it is sent, so an entry that a newer one about the same id follows is skipped:
 * a slow client gets fewer, newer events, never an ever longer queue. Wakes are gathered (rf_events_flush, some ten times
 * a second), because ten thousand workers' heartbeats must not each wake every open page.
 *
 *     id: <epoch>-<number>     Last-Event-ID resumes behind it
 *     event: reset             the server was restarted, or the ring has moved on: read the lists again
 *     event: video             data: a Video            event: video.deleted   data: {"id"}
 *     event: worker            data: a Worker           event: queue           data: a Queue
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_EVENTS_H
#define RF_SERVER_EVENTS_H

#include "server/http.h"
#include "server/store.h"

#define RF_EVENTS_MAX_STREAMS 512

struct rf_events;

struct rf_events *rf_events_create(void);
void rf_events_destroy(struct rf_events **events);

/* The store's on_event; ctx is the struct rf_events. Short. */
void rf_events_push(void *ctx, const struct rf_event *event);

/* Wakes the streams that have something to send, and, every 15 s, all of them for a sign of life. Called by the main
 * loop. */
void rf_events_flush(struct rf_events *events, int64_t now_ms);

/* Ends all streams and lets no new one in. */
void rf_events_stop(struct rf_events *events);
int rf_events_n_streams(struct rf_events *events);

/* The route's handler. */
void rf_events_handle(struct rf_call *c);

#endif
