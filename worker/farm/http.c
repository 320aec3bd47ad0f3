/* libcurl behind http.h. The multi interface only because its poll can be left when a stop is raised; the easy one
 * would notice a stop after up to a second.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/farm/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define CONNECT_TIMEOUT_MS 5000L
#define STALL_S 30L   /* a transfer that moves less than a byte a second for so long is dead */
#define POLL_MS 100   /* how late a raised stop is noticed */

struct rf_http {
    CURLM *multi;
    CURL *easy;
    char *base_url;
    bool is_loopback;
    struct curl_slist *fixed_headers; /* the token */
    char why[CURL_ERROR_SIZE];
};

/* What the callbacks of one call share. */
struct transfer {
    CURL *easy;
    FILE *save, *source;
    const char *body;
    size_t body_bytes, body_sent;
    struct rf_sha256 sha;
    struct rf_http_answer *answer;
    char failure[160]; /* why a callback refused; empty: it did not */
};

static void global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

enum rf_code rf_http_create(const char *base_url, const char *token, struct rf_http **ret_http, struct rf_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);

    CURLU *url = curl_url();
    char *scheme = NULL, *query = NULL, *host = NULL;
    bool good = curl_url_set(url, CURLUPART_URL, base_url, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) &&
                curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_QUERY, &query, 0) != CURLUE_OK;
    bool is_loopback = good && (strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
                                strcmp(host, "[::1]") == 0);
    curl_free(scheme);
    curl_free(host);
    curl_free(query);
    curl_url_cleanup(url);
    if (!good)
        return rf_fail(err, RF_ERR_INVALID, "'%s' is not a server's address, such as http://127.0.0.1:8000", base_url);

    struct rf_http *http = rf_new(struct rf_http);
    http->multi = curl_multi_init();
    http->easy = curl_easy_init();
    RF_ASSERT(http->multi != NULL && http->easy != NULL);
    http->is_loopback = is_loopback;
    http->base_url = rf_strdup(base_url);
    for (size_t n = strlen(http->base_url); n > 0 && http->base_url[n - 1] == '/'; n--)
        http->base_url[n - 1] = '\0';
    if (token != NULL) {
        RF_AUTO(rf_free) char *header = rf_asprintf("Authorization: Bearer %s", token);
        http->fixed_headers = curl_slist_append(NULL, header);
    }
    *ret_http = http;
    return RF_OK;
}

void rf_http_destroy(struct rf_http **http)
{
    struct rf_http *h = *http;
    *http = NULL;
    if (h == NULL)
        return;
    curl_easy_cleanup(h->easy);
    curl_multi_cleanup(h->multi);
    curl_slist_free_all(h->fixed_headers);
    free(h->base_url);
    free(h);
}

void rf_http_answer_finish(struct rf_http_answer *answer)
{
    free(answer->body);
    *answer = (struct rf_http_answer){0};
}

static size_t take_body(char *bytes, size_t size, size_t n, void *user)
{
    struct transfer *t = user;
    struct rf_http_answer *answer = t->answer;
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    n *= size;
    rf_sha256_add(&t->sha, bytes, n);
    if (t->save != NULL && status == 200) {
        if (fwrite(bytes, 1, n, t->save) == n)
            return n;
        snprintf(t->failure, sizeof t->failure, "cannot keep the answer: %s", strerror(errno));
        return 0;
    }
    if (answer->body_bytes + n > RF_HTTP_MAX_ANSWER) {
        snprintf(t->failure, sizeof t->failure, "the answer is larger than %u bytes", RF_HTTP_MAX_ANSWER);
        return 0;
    }
    answer->body = rf_realloc(answer->body, answer->body_bytes + n + 1, 1);
    memcpy(answer->body + answer->body_bytes, bytes, n);
    answer->body_bytes += n;
    answer->body[answer->body_bytes] = '\0';
    return n;
}

static size_t take_header(char *bytes, size_t size, size_t n, void *user)
{
    struct transfer *t = user;
    n *= size;
    char line[256];
    snprintf(line, sizeof line, "%.*s", (int)(n < sizeof line ? n : sizeof line - 1), bytes);
    char *value = strchr(line, ':');
    if (value == NULL)
        return n;
    *value++ = '\0';
    value += strspn(value, " \t");
    value[strcspn(value, "\r\n \t")] = '\0';
    if (strcasecmp(line, "x-content-sha256") == 0)
        snprintf(t->answer->announced_sha256, sizeof t->answer->announced_sha256, "%s", value);
    return n;
}

static size_t give_body(char *bytes, size_t size, size_t n, void *user)
{
    struct transfer *t = user;
    n *= size;
    if (t->source != NULL) {
        size_t got = fread(bytes, 1, n, t->source);
        return got < n && ferror(t->source) ? CURL_READFUNC_ABORT : got;
    }
    size_t left = t->body_bytes - t->body_sent;
    n = n < left ? n : left;
    memcpy(bytes, t->body + t->body_sent, n);
    t->body_sent += n;
    return n;
}

