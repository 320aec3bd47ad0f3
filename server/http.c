/* libmicrohttpd behind http.h: event-loop threads, connections, limits, bodies. What handlers ask and answer is in
 * http_answer.c; see http.h for the rules of suspending.
 *
 * What libmicrohttpd refuses by itself (no HTTP at all, headers over 16 KiB) it answers in its own words and closes the
 * connection; everything that reaches a route, or misses every route, gets our error object and an x-request-id.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/http_private.h"

#include "server/auth.h"
#include "server/log.h"
#include "server/router.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Room for one request's headers. Node's SDK sends about 700 bytes; 16 KiB takes any sane proxy's additions. */
#define CONNECTION_BYTES (16 * 1024)
#define MAX_DISCARD_BYTES (64LL << 20)
#define MAX_NO_BODY_BYTES (64 << 10)
#define FIRST_BODY_ROOM 4096

/* A commit takes milliseconds, a long poll up to 30 s. */
const double rf_http_bounds[RF_HISTOGRAM_BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};

/* ---- the life of a request ---- */

/* Good to a few milliseconds, and almost free. */
static int64_t steady_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static double steady_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static enum rf_method method_from(const char *word)
{
    static const char *const words[] = {"GET", "HEAD", "POST", "PUT", "DELETE"};
    for (unsigned i = 0; i < RF_COUNT_OF(words); i++)
        if (strcmp(word, words[i]) == 0)
            return (enum rf_method)i;
    return RF_METHOD_OTHER;
}

/* Called for every request line, before its headers are looked at. The address kept here is raw, so that paths and
 * queries are decoded once, strictly, by us. */

static void *on_request_line(void *cls, const char *uri, struct MHD_Connection *connection)
{
    struct rf_http *http = cls;
    struct exchange *x = rf_new(struct exchange);
    x->http = http;
    x->connection = connection;
    x->link = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    x->link->unfinished = x;
    x->peer = x->link->peer;
    x->call.app = http->app;
    size_t path_n = strcspn(uri, "?");
    x->call.path = rf_strndup(uri, path_n);
    if (uri[path_n] == '?') {
        enum rf_code rc = rf_params_parse(uri + path_n + 1, &x->call.query, &x->query_failure.err);
        x->query_failure.set = rc != RF_OK;
    }
    snprintf(x->call.id, sizeof x->call.id, "%08" PRIx64 "%08llx", http->id_prefix,
             atomic_fetch_add_explicit(&http->next_id, 1, memory_order_relaxed) & 0xffffffffULL);
    return x;
}

static void destroy_exchange(struct exchange *x)
{
    if (x->call.state != NULL && x->call.free_state != NULL)
        x->call.free_state(&x->call.state);
    if (x->response != NULL)
        MHD_destroy_response(x->response);
    for (int i = 0; i < x->n_headers; i++)
        free(x->header[i].value);
    rf_params_finish(&x->call.query);
    free(x->call.body);
    free(x->call.path);
    free(x);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **slot, enum MHD_RequestTerminationCode why)
{
    struct exchange *x = *slot;
    if (x == NULL)
        return;
    if (x->busy)
        atomic_fetch_sub(&x->http->busy, 1);
    x->call.delivered = why == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (x->call.delivered && x->begun && x->stream_read == NULL)
        rf_histogram_add(&x->http->stats.duration[rf_router_class(x->call.route)], rf_http_bounds, steady_s() - x->begun_s);
    rf_peer_await_headers(x->peer, steady_ms());
    x->link->unfinished = NULL;
    destroy_exchange(x);
    *slot = NULL;
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **slot, enum MHD_ConnectionNotificationCode code)
{
    struct rf_http *http = cls;
    bool started = code == MHD_CONNECTION_NOTIFY_STARTED;
    atomic_fetch_add_explicit(&http->stats.connections, started ? 1 : -1, memory_order_relaxed);
    if (started) {
        int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        struct link *link = rf_new(struct link);
        link->peer = rf_peers_add(http->peers, fd, steady_ms());
        *slot = link;
    } else {
        struct link *link = *slot;
        /* A query of thousands of parameters is refused by the library itself, which then never says on_completed(). It
         * ends the connection, too. */
        if (link->unfinished != NULL)
            destroy_exchange(link->unfinished);
        rf_peers_remove(http->peers, link->peer);
        free(link);
        *slot = NULL;
    }
}

