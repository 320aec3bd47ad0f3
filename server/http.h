/* One HTTP request and its answer, as handlers see them. Only http.c and http_answer.c know libmicrohttpd: should issue
 * or measurement ask for another way to speak HTTP, they are all that changes.
 *
 * A request is handled on one of a few event-loop threads, which must never wait. A handler either answers at once or
 * suspends: rf_call_suspend(), then from any thread, later, one answer and rf_call_resume(). A suspended request
 * costs memory and a socket, no thread; ten thousand waiting workers are fine.
 *
 * The answer is complete or absent: status, headers and body are set by one rf_answer_…() call, headers may be added
 * before it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_HTTP_H
#define RF_SERVER_HTTP_H

#include "schema/err.h"
#include "server/histogram.h"
#include "server/params.h"
#include "server/token.h"

#include <stdatomic.h>

enum rf_method { RF_GET, RF_HEAD, RF_POST, RF_PUT, RF_DELETE, RF_METHOD_OTHER, RF_METHOD_COUNT };

/* What a route does with the body of a request. */
enum rf_body {
    RF_BODY_NONE,   /* read and thrown away, up to a bound */
    RF_BODY_WHOLE,  /* collected in memory up to the route's limit, then handed over */
    RF_BODY_STREAM, /* given to the sink piece by piece as it arrives */
};

#define RF_CALL_PARAMS 2
#define RF_CALL_PARAM_BYTES 96
#define RF_CALL_HEADERS 12

struct rf_call;

struct rf_route {
    enum rf_method method;     /* RF_GET answers HEAD too */
    enum rf_role role;
    const char *pattern;       /* "/v1/videos/{id}/content": a {…} takes one segment, decoded, into param[] */
    void (*handle)(struct rf_call *c);  /* the body is complete */
    enum rf_body body;
    int64_t max_body_bytes;
    /* STREAM only, optional: headers and query are known, c->sink may be set. Answering here refuses the body. */
    void (*begin)(struct rf_call *c);
    bool by_ticket;            /* a signed ?ticket= does instead of a token: for what a browser fetches by itself (auth.h) */
};

/* Takes the next piece of a streamed body. A failure becomes the answer (unless the sink set one), given
 * once the body has passed by; the sink is not called again. */
typedef enum rf_code (*rf_body_sink)(struct rf_call *c, const char *data, size_t n, struct rf_err *err);

/* The sink that collects into c->body, as RF_BODY_WHOLE does: for routes that choose by Content-Type.
 *   RF_ERR_NO_MEMORY  not now */
enum rf_code rf_call_collect(struct rf_call *c, const char *data, size_t n, struct rf_err *err);

struct rf_app;

struct rf_call {
    struct rf_app *app;
    const struct rf_route *route;
    enum rf_method method;
    char *path;                         /* as sent, without the query */
    char param[RF_CALL_PARAMS][RF_CALL_PARAM_BYTES];
    struct rf_params query;
    enum rf_role role;                  /* of the caller; see auth.h */
    struct rf_token_name token;         /* whose token it came with; both texts "" when none was needed */
    char id[20];                        /* x-request-id */
    char *body;                         /* WHOLE: NUL-terminated; NULL when empty */
    size_t body_n;
    rf_body_sink sink;
    bool delivered;                     /* told to free_state: the answer was handed to the network whole */
    void *state;                        /* the handler's own; goes with the request through free_state(&state) */
    void (*free_state)(void **state);
    void (*after_op)(struct rf_call *c); /* see store_call.h */
};

/* A request header, NULL when absent. Only on the request's own thread, before suspending. */
const char *rf_call_header(struct rf_call *c, const char *name);
const char *rf_call_content_type(struct rf_call *c);
/* Whether an answer is set already (by a sink, say, that failed). */
bool rf_call_is_answered(struct rf_call *c);
/* -1 when not announced. */
int64_t rf_call_content_length(struct rf_call *c);
/* Who calls, to tell one caller's repeated create from another's: the token's name, the client's address without one. */
void rf_call_caller(struct rf_call *c, char *to, size_t room);
/* The client's address as numbers; "" when unknown. */
void rf_call_address(struct rf_call *c, char *to, size_t room);
/* Whether the other side has closed its connection. Cheap; for answers that must not be spent on the dead. */
bool rf_call_is_gone(struct rf_call *c);

void rf_call_suspend(struct rf_call *c);
/* Exactly once per suspension. Any thread; `c` is not to be touched afterwards. With `then` NULL the answer is set already;
 * otherwise `then` is called on the request's own thread and answers (or suspends again): that keeps the store's writer
 * thread free of building answers. */
void rf_call_resume(struct rf_call *c, void (*then)(struct rf_call *c));

