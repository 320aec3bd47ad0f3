/* See submit.h. The way of a create:
 *     headers -> begin (form or JSON?) -> bytes -> parse -> resolve -> image to disk -> one op -> commit -> answer
 * A stock SDK always sends a form, even for a prompt alone, and silently sends again when an answer is lost; see recent.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/submit.h"

#include "schema/json.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/id.h"
#include "server/image.h"
#include "server/multipart.h"
#include "server/recent.h"
#include "server/store_call.h"
#include "server/video_json.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define INPUT "input_reference"
#define FIRST_WORKER_MS 30000 /* how long after the start the first local worker is waited for */

struct submit {
    struct rf_op op;
    struct rf_submit job;
    struct rf_request *request;
    char param[RF_PARAM_SIZE];
    /* the form */
    struct rf_multipart *multipart;
    struct rf_form *form;
    char *part_name;
    bool part_is_file;
    struct rf_out value;
    /* the start image as a file part */
    struct rf_upload *upload;
    uint8_t sniff[RF_IMAGE_SNIFF_BYTES];
    size_t sniff_n;
    struct rf_file input;
    const char *input_type;
    /* the same request sent twice */
    EVP_MD_CTX *digest;
    uint8_t fingerprint[EVP_MAX_MD_SIZE];
    uint8_t silent[EVP_MAX_MD_SIZE];    /* fingerprint with its caller: for recent.h */
    bool sent_by_sdk;
    int64_t retry_count;
    char joined[RF_JOB_ID_SIZE];
    char *key;
};

static void free_submit(void **state)
{
    struct submit *s = *state;
    rf_request_destroy(&s->request);
    rf_multipart_destroy(&s->multipart);
    rf_form_destroy(&s->form);
    rf_upload_destroy(&s->upload);
    rf_out_finish(&s->value);
    EVP_MD_CTX_free(s->digest);
    free(s->part_name);
    free(s->key);
    free(s);
    *state = NULL;
}

static void refuse(struct rf_call *c, enum rf_code rc, const char *param, const struct rf_err *err)
{
    if (rc == RF_ERR_LIMIT) /* of a form or an upload here, not of the queue: nothing to wait for */
        rf_answer_error(c, 413, param, "too_large", "%s", err->msg);
    else
        rf_answer_failed(c, rc, param, err);
}

/* ---- the body arrives ---- */

static enum rf_code take_json(struct rf_call *c, const char *data, size_t n, struct rf_err *err)
{
    struct submit *s = c->state;
    if (s->digest != NULL)
        EVP_DigestUpdate(s->digest, data, n);
    return rf_call_collect(c, data, n, err);
}

static enum rf_code take_form(struct rf_call *c, const char *data, size_t n, struct rf_err *err)
{
    struct submit *s = c->state;
    enum rf_code rc = rf_multipart_feed(s->multipart, data, n, err);
    if (rc != RF_OK && !rf_call_is_answered(c))
        refuse(c, rc, s->param, err);
    return rc;
}

static enum rf_code part_begin(void *self, const struct rf_multipart_part *part, struct rf_err *err)
{
    struct rf_call *c = self;
    struct submit *s = c->state;
    s->part_is_file = part->filename != NULL ||
                      (part->content_type != NULL && strncasecmp(part->content_type, "image/", 6) == 0);
    free(s->part_name);
    s->part_name = rf_strdup(part->name);
    s->value.text.n_bytes = 0;
    /* The boundary differs with every send of the same form, so the content is hashed, not the bytes. */
    if (s->digest != NULL)
        EVP_DigestUpdate(s->digest, part->name, strlen(part->name) + 1);
    if (!s->part_is_file)
        return RF_OK;
    snprintf(s->param, sizeof s->param, "%s", part->name);
    if (strcmp(part->name, INPUT) != 0)
        return rf_fail(err, RF_ERR_INVALID, "'%.40s' cannot be a file; a start image is sent as '" INPUT "'", part->name);
    if (s->upload != NULL)
        return rf_fail(err, RF_ERR_INVALID, "'" INPUT "' is given twice");
    return rf_upload_begin(c->app->files, RF_IMAGE_MAX_BYTES, &s->upload, err);
}

