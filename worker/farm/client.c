/* Farm calls over http.h. Status codes become error codes here and nowhere else; see client.h for the promises.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/farm/client.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "worker/farm/http.h"
#include "worker/log.h"
#include "worker/scratch.h"

#define CALL_TIMEOUT_MS 15000
#define REPORT_TIMEOUT_MS 30000
#define LEAVE_TIMEOUT_MS 3000
#define NO_GENERATION UINT_MAX /* never the current one: a server that does not know us need not learn who leaves */
#define MAX_DAMAGED 5 /* a file that arrives damaged so often has another fault than the line */

struct rf_farm {
    char *url, *token, *registration;
    pthread_mutex_t lock; /* over the two below */
    struct rf_wire_registered us; /* worker_id "" before the first registration */
    unsigned generation;          /* of `us`: which registration a failed call had spoken for */
};

struct rf_link {
    struct rf_farm *farm;
    struct rf_http *http;
};

enum rf_code rf_farm_create(const char *url, const char *token, const struct rf_wire_register *about,
                            struct rf_farm **ret_farm, struct rf_err *err)
{
    RF_AUTO(rf_http_destroy) struct rf_http *trial = NULL; /* a bad address is told now, not at the first call */
    enum rf_code rc = rf_http_create(url, token, &trial, err);
    if (rc != RF_OK)
        return rc;
    struct rf_farm *farm = rf_new(struct rf_farm);
    farm->url = rf_strdup(url);
    farm->token = rf_strdup(token);
    RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_register_build(about);
    farm->registration = cJSON_PrintUnformatted(json);
    RF_ASSERT(farm->registration != NULL);
    farm->us.heartbeat_ms = 5000;
    pthread_mutex_init(&farm->lock, NULL);
    *ret_farm = farm;
    return RF_OK;
}

void rf_farm_destroy(struct rf_farm **farm)
{
    struct rf_farm *f = *farm;
    *farm = NULL;
    if (f == NULL)
        return;
    pthread_mutex_destroy(&f->lock);
    free(f->url);
    free(f->token);
    free(f->registration);
    free(f);
}

int64_t rf_farm_heartbeat_ms(struct rf_farm *farm)
{
    pthread_mutex_lock(&farm->lock);
    int64_t ms = farm->us.heartbeat_ms;
    pthread_mutex_unlock(&farm->lock);
    return ms;
}

struct rf_link *rf_link_create(struct rf_farm *farm)
{
    struct rf_link *link = rf_new(struct rf_link);
    link->farm = farm;
    RF_ASSERT(rf_http_create(farm->url, farm->token, &link->http, NULL) == RF_OK); /* the address was checked */
    return link;
}

void rf_link_destroy(struct rf_link **link)
{
    if (*link != NULL)
        rf_http_destroy(&(*link)->http);
    free(*link);
    *link = NULL;
}

int64_t rf_backoff_ms(int n)
{
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        random = (uint32_t)rf_now_ms();
    int64_t most = n < 6 ? INT64_C(200) << n : 10000;
    return most / 2 + random % (most / 2);
}

/* ---- one exchange ---- */

/* {"error": {"message", "code"}} of an answer, or its status when it has none. */
static void read_error(const struct rf_http_answer *answer, char *message, size_t message_size, char *code,
                       size_t code_size)
{
    snprintf(message, message_size, "status %d", answer->status);
    code[0] = '\0';
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    if (answer->body == NULL ||
        rf_json_parse(answer->body, answer->body_bytes, RF_WIRE_MAX_BYTES, &json, NULL) != RF_OK)
        return;
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(error, "message");
    const cJSON *word = cJSON_GetObjectItemCaseSensitive(error, "code");
    if (cJSON_IsString(text))
        snprintf(message, message_size, "%s (status %d)", text->valuestring, answer->status);
    if (cJSON_IsString(word))
        snprintf(code, code_size, "%s", word->valuestring);
}

