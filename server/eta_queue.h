/* The queue, played forward: when each job will start and end if nothing new comes.
 *
 * The same rules as in server/schedule.h (priority, fair share, a begun job first among its user's, age), on a copy of
 * the queue's front, with guesses in place of work. Workers that can do the same at the same pace are one class, so the
 * cost follows tasks and users, not workers. What the copy leaves out: that a task avoids the worker it failed on.
 *
 * Errors add up along the chain that a start depends on, as independent ones do: the root of the sum of their squares.
 *
 * Pure: no clock, no lock; times are seconds from the moment of the copy. NAN: not known.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_ETA_QUEUE_H
#define RF_SERVER_ETA_QUEUE_H

#include "server/eta.h"

/* What one class of workers makes of one lane of jobs. */
struct rf_queue_fit {
    int max_frames;              /* of a segment; 0: cannot run it */
    int weights;                 /* number of weights at a precision; segments of a job do not mix them */
};

struct rf_queue_job {
    int64_t row, turn;           /* who it is; its place among its user's */
    int priority, share, lane;   /* indices into the tables below */
    int weights;                 /* settled for; 0: not yet */
    int task, n_tasks;
    bool begun;
    int n_steps, max_segment_frames;
    struct rf_eta_work work;     /* of the whole clip; the tasks' own are made from it */
    double ready_s;              /* when it may be handed out: 0, or the end of its backoff */
    int class;                   /* that runs it now; -1: nobody */
    bool class_stays;            /* its worker takes another task afterwards (it is not draining) */
    struct rf_guess left;        /* of the running task; seconds NAN: unknown */
    /* Answers. */
    double start_s;              /* of the next task, NAN when it is under way */
    double end_s, error_s;       /* of the job; in four of five cases the end is end_s +- error_s */
};

struct rf_queue {
    struct rf_queue_job *jobs;
    int n_jobs;
    double *served;              /* [n_shares] work given to each user so far; changed by the run */
    int n_shares;
    int *n_idle;                 /* [n_classes] workers with nothing to do; changed by the run */
    int n_classes;
    struct rf_queue_fit *fit;    /* [n_classes * n_lanes]; lane 0 is anybody's: assembling */
    int n_lanes;
    bool paused;                 /* nothing is handed out */
    int max_tasks;               /* give up after so many, what is left stays unknown; 0: no limit */
    /* How long a task takes on a class; false: unknown. job->task says which one. */
    bool (*guess)(void *ctx, int class, const struct rf_queue_job *job, struct rf_guess *ret);
    void *ctx;
    /* Answers. */
    double *starts;              /* rf_new_array, [n_jobs]: when waiting jobs got their first worker, in order */
    int n_starts;
    bool cut;                    /* max_tasks was reached */
    double free_s;               /* first moment at which a worker found nothing to do, NAN: never */
};

void rf_queue_run(struct rf_queue *q);
/* Frames of the task at job->task, as schema/plan.h splits them; of the whole clip for the last, assembling one. */
int rf_queue_task_frames(const struct rf_queue_job *job);

#endif
