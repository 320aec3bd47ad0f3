/* See peers.h. The list has a lock, taken once per connection and once per look; what a peer is at is atomic, so that a
 * request costs no lock.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/peers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define BODY_BYTES_PER_SECOND 1024
#define SHORT_OF_ROOM_MIN_MS 500

struct rf_peer {
    struct rf_peer *next, **link;
    int fd;
    bool cut;
    atomic_llong since_ms;        /* NOTHING: we owe */
    atomic_llong body_bytes;
};
#define NOTHING (-1LL)

struct rf_peers {
    pthread_mutex_t lock;
    struct rf_peer *first;
    int64_t idle_ms;
    int n, max_connections;
};

struct rf_peers *rf_peers_create(int64_t idle_ms, int max_connections)
{
    struct rf_peers *p = rf_new(struct rf_peers);
    pthread_mutex_init(&p->lock, NULL);
    p->idle_ms = idle_ms;
    p->max_connections = max_connections;
    return p;
}

void rf_peers_destroy(struct rf_peers **peers)
{
    if (*peers != NULL) {
        RF_ASSERT((*peers)->first == NULL);
        pthread_mutex_destroy(&(*peers)->lock);
    }
    rf_free(peers);
}

struct rf_peer *rf_peers_add(struct rf_peers *p, int fd, int64_t now_ms)
{
    struct rf_peer *peer = rf_new(struct rf_peer);
    peer->fd = fd;
    atomic_init(&peer->since_ms, now_ms);
    pthread_mutex_lock(&p->lock);
    peer->next = p->first;
    peer->link = &p->first;
    if (peer->next != NULL)
        peer->next->link = &peer->next;
    p->first = peer;
    p->n++;
    pthread_mutex_unlock(&p->lock);
    return peer;
}

void rf_peers_remove(struct rf_peers *p, struct rf_peer *peer)
{
    pthread_mutex_lock(&p->lock);
    *peer->link = peer->next;
    if (peer->next != NULL)
        peer->next->link = peer->link;
    p->n--;
    pthread_mutex_unlock(&p->lock);
    free(peer);
}

void rf_peer_await_headers(struct rf_peer *peer, int64_t now_ms)
{
    atomic_store_explicit(&peer->body_bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&peer->since_ms, now_ms, memory_order_relaxed);
}

void rf_peer_await_body(struct rf_peer *peer, int64_t now_ms)
{
    atomic_store_explicit(&peer->since_ms, now_ms, memory_order_relaxed);
}

void rf_peer_await_nothing(struct rf_peer *peer)
{
    atomic_store_explicit(&peer->since_ms, NOTHING, memory_order_relaxed);
}

void rf_peer_gave(struct rf_peer *peer, int64_t n)
{
    atomic_fetch_add_explicit(&peer->body_bytes, n, memory_order_relaxed);
}

int rf_peers_cut_slow(struct rf_peers *p, int64_t now_ms)
{
    int n = 0;
    pthread_mutex_lock(&p->lock);
    int64_t patience_ms = p->idle_ms;
    if (p->n > p->max_connections / 4 * 3)
        patience_ms = patience_ms / 50 > SHORT_OF_ROOM_MIN_MS ? patience_ms / 50 : SHORT_OF_ROOM_MIN_MS;
    for (struct rf_peer *peer = p->first; peer != NULL; peer = peer->next) {
        int64_t since_ms = atomic_load_explicit(&peer->since_ms, memory_order_relaxed);
        int64_t bytes = atomic_load_explicit(&peer->body_bytes, memory_order_relaxed);
        if (peer->cut || since_ms == NOTHING || now_ms - since_ms <= patience_ms + bytes * 1000 / BODY_BYTES_PER_SECOND)
            continue;
        peer->cut = true;
        shutdown(peer->fd, SHUT_RDWR);
        n++;
    }
    pthread_mutex_unlock(&p->lock);
    return n;
}
