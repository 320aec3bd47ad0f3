/* The farm's messages about leases and tasks. Registration, the largest, has its own file: wire_register.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/wire.h"

#include "schema/wire_private.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *const rf_stage_names[] = {"queue", "load", "text", "encode_image", "high_noise", "low_noise", "decode",
                                      "interpolate", "encode", "upload", "assemble", NULL};

int rf_stage_index(const char *name)
{
    for (int i = 0; rf_stage_names[i] != NULL; i++)
        if (rf_stage_names[i][0] == name[0] && strcmp(rf_stage_names[i], name) == 0)
            return i;
    return -1;
}

bool rf_stage_known(const char *name)
{
    return rf_stage_index(name) >= 0;
}

/* ---- readers shared with wire_register.c ---- */

enum rf_code rf_wire_object(const cJSON *json, const char *what, struct rf_err *err)
{
    return cJSON_IsObject(json) ? RF_OK : rf_fail(err, RF_ERR_INVALID, "%s must be a JSON object", what);
}

const cJSON *rf_wire_get(const cJSON *json, const char *name)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, name);
    return cJSON_IsNull(value) ? NULL : value;
}

enum rf_code rf_wire_int(const cJSON *json, const char *name, int64_t min, int64_t max, int64_t fallback, int64_t *ret_n,
                         struct rf_err *err)
{
    const cJSON *value = rf_wire_get(json, name);
    *ret_n = fallback;
    if (value == NULL)
        return fallback == RF_WIRE_REQUIRED ? rf_fail(err, RF_ERR_INVALID, "%s is missing", name) : RF_OK;
    double x = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    if (!(x >= (double)min && x <= (double)max) || x != floor(x))
        return rf_fail(err, RF_ERR_INVALID, "%s must be a whole number from %lld to %lld", name, (long long)min,
                       (long long)max);
    *ret_n = (int64_t)x;
    return RF_OK;
}

enum rf_code rf_wire_int32(const cJSON *json, const char *name, int min, int max, int64_t fallback, int *ret_n,
                           struct rf_err *err)
{
    int64_t n = 0;
    enum rf_code rc = rf_wire_int(json, name, min, max, fallback, &n, err);
    *ret_n = (int)n;
    return rc;
}

enum rf_code rf_wire_double(const cJSON *json, const char *name, double min, double max, double fallback, double *ret_x,
                            struct rf_err *err)
{
    const cJSON *value = rf_wire_get(json, name);
    *ret_x = fallback;
    if (value == NULL)
        return RF_OK;
    if (!cJSON_IsNumber(value) || !(value->valuedouble >= min && value->valuedouble <= max))
        return rf_fail(err, RF_ERR_INVALID, "%s must be a number from %g to %g", name, min, max);
    *ret_x = value->valuedouble;
    return RF_OK;
}

enum rf_code rf_wire_bool(const cJSON *json, const char *name, bool fallback, bool *ret, struct rf_err *err)
{
    const cJSON *value = rf_wire_get(json, name);
    *ret = value == NULL ? fallback : cJSON_IsTrue(value);
    return value == NULL || cJSON_IsBool(value) ? RF_OK : rf_fail(err, RF_ERR_INVALID, "%s must be true or false", name);
}

static enum rf_code check_string(const cJSON *value, const char *name, size_t max_bytes, struct rf_err *err)
{
    if (!cJSON_IsString(value))
        return rf_fail(err, RF_ERR_INVALID, "%s must be a string", name);
    size_t n = strlen(value->valuestring);
    if (n > max_bytes)
        return rf_fail(err, RF_ERR_INVALID, "%s has %zu bytes; at most %zu", name, n, max_bytes);
    return RF_OK;
}

enum rf_code rf_wire_string(const cJSON *json, const char *name, size_t max_bytes, bool required, char **ret_text,
                            struct rf_err *err)
{
    const cJSON *value = rf_wire_get(json, name);
    if (value == NULL && required)
        return rf_fail(err, RF_ERR_INVALID, "%s is missing", name);
    enum rf_code rc = value == NULL ? RF_OK : check_string(value, name, max_bytes, err);
    if (rc == RF_OK && required && value->valuestring[0] == '\0')
        rc = rf_fail(err, RF_ERR_INVALID, "%s is empty", name);
    if (rc == RF_OK) {
        free(*ret_text);
        *ret_text = rf_strdup(value == NULL ? "" : value->valuestring);
    }
    return rc;
}

