/* A farm without processes: a store in its own folder, workers and jobs by the line, and a clock that the test moves.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_TESTS_SERVER_STORE_HELPERS_H
#define RF_TESTS_SERVER_STORE_HELPERS_H

#include "server/files.h"
#include "server/store.h"

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdarg.h>

#include <cmocka.h>

struct farm {
    char dir[64], db[96];
    struct rf_store_config config;
    struct rf_store *s;
    int64_t now;                  /* ms; starts at 1,000,000 */
    int n_events[RF_EVENT_KIND_COUNT];
};

/* An open store with the defaults; config may be changed before farm_reopen(). */
struct farm *farm_create(void);
struct farm *farm_create_with(void (*configure)(struct rf_store_config *config));
void farm_reopen(struct farm *f);
void farm_destroy(struct farm **f);

/* A resolved request: 64x64, 4 steps, segments of 81. */
struct rf_request *farm_request(const char *prompt, const char *user, int n_frames);
/* Submits one; the id is in a static buffer that lives until the 16th next call. */
const char *farm_submit(struct farm *f, const char *user, int n_frames, int priority);
/* Registers a worker with one model "m" of weights `hash` (one hex digit repeated; 0: none said). Id as above. */
const char *farm_worker(struct farm *f, const char *name, char hash);
const char *farm_worker_process(struct farm *f, const char *name, char hash, int64_t pid);
const char *farm_worker_with(struct farm *f, const char *name, const char *model, char hash, int max_segment_frames);

/* Claims; fails the test when there is nothing. rf_wire_lease_finish() it. */
struct rf_wire_lease farm_claim(struct farm *f, const char *worker);
enum rf_code farm_try_claim(struct farm *f, const char *worker, struct rf_wire_lease *ret_lease);
/* Puts the rows of all files the task must leave. */
void farm_put_outputs(struct farm *f, const struct rf_wire_lease *lease);
enum rf_code farm_complete(struct farm *f, const struct rf_wire_lease *lease);
enum rf_code farm_fail(struct farm *f, const struct rf_wire_lease *lease, const char *code, bool retryable);
enum rf_code farm_release(struct farm *f, const struct rf_wire_lease *lease);
enum rf_code farm_heartbeat(struct farm *f, const struct rf_wire_lease *lease, bool *ret_cancel);
/* Claims, puts and completes until the job is done; how many tasks that took. */
int farm_finish_job(struct farm *f, const char *worker);

struct rf_job *farm_job(struct farm *f, const char *id);
enum rf_job_state farm_state(struct farm *f, const char *id);
void farm_tick(struct farm *f, int64_t ms_later);

#endif
