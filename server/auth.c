/* See auth.h.
 * A server on loopback is still reached by every page that its user has open: a form on a foreign site may POST to it, and
 * a foreign name that resolves to 127.0.0.1 may read from it (DNS rebinding). So, without tokens, the Host header must be
 * a loopback name when we listen on loopback, and what a browser sends for another site is refused. With tokens neither is
 * needed: no foreign page has one, and none is ever kept in a cookie.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/auth.h"

#include "server/app.h"
#include "server/config.h"
#include "server/log.h"
#include "server/out.h"
#include "server/strikes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAC_TEXT_SIZE 65

struct rf_auth {
    bool required;
    pthread_rwlock_t lock;       /* over the tokens */
    int64_t generation;
    struct rf_token *tokens;     /* not revoked ones; the local workers' first, when there is one */
    int n_tokens;
    struct rf_token local;       /* role ANYONE: none */
    char *local_file;
    unsigned char ticket_key[32];
    struct rf_strikes *strikes;
};

/* ---- without tokens ---- */

bool rf_auth_is_local_host(const char *host)
{
    char name[64];
    size_t n = host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");
    if (host[0] == '[') {
        host++;
        n--;
    }
    if (n >= sizeof name)
        return false;
    memcpy(name, host, n);
    name[n] = '\0';
    return rf_config_is_loopback(name);
}

/* Whether a browser says that the call comes from a page of another site. Programs send neither header. */
static bool is_cross_site(struct rf_call *c, const char *host)
{
    const char *site = rf_call_header(c, "Sec-Fetch-Site");
    if (site != NULL)
        return strcmp(site, "cross-site") == 0 || strcmp(site, "same-site") == 0;
    const char *origin = rf_call_header(c, "Origin");
    if (origin == NULL)
        return false;
    const char *slashes = strstr(origin, "://");
    return slashes == NULL || host == NULL || strcasecmp(slashes + 3, host) != 0;
}

static bool check_without_tokens(struct rf_call *c)
{
    const char *host = rf_call_header(c, "Host");
    c->role = RF_ROLE_OPERATOR;
    if (rf_config_is_loopback(c->app->config->host) && host != NULL && !rf_auth_is_local_host(host)) {
        rf_answer_error(c, 403, NULL, "host_not_allowed", "this server answers only as localhost; a proxy in front of it "
                        "must send Host: localhost, and the server should run with --require-tokens");
        return false;
    }
    if (c->method != RF_GET && c->method != RF_HEAD && is_cross_site(c, host)) {
        rf_answer_error(c, 403, NULL, "cross_site", "calls from pages of other sites are refused");
        return false;
    }
    return true;
}

/* ---- the tokens ---- */

void rf_auth_refresh(struct rf_auth *a, struct rf_store *store)
{
    struct rf_token *fresh = NULL;
    int n = 0, n_kept = 0;
    struct rf_err err = {0};
    if (!a->required)
        return;
    if (rf_store_tokens(store, &a->generation, &fresh, &n, &err) != RF_OK) {
        rf_log(RF_LOG_WARN, "doing=read_tokens code=%s msg=%s", rf_code_name(err.code), RF_QUOTE(err.msg));
        return;
    }
    if (fresh == NULL && a->tokens != NULL)
        return;
    struct rf_token *tokens = rf_new_array(struct rf_token, (size_t)n + 1);
    if (a->local.role == RF_ROLE_WORKER)
        tokens[n_kept++] = a->local;
    for (int i = 0; i < n; i++)
        if (fresh[i].revoked_ms == 0)
            tokens[n_kept++] = fresh[i];
    free(fresh);
    pthread_rwlock_wrlock(&a->lock);
    struct rf_token *old = a->tokens;
    a->tokens = tokens;
    a->n_tokens = n_kept;
    pthread_rwlock_unlock(&a->lock);
    free(old);
    rf_log(RF_LOG_INFO, "doing=read_tokens n=%d", n_kept);
}

/* Every one is compared, each in constant time: how long the answer takes tells nothing about any. */
static bool find_token(struct rf_auth *a, const char *text, struct rf_token *ret_token)
{
    unsigned char hash[RF_TOKEN_HASH_BYTES];
    bool found = false;
    rf_token_hash(text, hash);
    pthread_rwlock_rdlock(&a->lock);
    for (int i = 0; i < a->n_tokens; i++)
        if (CRYPTO_memcmp(a->tokens[i].hash, hash, sizeof hash) == 0) {
            *ret_token = a->tokens[i];
            found = true;
        }
    pthread_rwlock_unlock(&a->lock);
    return found;
}

static bool find_token_by_id(struct rf_auth *a, const char *id, struct rf_token *ret_token)
{
    bool found = false;
    pthread_rwlock_rdlock(&a->lock);
    for (int i = 0; i < a->n_tokens && !found; i++)
        if (strcmp(a->tokens[i].who.id, id) == 0) {
            *ret_token = a->tokens[i];
            found = true;
        }
    pthread_rwlock_unlock(&a->lock);
    return found;
}