/* Into a buffer of `size` bytes; `fallback` NULL means required. */
enum rf_code rf_wire_word(const cJSON *json, const char *name, size_t size, const char *fallback, char *ret_text,
                          struct rf_err *err)
{
    const cJSON *value = rf_wire_get(json, name);
    if (value == NULL) {
        snprintf(ret_text, size, "%s", fallback ? fallback : "");
        return fallback ? RF_OK : rf_fail(err, RF_ERR_INVALID, "%s is missing", name);
    }
    enum rf_code rc = check_string(value, name, size - 1, err);
    if (rc == RF_OK)
        snprintf(ret_text, size, "%s", value->valuestring);
    return rc;
}

void rf_wire_strings_free(char **texts, int n)
{
    for (int i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
}

enum rf_code rf_wire_strings(const cJSON *json, const char *name, int max_n, size_t max_bytes, char ***ret_texts,
                             int *ret_n, struct rf_err *err)
{
    const cJSON *list = rf_wire_get(json, name);
    if (list == NULL)
        return RF_OK;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (n < 0 || n > max_n)
        return rf_fail(err, RF_ERR_INVALID, "%s must be a list of at most %d strings", name, max_n);
    *ret_texts = rf_new_array(char *, (size_t)n);
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        enum rf_code rc = check_string(item, name, max_bytes, err);
        if (rc != RF_OK)
            return rc;
        (*ret_texts)[(*ret_n)++] = rf_strdup(item->valuestring);
    }
    return RF_OK;
}

void rf_wire_add_strings(cJSON *json, const char *name, char *const *texts, int n)
{
    cJSON *list = cJSON_AddArrayToObject(json, name);
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(texts[i]));
}

/* ---- ids and names ---- */

bool rf_wire_worker_id_shaped(const char *id)
{
    return strncmp(id, "worker_", 7) == 0 && id[7 + strspn(id + 7, "0123456789abcdefghijklmnopqrstuvwxyz")] == '\0';
}

static enum rf_code read_worker_id(const cJSON *json, char ret_id[RF_WORKER_ID_SIZE], struct rf_err *err)
{
    enum rf_code rc = rf_wire_word(json, "worker_id", RF_WORKER_ID_SIZE, NULL, ret_id, err);
    if (rc == RF_OK && !rf_wire_worker_id_shaped(ret_id))
        rc = rf_fail(err, RF_ERR_INVALID, "worker_id is not one");
    return rc;
}

enum rf_code rf_wire_worker_id_read(const cJSON *json, char *ret_id, struct rf_err *err)
{
    enum rf_code rc = rf_wire_object(json, "the message", err);
    return rc == RF_OK ? read_worker_id(json, ret_id, err) : rc;
}

cJSON *rf_wire_worker_id_build(const char *worker_id)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "worker_id", worker_id);
    return json;
}

static bool job_id_shaped(const char *text, size_t n)
{
    return n == RF_JOB_ID_SIZE - 1 && strncmp(text, "video_", 6) == 0 &&
           strspn(text + 6, "0123456789abcdefghjkmnpqrstvwxyz") >= 26;
}

/* A number without sign, leading zero or more than `max_digits`; returns what follows it, NULL when there is none. */
static const char *plain_number(const char *text, int max_digits, int *ret_n)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > (size_t)max_digits || (n > 1 && text[0] == '0'))
        return NULL;
    *ret_n = atoi(text);
    return text + n;
}

bool rf_task_id_parse(const char *task_id, char ret_job_id[RF_JOB_ID_SIZE], int *ret_index)
{
    const char *dot = strchr(task_id, '.');
    if (dot == NULL || !job_id_shaped(task_id, (size_t)(dot - task_id)))
        return false;
    const char *end = plain_number(dot + 1, 4, ret_index);
    if (end == NULL || *end != '\0' || *ret_index > RF_MAX_SEGMENTS)
        return false;
    memcpy(ret_job_id, task_id, RF_JOB_ID_SIZE - 1);
    ret_job_id[RF_JOB_ID_SIZE - 1] = '\0';
    return true;
}

