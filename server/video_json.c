/* Video, Worker and Queue objects; see video_json.h. Held against openapi.yaml by tests/http/test_openapi.py.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/video_json.h"

#include "server/app.h"

#include <stdio.h>
#include <string.h>

const char *rf_video_status(enum rf_job_state state)
{
    switch (state) {
    case RF_JOB_QUEUED:
        return "queued";
    case RF_JOB_IN_PROGRESS:
        return "in_progress";
    case RF_JOB_COMPLETED:
        return "completed";
    case RF_JOB_FAILED:
    case RF_JOB_CANCELLED:
    case RF_JOB_STATE_COUNT:
        break;
    }
    return "failed";
}

static void seconds_or_null(struct rf_out *t, const char *key, int64_t ms)
{
    if (ms > 0)
        rf_json_int(t, key, ms / 1000);
    else
        rf_json_null(t, key);
}

static const struct rf_file *find_file(const struct rf_job *job, const char *name)
{
    for (int i = 0; i < job->n_files; i++)
        if (strcmp(job->files[i].name, name) == 0)
            return &job->files[i];
    return NULL;
}

static bool is_over(const struct rf_job *job)
{
    return job->state != RF_JOB_QUEUED && job->state != RF_JOB_IN_PROGRESS;
}

static void stock_keys(struct rf_out *t, const struct rf_job *job)
{
    const struct rf_request *r = job->request;
    rf_json_str(t, "id", job->id[0] ? job->id : NULL);
    rf_json_str(t, "object", "video");
    rf_json_str(t, "model", r->model);
    rf_json_str(t, "status", rf_video_status(job->state));
    /* 100 is for what can be downloaded: clients stop polling on it. */
    int percent = job->state == RF_JOB_COMPLETED ? 100 : (int)(job->progress * 100);
    rf_json_int(t, "progress", percent > 99 && job->state != RF_JOB_COMPLETED ? 99 : percent);
    rf_json_int(t, "created_at", job->created_ms / 1000);
    seconds_or_null(t, "completed_at", job->state == RF_JOB_COMPLETED ? job->finished_ms : 0);
    seconds_or_null(t, "expires_at", job->expires_ms);
    rf_json_str(t, "prompt", r->prompt);
    char text[40];
    snprintf(text, sizeof text, "%dx%d", r->width, r->height);
    rf_json_str(t, "size", text);
    /* The length of the file, not the length asked for: 10 s becomes 161 frames, which last 10.0625 s. */
    snprintf(text, sizeof text, "%.6g", (double)r->n_frames / RF_MODEL_FPS);
    rf_json_str(t, "seconds", text);
    rf_json_str(t, "remixed_from_video_id", job->remixed_from);
    if (job->error_code == NULL && job->state != RF_JOB_CANCELLED) {
        rf_json_null(t, "error");
        return;
    }
    rf_json_open(t, "error", '{');
    rf_json_str(t, "code", job->error_code ? job->error_code : "cancelled");
    rf_json_str(t, "message", job->error_message ? job->error_message : "cancelled");
    rf_json_close(t, '}');
}

static void put_loras(struct rf_out *t, const struct rf_request *r)
{
    if (r->n_loras == 0 && !r->no_loras) {
        rf_json_null(t, "loras");
        return;
    }
    rf_json_open(t, "loras", '[');
    for (int i = 0; i < r->n_loras; i++) {
        rf_json_open(t, NULL, '{');
        rf_json_str(t, "name", r->lora[i].name);
        rf_json_num(t, "strength", r->lora[i].strength);
        rf_json_close(t, '}');
    }
    rf_json_close(t, ']');
}

static void request_keys(struct rf_out *t, const struct rf_job *job, const struct rf_plan *plan)
{
    const struct rf_request *r = job->request;
    rf_json_int(t, "width", r->width);
    rf_json_int(t, "height", r->height);
    rf_json_int(t, "num_frames", r->n_frames);
    rf_json_int(t, "fps", r->fps);
    rf_json_int(t, "num_frames_out", plan->n_frames_out);
    rf_json_int(t, "seed", r->seed);
    rf_json_int(t, "num_inference_steps", r->n_steps);
    rf_json_int(t, "switch_step", r->switch_step);
    rf_json_num(t, "flow_shift", r->flow_shift);
    rf_json_num(t, "guidance_scale", r->guidance_scale);
    rf_json_num(t, "guidance_scale_2", r->guidance_scale_2);
    rf_json_str(t, "negative_prompt", r->negative_prompt ? r->negative_prompt : "");
    put_loras(t, r);
    rf_json_int(t, "crf", r->crf);
    rf_json_str(t, "user", r->user[0] ? r->user : NULL);
    rf_json_int(t, "priority", job->priority);
    rf_json_bool(t, "has_input_reference", r->has_image);
}