/* Headers that decide where a body ends, who calls or what is meant. Given twice, we and a proxy before us might each
 * believe another one (request smuggling), so such a request is refused and its connection ends. */
static const char *const single_headers[] = {
    "Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Authorization", "Idempotency-Key", "Origin",
};
#define CONTENT_LENGTH_BIT (1u << 1)
#define TRANSFER_ENCODING_BIT (1u << 2)

struct header_count {
    unsigned seen;
    const char *twice;
};

static enum MHD_Result count_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct header_count *count = cls;
    for (unsigned i = 0; i < RF_COUNT_OF(single_headers); i++) {
        if ((name[0] | 0x20) != (single_headers[i][0] | 0x20) || strcasecmp(name, single_headers[i]) != 0)
            continue;
        if (count->seen & 1u << i)
            count->twice = single_headers[i];
        count->seen |= 1u << i;
    }
    return MHD_YES;
}

static bool headers_are_clear(struct exchange *x)
{
    struct header_count count = {0};
    const unsigned both = CONTENT_LENGTH_BIT | TRANSFER_ENCODING_BIT;
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, count_header, &count);
    if ((count.seen & both) == both)
        count.twice = "Content-Length beside Transfer-Encoding";
    if (count.twice == NULL)
        return true;
    x->unclear = true;
    rf_answer_header(&x->call, "Connection", "close");
    rf_answer_error(&x->call, 400, NULL, "duplicate_header", "%s: given twice, it could mean either", count.twice);
    return false;
}

/* Decides what can be decided from the headers: route, right to call, size of the body. */
static void begin(struct exchange *x, const char *method)
{
    struct rf_call *c = &x->call;
    c->method = method_from(method);
    x->fd = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    if (!headers_are_clear(x))
        return;
    char allowed[64];
    c->route = rf_router_find(x->http->routes, x->http->n_routes, c, allowed, sizeof allowed);
    if (!rf_auth_check(c))
        return;
    if (c->route == NULL && allowed[0] != '\0') {
        rf_answer_header(c, "Allow", allowed);
        rf_answer_error(c, 405, NULL, "method_not_allowed", "%.16s is not possible here; %s is", method, allowed);
        return;
    }
    if (c->route == NULL) {
        rf_answer_error(c, 404, NULL, "unknown_url", "there is nothing at '%.200s'", c->path);
        return;
    }
    if (x->query_failure.set) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &x->query_failure.err);
        return;
    }
    int64_t announced = rf_call_content_length(c);
    int64_t limit = c->route->body == RF_BODY_NONE ? MAX_NO_BODY_BYTES : c->route->max_body_bytes;
    if (announced > limit) {
        rf_answer_error(c, 413, NULL, "too_large", "the body has %" PRId64 " bytes, at most %" PRId64 " are taken here",
                        announced, limit);
        return;
    }
    if (c->route->begin != NULL)
        c->route->begin(c);
}

/* An error found before or while a body arrives is answered after it, so that the client reads it instead of a reset;
 * but not when the client waits for our word before it sends (Expect), has very much to send, or nobody can say where the
 * body ends. */
static bool answer_before_body(struct exchange *x)
{
    int64_t n = rf_call_content_length(&x->call);
    return x->unclear || rf_call_header(&x->call, MHD_HTTP_HEADER_EXPECT) != NULL || n > MAX_DISCARD_BYTES;
}

enum rf_code rf_call_collect(struct rf_call *c, const char *data, size_t n, struct rf_err *err)
{
    struct exchange *x = exchange_of(c);
    if (c->body_n + n + 1 > x->body_room) {
        int64_t announced = rf_call_content_length(c);
        size_t room = x->body_room ? x->body_room * 2 : FIRST_BODY_ROOM;
        if (x->body_room == 0 && announced > 0 && announced < FIRST_BODY_ROOM)
            room = (size_t)announced + 1;
        while (room < c->body_n + n + 1)
            room *= 2;
        char *grown = realloc(c->body, room); /* sized by a stranger: may fail */
        if (grown == NULL)
            return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a body of this size now");
        c->body = grown;
        x->body_room = room;
    }
    memcpy(c->body + c->body_n, data, n);
    c->body_n += n;
    c->body[c->body_n] = '\0';
    return RF_OK;
}

