/* What store_expect.c (forecasts) and store_learn.c (kinds of workers, what they took) share.
 *
 * Locks: the store's lock covers queue, workers, forecast and what waits to be learned; curves_lock covers the curves
 * and the kinds. They are never held together, so that a reader who computes keeps no writer waiting.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_EXPECT_PRIVATE_H
#define RF_SERVER_STORE_EXPECT_PRIVATE_H

#include "server/eta_queue.h"
#include "server/store_expect.h"

#define RF_MAX_UNLEARNED 512

/* Workers that registered the same device and models. Never freed before the store, so others may point into it. */
struct rf_class {
    char *device_kind, *device_name, *precision;
    struct rf_class_model {
        char *name, *hash;
        int max_frames, weights;
    } *models;
    int n_models;
    int kind;                    /* rf_eta_kind(); -1: not looked up. Under curves_lock */
    int n_serving, n_idle;       /* as of the newest copy */
};

struct rf_lesson {
    struct rf_class *class;
    const char *model;
    struct rf_eta_work work;
    struct rf_eta_taken taken;
};

struct rf_forecast;

struct rf_expect {
    pthread_mutex_t curves_lock;
    struct rf_eta *curves;
    struct rf_class **classes;
    int n_classes, n_weights;
    struct rf_lesson lessons[RF_MAX_UNLEARNED]; /* a ring */
    int64_t n_lessons;           /* since they were last taken */
    uint64_t n_copies;
    bool busy;                   /* somebody is making the next one */
    bool wanted;                 /* somebody has looked at it since rf_store_forecast() */
    bool made_ahead;             /* somebody calls that */
    struct rf_forecast *forecast;
};

/* With the store's lock held: the class of this worker, and its model for a lane (NULL: it has none). */
struct rf_class *rf_class_of(struct rf_expect *e, struct rf_live_worker *w);
const struct rf_class_model *rf_class_model(const struct rf_class *c, const struct rf_lane *lane);
void rf_classes_free(struct rf_expect *e);
/* With curves_lock held. */
int rf_class_kind(struct rf_expect *e, struct rf_class *c);
void rf_expect_take_lessons(struct rf_expect *e, const struct rf_lesson *lessons, int n);

/* The job's task as the curves see it. */
struct rf_eta_work rf_expect_work(const struct rf_live_job *job);
int rf_expect_task_frames(const struct rf_live_job *job, int task);

#endif