static void segment_json(struct rf_out *t, const struct rf_job *job, const struct rf_plan *plan, int i)
{
    const struct rf_task *task = &job->tasks[i];
    rf_json_open(t, NULL, '{');
    rf_json_int(t, "index", i);
    rf_json_int(t, "num_frames", plan->segment[i].n_frames);
    rf_json_str(t, "state", rf_task_state_name(task->state));
    rf_json_str(t, "stage", task->stage[0] ? task->stage : NULL);
    rf_json_int(t, "step", task->step);
    rf_json_int(t, "steps", task->steps);
    rf_json_num(t, "fraction", task->state == RF_TASK_DONE ? 1.0 : task->fraction);
    rf_json_str(t, "worker", task->worker);
    rf_json_int(t, "attempt", task->attempt);
    rf_json_close(t, '}');
}

/* With its milliseconds: the page asks for a new picture when the number has changed. */
static void preview_key(struct rf_out *t, const struct rf_job *job)
{
    int64_t newest_ms = 0;
    for (int i = 0; i < job->n_files; i++)
        if (strncmp(job->files[i].name, "preview-", 8) == 0 && job->files[i].created_ms > newest_ms)
            newest_ms = job->files[i].created_ms;
    if (newest_ms > 0)
        rf_json_num(t, "preview_at", (double)newest_ms / 1000);
    else
        rf_json_null(t, "preview_at");
}

/* The stage of the task that runs; the joining of segments has no segment of its own to show it on. */
static const char *current_stage(const struct rf_job *job)
{
    if (is_over(job))
        return NULL;
    for (int i = 0; i < job->n_tasks; i++) {
        const struct rf_task *task = &job->tasks[i];
        if (task->state == RF_TASK_LEASED)
            return task->stage[0] ? task->stage : task->kind == RF_TASK_ASSEMBLE ? "assemble" : "load";
    }
    return NULL;
}

static void progress_keys(struct rf_out *t, const struct rf_job *job, const struct rf_plan *plan)
{
    rf_json_str(t, "state", rf_job_state_name(job->state));
    if (job->queue_position > 0)
        rf_json_int(t, "queue_position", job->queue_position);
    else
        rf_json_null(t, "queue_position");
    rf_json_bool(t, "nobody_can_run", job->nobody_can_run);
    seconds_or_null(t, "started_at", job->started_ms);
    seconds_or_null(t, "finished_at", job->finished_ms);
    seconds_or_null(t, "expected_start_at", job->expected_start_ms);
    seconds_or_null(t, "expected_end_at", job->expected_end_ms);
    if (job->expected_end_ms > 0)
        rf_json_num(t, "expected_error_seconds", (double)job->expected_error_ms / 1000);
    else
        rf_json_null(t, "expected_error_seconds");
    preview_key(t, job);
    rf_json_str(t, "stage", current_stage(job));
    rf_json_open(t, "segments", '[');
    for (int i = 0; i < plan->n_segments && i < job->n_tasks; i++)
        segment_json(t, job, plan, i);
    rf_json_close(t, ']');
}

/* The notes of all attempts whose work counts, as one list. They are stored as JSON arrays of strings. */
static void notes_json(struct rf_out *t, const struct rf_job *job)
{
    rf_json_open(t, "notes", '[');
    for (int i = 0; i < job->n_attempts; i++) {
        const char *notes = job->attempts[i].notes_text;
        size_t n = notes ? strlen(notes) : 0;
        if (job->attempts[i].outcome != RF_OUTCOME_DONE || n <= 2)
            continue;
        RF_AUTO(rf_free) char *inside = rf_strndup(notes + 1, n - 2);
        rf_json_raw(t, NULL, inside);
    }
    rf_json_close(t, ']');
}

static void history_keys(struct rf_out *t, const struct rf_job *job)
{
    rf_json_open(t, "stage_durations", '{');
    for (int i = 0; i < job->n_stages; i++)
        rf_json_num(t, job->stages[i].stage, job->stages[i].seconds);
    rf_json_close(t, '}');
    notes_json(t, job);
    rf_json_open(t, "attempts", '[');
    for (int i = 0; i < job->n_attempts; i++) {
        const struct rf_attempt *a = &job->attempts[i];
        if (a->outcome == RF_OUTCOME_DONE)
            continue;
        rf_json_open(t, NULL, '{');
        rf_json_int(t, "task", a->task);
        rf_json_int(t, "attempt", a->attempt);
        rf_json_str(t, "worker", a->worker);
        rf_json_str(t, "outcome", rf_outcome_name(a->outcome));
        rf_json_str(t, "code", a->code && a->code[0] ? a->code : NULL);
        rf_json_str(t, "message", a->message && a->message[0] ? a->message : NULL);
        seconds_or_null(t, "started_at", a->started_ms);
        seconds_or_null(t, "ended_at", a->ended_ms);
        rf_json_close(t, '}');
    }
    rf_json_close(t, ']');
    const struct rf_file *video = find_file(job, "video.mp4");
    if (video != NULL)
        rf_json_int(t, "size_bytes", video->size_bytes);
    else
        rf_json_null(t, "size_bytes");
    rf_json_str(t, "sha256", video ? video->sha256 : NULL);
    rf_json_raw(t, "made_with", job->made_with_text && job->made_with_text[0] ? job->made_with_text : NULL);
}

