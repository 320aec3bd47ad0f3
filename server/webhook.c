/* See webhook.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/webhook.h"

#include "server/app.h"
#include "server/id.h"
#include "server/log.h"
#include "server/store_admin.h"
#include "server/webhook_address.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define LOOK_MS 500              /* how often the table is asked for what is due */
#define LOOK_AHEAD 64            /* rows looked at, since two to one host may leave some behind */
#define AT_ONE_HOST 2
#define TIMEOUT_MS 15000L
#define CONNECT_MS 5000L
#define MAX_ANSWER 65536

struct sending {
    struct rf_delivery what;     /* row 0: the place is free */
    CURL *easy;
    struct curl_slist *headers;
    char body[256];
    size_t answer_n;
    bool refused;                /* the address is not a public one */
    const struct rf_webhooks *webhooks;
};

struct rf_webhooks {
    struct rf_webhook_options options;
    char *db_path;
    pthread_t thread;
    atomic_bool ending;
    CURLM *multi;
    struct sending sending[RF_WEBHOOKS_AT_ONCE];
    struct rf_webhook_stats stats;
};

/* ---- signing ---- */

/* " v1,<base64>" of `text` with the key that `secret` holds, added to `to`. */
static void sign(const char *secret, const char *text, char *to, size_t room)
{
    unsigned char key[64], mac[EVP_MAX_MD_SIZE], base64[64];
    unsigned mac_n = 0;
    size_t n = strlen(secret) - 6;
    int key_n = n % 4 == 0 && n <= 64 ? EVP_DecodeBlock(key, (const unsigned char *)secret + 6, (int)n) : -1;
    if (key_n < 0)
        return;
    for (size_t i = n; i > 0 && secret[6 + i - 1] == '='; i--)
        key_n--;
    RF_ASSERT(HMAC(EVP_sha256(), key, key_n, (const unsigned char *)text, strlen(text), mac, &mac_n) != NULL);
    EVP_EncodeBlock(base64, mac, (int)mac_n);
    size_t used = strlen(to);
    snprintf(to + used, room - used, "%sv1,%s", used ? " " : "", (const char *)base64);
}

/* False: no secret can be read or made now. */
static bool signatures(struct rf_webhooks *w, const struct sending *s, int64_t now_ms, char *to, size_t room)
{
    char secret[RF_WEBHOOK_SECRET_SIZE], before[RF_WEBHOOK_SECRET_SIZE], rotated[24];
    RF_AUTO(rf_free) char *text = rf_asprintf("%s.%" PRId64 ".%s", s->what.event_id, now_ms / 1000, s->body);
    to[0] = '\0';
    if (!rf_store_setting(w->options.store, "webhook_secret", secret, sizeof secret) &&
        rf_admin_webhook_secret(w->db_path, false, now_ms, secret, NULL) != RF_OK)
        return false;
    sign(secret, text, to, room);
    if (rf_store_setting(w->options.store, "webhook_secret_rotated", rotated, sizeof rotated) &&
        now_ms - strtoll(rotated, NULL, 10) < RF_WEBHOOK_OVERLAP_MS &&
        rf_store_setting(w->options.store, "webhook_secret_before", before, sizeof before))
        sign(before, text, to, room);
    return to[0] != '\0';
}

/* ---- one transfer ---- */

static size_t take_answer(char *bytes, size_t size, size_t n, void *user)
{
    struct sending *s = user;
    s->answer_n += size * n;
    return s->answer_n > MAX_ANSWER ? 0 : size * n; /* nobody reads it; too much of it is an error */
}

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct sending *s = user;
    if (!s->webhooks->options.allow_private && !rf_webhook_address_is_public(&address->addr)) {
        s->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static void add_header(struct sending *s, const char *name, const char *value)
{
    RF_AUTO(rf_free) char *line = rf_asprintf("%s: %s", name, value);
    s->headers = curl_slist_append(s->headers, line);
}

static void set_up(struct sending *s)
{
    CURL *easy = s->easy;
    curl_easy_setopt(easy, CURLOPT_URL, s->what.url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, s->headers);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, s->body);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "framefarm-server/" FRAMEFARM_VERSION);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* a proxy would resolve the name itself, behind our back */
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, s);
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L); /* no connection is shared, so every one has been looked at */
    curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, s);
}

