/* The pool: sleeping threads, one shared counter, a generation number per loop.
 *
 * A worker that wakes late finds the counter used up and goes back to sleep; the caller leaves only when every worker
 * has reported the current generation done, so the next loop never meets a straggler of the last one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define MAX_THREADS 256

struct rf_pool {
    int n_threads;
    int n_started; /* helper threads running: n_threads - 1 once created */
    pthread_t *threads;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    uint64_t generation; /* of the loop in progress; under lock, like the next three */
    int n_busy;
    bool quit;
    rf_pool_fn *fn;
    void *ctx;
    int64_t n_items;
    _Atomic int64_t next;
};

struct helper {
    struct rf_pool *pool;
    int worker;
};

static void drain(struct rf_pool *p, int worker)
{
    for (;;) {
        int64_t item = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (item >= p->n_items)
            return;
        p->fn(p->ctx, item, worker);
    }
}

static void *helper_main(void *arg)
{
    struct helper *h = arg;
    struct rf_pool *p = h->pool;
    int worker = h->worker;
    free(h);
    uint64_t seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->quit && p->generation == seen)
            pthread_cond_wait(&p->wake, &p->lock);
        if (p->quit)
            break;
        seen = p->generation;
        pthread_mutex_unlock(&p->lock);
        drain(p, worker);
        pthread_mutex_lock(&p->lock);
        if (--p->n_busy == 0)
            pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int cores_allowed(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}

enum rf_code rf_pool_create(int n_threads, struct rf_pool **ret_pool, struct rf_err *err)
{
    if (n_threads < 0 || n_threads > MAX_THREADS)
        return rf_fail(err, RF_ERR_INVALID, "n_threads is %d, allowed are 0 to %d", n_threads, MAX_THREADS);
    RF_AUTO(rf_pool_destroy) struct rf_pool *p = rf_new(struct rf_pool);
    p->n_threads = n_threads ? n_threads : cores_allowed();
    p->threads = rf_new_array(pthread_t, (size_t)p->n_threads);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    for (int i = 1; i < p->n_threads; i++) {
        struct helper *h = rf_new(struct helper);
        *h = (struct helper){p, i};
        if (pthread_create(&p->threads[p->n_started], NULL, helper_main, h) != 0) {
            free(h);
            return rf_fail(err, RF_ERR_NO_MEMORY, "cannot start thread %d of %d", i + 1, p->n_threads);
        }
        p->n_started++;
    }
    *ret_pool = p;
    p = NULL;
    return RF_OK;
}

void rf_pool_destroy(struct rf_pool **pool)
{
    struct rf_pool *p = *pool;
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
    *pool = NULL;
}

int rf_pool_n_threads(const struct rf_pool *pool)
{
    return pool->n_threads;
}

void rf_pool_run(struct rf_pool *p, int64_t n_items, rf_pool_fn *fn, void *ctx)
{
    if (n_items <= 1 || p->n_started == 0) {
        for (int64_t i = 0; i < n_items; i++)
            fn(ctx, i, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->fn = fn;
    p->ctx = ctx;
    p->n_items = n_items;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    p->n_busy = p->n_started;
    p->generation++;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    drain(p, 0);
    pthread_mutex_lock(&p->lock);
    while (p->n_busy > 0)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
