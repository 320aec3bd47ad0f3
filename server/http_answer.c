/* Handlers' side of a request: what they may ask about it, how they suspend it, how they answer. Nothing is sent here; the
 * answer is kept in the exchange until http.c queues it, so that it is complete or absent. See http.h for the rules.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/http_private.h"

#include "server/log.h"
#include "server/out.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* ---- what handlers ask ---- */

const char *rf_call_header(struct rf_call *c, const char *name)
{
    return MHD_lookup_connection_value(exchange_of(c)->connection, MHD_HEADER_KIND, name);
}

const char *rf_call_content_type(struct rf_call *c)
{
    return rf_call_header(c, MHD_HTTP_HEADER_CONTENT_TYPE);
}

int64_t rf_call_content_length(struct rf_call *c)
{
    const char *text = rf_call_header(c, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int64_t n = -1;
    return text != NULL && rf_parse_int(text, 0, INT64_MAX, &n) ? n : -1;
}

void rf_call_address(struct rf_call *c, char *to, size_t room)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange_of(c)->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    to[0] = '\0';
    if (info == NULL || info->client_addr == NULL)
        return;
    socklen_t n = info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (getnameinfo(info->client_addr, n, to, (socklen_t)room, NULL, 0, NI_NUMERICHOST) != 0)
        to[0] = '\0';
}

void rf_call_caller(struct rf_call *c, char *to, size_t room)
{
    if (c->token.name[0] != '\0')
        snprintf(to, room, "%s", c->token.name);
    else
        rf_call_address(c, to, room);
}

bool rf_call_is_gone(struct rf_call *c)
{
    char byte;
    ssize_t n = recv(exchange_of(c)->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

bool rf_call_is_answered(struct rf_call *c)
{
    return exchange_of(c)->status != 0;
}

void rf_call_suspend(struct rf_call *c)
{
    struct exchange *x = exchange_of(c);
    x->suspended = true;
    atomic_fetch_add(&x->http->stats.suspended, 1);
    MHD_suspend_connection(x->connection);
}

void rf_call_resume(struct rf_call *c, void (*then)(struct rf_call *c))
{
    struct exchange *x = exchange_of(c);
    RF_ASSERT(x->suspended && (x->status != 0) == (then == NULL));
    x->then = then;
    atomic_fetch_sub(&x->http->stats.suspended, 1);
    MHD_resume_connection(x->connection);
}

/* ---- answers ---- */

void rf_answer_header(struct rf_call *c, const char *name, const char *value)
{
    struct exchange *x = exchange_of(c);
    RF_ASSERT(x->n_headers < RF_CALL_HEADERS);
    x->header[x->n_headers].name = name;
    x->header[x->n_headers++].value = rf_strdup(value);
}

void rf_answer_header_printf(struct rf_call *c, const char *name, const char *format, ...)
{
    char value[512];
    va_list args;
    va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    va_end(args);
    rf_answer_header(c, name, value);
}

static void set_answer(struct rf_call *c, int status, const char *type, struct MHD_Response *response)
{
    struct exchange *x = exchange_of(c);
    RF_ASSERT(x->status == 0 && response != NULL);
    x->status = status;
    x->type = type;
    x->response = response;
}

void rf_answer_take(struct rf_call *c, int status, const char *type, char *body, size_t n)
{
    set_answer(c, status, type, MHD_create_response_from_buffer(n, body, MHD_RESPMEM_MUST_FREE));
}

void rf_answer_static(struct rf_call *c, int status, const char *type, const void *body, size_t n)
{
    set_answer(c, status, type, MHD_create_response_from_buffer(n, (void *)(uintptr_t)body, MHD_RESPMEM_PERSISTENT));
}

void rf_answer_file(struct rf_call *c, int status, const char *type, int fd, int64_t offset, int64_t n)
{
    set_answer(c, status, type, MHD_create_response_from_fd_at_offset64((uint64_t)n, fd, (uint64_t)offset));
}

void rf_answer_empty(struct rf_call *c, int status)
{
    rf_answer_static(c, status, NULL, "", 0);
}

static ssize_t read_stream(void *cls, uint64_t position, char *to, size_t n)
{
    struct exchange *x = cls;
    long got = x->stream_read(&x->call, to, n);
    return got == RF_STREAM_END ? MHD_CONTENT_READER_END_OF_STREAM : (ssize_t)got;
}

void rf_answer_stream(struct rf_call *c, const char *type, rf_stream_read read)
{
    struct exchange *x = exchange_of(c);
    x->stream_read = read;
    set_answer(c, 200, type, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_stream, x, NULL));
}

void rf_stream_sleep(struct rf_call *c)
{
    struct exchange *x = exchange_of(c);
    x->stream_sleeps = true;
    MHD_suspend_connection(x->connection);
}

void rf_stream_wake(struct rf_call *c)
{
    struct exchange *x = exchange_of(c);
    if (x->stream_sleeps) {
        x->stream_sleeps = false;
        MHD_resume_connection(x->connection);
    }
}

static const char *error_type(int status)
{
    if (status == 401)
        return "authentication_error";
    if (status == 403)
        return "permission_error";
    if (status == 429)
        return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

/* Stock clients silently send 408, 409, 429 and 5xx again, POST included. Here we say when that makes sense: a conflict
 * stays one, a defect stays one, a full disk does not empty itself within seconds; busy and broken-for-now pass. */
static void say_whether_to_retry(struct rf_call *c, int status)
{
    if (status == 409 || status == 500 || status == 501)
        rf_answer_header(c, "x-should-retry", "false");
    else if (status == 507) {
        rf_answer_header(c, "x-should-retry", "false");
        rf_answer_header(c, "Retry-After", "60");
    } else if (status == 429 || status == 503)
        rf_answer_header(c, "Retry-After", status == 429 ? "5" : "2");
}

void rf_answer_error(struct rf_call *c, int status, const char *param, const char *code, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    struct rf_out t = {0};
    rf_json_open(&t, NULL, '{');
    rf_json_open(&t, "error", '{');
    rf_json_str(&t, "message", message);
    rf_json_str(&t, "type", error_type(status));
    rf_json_str(&t, "param", param && *param ? param : NULL);
    rf_json_str(&t, "code", code);
    rf_json_close(&t, '}');
    rf_json_close(&t, '}');
    say_whether_to_retry(c, status);
    size_t n;
    char *body = rf_out_take(&t, &n);
    rf_answer_take(c, status, "application/json", body, n);
    if (status >= 500)
        rf_log(RF_LOG_WARN, "doing=answer request=%s status=%d path=%s msg=%s", c->id, status, RF_QUOTE(c->path),
               RF_QUOTE(message));
}

void rf_answer_failed(struct rf_call *c, enum rf_code code, const char *param, const struct rf_err *err)
{
    rf_answer_error(c, rf_code_http_status(code), param, rf_code_name(code), "%s",
                    err != NULL && err->msg[0] ? err->msg : rf_code_name(code));
}
