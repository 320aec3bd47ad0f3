/* One HTTP connection to the server: kept alive, bounded in time, never redirected, TLS verified.
 *
 * It knows nothing of the farm's words; client.c does. A call either brings an answer, whatever its status, or an
 * error. One connection belongs to one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_FARM_HTTP_H
#define RF_WORKER_FARM_HTTP_H

#include "worker/digest.h"
#include "worker/stop.h"

struct rf_http;

/* Makes a connection object; nothing is sent yet. Texts are copied.
 *   base_url  "http://host:port" or "https://…", with or without a path in front of /farm
 *   token     NULL: none
 *   RF_ERR_INVALID  the URL is none of these */
enum rf_code rf_http_create(const char *base_url, const char *token, struct rf_http **ret_http, struct rf_err *err);
void rf_http_destroy(struct rf_http **http);

struct rf_http_call {
    const char *method;      /* "GET", "PUT", "POST" */
    const char *path;        /* from "/farm" on, escaped */
    const char *body;        /* NULL: none, or body_path */
    size_t body_bytes;
    const char *body_path;   /* a file as the body */
    const char *body_type;   /* its Content-Type; NULL: application/json */
    const char *body_sha256; /* sent as X-Content-SHA256; NULL: not sent */
    const char *save_path;   /* a 200's body goes into this file; NULL: into memory, at most RF_HTTP_MAX_ANSWER */
    int64_t timeout_ms;      /* of the whole call; 0: as long as bytes keep moving */
    struct rf_stop *stop;    /* raised: the call ends within a moment; NULL: nothing stops it */
};

#define RF_HTTP_MAX_ANSWER (16u << 20)

struct rf_http_answer {
    int status;
    char *body; /* with a zero byte behind it; NULL when it went to save_path */
    size_t body_bytes;
    char sha256[RF_SHA256_HEX];           /* of the bytes that came */
    char announced_sha256[RF_SHA256_HEX]; /* X-Content-SHA256; empty when absent */
};
void rf_http_answer_finish(struct rf_http_answer *answer);

/*   RF_ERR_IO         no (whole) answer came: not reachable, timed out, torn; the message says which
 *   RF_ERR_CANCELLED  the stop was raised */
enum rf_code rf_http_do(struct rf_http *http, const struct rf_http_call *call, struct rf_http_answer *ret_answer,
                        struct rf_err *err);

#endif