/* Adds a header to the coming answer. `name` is static, `value` is copied. */
void rf_answer_header(struct rf_call *c, const char *name, const char *value);
void rf_answer_header_printf(struct rf_call *c, const char *name, const char *format, ...) RF_PRINTF(3, 4);

/* `body` came from malloc() and now belongs to the answer. `type` is static. */
void rf_answer_take(struct rf_call *c, int status, const char *type, char *body, size_t n);
/* `body` outlives the server. */
void rf_answer_static(struct rf_call *c, int status, const char *type, const void *body, size_t n);
/* `n` bytes of an open file from `offset`; the descriptor belongs to the answer, sent with sendfile(). */
void rf_answer_file(struct rf_call *c, int status, const char *type, int fd, int64_t offset, int64_t n);
void rf_answer_empty(struct rf_call *c, int status);

/* A body without an end. `read` is called whenever the client can take bytes: it fills up to n and returns their number, 0
 * to sleep until rf_stream_wake(), RF_STREAM_END when it is over. It may be called on any loop thread, one at a time. */
#define RF_STREAM_END (-1)
typedef long (*rf_stream_read)(struct rf_call *c, char *to, size_t n);
void rf_answer_stream(struct rf_call *c, const char *type, rf_stream_read read);
/* Both under one lock of the caller's, which `read` holds as well while it decides to sleep: otherwise a wake could come
 * between the decision and the sleep and be lost. */
void rf_stream_sleep(struct rf_call *c);
void rf_stream_wake(struct rf_call *c);

/* The error object. `type` follows from the status; `param` and `code` may be NULL. */
void rf_answer_error(struct rf_call *c, int status, const char *param, const char *code, const char *format, ...)
    RF_PRINTF(5, 6);
/* From an rf_code: the status by the one table, the code's name, the message of `err`. */
void rf_answer_failed(struct rf_call *c, enum rf_code code, const char *param, const struct rf_err *err);

/* Requests that are fast or slow for the same reasons; for /metrics. */
enum rf_route_class {
    RF_CLASS_SUBMIT,             /* new jobs, single or by the batch: answered once they are on disk */
    RF_CLASS_STEER,              /* whatever else users and operators change */
    RF_CLASS_READ, RF_CLASS_CONTENT,
    RF_CLASS_LEASE,              /* a long poll: the wait for work is in it */
    RF_CLASS_HEARTBEAT,
    RF_CLASS_REPORT,             /* complete, fail, release; register and leave */
    RF_CLASS_TRANSFER,           /* files of tasks, up and down */
    RF_CLASS_PAGE,               /* the page's files, health, metrics */
    RF_CLASS_NONE,               /* refused before a route was found */
    RF_CLASS_COUNT
};
const char *rf_route_class_name(enum rf_route_class class);
extern const double rf_http_bounds[RF_HISTOGRAM_BOUNDS];

/* Counted for /metrics. */
struct rf_http_stats {
    struct rf_histogram duration[RF_CLASS_COUNT]; /* from whole headers to the answer's last byte; streams are left out */
    atomic_llong requests[RF_METHOD_COUNT][6]; /* by method and first digit of the status */
    atomic_llong bytes_in;
    atomic_llong cut;            /* connections of slow clients */
    atomic_int suspended;
    atomic_int connections;
};

struct rf_http;

struct rf_http_options {
    const char *host;
    int port;
    int n_threads, max_connections;
    int idle_seconds;            /* how long a client may take to say something whole; see peers.h */
    const struct rf_route *routes;
    size_t n_routes;
    struct rf_app *app;
};

/* Listens and begins to answer.
 *   RF_ERR_INVALID  no such host
 *   RF_ERR_IO       the address is taken or not ours; the message names it */
enum rf_code rf_http_start(const struct rf_http_options *options, struct rf_http **ret_http, struct rf_err *err);
int rf_http_port(const struct rf_http *http);
struct rf_http_stats *rf_http_stats(struct rf_http *http);
/* To be called now and then: cuts off clients that keep us waiting. */
void rf_http_cut_slow(struct rf_http *http);
/* Who connects from now on is hung up on; on connections that exist, requests that come from now on get 503. The address
 * stays taken until rf_http_stop(). */
void rf_http_close(struct rf_http *http);
/* After rf_http_close(): whether every request that was being handled has been answered, down to the last byte. */
bool rf_http_is_done(struct rf_http *http);
/* The least that rf_http_stop() needs: no handler runs and no request is suspended any more. */
bool rf_http_is_quiet(struct rf_http *http);
/* Ends all connections. It must be quiet, and streams have ended. */
void rf_http_stop(struct rf_http **http);

#endif