bool rf_file_name_valid(const char *name)
{
    static const char *const fixed[] = {"input", "video.mp4", "thumbnail.webp", "spritesheet.webp"};
    static const struct { const char *head, *tail; } numbered[] = {
        {"segment-", ".mp4"}, {"last-", ".png"}, {"preview-", ".webp"}};
    for (size_t i = 0; i < RF_COUNT_OF(fixed); i++)
        if (strcmp(name, fixed[i]) == 0)
            return true;
    for (size_t i = 0; i < RF_COUNT_OF(numbered); i++) {
        size_t n_head = strlen(numbered[i].head);
        int index = 0;
        if (strncmp(name, numbered[i].head, n_head) == 0) {
            const char *end = plain_number(name + n_head, 3, &index);
            return end != NULL && index < RF_MAX_SEGMENTS && strcmp(end, numbered[i].tail) == 0;
        }
    }
    return false;
}

/* ---- registered, lease ---- */

enum rf_code rf_wire_registered_read(const cJSON *json, struct rf_wire_registered *ret, struct rf_err *err)
{
    struct rf_wire_registered m = {0};
    enum rf_code rc = rf_wire_worker_id_read(json, m.worker_id, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "lease_ms", 1, INT64_C(86400000), RF_WIRE_REQUIRED, &m.lease_ms, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "heartbeat_ms", 1, INT64_C(86400000), RF_WIRE_REQUIRED, &m.heartbeat_ms, err);
    if (rc == RF_OK)
        *ret = m;
    return rc;
}

cJSON *rf_wire_registered_build(const struct rf_wire_registered *m)
{
    cJSON *json = rf_wire_worker_id_build(m->worker_id);
    cJSON_AddNumberToObject(json, "lease_ms", (double)m->lease_ms);
    cJSON_AddNumberToObject(json, "heartbeat_ms", (double)m->heartbeat_ms);
    return json;
}

static enum rf_code read_gauges(const cJSON *json, struct rf_wire_gauges *ret, struct rf_err *err)
{
    const cJSON *device = rf_wire_get(json, "device");
    *ret = (struct rf_wire_gauges){0};
    if (device == NULL)
        return RF_OK;
    ret->told = true;
    enum rf_code rc = rf_wire_object(device, "device", err);
    if (rc == RF_OK)
        rc = rf_wire_int(device, "memory_used_bytes", 0, RF_MAX_SEED, -1, &ret->memory_used_bytes, err);
    if (rc == RF_OK)
        rc = rf_wire_double(device, "utilization", 0, 1, -1, &ret->utilization, err);
    if (rc == RF_OK)
        rc = rf_wire_double(device, "temperature_c", 0, 1000, -1, &ret->temperature_c, err);
    if (rc == RF_OK)
        rc = rf_wire_double(device, "power_w", 0, 1e6, -1, &ret->power_w, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "device");
}

static void add_gauge(cJSON *json, const char *name, double value)
{
    if (value >= 0)
        cJSON_AddNumberToObject(json, name, value);
}

static void add_gauges(cJSON *json, const struct rf_wire_gauges *g)
{
    if (!g->told)
        return;
    cJSON *device = cJSON_AddObjectToObject(json, "device");
    add_gauge(device, "memory_used_bytes", (double)g->memory_used_bytes);
    add_gauge(device, "utilization", g->utilization);
    add_gauge(device, "temperature_c", g->temperature_c);
    add_gauge(device, "power_w", g->power_w);
}

enum rf_code rf_wire_lease_ask_read(const cJSON *json, struct rf_wire_lease_ask *ret, struct rf_err *err)
{
    struct rf_wire_lease_ask m = {0};
    enum rf_code rc = rf_wire_worker_id_read(json, m.worker_id, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "wait_ms", 0, 30000, 0, &m.wait_ms, err);
    if (rc == RF_OK)
        rc = read_gauges(json, &m.device, err);
    if (rc == RF_OK)
        *ret = m;
    return rc;
}

cJSON *rf_wire_lease_ask_build(const struct rf_wire_lease_ask *m)
{
    cJSON *json = rf_wire_worker_id_build(m->worker_id);
    cJSON_AddNumberToObject(json, "wait_ms", (double)m->wait_ms);
    add_gauges(json, &m->device);
    return json;
}

void rf_wire_lease_finish(struct rf_wire_lease *lease)
{
    free(lease->request_text);
    *lease = (struct rf_wire_lease){0};
}

