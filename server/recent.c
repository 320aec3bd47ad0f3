/* A ring with a lock, searched backwards only when a client says that it repeats itself; see recent.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/recent.h"

#include <pthread.h>
#include <string.h>

#define N_ENTRIES 8192

struct rf_recent {
    pthread_mutex_t lock;
    uint64_t n; /* ever added */
    struct {
        uint8_t fingerprint[RF_FINGERPRINT_BYTES];
        int64_t now_ms;
        char id[RF_JOB_ID_SIZE];
    } entry[N_ENTRIES];
};

struct rf_recent *rf_recent_create(void)
{
    struct rf_recent *r = rf_new(struct rf_recent);
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void rf_recent_destroy(struct rf_recent **recent)
{
    if (*recent != NULL)
        pthread_mutex_destroy(&(*recent)->lock);
    rf_free(recent);
}

void rf_recent_add(struct rf_recent *r, const uint8_t *fingerprint, const char *id, int64_t now_ms)
{
    pthread_mutex_lock(&r->lock);
    uint64_t at = r->n++ % N_ENTRIES;
    memcpy(r->entry[at].fingerprint, fingerprint, RF_FINGERPRINT_BYTES);
    memcpy(r->entry[at].id, id, RF_JOB_ID_SIZE);
    r->entry[at].now_ms = now_ms;
    pthread_mutex_unlock(&r->lock);
}

bool rf_recent_find(struct rf_recent *r, const uint8_t *fingerprint, int64_t now_ms, char ret_id[RF_JOB_ID_SIZE])
{
    bool found = false;
    pthread_mutex_lock(&r->lock);
    uint64_t oldest = r->n > N_ENTRIES ? r->n - N_ENTRIES : 0;
    for (uint64_t i = r->n; i > oldest && !found; i--) {
        uint64_t at = (i - 1) % N_ENTRIES;
        found = now_ms - r->entry[at].now_ms <= RF_RECENT_MS &&
                memcmp(r->entry[at].fingerprint, fingerprint, RF_FINGERPRINT_BYTES) == 0;
        if (found)
            memcpy(ret_id, r->entry[at].id, RF_JOB_ID_SIZE);
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}
