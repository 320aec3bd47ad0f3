/* A request to stop, shared between threads: why, and a wait that ends early when it comes.
 *
 * One stands for the process (SIGTERM), one for the task at hand (cancelled by the server, lease lost, handed back).
 * The first reason stays. Any thread may call anything here.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_STOP_H
#define RF_WORKER_STOP_H

#include <pthread.h>

#include "schema/base.h"

enum rf_stop_reason {
    RF_STOP_NONE,
    RF_STOP_CANCELLED, /* the server said so: report nothing more */
    RF_STOP_LOST,      /* our lease is not the task's any more: report nothing more */
    RF_STOP_DRAIN,     /* this worker goes: hand the task back */
    RF_STOP_COUNT
};

struct rf_stop {
    pthread_mutex_t lock;
    pthread_cond_t raised;
    enum rf_stop_reason reason;
};

void rf_stop_init(struct rf_stop *stop);
void rf_stop_finish(struct rf_stop *stop);
void rf_stop_raise(struct rf_stop *stop, enum rf_stop_reason reason);
enum rf_stop_reason rf_stop_reason(struct rf_stop *stop);

/* Sleeps for wait_ms or until the stop is raised (NULL: never); true when it is. */
bool rf_stop_wait(struct rf_stop *stop, int64_t wait_ms);

/* Milliseconds of the clock on the wall (what the wire speaks), seconds of the one that never jumps (durations). */
int64_t rf_now_ms(void);
double rf_monotonic_seconds(void);

#endif
