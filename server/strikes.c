/* See strikes.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/strikes.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>

#define N_PLACES 1024
#define N_PROBES 8

struct rf_strikes {
    pthread_mutex_t lock;
    struct { uint64_t address; int64_t first_ms; int n; } place[N_PLACES];
};

struct rf_strikes *rf_strikes_create(void)
{
    struct rf_strikes *s = rf_new(struct rf_strikes);
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void rf_strikes_destroy(struct rf_strikes **strikes)
{
    if (*strikes != NULL)
        pthread_mutex_destroy(&(*strikes)->lock);
    rf_free(strikes);
}

static uint64_t key_of(const char *text)
{
    unsigned char bytes[16] = {0};
    uint64_t key = 0;
    if (inet_pton(AF_INET6, text, bytes) != 1)
        inet_pton(AF_INET, text, bytes);
    memcpy(&key, bytes, sizeof key);
    return key;
}

int rf_strikes_add(struct rf_strikes *s, const char *address, int64_t now_ms)
{
    uint64_t key = key_of(address);
    size_t start = (size_t)((key ^ key >> 29) * 0x9E3779B97F4A7C15ULL >> 54), oldest = start;
    pthread_mutex_lock(&s->lock);
    size_t at = N_PLACES;
    for (size_t i = 0; i < N_PROBES && at == N_PLACES; i++) {
        size_t p = (start + i) % N_PLACES;
        if (s->place[p].n > 0 && s->place[p].address == key)
            at = p;
        else if (s->place[p].first_ms < s->place[oldest].first_ms)
            oldest = p;
    }
    if (at == N_PLACES || now_ms - s->place[at].first_ms >= RF_STRIKE_WINDOW_MS || now_ms < s->place[at].first_ms) {
        at = at == N_PLACES ? oldest : at;
        s->place[at].address = key;
        s->place[at].first_ms = now_ms;
        s->place[at].n = 0;
    }
    int n = ++s->place[at].n;
    pthread_mutex_unlock(&s->lock);
    return n;
}