static enum rf_code part_data(void *self, const char *data, size_t n, struct rf_err *err)
{
    struct rf_call *c = self;
    struct submit *s = c->state;
    if (s->digest != NULL)
        EVP_DigestUpdate(s->digest, data, n);
    if (!s->part_is_file) {
        rf_out_add(&s->value, data, n); /* bounded by the body's limit */
        return RF_OK;
    }
    for (size_t i = 0; i < n && s->sniff_n < sizeof s->sniff; i++)
        s->sniff[s->sniff_n++] = (uint8_t)data[i];
    if (rf_upload_size(s->upload) + (int64_t)n > RF_IMAGE_MAX_BYTES)
        return rf_fail(err, RF_ERR_LIMIT, "'" INPUT "' has more than 20 MiB");
    return rf_upload_write(s->upload, data, n, err);
}

static enum rf_code part_end(void *self, struct rf_err *err)
{
    struct rf_call *c = self;
    struct submit *s = c->state;
    s->param[0] = '\0';
    if (s->digest != NULL)
        EVP_DigestUpdate(s->digest, "\n", 1);
    if (!s->part_is_file)
        return rf_form_add(s->form, s->part_name, s->value.text.text ? s->value.text.text : "", s->value.text.n_bytes, s->param, err);
    if (rf_upload_size(s->upload) == 0) { /* what browsers send for a file field left empty */
        rf_upload_destroy(&s->upload);
        return RF_OK;
    }
    s->input_type = rf_image_type(s->sniff, s->sniff_n);
    if (s->input_type == NULL) {
        snprintf(s->param, sizeof s->param, INPUT);
        return rf_fail(err, RF_ERR_INVALID, "'" INPUT "' is no PNG, JPEG or WebP image");
    }
    return RF_OK;
}

/* Reads Idempotency-Key and the SDK's retry count; either makes the content worth a hash. False: answered. */
static bool read_identity(struct rf_call *c, struct submit *s)
{
    const char *key = rf_call_header(c, "Idempotency-Key"), *count = rf_call_header(c, "X-Stainless-Retry-Count");
    if (key != NULL) {
        size_t n = strlen(key);
        for (size_t i = 0; i < n; i++)
            if (key[i] < 0x20 || key[i] > 0x7e)
                n = 0;
        if (n == 0 || n > RF_KEY_MAX) {
            rf_answer_error(c, 400, "Idempotency-Key", "invalid", "Idempotency-Key must be 1 to %d printable ASCII characters",
                            RF_KEY_MAX);
            return false;
        }
        /* A key of one token is not the same key of another. */
        s->key = rf_asprintf("%s%s%s", c->token.name, c->token.name[0] ? "\n" : "", key);
    }
    s->sent_by_sdk = key == NULL && count != NULL && rf_parse_int(count, 0, 1000, &s->retry_count);
    if (s->key != NULL || s->sent_by_sdk) {
        s->digest = EVP_MD_CTX_new();
        RF_ASSERT(s->digest != NULL && EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL) == 1);
    }
    return true;
}

