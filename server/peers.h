/* Slow clients: whom we await since when, and who is cut off for it.
 *
 * libmicrohttpd's timeout starts anew with every byte, so a client that sends a header byte now and then holds its
 * connection for ever. Here the clock runs from the last thing a client finished:
 *     from the connection, or the end of an answer, until the headers are complete    idle_ms
 *     for a body                                                                      idle_ms, and 1 s more per KiB
 * While we are the ones who owe (a handler, a long poll, a stream, an answer on its way) nobody is cut; a client that
 * takes no byte of its answer is libmicrohttpd's case. When three connections in four are taken, patience shrinks to a
 * fiftieth.
 *
 * Times are steady milliseconds, passed in. Any thread, except that one peer's calls come one at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_PEERS_H
#define RF_SERVER_PEERS_H

#include "schema/err.h"

struct rf_peers;
struct rf_peer;

struct rf_peers *rf_peers_create(int64_t idle_ms, int max_connections);
/* All peers have been removed. */
void rf_peers_destroy(struct rf_peers **peers);

/* A new connection: its headers are awaited. `fd` stays open until rf_peers_remove(), which frees the peer. */
struct rf_peer *rf_peers_add(struct rf_peers *peers, int fd, int64_t now_ms);
void rf_peers_remove(struct rf_peers *peers, struct rf_peer *peer);

void rf_peer_await_headers(struct rf_peer *peer, int64_t now_ms);
void rf_peer_await_body(struct rf_peer *peer, int64_t now_ms);
void rf_peer_await_nothing(struct rf_peer *peer);
/* `n` more bytes of the body came. */
void rf_peer_gave(struct rf_peer *peer, int64_t n);

/* Shuts the connections that are over their time, so that whoever owns them sees their end. How many. */
int rf_peers_cut_slow(struct rf_peers *peers, int64_t now_ms);

#endif