static void clear(struct rf_webhooks *w, struct sending *s)
{
    if (s->easy != NULL) {
        curl_multi_remove_handle(w->multi, s->easy);
        curl_easy_cleanup(s->easy);
    }
    curl_slist_free_all(s->headers);
    free(s->what.url);
    *s = (struct sending){.webhooks = w};
}

/* Takes the delivery over. */
static void begin(struct rf_webhooks *w, struct sending *s, struct rf_delivery *what, int64_t now_ms)
{
    char signature[256], now[24];
    s->what = *what;
    what->url = NULL;
    snprintf(s->body, sizeof s->body, "{\"id\":\"%s\",\"object\":\"event\",\"created_at\":%" PRId64
             ",\"type\":\"video.%s\",\"data\":{\"id\":\"%s\"}}", s->what.event_id, s->what.created_ms / 1000,
             s->what.completed ? "completed" : "failed", s->what.job_id);
    s->easy = signatures(w, s, now_ms, signature, sizeof signature) ? curl_easy_init() : NULL;
    if (s->easy == NULL) {
        clear(w, s); /* it is still due, and found again */
        return;
    }
    snprintf(now, sizeof now, "%" PRId64, now_ms / 1000);
    add_header(s, "Content-Type", "application/json");
    add_header(s, "webhook-id", s->what.event_id);
    add_header(s, "webhook-timestamp", now);
    add_header(s, "webhook-signature", signature);
    s->headers = curl_slist_append(s->headers, "Expect:");
    set_up(s);
    curl_multi_add_handle(w->multi, s->easy);
}

/* ---- what came of it ---- */

static int64_t pause_ms(const struct rf_webhooks *w, int attempts)
{
    int64_t pause = (int64_t)w->options.retry_ms << (attempts - 1);
    return pause - pause / 10 + (int64_t)(rf_random64() % (uint64_t)(pause / 5 + 1)); /* a tenth either way: no herd */
}

static void settle(struct rf_webhooks *w, struct sending *s, CURLcode result)
{
    long status = 0;
    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    int attempts = s->what.attempts + 1;
    bool delivered = result == CURLE_OK && status >= 200 && status < 300;
    bool over = delivered || s->refused || attempts >= RF_WEBHOOK_ATTEMPTS;
    RF_AUTO(rf_free) char *error =
        delivered      ? NULL
        : s->refused   ? rf_strdup("it leads to an address that is not public; --webhook-allow-private would allow it")
        : result == CURLE_OK ? rf_asprintf("it answered with status %ld", status)
                             : rf_strdup(curl_easy_strerror(result));
    int64_t now_ms = rf_now_ms();
    struct rf_op op = {.kind = RF_OP_DELIVERY, .now_ms = now_ms,
                       .u.delivery = {.row = s->what.row, .next_ms = over ? 0 : now_ms + pause_ms(w, attempts),
                                      .attempts = attempts, .delivered = delivered, .error = error}};
    struct rf_err err = {0};
    if (rf_store_run(w->options.store, &op, &err) != RF_OK)
        rf_log(RF_LOG_WARN, "job=%s doing=webhook code=%s msg=%s", s->what.job_id, rf_code_name(err.code), RF_QUOTE(err.msg));
    atomic_fetch_add(delivered ? &w->stats.delivered : over ? &w->stats.given_up : &w->stats.retried, 1);
    if (delivered)
        rf_log(RF_LOG_INFO, "job=%s doing=webhook event=%s attempt=%d status=%ld", s->what.job_id, s->what.event_id, attempts,
               status);
    else
        rf_log(RF_LOG_WARN, "job=%s doing=webhook event=%s attempt=%d again=%s msg=%s", s->what.job_id, s->what.event_id,
               attempts, over ? "no" : "yes", RF_QUOTE(error));
    clear(w, s);
}