static enum rf_code check_status(const struct rf_http_answer *answer, bool *ret_unknown_worker, struct rf_err *err)
{
    *ret_unknown_worker = false;
    if (answer->status >= 200 && answer->status < 300)
        return RF_OK;
    char message[192], code[48];
    read_error(answer, message, sizeof message, code, sizeof code);
    switch (answer->status) {
    case 404:
        *ret_unknown_worker = strcmp(code, "unknown_worker") == 0;
        return rf_fail(err, *ret_unknown_worker ? RF_ERR_IO : RF_ERR_NOT_FOUND, "%s", message);
    case 409: return rf_fail(err, RF_ERR_CONFLICT, "%s", message);
    case 422: return rf_fail(err, RF_ERR_FORMAT, "%s", message);
    case 408:
    case 429: return rf_fail(err, RF_ERR_IO, "%s", message);
    default: /* a full disk (507) passes like any other trouble of the server */
        return rf_fail(err, answer->status >= 500 ? RF_ERR_IO : RF_ERR_INVALID, "%s", message);
    }
}

static unsigned current_worker(struct rf_farm *farm, char ret_id[RF_WORKER_ID_SIZE])
{
    pthread_mutex_lock(&farm->lock);
    memcpy(ret_id, farm->us.worker_id, RF_WORKER_ID_SIZE);
    unsigned generation = farm->generation;
    pthread_mutex_unlock(&farm->lock);
    return generation;
}

enum rf_code rf_farm_register(struct rf_link *link, struct rf_stop *stop, struct rf_err *err)
{
    struct rf_farm *farm = link->farm;
    struct rf_http_call call = {.method = "POST", .path = "/farm/v1/register", .body = farm->registration,
                                .body_bytes = strlen(farm->registration), .timeout_ms = CALL_TIMEOUT_MS, .stop = stop};
    struct rf_http_answer answer;
    enum rf_code rc = rf_http_do(link->http, &call, &answer, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "register");
    bool unknown;
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    struct rf_wire_registered us = {0};
    rc = check_status(&answer, &unknown, err);
    if (rc == RF_OK)
        rc = rf_json_parse(answer.body ? answer.body : "", answer.body_bytes, RF_WIRE_MAX_BYTES, &json, err);
    if (rc == RF_OK)
        rc = rf_wire_registered_read(json, &us, err);
    rf_http_answer_finish(&answer);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "register");
    pthread_mutex_lock(&farm->lock);
    farm->us = us;
    farm->generation++;
    pthread_mutex_unlock(&farm->lock);
    rf_log(RF_LOG_INFO, "register", RF_OK, "the server knows us as %s", us.worker_id);
    return RF_OK;
}

/* One call that is about our worker: a server that does not know us gets our registration, and the caller, who built
 * the body with the old id, RF_ERR_IO: "again". Another thread may have registered meanwhile; then nothing is left to
 * do. */
static enum rf_code exchange(struct rf_link *link, const struct rf_http_call *call, unsigned generation,
                             struct rf_http_answer *ret_answer, struct rf_err *err)
{
    struct rf_http_answer answer;
    enum rf_code rc = rf_http_do(link->http, call, &answer, err);
    if (rc != RF_OK)
        return rc;
    bool unknown;
    rc = check_status(&answer, &unknown, err);
    if (rc == RF_OK) {
        *ret_answer = answer;
        return RF_OK;
    }
    rf_http_answer_finish(&answer);
    char id[RF_WORKER_ID_SIZE];
    if (unknown && current_worker(link->farm, id) == generation) {
        rc = rf_farm_register(link, call->stop, err);
        if (rc == RF_OK)
            rc = rf_fail(err, RF_ERR_IO, "the server had forgotten us");
    }
    return rc;
}

