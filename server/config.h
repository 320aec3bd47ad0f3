/* What the operator decides: flags, each also as FRAMEFARM_… in the environment; a flag wins over the environment.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_CONFIG_H
#define RF_SERVER_CONFIG_H

#include "schema/err.h"
#include "server/log.h"

#define RF_WORKERS_AUTO (-1)

struct rf_config {
    char *host;              /* "127.0.0.1", "::1", "0.0.0.0"; without brackets */
    int port;                /* 0: the kernel chooses */
    char *data_dir;
    char *models_dir;        /* NULL: the worker's own default */
    int n_workers;           /* local ones; RF_WORKERS_AUTO, 0: none */
    char *port_file;         /* NULL: none */
    char *web_dir;           /* NULL: the page that is compiled in */
    bool insecure_no_auth;   /* listen beyond loopback and ask nobody for a token */
    bool require_tokens;     /* ask for tokens on loopback, too: for a server behind a proxy */
    bool webhook_allow_private; /* webhooks may go to loopback and private addresses */
    int webhook_retry_ms;    /* the first pause before a webhook is sent again */
    int64_t min_free_bytes;  /* of disk; -1: the smaller of 1 GiB and 2 % */
    int64_t keep_bytes;      /* of finished jobs' files; 0: all */
    int keep_days;           /* files of finished jobs; 0: for ever */
    int forget_days;         /* the records of finished jobs; 0: never */
    bool trust_outputs;      /* see rf_store_config */
    int http_threads;
    int max_connections;
    int idle_seconds;        /* patience with a client that has something to send */
    int max_queued;          /* unfinished jobs */
    enum rf_log_level log_level;
};

enum rf_config_wish { RF_CONFIG_RUN, RF_CONFIG_HELP, RF_CONFIG_VERSION };

/* Reads argv over `env` (getenv-like: value or NULL) over the defaults.
 *   ret_config      finish with rf_config_finish(), after a failure too
 *   RF_ERR_INVALID  an unknown flag or a bad value; the message names it */
enum rf_code rf_config_read(int argc, char **argv, const char *(*env)(const char *name), struct rf_config *ret_config,
                            enum rf_config_wish *ret_wish, struct rf_err *err);
void rf_config_finish(struct rf_config *config);

/* Whether `host` is this machine only: 127.0.0.0/8, ::1 or "localhost". */
bool rf_config_is_loopback(const char *host);

/* The text of --help. */
extern const char rf_config_help[];

#endif