void rf_submit_begin(struct rf_call *c)
{
    struct submit *s = rf_new(struct submit);
    c->state = s;
    c->free_state = free_submit;
    struct rf_err err = {0};
    static const char *const known[] = {"dry_run", NULL};
    if (rf_params_only(&c->query, known, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
        return;
    }
    if (!read_identity(c, s))
        return;
    const char *type = rf_call_content_type(c);
    if (type == NULL || strncasecmp(type, "application/json", 16) == 0) {
        c->sink = take_json;
        return;
    }
    if (strncasecmp(type, "multipart/", 10) != 0) {
        rf_answer_error(c, 415, NULL, "unsupported_media_type",
                        "Content-Type must be application/json or multipart/form-data, got '%.60s'", type);
        return;
    }
    const struct rf_multipart_listener listener = {.self = c, .begin = part_begin, .data = part_data, .end = part_end};
    if (rf_multipart_create(type, &listener, &s->multipart, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
        return;
    }
    s->form = rf_form_create();
    c->sink = take_form;
}

/* ---- the body is there ---- */

enum rf_code rf_submit_claim(struct rf_call *c, struct rf_request *r, char *ret_param, struct rf_err *err)
{
    const char *owner = rf_auth_owner(c);
    if (owner == NULL)
        return RF_OK;
    snprintf(ret_param, RF_PARAM_SIZE, "%s", r->priority > 0 ? "priority" : "user");
    if (r->priority > 0)
        return rf_fail(err, RF_ERR_INVALID, "a priority above 0 takes an operator's token");
    if (r->user[0] != '\0' && strcmp(r->user, owner) != 0)
        return rf_fail(err, RF_ERR_INVALID, "this token submits as '%s'; leave 'user' out", owner);
    snprintf(r->user, sizeof r->user, "%s", owner);
    ret_param[0] = '\0';
    return RF_OK;
}

bool rf_submit_is_early(const struct rf_app *app)
{
    RF_AUTO(rf_known_model_destroy) struct rf_known_model *known = NULL;
    return app->config->n_workers != 0 && rf_now_ms() - app->started_ms < FIRST_WORKER_MS &&
           rf_store_model(app->store, NULL, &known, NULL) != RF_OK;
}

enum rf_code rf_submit_resolve(struct rf_app *app, struct rf_request *request, struct rf_plan *ret_plan, char *ret_param,
                               struct rf_err *err)
{
    RF_AUTO(rf_known_model_destroy) struct rf_known_model *known = NULL;
    const struct rf_model_defaults *defaults = &rf_model_defaults_builtin;
    if (rf_store_model(app->store, request->model, &known, NULL) == RF_OK) {
        defaults = &known->model.defaults;
    } else if (request->model[0] != '\0' && rf_store_model(app->store, NULL, &known, NULL) == RF_OK) {
        snprintf(ret_param, RF_PARAM_SIZE, "model");
        return rf_fail(err, RF_ERR_INVALID, "model '%.60s' is not known here; GET /v1/models lists those that are, "
                       "'%.60s' for one", request->model, known->model.name);
    } else if (rf_submit_is_early(app)) {
        return rf_fail(err, RF_ERR_IO, "the farm is starting: no worker has said yet what it can render; ask again in "
                       "a second");
    }
    return rf_request_resolve(request, defaults, rf_random64(), ret_plan, ret_param, err);
}

enum rf_code rf_submit_store_image(struct rf_app *app, const struct rf_request *request, const char *job_id,
                                   struct rf_file *ret_file, char *ret_param, struct rf_err *err)
{
    const char *type = rf_image_type(request->image, request->image_bytes);
    snprintf(ret_param, RF_PARAM_SIZE, INPUT);
    if (type == NULL)
        return rf_fail(err, RF_ERR_INVALID, "'" INPUT "' is no PNG, JPEG or WebP image");
    if (request->image_bytes > RF_IMAGE_MAX_BYTES)
        return rf_fail(err, RF_ERR_INVALID, "'" INPUT "' has more than 20 MiB");
    RF_AUTO(rf_upload_destroy) struct rf_upload *upload = NULL;
    enum rf_code rc = rf_upload_begin(app->files, RF_IMAGE_MAX_BYTES, &upload, err);
    if (rc == RF_OK)
        rc = rf_upload_write(upload, request->image, request->image_bytes, err);
    if (rc == RF_OK)
        rc = rf_upload_finish(upload, job_id, "input", NULL, rf_now_ms(), ret_file, err);
    if (rc == RF_OK)
        snprintf(ret_file->content_type, sizeof ret_file->content_type, "%s", type);
    return rc;
}

static void answer_video(struct rf_call *c, const char *id)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    struct rf_err err = {0};
    enum rf_code rc = rf_store_get(c->app->store, id, RF_WITH_ALL, &job, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    struct rf_out t = {0};
    rf_video_json(&t, NULL, job);
    size_t n;
    char *body = rf_out_take(&t, &n);
    rf_answer_header_printf(c, "openai-poll-after-ms", "%d", rf_video_poll_after_ms(job, rf_now_ms()));
    rf_answer_take(c, 200, "application/json", body, n);
}

/* The Video of a job of which nothing is done yet, from the request alone: the busiest answer reads nothing from disk.
 * `id` "": a dry run. */
static void answer_fresh(struct rf_call *c, struct submit *s, const char *id, int64_t created_ms)
{
    struct rf_plan plan;
    struct rf_err err = {0};
    enum rf_code rc = rf_request_plan(s->request, &plan, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    struct rf_job job = {.state = RF_JOB_QUEUED, .request = s->request, .priority = s->request->priority};
    snprintf(job.id, sizeof job.id, "%s", id);
    job.created_ms = created_ms;
    job.remixed_from = (char *)(uintptr_t)s->job.remixed_from;
    job.n_tasks = plan.n_segments + 1;
    rf_store_expect(c->app->store, &job);
    job.tasks = rf_new_array(struct rf_task, (size_t)job.n_tasks);
    for (int i = 0; i < job.n_tasks; i++) {
        job.tasks[i].state = i == 0 ? RF_TASK_READY : RF_TASK_BLOCKED;
        job.tasks[i].kind = i < plan.n_segments ? RF_TASK_SEGMENT : RF_TASK_ASSEMBLE;
    }
    struct rf_out t = {0};
    rf_video_json(&t, NULL, &job);
    free(job.tasks);
    size_t n;
    char *body = rf_out_take(&t, &n);
    if (id[0] != '\0')
        rf_answer_header_printf(c, "openai-poll-after-ms", "%d", rf_video_poll_after_ms(&job, created_ms));
    rf_answer_take(c, 200, "application/json", body, n);
}

static void after_submit(struct rf_call *c)
{
    struct submit *s = c->state;
    if (s->op.code != RF_OK) {
        if (s->job.input != NULL)
            rf_files_remove(c->app->files, s->job.id, s->input.disk_name);
        const struct rf_err *err = s->job.err.msg[0] ? &s->job.err : &s->op.err;
        enum rf_code rc = s->job.code != RF_OK ? s->job.code : s->op.code;
        if (rc == RF_ERR_CONFLICT)
            rf_answer_error(c, 409, "Idempotency-Key", "idempotency_key_reused", "%s", err->msg);
        else
            rf_answer_failed(c, rc, NULL, err);
        return;
    }
    if (s->job.replayed) {
        if (s->job.input != NULL)
            rf_files_remove(c->app->files, s->job.id, s->input.disk_name);
        rf_answer_header(c, "Idempotent-Replayed", "true");
        answer_video(c, s->job.id);
    } else {
        answer_fresh(c, s, s->job.id, s->op.now_ms);
    }
}

static void fill_op(struct rf_call *c, struct submit *s)
{
    s->job.request = s->request;
    s->job.key = s->key;
    s->job.fingerprint = s->key ? s->fingerprint : NULL;
    s->op.kind = RF_OP_SUBMIT;
    s->op.u.submit.jobs = &s->job;
    s->op.u.submit.n_jobs = 1;
    if (s->sent_by_sdk)
        rf_recent_add(c->app->recent, s->silent, s->job.id, rf_now_ms());
}

/* On an offload thread: the image must be whole on disk before a job can say that it has one. */
static void store_image(void *call)
{
    struct rf_call *c = call;
    struct submit *s = c->state;
    struct rf_err err = {0};
    enum rf_code rc;
    if (s->upload != NULL) {
        rc = rf_upload_finish(s->upload, s->job.id, "input", NULL, rf_now_ms(), &s->input, &err);
        snprintf(s->input.content_type, sizeof s->input.content_type, "%s", s->input_type);
    } else {
        rc = rf_submit_store_image(c->app, s->request, s->job.id, &s->input, s->param, &err);
    }
    if (rc != RF_OK) {
        refuse(c, rc, s->param, &err);
        rf_call_resume(c, NULL);
        return;
    }
    s->job.input = &s->input;
    fill_op(c, s);
    rf_call_post_suspended(c, &s->op, after_submit);
}

/* On an offload thread: copies the start image of a remix's source for the new job. */
static void copy_image(void *call)
{
    struct rf_call *c = call;
    struct submit *s = c->state;
    struct rf_err err = {0};
    struct rf_file source;
    int fd = -1;
    enum rf_code rc = rf_store_file(c->app->store, s->job.remixed_from, "input", &source, &err);
    if (rc == RF_OK)
        rc = rf_files_open_read(c->app->files, s->job.remixed_from, &source, &fd, &err);
    if (rc == RF_OK)
        rc = rf_upload_begin(c->app->files, RF_IMAGE_MAX_BYTES, &s->upload, &err);
    char block[65536];
    for (ssize_t n; rc == RF_OK && (n = read(fd, block, sizeof block)) != 0;)
        rc = n < 0 ? rf_fail(&err, RF_ERR_IO, "read the start image") : rf_upload_write(s->upload, block, (size_t)n, &err);
    if (fd >= 0)
        close(fd);
    if (rc == RF_OK)
        rc = rf_upload_finish(s->upload, s->job.id, "input", source.sha256, rf_now_ms(), &s->input, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        rf_call_resume(c, NULL);
        return;
    }
    memcpy(s->input.content_type, source.content_type, sizeof s->input.content_type);
    s->job.input = &s->input;
    fill_op(c, s);
    rf_call_post_suspended(c, &s->op, after_submit);
}

static void submit(struct rf_call *c)
{
    struct submit *s = c->state;
    if (s->request->has_image || s->sent_by_sdk)
        rf_store_new_id(c->app->store, rf_now_ms(), s->job.id);
    if (s->request->has_image) {
        rf_call_offload(c, s->job.remixed_from != NULL ? copy_image : store_image);
        return;
    }
    fill_op(c, s);
    rf_call_post(c, &s->op, after_submit);
}

/* The first send of a repeated create has been committed or refused by now, since ops run in order. */
static void after_barrier(struct rf_call *c)
{
    struct submit *s = c->state;
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    if (rf_store_get(c->app->store, s->joined, 0, &job, NULL) != RF_OK) {
        s->op = (struct rf_op){0};
        submit(c);
        return;
    }
    rf_answer_header(c, "Idempotent-Replayed", "true");
    answer_video(c, s->joined);
}

static void finish_fingerprint(struct rf_call *c, struct submit *s)
{
    EVP_DigestFinal_ex(s->digest, s->fingerprint, NULL);
    if (!s->sent_by_sdk)
        return;
    char caller[128];
    rf_call_caller(c, caller, sizeof caller);
    EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL);
    EVP_DigestUpdate(s->digest, caller, strlen(caller) + 1);
    EVP_DigestUpdate(s->digest, s->fingerprint, RF_FINGERPRINT_BYTES);
    EVP_DigestFinal_ex(s->digest, s->silent, NULL);
}

/* The request is complete: a new job of it, or the one that an earlier send of the same content became. */
static void submit_or_join(struct rf_call *c)
{
    struct submit *s = c->state;
    if (atomic_load(&c->app->stopping)) {
        rf_answer_error(c, 503, NULL, "stopping", "the server is being stopped; send again when it is back");
        return;
    }
    if (s->digest != NULL)
        finish_fingerprint(c, s);
    if (s->retry_count > 0 && rf_recent_find(c->app->recent, s->silent, rf_now_ms(), s->joined)) {
        s->op.kind = RF_OP_UNPARK; /* of nothing: it only takes its turn behind the first send */
        rf_call_post(c, &s->op, after_barrier);
        return;
    }
    submit(c);
}

/* Bytes to a parsed request, whichever form they came in. False: answered. */
static bool parse(struct rf_call *c, struct submit *s)
{
    struct rf_err err = {0};
    enum rf_code rc;
    if (s->multipart != NULL) {
        rc = rf_multipart_end(s->multipart, &err);
        if (rc == RF_OK)
            rc = rf_form_parse(s->form, &s->request, s->param, &err);
    } else {
        cJSON *json = rf_call_json(c, RF_SUBMIT_MAX_BYTES, false);
        if (json == NULL)
            return false;
        rc = rf_request_parse(json, &s->request, s->param, &err);
        cJSON_Delete(json);
    }
    if (rc == RF_OK && s->upload != NULL && s->request->has_image) {
        snprintf(s->param, sizeof s->param, INPUT);
        rc = rf_fail(&err, RF_ERR_INVALID, "'" INPUT "' is given both as a file and as a value");
    }
    if (rc == RF_OK && s->upload != NULL)
        s->request->has_image = true;
    if (rc == RF_OK && rf_submit_claim(c, s->request, s->param, &err) != RF_OK) {
        rf_answer_error(c, 403, s->param, "not_allowed", "%s", err.msg);
        return false;
    }
    if (rc == RF_OK)
        rc = rf_submit_resolve(c->app, s->request, NULL, s->param, &err);
    if (rc != RF_OK)
        refuse(c, rc, s->param, &err);
    return rc == RF_OK;
}

void rf_submit_handle(struct rf_call *c)
{
    struct submit *s = c->state;
    struct rf_err err = {0};
    bool dry_run = false;
    if (rf_params_bool(&c->query, "dry_run", &dry_run, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, "dry_run", &err);
        return;
    }
    if (!parse(c, s))
        return;
    if (dry_run) {
        answer_fresh(c, s, "", rf_now_ms());
        return;
    }
    submit_or_join(c);
}

/* ---- remix: the same request with another prompt ---- */

void rf_remix_handle(struct rf_call *c)
{
    struct submit *s = rf_new(struct submit);
    c->state = s;
    c->free_state = free_submit;
    if (!read_identity(c, s))
        return;
    if (s->digest != NULL) {
        EVP_DigestUpdate(s->digest, "remix", 6);
        EVP_DigestUpdate(s->digest, c->param[0], strlen(c->param[0]) + 1);
        EVP_DigestUpdate(s->digest, c->body, c->body_n);
    }
    cJSON *json = rf_call_json(c, 256 << 10, false);
    if (json == NULL)
        return;
    struct rf_err err = {0};
    RF_AUTO(rf_request_destroy) struct rf_request *words = NULL;
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    enum rf_code rc = rf_request_parse(json, &words, s->param, &err);
    bool prompt_only = rc == RF_OK && words->given == 1u << RF_FIELD_PROMPT;
    cJSON_Delete(json);
    if (rc == RF_OK && !prompt_only)
        rc = rf_fail(&err, RF_ERR_INVALID, "remix takes a prompt and nothing else");
    if (rc == RF_OK)
        rc = rf_store_get(c->app->store, c->param[0], 0, &job, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, s->param, &err);
        return;
    }
    if (!rf_auth_may_see(c, job))
        return;
    s->request = job->request;
    job->request = NULL;
    free(s->request->prompt);
    s->request->prompt = words->prompt;
    words->prompt = NULL;
    if (rf_auth_owner(c) != NULL && s->request->priority > 0)
        s->request->priority = 0; /* an operator asked for that one */
    s->job.remixed_from = c->param[0];
    submit_or_join(c);
}