static enum rf_code read_lease_task(const cJSON *json, struct rf_wire_lease *l, struct rf_err *err)
{
    char kind[16], job_id[RF_JOB_ID_SIZE];
    enum rf_code rc = rf_wire_word(json, "task_id", sizeof l->task_id, NULL, l->task_id, err);
    if (rc == RF_OK)
        rc = rf_wire_word(json, "job_id", sizeof l->job_id, NULL, l->job_id, err);
    if (rc == RF_OK && (!rf_task_id_parse(l->task_id, job_id, &l->index) || strcmp(job_id, l->job_id) != 0))
        rc = rf_fail(err, RF_ERR_INVALID, "task_id and job_id do not fit each other");
    if (rc == RF_OK)
        rc = rf_wire_int(json, "lease", 1, RF_MAX_SEED, RF_WIRE_REQUIRED, &l->lease, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "lease_ms", 1, INT64_C(86400000), RF_WIRE_REQUIRED, &l->lease_ms, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(json, "attempt", 1, 1000000, RF_WIRE_REQUIRED, &l->attempt, err);
    if (rc == RF_OK)
        rc = rf_wire_bool(json, "small_memory", false, &l->small_memory, err);
    if (rc == RF_OK)
        rc = rf_wire_word(json, "start_image", sizeof l->start_image, "", l->start_image, err);
    if (rc == RF_OK && l->start_image[0] != '\0' && !rf_file_name_valid(l->start_image))
        rc = rf_fail(err, RF_ERR_INVALID, "start_image is not a file's name");
    if (rc == RF_OK)
        rc = rf_wire_word(json, "kind", sizeof kind, NULL, kind, err);
    if (rc == RF_OK && strcmp(kind, "segment") != 0 && strcmp(kind, "assemble") != 0)
        rc = rf_fail(err, RF_ERR_INVALID, "kind '%s' is unknown", kind);
    if (rc == RF_OK)
        l->kind = kind[0] == 's' ? RF_TASK_SEGMENT : RF_TASK_ASSEMBLE;
    return rc;
}

static enum rf_code read_lease_work(const cJSON *json, struct rf_wire_lease *l, struct rf_err *err)
{
    const int most = 2 * RF_MAX_FRAMES;
    enum rf_code rc;
    if (l->kind == RF_TASK_ASSEMBLE) {
        const cJSON *segments = rf_wire_get(json, "segments");
        l->n_segments = cJSON_IsArray(segments) ? cJSON_GetArraySize(segments) : 0;
        if (l->n_segments < 1 || l->n_segments > RF_MAX_SEGMENTS || l->index != l->n_segments)
            return rf_fail(err, RF_ERR_INVALID, "segments does not fit the task");
        return rf_wire_int32(json, "num_frames_out", 1, most, RF_WIRE_REQUIRED, &l->n_frames_out, err);
    }
    int index = 0;
    const cJSON *segment = rf_wire_get(json, "segment");
    rc = rf_wire_object(segment, "segment", err);
    if (rc == RF_OK)
        rc = rf_wire_int32(segment, "index", 0, RF_MAX_SEGMENTS - 1, RF_WIRE_REQUIRED, &index, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(segment, "count", 1, RF_MAX_SEGMENTS, RF_WIRE_REQUIRED, &l->n_segments, err);
    if (rc == RF_OK && (index != l->index || index >= l->n_segments))
        rc = rf_fail(err, RF_ERR_INVALID, "segment.index does not fit the task");
    if (rc == RF_OK)
        rc = rf_wire_int32(segment, "first_frame", 0, RF_MAX_FRAMES - 1, RF_WIRE_REQUIRED, &l->first_frame, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(segment, "num_frames", 5, RF_MAX_FRAMES, RF_WIRE_REQUIRED, &l->n_frames, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(segment, "num_frames_out", 1, most, RF_WIRE_REQUIRED, &l->n_frames_out, err);
    return rc;
}

enum rf_code rf_wire_lease_read(const cJSON *json, struct rf_wire_lease *ret_lease, struct rf_request **ret_request,
                                struct rf_err *err)
{
    struct rf_wire_lease l = {0};
    RF_AUTO(rf_request_destroy) struct rf_request *request = NULL;
    enum rf_code rc = rf_wire_object(json, "the lease", err);
    if (rc == RF_OK)
        rc = read_lease_task(json, &l, err);
    if (rc == RF_OK)
        rc = read_lease_work(json, &l, err);
    if (rc == RF_OK)
        rc = rf_request_from_json(rf_wire_get(json, "request"), &request, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "lease");
    l.request_text = rf_request_to_text(request);
    *ret_lease = l;
    if (ret_request != NULL) {
        *ret_request = request;
        request = NULL;
    }
    return RF_OK;
}

char *rf_wire_lease_text(const struct rf_wire_lease *l)
{
    struct rf_text t = {0};
    char head[512];
    snprintf(head, sizeof head,
             "{\"task_id\":\"%s\",\"job_id\":\"%s\",\"lease\":%lld,\"lease_ms\":%lld,\"attempt\":%d,\"small_memory\":%s,",
             l->task_id, l->job_id, (long long)l->lease, (long long)l->lease_ms, l->attempt,
             l->small_memory ? "true" : "false");
    rf_text_add(&t, head);
    if (l->kind == RF_TASK_SEGMENT) {
        snprintf(head, sizeof head,
                 "\"kind\":\"segment\",\"segment\":{\"index\":%d,\"count\":%d,\"first_frame\":%d,\"num_frames\":%d,"
                 "\"num_frames_out\":%d},", l->index, l->n_segments, l->first_frame, l->n_frames, l->n_frames_out);
        rf_text_add(&t, head);
    } else {
        rf_text_add(&t, "\"kind\":\"assemble\",\"segments\":[");
        for (int i = 0; i < l->n_segments; i++) {
            snprintf(head, sizeof head, "%s\"segment-%d.mp4\"", i ? "," : "", i);
            rf_text_add(&t, head);
        }
        snprintf(head, sizeof head, "],\"num_frames_out\":%d,", l->n_frames_out);
        rf_text_add(&t, head);
    }
    rf_text_add(&t, "\"start_image\":");
    if (l->start_image[0] != '\0')
        rf_text_add_string(&t, l->start_image);
    else
        rf_text_add(&t, "null");
    rf_text_add(&t, ",\"request\":");
    rf_text_add(&t, l->request_text);
    rf_text_add(&t, "}");
    return t.text;
}

cJSON *rf_wire_lease_build(const struct rf_wire_lease *lease)
{
    RF_AUTO(rf_free) char *text = rf_wire_lease_text(lease);
    cJSON *json = cJSON_Parse(text);
    RF_ASSERT(json != NULL);
    return json;
}

/* ---- heartbeat ---- */

enum rf_code rf_wire_heartbeat_read(const cJSON *json, struct rf_wire_heartbeat *ret, struct rf_err *err)
{
    struct rf_wire_heartbeat m = {0};
    enum rf_code rc = rf_wire_worker_id_read(json, m.worker_id, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "lease", 1, RF_MAX_SEED, RF_WIRE_REQUIRED, &m.lease, err);
    if (rc == RF_OK)
        rc = rf_wire_word(json, "stage", sizeof m.stage, "", m.stage, err);
    if (rc == RF_OK && m.stage[0] != '\0' && !rf_stage_known(m.stage))
        rc = rf_fail(err, RF_ERR_INVALID, "stage '%s' is unknown", m.stage);
    if (rc == RF_OK)
        rc = rf_wire_int32(json, "step", 0, 1000000, 0, &m.step, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(json, "steps", 0, 1000000, 0, &m.steps, err);
    if (rc == RF_OK)
        rc = rf_wire_double(json, "fraction", 0, 1, 0, &m.fraction, err);
    if (rc == RF_OK)
        rc = read_gauges(json, &m.device, err);
    if (rc == RF_OK)
        *ret = m;
    return rc;
}

cJSON *rf_wire_heartbeat_build(const struct rf_wire_heartbeat *m)
{
    cJSON *json = rf_wire_worker_id_build(m->worker_id);
    cJSON_AddNumberToObject(json, "lease", (double)m->lease);
    cJSON_AddStringToObject(json, "stage", m->stage);
    cJSON_AddNumberToObject(json, "step", m->step);
    cJSON_AddNumberToObject(json, "steps", m->steps);
    cJSON_AddNumberToObject(json, "fraction", m->fraction);
    add_gauges(json, &m->device);
    return json;
}

enum rf_code rf_wire_heartbeat_answer_read(const cJSON *json, struct rf_wire_heartbeat_answer *ret, struct rf_err *err)
{
    struct rf_wire_heartbeat_answer m = {0};
    enum rf_code rc = rf_wire_object(json, "the answer", err);
    if (rc == RF_OK)
        rc = rf_wire_bool(json, "cancel", false, &m.cancel, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "lease_ms", 1, INT64_C(86400000), RF_WIRE_REQUIRED, &m.lease_ms, err);
    if (rc == RF_OK)
        *ret = m;
    return rc;
}

cJSON *rf_wire_heartbeat_answer_build(const struct rf_wire_heartbeat_answer *m)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddBoolToObject(json, "cancel", m->cancel);
    cJSON_AddNumberToObject(json, "lease_ms", (double)m->lease_ms);
    return json;
}
