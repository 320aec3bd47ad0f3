/* The task at hand: what was leased, how far it is, what there is to report at its end. And the two kinds of work.
 *
 * The renderer's thread owns it; only the two stops and the reporter are shared with other threads.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_TASK_H
#define RF_WORKER_TASK_H

#include "worker/catalogue.h"
#include "worker/reports.h"
#include "worker/scratch.h"

struct rf_task {
    const struct rf_wire_lease *lease;
    const struct rf_request *request;
    struct rf_stop stop; /* leave off rendering: cancelled, lost, or handed back */
    struct rf_stop gone; /* report nothing more: cancelled or lost. Deliveries listen to this one, so that a finished
                            segment is still delivered while the worker leaves */
    struct rf_reporter *reporter;
    struct rf_wire_report *report; /* complete: gathers timings, notes and the result as we go */
};

void rf_task_init(struct rf_task *task, const struct rf_wire_lease *lease, const struct rf_request *request);
void rf_task_finish(struct rf_task *task);

/* Records a duration. Several of one part (step -1), such as two loads, become one. */
void rf_task_timing(struct rf_task *task, enum rf_part part, int step, int64_t started_at_ms, double seconds);
/* Keeps a note for the author; takes `note` over, NULL is nothing. */
void rf_task_note(struct rf_task *task, char *note);
/* Cuts `text` to max_bytes, and to what is UTF-8: a message that was cut inside a character, or that quotes a file name
 * in another encoding, must not make the server refuse the whole report. */
void rf_make_sendable(char *text, size_t max_bytes);

/* A clock around one part of the work. */
struct rf_stopwatch {
    int64_t started_at_ms;
    double started;
};
struct rf_stopwatch rf_stopwatch_start(void);
double rf_stopwatch_seconds(const struct rf_stopwatch *watch);

/* What the two kinds of work need from the process. */
struct rf_studio {
    struct rf_engine *engine;
    const struct rf_catalogue *catalogue;
    struct rf_link *link;
    struct rf_scratch *scratch;
    int n_threads;
    struct rf_model *model; /* the last one used, kept; NULL: none */
    char *model_key;        /* its files and LoRAs */
    struct rf_pace pace;
};
void rf_studio_drop_model(struct rf_studio *studio);

/* Renders, interpolates, encodes and uploads a segment. Fills task->report.
 *   RF_ERR_CANCELLED  task->stop was raised; its reason says why
 *   RF_ERR_CONFLICT, RF_ERR_NOT_FOUND  an upload was refused: the task is not ours any more (or its input is gone)
 *   others            as fit to be reported */
enum rf_code rf_segment_run(struct rf_studio *studio, struct rf_task *task, struct rf_err *err);

/* Joins a job's segments, makes its stills, uploads all. The same errors. */
enum rf_code rf_assemble_run(struct rf_studio *studio, struct rf_task *task, struct rf_err *err);

#endif
