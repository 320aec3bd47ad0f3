/* Local workers: started, restarted with a growing pause when they die, stopped with the server.
 *
 * A worker outlives a server that is killed: it keeps rendering and delivers to the next one (design part 2, promise 5). So
 * there is no PR_SET_PDEATHSIG here. DATA/workers/<slot>.pid holds each one's process id and start time; a supervisor that
 * finds the very same process alive adopts it and starts no second one beside it. An adopted worker is no child of ours:
 * its end is noticed by looking (once a second) instead of being told.
 * Main thread only.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_SUPERVISOR_H
#define RF_SERVER_SUPERVISOR_H

#include "schema/err.h"

#include <sys/types.h>

struct rf_config;
struct rf_supervisor;

/* Hears of a worker whose process has ended, from rf_supervisor_tick(). */
struct rf_supervisor_listener {
    void (*ended)(void *ctx, const char *name, pid_t pid, const char *how);
    void *ctx;
};

/* Decides how many workers there shall be and on what; starts none yet.
 *   RF_ERR_NOT_FOUND  workers are wanted and there is no framefarm-worker, neither beside us nor on PATH
 *   RF_ERR_IO         DATA/workers cannot be made */
enum rf_code rf_supervisor_create(const struct rf_config *config, int port, const char *token_file,
                                  const struct rf_supervisor_listener *listener, struct rf_supervisor **ret_supervisor,
                                  struct rf_err *err);
void rf_supervisor_destroy(struct rf_supervisor **supervisor);

/* Adopts, starts, restarts, reaps: call it about once a second. now_ms: of a clock that never jumps. */
void rf_supervisor_tick(struct rf_supervisor *supervisor, int64_t now_ms);

/* SIGTERM to all: they hand back what they hold and leave. Nothing is restarted any more. */
void rf_supervisor_stop(struct rf_supervisor *supervisor);
/* How many still live. */
int rf_supervisor_n_alive(struct rf_supervisor *supervisor);
/* SIGKILL to those. */
void rf_supervisor_kill(struct rf_supervisor *supervisor);

/* GPUs found by their device nodes; the server links no driver library. `root` is "" outside of tests. */
int rf_supervisor_count_gpus(const char *root);

#endif