bool rf_auth_is_good(struct rf_auth *a, const struct rf_call *c)
{
    struct rf_token token;
    return !a->required || find_token_by_id(a, c->token.id, &token);
}

/* The file outlives the server: workers that a killed one leaves behind are adopted, and must still be let in. */
static enum rf_code open_local_token(struct rf_auth *a, const char *data_dir, struct rf_err *err)
{
    char text[RF_TOKEN_TEXT_SIZE] = "";
    RF_AUTO(rf_free) char *folder = rf_asprintf("%s/workers", data_dir);
    a->local_file = rf_asprintf("%s/token", folder);
    mkdir(folder, 0700);
    int fd = open(a->local_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return rf_fail(err, RF_ERR_IO, "open '%s': %s", a->local_file, strerror(errno));
    ssize_t n = read(fd, text, sizeof text - 1);
    bool good = n == (ssize_t)sizeof text - 1;
    if (!good) {
        rf_token_make(text);
        good = ftruncate(fd, 0) == 0 && pwrite(fd, text, sizeof text - 1, 0) == (ssize_t)sizeof text - 1 && fsync(fd) == 0;
    }
    close(fd);
    if (!good)
        return rf_fail(err, RF_ERR_IO, "write '%s': %s", a->local_file, strerror(errno));
    a->local = (struct rf_token){.who = {.id = "tok_local", .name = "local-workers"}, .role = RF_ROLE_WORKER};
    rf_token_hash(text, a->local.hash);
    return RF_OK;
}

enum rf_code rf_auth_create(const struct rf_config *config, struct rf_store *store, struct rf_auth **ret_auth,
                            struct rf_err *err)
{
    RF_AUTO(rf_auth_destroy) struct rf_auth *a = rf_new(struct rf_auth);
    pthread_rwlock_init(&a->lock, NULL);
    a->strikes = rf_strikes_create();
    a->generation = -1;
    a->required = config->require_tokens || (!rf_config_is_loopback(config->host) && !config->insecure_no_auth);
    RF_ASSERT(getrandom(a->ticket_key, sizeof a->ticket_key, 0) == (ssize_t)sizeof a->ticket_key);
    enum rf_code rc = a->required && config->n_workers != 0 ? open_local_token(a, config->data_dir, err) : RF_OK;
    if (rc != RF_OK)
        return rc;
    rf_auth_refresh(a, store);
    if (a->required && a->tokens == NULL)
        return rf_fail(err, RF_ERR_IO, "the tokens cannot be read");
    if (a->required && a->n_tokens == (a->local.role == RF_ROLE_WORKER))
        rf_log(RF_LOG_WARN, "doing=read_tokens msg=\"there are no tokens yet, so nobody is let in: framefarm-server token "
               "create --role operator --data DIR\"");
    *ret_auth = a;
    a = NULL;
    return RF_OK;
}

void rf_auth_destroy(struct rf_auth **auth)
{
    struct rf_auth *a = *auth;
    if (a == NULL)
        return;
    pthread_rwlock_destroy(&a->lock);
    rf_strikes_destroy(&a->strikes);
    OPENSSL_cleanse(a->ticket_key, sizeof a->ticket_key);
    free(a->tokens);
    free(a->local_file);
    rf_free(auth);
}

bool rf_auth_is_required(const struct rf_auth *a)
{
    return a->required;
}

const char *rf_auth_worker_token_file(const struct rf_auth *a)
{
    return a->local_file;
}

/* ---- tickets: "<end in Unix seconds>.<id of the token>.<HMAC of both>" ---- */

static void ticket_mac(const struct rf_auth *a, const char *text, size_t n, char ret_mac[MAC_TEXT_SIZE])
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    RF_ASSERT(HMAC(EVP_sha256(), a->ticket_key, sizeof a->ticket_key, (const unsigned char *)text, n, mac, NULL) != NULL);
    for (size_t i = 0; i < 32; i++)
        snprintf(ret_mac + 2 * i, 3, "%02x", mac[i]);
}

static bool find_ticket(struct rf_auth *a, const char *ticket, struct rf_token *ret_token)
{
    char mac[MAC_TEXT_SIZE], id[sizeof ret_token->who.id], end[24];
    const char *dot = strchr(ticket, '.'), *second = dot != NULL ? strchr(dot + 1, '.') : NULL;
    int64_t end_s = 0;
    if (second == NULL || (size_t)(dot - ticket) >= sizeof end || (size_t)(second - dot - 1) >= sizeof id ||
        strlen(second + 1) != MAC_TEXT_SIZE - 1)
        return false;
    ticket_mac(a, ticket, (size_t)(second - ticket), mac);
    if (CRYPTO_memcmp(mac, second + 1, MAC_TEXT_SIZE - 1) != 0)
        return false;
    snprintf(end, sizeof end, "%.*s", (int)(dot - ticket), ticket);
    snprintf(id, sizeof id, "%.*s", (int)(second - dot - 1), dot + 1);
    return rf_parse_int(end, 0, INT64_MAX, &end_s) && end_s * 1000 > rf_now_ms() && find_token_by_id(a, id, ret_token);
}