/* Posts a JSON body, takes a JSON answer (ret_json may be NULL). */
static enum rf_code post(struct rf_link *link, const char *path, const cJSON *body, unsigned generation,
                         int64_t timeout_ms, struct rf_stop *stop, cJSON **ret_json, int *ret_status,
                         struct rf_err *err)
{
    char *text = cJSON_PrintUnformatted(body);
    RF_ASSERT(text != NULL);
    struct rf_http_call call = {.method = "POST", .path = path, .body = text, .body_bytes = strlen(text),
                                .timeout_ms = timeout_ms, .stop = stop};
    struct rf_http_answer answer;
    enum rf_code rc = exchange(link, &call, generation, &answer, err);
    free(text);
    if (rc != RF_OK)
        return rc;
    *ret_status = answer.status;
    if (ret_json != NULL && answer.status == 200) {
        rc = rf_json_parse(answer.body ? answer.body : "", answer.body_bytes, RF_WIRE_MAX_BYTES, ret_json, err);
        if (rc != RF_OK)
            rc = rf_wrap(err, RF_ERR_IO, "the server's answer");
    }
    rf_http_answer_finish(&answer);
    return rc;
}

/* ---- trying until it is done ---- */

struct persistence {
    struct rf_link *link;
    struct rf_stop *stop;
    int64_t within_ms; /* 0: for ever */
    const char *doing;
};

/* Repeats `once` while the failure is one that time may heal. */
static enum rf_code persist(const struct persistence *p, enum rf_code (*once)(void *arg, struct rf_err *err), void *arg,
                            struct rf_err *err)
{
    int n_damaged = 0;
    double started = rf_monotonic_seconds();
    struct rf_err local;
    struct rf_err *e = err ? err : &local;
    for (int n = 0;; n++) {
        enum rf_code rc = once(arg, e);
        if (rc == RF_ERR_FORMAT && ++n_damaged >= MAX_DAMAGED)
            return rc;
        if (rc != RF_ERR_IO && rc != RF_ERR_FORMAT)
            return rc;
        if (p->within_ms > 0 && (rf_monotonic_seconds() - started) * 1000 > (double)p->within_ms)
            return rc;
        int64_t pause_ms = rf_backoff_ms(n);
        rf_log(n == 0 || n % 10 == 9 ? RF_LOG_WARN : RF_LOG_DEBUG, p->doing, rc,
               "%s; trying again (try %d failed)", e->msg, n + 1);
        if (rf_stop_wait(p->stop, pause_ms))
            return rf_fail(err, RF_ERR_CANCELLED, "stopped while trying again");
    }
}

/* ---- lease ---- */

/* A task that we hold but cannot read goes back as failed, or it would sit until its lease ends, again and again. */
static void refuse_unreadable(struct rf_link *link, const cJSON *json, const struct rf_err *why)
{
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(json, "task_id");
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(json, "lease");
    char job_id[RF_JOB_ID_SIZE];
    int index;
    if (!cJSON_IsString(id) || !cJSON_IsNumber(number) || !rf_task_id_parse(id->valuestring, job_id, &index))
        return;
    struct rf_wire_lease lease = {.lease = (int64_t)number->valuedouble};
    snprintf(lease.task_id, sizeof lease.task_id, "%s", id->valuestring);
    struct rf_wire_report *report = rf_new(struct rf_wire_report);
    report->kind = RF_REPORT_FAIL;
    report->retryable = true; /* by a worker of another version */
    snprintf(report->code, sizeof report->code, "%s", rf_code_name(why->code));
    report->message = rf_asprintf("worker " FRAMEFARM_VERSION " cannot read the task: %s", why->msg);
    rf_farm_report(link, &lease, report, REPORT_TIMEOUT_MS, NULL, NULL);
    rf_wire_report_destroy(&report);
}