static enum MHD_Result take_body(struct exchange *x, const char *data, size_t n)
{
    struct rf_call *c = &x->call;
    x->body_seen += (int64_t)n;
    rf_peer_gave(x->peer, (int64_t)n);
    atomic_fetch_add_explicit(&x->http->stats.bytes_in, (long long)n, memory_order_relaxed);
    if (x->status != 0)
        return x->body_seen > MAX_DISCARD_BYTES ? MHD_NO : MHD_YES;
    int64_t limit = c->route->body == RF_BODY_NONE ? MAX_NO_BODY_BYTES : c->route->max_body_bytes;
    if (x->body_seen > limit) {
        rf_answer_error(c, 413, NULL, "too_large", "the body has more than the %" PRId64 " bytes that are taken here", limit);
        return MHD_YES;
    }
    rf_body_sink sink = c->route->body == RF_BODY_WHOLE ? rf_call_collect : c->sink;
    struct rf_err err = {0};
    enum rf_code rc = sink != NULL ? sink(c, data, n, &err) : RF_OK;
    if (rc != RF_OK && x->status == 0)
        rf_answer_failed(c, rc, NULL, &err);
    return MHD_YES;
}

static enum MHD_Result send_answer(struct exchange *x)
{
    RF_ASSERT(x->status != 0);
    rf_peer_await_nothing(x->peer);
    struct MHD_Response *response = x->response;
    MHD_add_response_header(response, "x-request-id", x->call.id);
    if (x->type != NULL)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, x->type);
    for (int i = 0; i < x->n_headers; i++)
        MHD_add_response_header(response, x->header[i].name, x->header[i].value);
    int family = x->status / 100;
    atomic_fetch_add_explicit(&x->http->stats.requests[x->call.method][family <= 5 ? family : 0], 1, memory_order_relaxed);
    rf_log(RF_LOG_DEBUG, "doing=answer request=%s path=%s status=%d", x->call.id, RF_QUOTE(x->call.path), x->status);
    return MHD_queue_response(x->connection, (unsigned)x->status, response);
}

/* Counts itself before it looks at `closing`, and a suspension counts itself before this count goes: so once a closing
 * server sees both at zero, nothing can be suspended any more. */
static void dispatch(struct exchange *x)
{
    atomic_fetch_add(&x->http->running, 1);
    if (!x->busy)
        atomic_fetch_add(&x->http->busy, 1);
    x->busy = true;
    void (*go_on)(struct rf_call *c) = x->suspended ? x->then : x->call.route->handle;
    if (!x->suspended && atomic_load(&x->http->closing)) {
        rf_answer_error(&x->call, 503, NULL, "stopping", "the server is being stopped; send again when it is back");
    } else {
        x->suspended = false;
        go_on(&x->call);
    }
    atomic_fetch_sub(&x->http->running, 1);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_n, void **slot)
{
    struct exchange *x = *slot;
    if (!x->begun) {
        x->begun = true;
        x->begun_s = steady_s();
        rf_peer_await_body(x->peer, steady_ms());
        begin(x, method);
        return x->status != 0 && answer_before_body(x) ? send_answer(x) : MHD_YES;
    }
    if (*data_n > 0) {
        enum MHD_Result result = take_body(x, data, *data_n);
        *data_n = 0;
        return result;
    }
    rf_peer_await_nothing(x->peer);
    if (x->status == 0) {
        dispatch(x);
        /* Suspended (again): the exchange belongs to whoever resumes it, and we are called once more after that. */
        if (x->suspended)
            return MHD_YES;
    }
    return send_answer(x);
}

/* ---- the listener ---- */

static RF_PRINTF(2, 0) void on_library_log(void *cls, const char *format, va_list args)
{
    char line[512];
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    rf_log(RF_LOG_DEBUG, "doing=http msg=%s", RF_QUOTE(line));
}

