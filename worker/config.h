/* The command line and the environment of framefarm-worker. A flag wins over its variable.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_CONFIG_H
#define RF_WORKER_CONFIG_H

#include "schema/err.h"
#include "worker/log.h"

struct rf_config {
    char *server, *models;        /* required, but not to list devices */
    char *device, *precision;     /* NULL: the engine chooses */
    char *attention;              /* NULL: exact */
    char *name;                   /* never NULL: "<host>-<device>" is filled in by main when it was not given */
    char *token;                  /* NULL: none */
    int64_t vram_bytes;           /* 0: all that is free */
    int n_threads;                /* 0: one per core */
    int drain_timeout_s;          /* how long SIGTERM waits for the renderer to let go */
    bool finish_on_term;          /* SIGTERM: finish the task at hand first */
    bool once, list_devices, help, version;
    enum rf_log_level log_level;
};

/* Reads flags and FRAMEFARM_… variables.
 *   env             getenv(), or a stand-in
 *   RF_ERR_INVALID  the message names the flag or variable
 *   RF_ERR_IO       the token file cannot be read */
enum rf_code rf_config_read(int argc, char *const *argv, char *(*env)(const char *name), struct rf_config *ret_config,
                            struct rf_err *err);
void rf_config_finish(struct rf_config *config);

/* "12G", "500M", "1073741824" (binary units) -> bytes; false when it is no such thing or over 1 PiB. */
bool rf_size_bytes_parse(const char *text, int64_t *ret_bytes);

extern const char rf_config_help[];

#endif
