/* One queue, one lock, a few threads; see offload.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/offload.h"

#include <pthread.h>

struct job {
    struct job *next;
    void (*work)(void *arg);
    void *arg;
};

struct rf_offload {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job *first, **last;
    bool ending;
    int n_threads;
    pthread_t thread[16];
};

static void *run(void *arg)
{
    struct rf_offload *o = arg;
    pthread_mutex_lock(&o->lock);
    for (;;) {
        while (o->first == NULL && !o->ending)
            pthread_cond_wait(&o->wake, &o->lock);
        struct job *job = o->first;
        if (job == NULL)
            break;
        o->first = job->next;
        if (o->first == NULL)
            o->last = &o->first;
        pthread_mutex_unlock(&o->lock);
        job->work(job->arg);
        free(job);
        pthread_mutex_lock(&o->lock);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

struct rf_offload *rf_offload_create(int n_threads)
{
    struct rf_offload *o = rf_new(struct rf_offload);
    RF_ASSERT(n_threads > 0 && n_threads <= (int)RF_COUNT_OF(o->thread));
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->wake, NULL);
    o->last = &o->first;
    for (o->n_threads = 0; o->n_threads < n_threads; o->n_threads++)
        RF_ASSERT(pthread_create(&o->thread[o->n_threads], NULL, run, o) == 0);
    return o;
}

void rf_offload_destroy(struct rf_offload **offload)
{
    struct rf_offload *o = *offload;
    if (o == NULL)
        return;
    pthread_mutex_lock(&o->lock);
    o->ending = true;
    pthread_cond_broadcast(&o->wake);
    pthread_mutex_unlock(&o->lock);
    for (int i = 0; i < o->n_threads; i++)
        pthread_join(o->thread[i], NULL);
    pthread_cond_destroy(&o->wake);
    pthread_mutex_destroy(&o->lock);
    free(o);
    *offload = NULL;
}

void rf_offload_run(struct rf_offload *o, void (*work)(void *arg), void *arg)
{
    struct job *job = rf_new(struct job);
    job->work = work;
    job->arg = arg;
    pthread_mutex_lock(&o->lock);
    *o->last = job;
    o->last = &job->next;
    pthread_cond_signal(&o->wake);
    pthread_mutex_unlock(&o->lock);
}
