/* A locked list and a thread. SPDX-License-Identifier: Apache-2.0 */
#include "server/writer.h"

#include <pthread.h>

struct rf_writer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct rf_op *first, **last;
    bool ending, idle;
    void (*run)(void *self, struct rf_op *ops);
    void *self;
};

static void *work(void *arg)
{
    struct rf_writer *w = arg;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        while (w->first == NULL && !w->ending) {
            w->idle = true;
            pthread_cond_wait(&w->filled, &w->lock);
        }
        w->idle = false;
        struct rf_op *ops = w->first;
        w->first = NULL;
        w->last = &w->first;
        pthread_mutex_unlock(&w->lock);
        if (ops == NULL)
            return NULL; /* ending, and the line is empty */
        w->run(w->self, ops);
    }
}

struct rf_writer *rf_writer_create(void (*run)(void *self, struct rf_op *ops), void *self)
{
    struct rf_writer *w = rf_new(struct rf_writer);
    w->run = run;
    w->self = self;
    w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->filled, NULL);
    RF_ASSERT(pthread_create(&w->thread, NULL, work, w) == 0);
    pthread_setname_np(w->thread, "store-writer");
    return w;
}

void rf_writer_destroy(struct rf_writer **writer)
{
    struct rf_writer *w = *writer;
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_signal(&w->filled);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->filled);
    pthread_mutex_destroy(&w->lock);
    free(w);
    *writer = NULL;
}

void rf_writer_post(struct rf_writer *w, struct rf_op *op)
{
    op->next_ = NULL;
    pthread_mutex_lock(&w->lock);
    *w->last = op;
    w->last = &op->next_;
    bool wake = w->idle; /* a busy thread looks by itself; the syscall is worth saving at 30,000 posts a second */
    w->idle = false;
    if (wake)
        pthread_cond_signal(&w->filled);
    pthread_mutex_unlock(&w->lock);
}

bool rf_writer_is_current(const struct rf_writer *w)
{
    return pthread_equal(w->thread, pthread_self());
}