enum rf_code rf_farm_lease(struct rf_link *link, int64_t wait_ms, const struct rf_wire_gauges *device,
                           struct rf_stop *stop, struct rf_wire_lease *ret_lease, struct rf_request **ret_request,
                           struct rf_err *err)
{
    struct rf_wire_lease_ask ask = {.wait_ms = wait_ms, .device = *device};
    unsigned generation = current_worker(link->farm, ask.worker_id);
    if (ask.worker_id[0] == '\0') {
        enum rf_code rc = rf_farm_register(link, stop, err);
        if (rc != RF_OK)
            return rc;
        generation = current_worker(link->farm, ask.worker_id);
    }
    RF_AUTO(rf_json_destroy) cJSON *body = rf_wire_lease_ask_build(&ask);
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    int status = 0;
    enum rf_code rc =
        post(link, "/farm/v1/lease", body, generation, wait_ms + CALL_TIMEOUT_MS, stop, &json, &status, err);
    if (rc == RF_ERR_NOT_FOUND)
        return rf_wrap(err, RF_ERR_INVALID, "lease"); /* no such call there: this is not a framefarm server */
    if (rc != RF_OK)
        return rf_wrap(err, rc, "lease");
    if (status == 204)
        return rf_fail(err, RF_ERR_NOT_FOUND, "no work");
    struct rf_err why = {0};
    rc = rf_wire_lease_read(json, ret_lease, ret_request, &why);
    if (rc != RF_OK) {
        refuse_unreadable(link, json, &why);
        return rf_fail(err, RF_ERR_FORMAT, "lease: %s", why.msg);
    }
    return RF_OK;
}

/* ---- about a task ---- */

enum rf_code rf_farm_heartbeat(struct rf_link *link, const struct rf_wire_lease *lease,
                               const struct rf_wire_heartbeat *beat, struct rf_stop *stop,
                               struct rf_wire_heartbeat_answer *ret_answer, struct rf_err *err)
{
    struct rf_wire_heartbeat full = *beat;
    full.lease = lease->lease;
    unsigned generation = current_worker(link->farm, full.worker_id);
    RF_AUTO(rf_json_destroy) cJSON *body = rf_wire_heartbeat_build(&full);
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    RF_AUTO(rf_free) char *path = rf_asprintf("/farm/v1/tasks/%s/heartbeat", lease->task_id);
    int status = 0;
    enum rf_code rc = post(link, path, body, generation, CALL_TIMEOUT_MS, stop, &json, &status, err);
    if (rc == RF_OK && rf_wire_heartbeat_answer_read(json, ret_answer, err) != RF_OK)
        rc = RF_ERR_IO;
    return rc == RF_OK ? rc : rf_wrap(err, rc, "heartbeat");
}

/* A file on its way, either direction. */
struct parcel {
    struct rf_link *link;
    const char *path, *save_path, *body_path, *sha256;
    const void *body;
    size_t body_bytes;
    struct rf_stop *stop;
};

static enum rf_code carry(void *arg, struct rf_err *err)
{
    const struct parcel *p = arg;
    char id[RF_WORKER_ID_SIZE];
    struct rf_http_call call = {.method = p->save_path ? "GET" : "PUT", .path = p->path, .save_path = p->save_path,
                                .body = p->body, .body_bytes = p->body_bytes, .body_path = p->body_path,
                                .body_sha256 = p->sha256, .body_type = "application/octet-stream", .stop = p->stop};
    struct rf_http_answer answer;
    enum rf_code rc = exchange(p->link, &call, current_worker(p->link->farm, id), &answer, err);
    if (rc != RF_OK)
        return rc;
    if (p->save_path != NULL && answer.announced_sha256[0] != '\0' &&
        strcmp(answer.sha256, answer.announced_sha256) != 0)
        rc = rf_fail(err, RF_ERR_FORMAT, "arrived damaged: SHA-256 is %s, announced was %s", answer.sha256,
                     answer.announced_sha256);
    rf_http_answer_finish(&answer);
    return rc;
}