int rf_video_poll_after_ms(const struct rf_job *job, int64_t now_ms)
{
    if (job->expected_end_ms > 0) {
        int64_t tenth = (job->expected_end_ms - now_ms) / 10;
        return tenth < 500 ? 500 : tenth > 10000 ? 10000 : (int)tenth;
    }
    if (job->state == RF_JOB_IN_PROGRESS)
        return 1000;
    return job->queue_position <= 1 ? 1000 : job->queue_position < 10 ? 2000 : 5000;
}

void rf_video_json(struct rf_out *t, const char *key, const struct rf_job *job)
{
    struct rf_plan plan = {0};
    if (rf_request_plan(job->request, &plan, NULL) != RF_OK)
        plan.n_segments = 0;
    rf_json_open(t, key, '{');
    stock_keys(t, job);
    request_keys(t, job, &plan);
    progress_keys(t, job, &plan);
    history_keys(t, job);
    rf_json_close(t, '}');
}

static void gauge_keys(struct rf_out *t, const struct rf_wire_gauges *g, int64_t told_ms)
{
    if (g->memory_used_bytes >= 0)
        rf_json_int(t, "memory_used_bytes", g->memory_used_bytes);
    if (g->utilization >= 0)
        rf_json_num(t, "utilization", g->utilization);
    if (g->temperature_c >= 0)
        rf_json_num(t, "temperature_c", g->temperature_c);
    if (g->power_w >= 0)
        rf_json_num(t, "power_w", g->power_w);
    rf_json_int(t, "told_at", told_ms / 1000);
}

void rf_worker_json(struct rf_out *t, const char *key, const struct rf_worker *w)
{
    rf_json_open(t, key, '{');
    rf_json_str(t, "id", w->id);
    rf_json_str(t, "object", "worker");
    rf_json_str(t, "name", w->name);
    rf_json_str(t, "state", rf_worker_state_name(w->state));
    rf_json_str(t, "host", w->host);
    rf_json_int(t, "pid", w->pid);
    rf_json_str(t, "build", w->build);
    rf_json_open(t, "device", '{');
    rf_json_str(t, "kind", w->device_kind);
    rf_json_str(t, "name", w->device_name);
    rf_json_int(t, "memory_bytes", w->memory_bytes);
    rf_json_str(t, "precision", w->precision);
    if (w->gauges.told)
        gauge_keys(t, &w->gauges, w->gauges_ms);
    rf_json_close(t, '}');
    rf_json_raw(t, "models", w->models_text && w->models_text[0] ? w->models_text : "[]");
    rf_json_str(t, "task_id", w->task_id[0] ? w->task_id : NULL);
    rf_json_int(t, "tasks_done", w->n_done);
    rf_json_int(t, "tasks_failed", w->n_failed);
    seconds_or_null(t, "registered_at", w->registered_ms);
    seconds_or_null(t, "seen_at", w->seen_ms);
    rf_json_close(t, '}');
}

bool rf_worker_json_by_id(struct rf_out *t, struct rf_app *app, const char *id)
{
    RF_AUTO(rf_workers_destroy) struct rf_workers *all = NULL;
    rf_store_workers(app->store, &all);
    for (int i = 0; i < all->n_workers; i++)
        if (strcmp(all->workers[i].id, id) == 0) {
            rf_worker_json(t, NULL, &all->workers[i]);
            return true;
        }
    return false;
}

void rf_queue_json(struct rf_out *t, struct rf_app *app)
{
    struct rf_store_counts counts;
    rf_store_counts(app->store, &counts);
    rf_json_open(t, NULL, '{');
    rf_json_str(t, "object", "queue");
    rf_json_bool(t, "paused", counts.paused);
    rf_json_open(t, "jobs", '{');
    for (unsigned i = 0; i < RF_JOB_STATE_COUNT; i++)
        rf_json_int(t, rf_job_state_name((enum rf_job_state)i), counts.jobs[i]);
    rf_json_close(t, '}');
    rf_json_open(t, "last_hour", '{');
    for (unsigned i = RF_JOB_COMPLETED; i < RF_JOB_STATE_COUNT; i++)
        rf_json_int(t, rf_job_state_name((enum rf_job_state)i), counts.last_hour[i]);
    rf_json_close(t, '}');
    rf_json_int(t, "tasks_leased", counts.leased);
    rf_json_int(t, "workers", counts.n_workers);
    rf_json_open(t, "disk", '{');
    rf_json_bool(t, "low", counts.disk_low);
    rf_json_int(t, "free_bytes", counts.disk_free_bytes);
    rf_json_int(t, "floor_bytes", counts.disk_floor_bytes);
    rf_json_int(t, "reserved_bytes", counts.disk_reserved_bytes);
    rf_json_close(t, '}');
    rf_json_close(t, '}');
}