/* ---- the thread ---- */

/* "https://host:port", as long as two addresses have it in common. */
static bool same_host(const char *a, const char *b)
{
    const char *host = strstr(a, "://");
    size_t n = (size_t)(host + 3 - a) + strcspn(host + 3, "/?#");
    return strncasecmp(a, b, n) == 0 && (b[n] == '\0' || strchr("/?#", b[n]) != NULL);
}

/* A free place, when this one is not on its way already and its host is not busy. */
static struct sending *place_for(struct rf_webhooks *w, const struct rf_delivery *d)
{
    struct sending *place = NULL;
    int n_host = 0;
    for (int i = 0; i < RF_WEBHOOKS_AT_ONCE; i++) {
        struct sending *s = &w->sending[i];
        if (s->what.row == 0) {
            place = s;
            continue;
        }
        if (s->what.row == d->row)
            return NULL;
        n_host += same_host(s->what.url, d->url);
    }
    return n_host < AT_ONE_HOST ? place : NULL;
}

static void look(struct rf_webhooks *w)
{
    struct rf_delivery *due = NULL;
    int n = 0;
    int64_t now_ms = rf_now_ms();
    if (rf_store_deliveries(w->options.store, now_ms, LOOK_AHEAD, &due, &n, NULL) != RF_OK)
        return;
    for (int i = 0; i < n; i++) {
        struct sending *place = place_for(w, &due[i]);
        if (place != NULL)
            begin(w, place, &due[i], now_ms);
        free(due[i].url);
    }
    free(due);
}

static void *run(void *arg)
{
    struct rf_webhooks *w = arg;
    int64_t looked_ms = 0;
    while (!atomic_load(&w->ending)) {
        int n_running = 0, n_left = 0, n_done = 0;
        curl_multi_perform(w->multi, &n_running);
        for (CURLMsg *msg; (msg = curl_multi_info_read(w->multi, &n_left)) != NULL;) {
            char *place = NULL;
            if (msg->msg != CURLMSG_DONE)
                continue;
            CURLcode result = msg->data.result; /* `msg` goes with the handle */
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &place);
            settle(w, (struct sending *)(void *)place, result);
            n_done++;
        }
        int64_t now_ms = rf_now_ms();
        if (n_done > 0 || now_ms - looked_ms >= LOOK_MS || now_ms < looked_ms) {
            looked_ms = now_ms;
            look(w);
            curl_multi_perform(w->multi, &n_running);
        }
        curl_multi_poll(w->multi, NULL, 0, LOOK_MS, NULL);
    }
    return NULL;
}

struct rf_webhooks *rf_webhooks_create(const struct rf_webhook_options *options)
{
    struct rf_webhooks *w = rf_new(struct rf_webhooks);
    w->options = *options;
    w->options.db_path = w->db_path = rf_strdup(options->db_path);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    w->multi = curl_multi_init();
    RF_ASSERT(w->multi != NULL);
    for (int i = 0; i < RF_WEBHOOKS_AT_ONCE; i++)
        w->sending[i].webhooks = w;
    RF_ASSERT(pthread_create(&w->thread, NULL, run, w) == 0);
    pthread_setname_np(w->thread, "webhooks");
    return w;
}

void rf_webhooks_destroy(struct rf_webhooks **webhooks)
{
    struct rf_webhooks *w = *webhooks;
    if (w == NULL)
        return;
    atomic_store(&w->ending, true);
    curl_multi_wakeup(w->multi);
    pthread_join(w->thread, NULL);
    for (int i = 0; i < RF_WEBHOOKS_AT_ONCE; i++)
        clear(w, &w->sending[i]);
    curl_multi_cleanup(w->multi);
    curl_global_cleanup();
    free(w->db_path);
    rf_free(webhooks);
}

const struct rf_webhook_stats *rf_webhooks_stats(const struct rf_webhooks *w)
{
    return &w->stats;
}
