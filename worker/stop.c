/* A flag with a condition variable on the monotonic clock; see stop.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/stop.h"

#include <errno.h>
#include <time.h>

void rf_stop_init(struct rf_stop *stop)
{
    stop->reason = RF_STOP_NONE;
    pthread_mutex_init(&stop->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* a clock set back must not make a wait last for hours */
    pthread_cond_init(&stop->raised, &attr);
    pthread_condattr_destroy(&attr);
}

void rf_stop_finish(struct rf_stop *stop)
{
    pthread_cond_destroy(&stop->raised);
    pthread_mutex_destroy(&stop->lock);
}

void rf_stop_raise(struct rf_stop *stop, enum rf_stop_reason reason)
{
    pthread_mutex_lock(&stop->lock);
    if (stop->reason == RF_STOP_NONE)
        stop->reason = reason;
    pthread_cond_broadcast(&stop->raised);
    pthread_mutex_unlock(&stop->lock);
}

enum rf_stop_reason rf_stop_reason(struct rf_stop *stop)
{
    pthread_mutex_lock(&stop->lock);
    enum rf_stop_reason reason = stop->reason;
    pthread_mutex_unlock(&stop->lock);
    return reason;
}

bool rf_stop_wait(struct rf_stop *stop, int64_t wait_ms)
{
    if (stop == NULL) {
        struct timespec pause = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000};
        while (nanosleep(&pause, &pause) != 0)
            ;
        return false;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += wait_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&stop->lock);
    while (stop->reason == RF_STOP_NONE && pthread_cond_timedwait(&stop->raised, &stop->lock, &until) != ETIMEDOUT)
        ;
    bool raised = stop->reason != RF_STOP_NONE;
    pthread_mutex_unlock(&stop->lock);
    return raised;
}

int64_t rf_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

double rf_monotonic_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