static char *file_path(const struct rf_wire_lease *lease, const char *name)
{
    RF_ASSERT(rf_file_name_valid(name));
    return rf_asprintf("/farm/v1/tasks/%s/files/%s?lease=%" PRId64, lease->task_id, name, lease->lease);
}

enum rf_code rf_farm_fetch(struct rf_link *link, const struct rf_wire_lease *lease, const char *name,
                           const char *save_path, struct rf_stop *stop, struct rf_err *err)
{
    RF_AUTO(rf_free) char *path = file_path(lease, name);
    struct parcel parcel = {.link = link, .path = path, .save_path = save_path, .stop = stop};
    enum rf_code rc = persist(&(struct persistence){link, stop, 0, "fetch"}, carry, &parcel, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "fetch %s", name);
}

enum rf_code rf_farm_deliver(struct rf_link *link, const struct rf_wire_lease *lease, const char *name,
                             const char *file, struct rf_stop *stop, struct rf_err *err)
{
    char sha256[RF_SHA256_HEX];
    int64_t size_bytes;
    enum rf_code rc = rf_sha256_file(file, sha256, &size_bytes, err);
    if (rc != RF_OK)
        return rc;
    RF_AUTO(rf_free) char *path = file_path(lease, name);
    struct parcel parcel = {.link = link, .path = path, .body_path = file, .sha256 = sha256, .stop = stop};
    rc = persist(&(struct persistence){link, stop, 0, "upload"}, carry, &parcel, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "upload %s", name);
}

enum rf_code rf_farm_offer(struct rf_link *link, const struct rf_wire_lease *lease, const char *name,
                           const void *bytes, size_t size_bytes, struct rf_stop *stop, struct rf_err *err)
{
    char sha256[RF_SHA256_HEX];
    rf_sha256_bytes(bytes, size_bytes, sha256);
    RF_AUTO(rf_free) char *path = file_path(lease, name);
    struct parcel parcel = {.link = link, .path = path, .body = bytes, .body_bytes = size_bytes, .sha256 = sha256,
                            .stop = stop};
    return carry(&parcel, err);
}

struct report_call {
    struct rf_link *link;
    const char *path;
    struct rf_wire_report *report;
    struct rf_stop *stop;
};

static enum rf_code report_once(void *arg, struct rf_err *err)
{
    struct report_call *c = arg;
    unsigned generation = current_worker(c->link->farm, c->report->worker_id);
    RF_AUTO(rf_json_destroy) cJSON *body = rf_wire_report_build(c->report);
    int status;
    return post(c->link, c->path, body, generation, REPORT_TIMEOUT_MS, c->stop, NULL, &status, err);
}

enum rf_code rf_farm_report(struct rf_link *link, const struct rf_wire_lease *lease, struct rf_wire_report *report,
                            int64_t within_ms, struct rf_stop *stop, struct rf_err *err)
{
    static const char *const words[] = {"complete", "fail", "release"};
    _Static_assert(RF_COUNT_OF(words) == RF_REPORT_KIND_COUNT, "a kind of report has no word");
    report->lease = lease->lease;
    RF_AUTO(rf_free) char *path = rf_asprintf("/farm/v1/tasks/%s/%s", lease->task_id, words[report->kind]);
    struct report_call call = {link, path, report, stop};
    struct persistence persistence = {link, stop, within_ms, words[report->kind]};
    enum rf_code rc = persist(&persistence, report_once, &call, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "%s", words[report->kind]);
}

enum rf_code rf_farm_leave(struct rf_link *link, struct rf_err *err)
{
    char id[RF_WORKER_ID_SIZE];
    current_worker(link->farm, id);
    if (id[0] == '\0')
        return RF_OK;
    RF_AUTO(rf_json_destroy) cJSON *body = rf_wire_worker_id_build(id);
    int status;
    return post(link, "/farm/v1/leave", body, NO_GENERATION, LEAVE_TIMEOUT_MS, NULL, NULL, &status, err);
}