void rf_auth_ticket_handle(struct rf_call *c)
{
    char text[64], mac[MAC_TEXT_SIZE];
    int64_t end_s = rf_now_ms() / 1000 + RF_TICKET_SECONDS;
    /* Where no token is needed a ticket is neither; the page then need not ask which farm it is on. */
    int n = snprintf(text, sizeof text, "%" PRId64 ".%s", end_s, c->token.id[0] ? c->token.id : "none");
    ticket_mac(c->app->auth, text, (size_t)n, mac);
    struct rf_out t = {0};
    RF_AUTO(rf_free) char *ticket = rf_asprintf("%s.%s", text, mac);
    rf_json_open(&t, NULL, '{');
    rf_json_str(&t, "object", "ticket");
    rf_json_str(&t, "ticket", ticket);
    rf_json_int(&t, "expires_at", end_s);
    rf_json_close(&t, '}');
    size_t size;
    char *body = rf_out_take(&t, &size);
    rf_answer_header(c, "Cache-Control", "no-store");
    rf_answer_take(c, 200, "application/json", body, size);
}

/* ---- the check ---- */

static bool refuse(struct rf_call *c, bool shown)
{
    struct rf_auth *a = c->app->auth;
    char address[64];
    rf_call_address(c, address, sizeof address);
    int n = shown ? rf_strikes_add(a->strikes, address, rf_now_ms()) : 0;
    if (n == RF_STRIKES + 1)
        rf_log(RF_LOG_WARN, "doing=check_token address=%s msg=\"many wrong tokens; answered 429 for a while\"", address);
    if (n > RF_STRIKES) {
        rf_answer_error(c, 429, NULL, "too_many_wrong_tokens", "too many wrong tokens from this address; wait a minute");
        return false;
    }
    rf_answer_header(c, "WWW-Authenticate", shown ? "Bearer realm=\"framefarm\", error=\"invalid_token\""
                                                   : "Bearer realm=\"framefarm\"");
    if (shown)
        rf_answer_error(c, 401, NULL, "invalid_token", "this token is not known here (any more)");
    else
        rf_answer_error(c, 401, NULL, "token_needed", "a token is needed: Authorization: Bearer ff_…; the farm's operator "
                        "makes one with 'framefarm-server token create'");
    return false;
}

static bool may_call(enum rf_role wanted, enum rf_role has)
{
    return wanted == has || (wanted == RF_ROLE_USER && has == RF_ROLE_OPERATOR);
}

static bool check_with_tokens(struct rf_call *c)
{
    struct rf_auth *a = c->app->auth;
    enum rf_role wanted = c->route != NULL ? c->route->role : RF_ROLE_USER;
    const char *header = rf_call_header(c, "Authorization");
    const char *ticket = c->route != NULL && c->route->by_ticket ? rf_params_get(&c->query, "ticket") : NULL;
    struct rf_token token = {.role = RF_ROLE_ANYONE};
    if (wanted == RF_ROLE_ANYONE)
        return true;
    bool shown = header != NULL && strncasecmp(header, "Bearer ", 7) == 0;
    bool known = shown && find_token(a, header + 7 + strspn(header + 7, " "), &token);
    if (!known && ticket != NULL && (c->method == RF_GET || c->method == RF_HEAD)) {
        shown = true;
        known = find_ticket(a, ticket, &token);
    }
    if (!known)
        return refuse(c, shown);
    c->role = token.role;
    c->token = token.who;
    if (may_call(wanted, token.role))
        return true;
    rf_answer_error(c, 403, NULL, "wrong_role", "this call is for %ss; the token '%s' is %s %s's", rf_role_name(wanted),
                    token.who.name, token.role == RF_ROLE_OPERATOR ? "an" : "a", rf_role_name(token.role));
    return false;
}

bool rf_auth_check(struct rf_call *c)
{
    bool good = c->app->auth->required ? check_with_tokens(c) : check_without_tokens(c);
    if (c->route != NULL && c->route->by_ticket)
        rf_params_take(&c->query, "ticket"); /* handlers know nothing of it */
    return good;
}

/* ---- whose job ---- */

const char *rf_auth_owner(const struct rf_call *c)
{
    return c->role == RF_ROLE_USER ? c->token.name : NULL;
}

bool rf_auth_may_see(struct rf_call *c, const struct rf_job *job)
{
    const char *owner = rf_auth_owner(c);
    bool may = owner == NULL || strcmp(job->request->user, owner) == 0;
    if (!may)
        rf_answer_error(c, 404, NULL, "not_found", "there is no job '%s'", job->id);
    return may;
}

bool rf_auth_may_touch(struct rf_call *c, const char *job_id)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    struct rf_err err = {0};
    if (rf_auth_owner(c) == NULL)
        return true;
    enum rf_code rc = rf_store_get(c->app->store, job_id, 0, &job, &err);
    if (rc != RF_OK)
        rf_answer_failed(c, rc, NULL, &err);
    return rc == RF_OK && rf_auth_may_see(c, job);
}
