/* The bookkeeping of a task; see task.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/task.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_NOTE_BYTES 500 /* of rf_wire_report */

void rf_task_init(struct rf_task *task, const struct rf_wire_lease *lease, const struct rf_request *request)
{
    *task = (struct rf_task){.lease = lease, .request = request, .report = rf_new(struct rf_wire_report)};
    task->report->kind = RF_REPORT_COMPLETE;
    task->report->result.colour_shift = NAN;
    rf_stop_init(&task->stop);
    rf_stop_init(&task->gone);
}

void rf_task_finish(struct rf_task *task)
{
    rf_reporter_finish(&task->reporter);
    rf_wire_report_destroy(&task->report);
    rf_stop_finish(&task->stop);
    rf_stop_finish(&task->gone);
}

void rf_task_timing(struct rf_task *task, enum rf_part part, int step, int64_t started_at_ms, double seconds)
{
    struct rf_wire_report *report = task->report;
    const char *name = rf_part_name(part);
    for (int i = 0; step < 0 && i < report->n_timings; i++)
        if (strcmp(report->timings[i].stage, name) == 0) {
            report->timings[i].seconds += seconds;
            return;
        }
    if (report->n_timings == RF_WIRE_MAX_TIMINGS)
        return; /* hundreds of steps: the first ones tell enough */
    report->timings = rf_realloc(report->timings, (size_t)report->n_timings + 1, sizeof *report->timings);
    struct rf_wire_timing *timing = &report->timings[report->n_timings++];
    *timing = (struct rf_wire_timing){.step = step, .started_at_ms = started_at_ms, .seconds = seconds};
    snprintf(timing->stage, sizeof timing->stage, "%s", name);
}

void rf_make_sendable(char *text, size_t max_bytes)
{
    size_t n = strlen(text);
    n = n < max_bytes ? n : max_bytes;
    for (size_t n_cut = 0; n_cut < 4 && n_cut <= n; n_cut++)
        if (rf_utf8_valid(text, n - n_cut, NULL)) {
            text[n - n_cut] = '\0';
            return;
        }
    text[n] = '\0';
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
}

void rf_task_note(struct rf_task *task, char *note)
{
    struct rf_wire_report *report = task->report;
    if (note == NULL)
        return;
    if (report->n_notes == RF_WIRE_MAX_NOTES) {
        free(note);
        return;
    }
    rf_make_sendable(note, MAX_NOTE_BYTES);
    report->notes = rf_realloc(report->notes, (size_t)report->n_notes + 1, sizeof *report->notes);
    report->notes[report->n_notes++] = note;
}

struct rf_stopwatch rf_stopwatch_start(void)
{
    return (struct rf_stopwatch){.started_at_ms = rf_now_ms(), .started = rf_monotonic_seconds()};
}

double rf_stopwatch_seconds(const struct rf_stopwatch *watch)
{
    return rf_monotonic_seconds() - watch->started;
}
