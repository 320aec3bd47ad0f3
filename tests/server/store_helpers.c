/* See store_helpers.h. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void count_event(void *ctx, const struct rf_event *event)
{
    ((struct farm *)ctx)->n_events[event->kind]++; /* writer thread; read only after a blocking call */
}

static void must_open(struct farm *f)
{
    struct rf_err err = {0};
    f->config.now_ms = f->now;
    if (rf_store_open(&f->config, &f->s, &err) != RF_OK)
        fail_msg("open: %s", err.msg);
}

struct farm *farm_create_with(void (*configure)(struct rf_store_config *config))
{
    struct farm *f = rf_new(struct farm);
    const char *tmp = getenv("TMPDIR");
    snprintf(f->dir, sizeof f->dir, "%.40s/framefarm-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->db, sizeof f->db, "%s/farm.db", f->dir);
    f->now = 1000000;
    f->config = (struct rf_store_config){.path = f->db, .on_event = count_event, .event_ctx = f};
    if (configure != NULL)
        configure(&f->config);
    must_open(f);
    return f;
}

struct farm *farm_create(void)
{
    return farm_create_with(NULL);
}

void farm_reopen(struct farm *f)
{
    rf_store_destroy(&f->s);
    must_open(f);
}

void farm_destroy(struct farm **address)
{
    struct farm *f = *address;
    if (f == NULL)
        return;
    rf_store_destroy(&f->s);
    RF_AUTO(rf_free) char *command = rf_asprintf("rm -rf '%s'", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    *address = NULL;
}

struct rf_request *farm_request(const char *prompt, const char *user, int n_frames)
{
    struct rf_request *r = rf_request_create();
    free(r->prompt);
    r->prompt = rf_strdup(prompt);
    snprintf(r->user, sizeof r->user, "%s", user);
    r->n_frames = n_frames;
    r->given = UINT32_C(1) << RF_FIELD_PROMPT | UINT32_C(1) << RF_FIELD_NUM_FRAMES;
    struct rf_model_defaults m = {.name = "m", .width = 64, .height = 64};
    struct rf_err err = {0};
    if (rf_request_resolve(r, &m, 42, NULL, NULL, &err) != RF_OK)
        fail_msg("resolve: %s", err.msg);
    return r;
}

static char *next_buffer(void)
{
    static char buffers[16][48];
    static int at;
    return buffers[at++ % 16];
}

const char *farm_submit(struct farm *f, const char *user, int n_frames, int priority)
{
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("a red circle", user, n_frames);
    struct rf_err err = {0};
    char *id = next_buffer();
    r->priority = priority;
    if (rf_store_submit(f->s, r, f->now, id, &err) != RF_OK)
        fail_msg("submit: %s", err.msg);
    return id;
}

static const char *register_worker(struct farm *f, const char *name, const char *model, char hash,
                                   int max_segment_frames, int64_t pid)
{
    char digits[65] = "";
    if (hash != 0)
        memset(digits, hash, 64);
    struct rf_wire_model m = {.name = (char *)model, .hash = digits, .takes_text = true,
                              .max_segment_frames = max_segment_frames};
    struct rf_wire_register reg = {.protocol = RF_PROTOCOL, .name = (char *)name, .build = "test", .host = "here",
                                   .device_kind = "cpu", .precision = "f32", .models = &m, .n_models = 1, .pid = pid};
    struct rf_err err = {0};
    char *id = next_buffer();
    if (rf_store_register(f->s, &reg, f->now, id, &err) != RF_OK)
        fail_msg("register: %s", err.msg);
    return id;
}

const char *farm_worker(struct farm *f, const char *name, char hash)
{
    return register_worker(f, name, "m", hash, 81, 0);
}

const char *farm_worker_with(struct farm *f, const char *name, const char *model, char hash, int max_segment_frames)
{
    return register_worker(f, name, model, hash, max_segment_frames, 0);
}

const char *farm_worker_process(struct farm *f, const char *name, char hash, int64_t pid)
{
    return register_worker(f, name, "m", hash, 81, pid);
}

enum rf_code farm_try_claim(struct farm *f, const char *worker, struct rf_wire_lease *ret_lease)
{
    return rf_store_claim(f->s, worker, f->now, ret_lease, NULL);
}

struct rf_wire_lease farm_claim(struct farm *f, const char *worker)
{
    struct rf_wire_lease lease = {0};
    struct rf_err err = {0};
    if (rf_store_claim(f->s, worker, f->now, &lease, &err) != RF_OK)
        fail_msg("claim: %s", err.msg);
    return lease;
}

static void put(struct farm *f, const struct rf_wire_lease *lease, const char *name)
{
    static int serial;
    struct rf_file file = {.size_bytes = 1, .created_ms = f->now};
    snprintf(file.name, sizeof file.name, "%s", name);
    snprintf(file.disk_name, sizeof file.disk_name, "%013d-%s", ++serial, name);
    memset(file.sha256, 'a', 64);
    assert_int_equal(rf_store_put_file(f->s, lease->task_id, lease->lease, &file, f->now, NULL), RF_OK);
}

void farm_put_outputs(struct farm *f, const struct rf_wire_lease *lease)
{
    char name[48];
    if (lease->kind == RF_TASK_ASSEMBLE) {
        put(f, lease, "video.mp4");
        put(f, lease, "thumbnail.webp");
        return;
    }
    snprintf(name, sizeof name, "segment-%d.mp4", lease->index);
    put(f, lease, name);
    snprintf(name, sizeof name, "last-%d.png", lease->index);
    if (lease->index + 1 < lease->n_segments)
        put(f, lease, name);
}

static enum rf_code report(struct farm *f, const struct rf_wire_lease *lease, struct rf_wire_report *r)
{
    struct rf_wire_timing timings[] = {{"high_noise", 0, f->now, 1.5}, {"high_noise", 1, f->now, 0.5},
                                       {"decode", -1, f->now, 0.25}};
    char *notes[] = {"a note"};
    r->lease = lease->lease;
    strcpy(r->worker_id, "worker_00000000000000000000000000");
    r->timings = timings;
    r->n_timings = 3;
    r->notes = notes;
    r->n_notes = 1;
    return rf_store_report(f->s, lease->task_id, r, f->now, NULL);
}

enum rf_code farm_complete(struct farm *f, const struct rf_wire_lease *lease)
{
    struct rf_wire_report r = {.kind = RF_REPORT_COMPLETE, .result = {162, 64, 64, 32, 5.0625, NAN}};
    return report(f, lease, &r);
}

enum rf_code farm_fail(struct farm *f, const struct rf_wire_lease *lease, const char *code, bool retryable)
{
    struct rf_wire_report r = {.kind = RF_REPORT_FAIL, .message = (char *)"it broke", .retryable = retryable};
    snprintf(r.code, sizeof r.code, "%s", code);
    return report(f, lease, &r);
}

enum rf_code farm_release(struct farm *f, const struct rf_wire_lease *lease)
{
    struct rf_wire_report r = {.kind = RF_REPORT_RELEASE};
    return report(f, lease, &r);
}

enum rf_code farm_heartbeat(struct farm *f, const struct rf_wire_lease *lease, bool *ret_cancel)
{
    struct rf_wire_heartbeat m = {.worker_id = "worker_00000000000000000000000000", .lease = lease->lease,
                                  .stage = "low_noise", .step = 1, .steps = 2, .fraction = 0.5};
    return rf_store_heartbeat(f->s, lease->task_id, &m, f->now, ret_cancel, NULL);
}

int farm_finish_job(struct farm *f, const char *worker)
{
    for (int n = 1;; n++) {
        struct rf_wire_lease lease = farm_claim(f, worker);
        farm_put_outputs(f, &lease);
        assert_int_equal(farm_complete(f, &lease), RF_OK);
        bool last = lease.kind == RF_TASK_ASSEMBLE;
        rf_wire_lease_finish(&lease);
        if (last)
            return n;
    }
}

struct rf_job *farm_job(struct farm *f, const char *id)
{
    struct rf_job *job = NULL;
    struct rf_err err = {0};
    if (rf_store_get(f->s, id, RF_WITH_ALL, &job, &err) != RF_OK)
        fail_msg("get %s: %s", id, err.msg);
    return job;
}

enum rf_job_state farm_state(struct farm *f, const char *id)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    return job->state;
}

void farm_tick(struct farm *f, int64_t ms_later)
{
    f->now += ms_later;
    assert_int_equal(rf_store_tick(f->s, f->now, NULL, NULL), RF_OK);
}