/* A kept-alive connection may turn out dead after part of the body went out; curl then starts over. */
static int rewind_body(void *user, curl_off_t offset, int origin)
{
    struct transfer *t = user;
    if (origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    if (t->source != NULL)
        return fseeko(t->source, offset, SEEK_SET) == 0 ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL;
    t->body_sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static struct curl_slist *make_headers(const struct rf_http *http, const struct rf_http_call *call)
{
    struct curl_slist *headers = NULL;
    for (const struct curl_slist *h = http->fixed_headers; h != NULL; h = h->next)
        headers = curl_slist_append(headers, h->data);
    RF_AUTO(rf_free) char *type =
        rf_asprintf("Content-Type: %s", call->body_type ? call->body_type : "application/json");
    headers = curl_slist_append(headers, type);
    headers = curl_slist_append(headers, "Expect:"); /* a 100-continue costs a round trip; our server needs none */
    if (call->body_sha256 != NULL) {
        RF_AUTO(rf_free) char *sha = rf_asprintf("X-Content-SHA256: %s", call->body_sha256);
        headers = curl_slist_append(headers, sha);
    }
    return headers;
}

static void set_up(struct rf_http *http, const struct rf_http_call *call, struct transfer *t, const char *url,
                   struct curl_slist *headers, int64_t source_bytes)
{
    CURL *easy = http->easy;
    curl_easy_reset(easy); /* options go, connections and TLS sessions stay */
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, http->why);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "framefarm-worker/" FRAMEFARM_VERSION);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L); /* the token and the frames go to our server only */
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    if (http->is_loopback)
        curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* a proxy named in the environment is for the world outside */
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    if (call->timeout_ms > 0) {
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)call->timeout_ms);
    } else {
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, STALL_S);
    }
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    if (t->source == NULL && t->body == NULL)
        return;
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)(t->source ? source_bytes : (int64_t)t->body_bytes));
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, give_body);
    curl_easy_setopt(easy, CURLOPT_READDATA, t);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, rewind_body);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, t);
}

/* Drives the transfer to its end. CURLE_ABORTED_BY_CALLBACK: the stop was raised. */
static CURLcode drive(struct rf_http *http, struct rf_stop *stop)
{
    CURLcode result = CURLE_OK;
    curl_multi_add_handle(http->multi, http->easy);
    for (int n_running = 1; n_running > 0;) {
        CURLMcode rc = curl_multi_perform(http->multi, &n_running);
        if (rc == CURLM_OK && n_running > 0)
            rc = curl_multi_poll(http->multi, NULL, 0, POLL_MS, NULL);
        if (rc != CURLM_OK) {
            result = CURLE_FAILED_INIT;
            break;
        }
        if (n_running > 0 && stop != NULL && rf_stop_reason(stop) != RF_STOP_NONE) {
            result = CURLE_ABORTED_BY_CALLBACK;
            break;
        }
    }
    int n_left = 0;
    for (CURLMsg *msg; (msg = curl_multi_info_read(http->multi, &n_left)) != NULL;)
        if (msg->msg == CURLMSG_DONE)
            result = msg->data.result;
    curl_multi_remove_handle(http->multi, http->easy);
    return result;
}

static enum rf_code open_files(const struct rf_http_call *call, struct transfer *t, int64_t *ret_source_bytes,
                               struct rf_err *err)
{
    if (call->body_path != NULL) {
        t->source = fopen(call->body_path, "rb");
        if (t->source == NULL || fseeko(t->source, 0, SEEK_END) != 0)
            return rf_fail(err, RF_ERR_IO, "open '%s': %s", call->body_path, strerror(errno));
        *ret_source_bytes = ftello(t->source);
        rewind(t->source);
    }
    if (call->save_path != NULL && (t->save = fopen(call->save_path, "wb")) == NULL)
        return rf_fail(err, RF_ERR_IO, "open '%s': %s", call->save_path, strerror(errno));
    return RF_OK;
}

enum rf_code rf_http_do(struct rf_http *http, const struct rf_http_call *call, struct rf_http_answer *ret_answer,
                        struct rf_err *err)
{
    struct rf_http_answer answer = {0};
    struct transfer t = {.easy = http->easy, .body = call->body, .body_bytes = call->body_bytes, .answer = &answer};
    int64_t source_bytes = 0;
    CURLcode result = CURLE_OK;
    enum rf_code rc = open_files(call, &t, &source_bytes, err);
    rf_sha256_init(&t.sha);
    if (rc == RF_OK) {
        RF_AUTO(rf_free) char *url = rf_asprintf("%s%s", http->base_url, call->path);
        struct curl_slist *headers = make_headers(http, call);
        http->why[0] = '\0';
        set_up(http, call, &t, url, headers, source_bytes);
        result = drive(http, call->stop);
        long status = 0;
        curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
        answer.status = (int)status;
        curl_slist_free_all(headers);
    }
    if (t.source != NULL)
        fclose(t.source);
    if (t.save != NULL && fclose(t.save) != 0 && rc == RF_OK)
        rc = rf_fail(err, RF_ERR_IO, "write '%s': %s", call->save_path, strerror(errno));
    rf_sha256_finish(&t.sha, answer.sha256);
    if (rc == RF_OK && result == CURLE_ABORTED_BY_CALLBACK)
        rc = rf_fail(err, RF_ERR_CANCELLED, "%s %s was stopped", call->method, call->path);
    else if (rc == RF_OK && result != CURLE_OK)
        rc = rf_fail(err, RF_ERR_IO, "%s %s: %s", call->method, call->path,
                     t.failure[0]      ? t.failure
                     : http->why[0] ? http->why
                                       : curl_easy_strerror(result));
    if (rc != RF_OK) {
        rf_http_answer_finish(&answer);
        return rc;
    }
    *ret_answer = answer;
    return RF_OK;
}