static void on_library_panic(void *cls, const char *file, unsigned line, const char *reason)
{
    rf_log(RF_LOG_ERROR, "doing=http at=%s:%u msg=%s", file, line, RF_QUOTE(reason));
    abort();
}

static enum rf_code open_listener(struct rf_http *http, const char *host, int port, struct rf_err *err)
{
    char service[8];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0)
        return rf_fail(err, RF_ERR_INVALID, "listen on '%s': %s", host, gai_strerror(rc));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    bool good = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 4096) == 0;
    int why = errno;
    freeaddrinfo(found);
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    if (!good || getsockname(fd, (struct sockaddr *)&address, &n) != 0) {
        if (fd >= 0)
            close(fd);
        return rf_fail(err, RF_ERR_IO, "listen on %s port %d: %s", host, port, strerror(good ? errno : why));
    }
    http->listen_fd = fd;
    http->port = ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                     : ((struct sockaddr_in *)&address)->sin_port);
    return RF_OK;
}

static enum MHD_Result may_connect(void *arg, const struct sockaddr *address, socklen_t length)
{
    struct rf_http *http = arg;
    return atomic_load(&http->closing) ? MHD_NO : MHD_YES;
}

enum rf_code rf_http_start(const struct rf_http_options *options, struct rf_http **ret_http, struct rf_err *err)
{
    struct rf_http *http = rf_new(struct rf_http);
    http->routes = options->routes;
    http->n_routes = options->n_routes;
    http->app = options->app;
    http->peers = rf_peers_create((int64_t)options->idle_seconds * 1000, options->max_connections);
    if (getrandom(&http->id_prefix, sizeof http->id_prefix, 0) < 0)
        http->id_prefix = (uint64_t)time(NULL);
    http->id_prefix &= 0xffffffff;
    enum rf_code rc = open_listener(http, options->host, options->port, err);
    if (rc != RF_OK) {
        rf_peers_destroy(&http->peers);
        free(http);
        return rc;
    }
    MHD_set_panic_func(on_library_panic, NULL);
    /* The library takes 0 for "no pool" and refuses a pool of one. */
    unsigned pool = options->n_threads > 1 ? (unsigned)options->n_threads : 0;
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_TURBO, 0, may_connect,
        http, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL, MHD_OPTION_LISTEN_SOCKET, http->listen_fd,
        MHD_OPTION_THREAD_POOL_SIZE, pool, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, http,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)options->idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (http->daemon == NULL) {
        close(http->listen_fd);
        rf_peers_destroy(&http->peers);
        free(http);
        return rf_fail(err, RF_ERR_IO, "start the HTTP threads: %s", strerror(errno));
    }
    *ret_http = http;
    return RF_OK;
}

int rf_http_port(const struct rf_http *http)
{
    return http->port;
}

struct rf_http_stats *rf_http_stats(struct rf_http *http)
{
    return &http->stats;
}

void rf_http_cut_slow(struct rf_http *http)
{
    int n = rf_peers_cut_slow(http->peers, steady_ms());
    atomic_fetch_add_explicit(&http->stats.cut, n, memory_order_relaxed);
}

void rf_http_close(struct rf_http *http)
{
    /* may_connect() hangs up on newcomers. MHD_quiesce_daemon() would have the system refuse them, but the library's loops
     * and its caller then both take the listener out of the same sets without a lock, and the second to do so finds it gone
     * and aborts the process (0.9.75). The listener closed here, while loops wait for it, would be no better. */
    atomic_store(&http->closing, true);
}

bool rf_http_is_done(struct rf_http *http)
{
    return atomic_load(&http->running) == 0 && atomic_load(&http->busy) == 0;
}

bool rf_http_is_quiet(struct rf_http *http)
{
    return atomic_load(&http->running) == 0 && atomic_load(&http->stats.suspended) == 0;
}

void rf_http_stop(struct rf_http **http)
{
    if (*http != NULL) {
        MHD_stop_daemon((*http)->daemon); /* closes the listener too */
        rf_peers_destroy(&(*http)->peers);
        free(*http);
    }
    *http = NULL;
}
