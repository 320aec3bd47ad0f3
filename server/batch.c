/* See batch.h. Ten thousand lines take a good part of a second to read, so all of it happens on an offload thread; the
 * commit is one op. A batch sent twice with one Idempotency-Key adds nothing the second time: each line has the key with
 * its number behind it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/batch.h"

#include "schema/json.h"
#include "server/app.h"
#include "server/store_call.h"
#include "server/submit.h"
#include "server/out.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

struct line {
    int number;                /* from 1, blank lines counted */
    int job;                   /* index in jobs; -1: refused by err */
    char param[RF_PARAM_SIZE];
    struct rf_err err;
};

struct batch {
    struct rf_op op;
    bool atomic;
    const char *key;           /* borrowed from the request's headers: those live as long as the call */
    uint8_t fingerprint[EVP_MAX_MD_SIZE];
    struct line *lines;
    int n_lines, lines_room;
    struct rf_submit *jobs;
    struct rf_request **requests;
    struct rf_file **inputs;
    int n_jobs;
};

static void free_batch(void **state)
{
    struct batch *b = *state;
    for (int i = 0; i < b->n_jobs; i++) {
        rf_request_destroy(&b->requests[i]);
        free(b->inputs[i]);
        free((char *)(uintptr_t)b->jobs[i].key);
    }
    free(b->requests);
    free(b->inputs);
    free(b->jobs);
    free(b->lines);
    free(b);
    *state = NULL;
}

static enum rf_code read_line(struct rf_call *c, const char *text, size_t n, struct line *line,
                              struct rf_request **ret_request)
{
    cJSON *json = NULL;
    RF_AUTO(rf_request_destroy) struct rf_request *request = NULL;
    enum rf_code rc = rf_json_parse(text, n, RF_SUBMIT_MAX_BYTES, &json, &line->err);
    if (rc == RF_OK && !cJSON_IsObject(json))
        rc = rf_fail(&line->err, RF_ERR_INVALID, "a line must be a JSON object");
    if (rc == RF_OK)
        rc = rf_request_parse(json, &request, line->param, &line->err);
    cJSON_Delete(json);
    if (rc == RF_OK)
        rc = rf_submit_claim(c, request, line->param, &line->err);
    if (rc == RF_OK)
        rc = rf_submit_resolve(c->app, request, NULL, line->param, &line->err);
    if (rc != RF_OK)
        return rc;
    *ret_request = request;
    request = NULL;
    return RF_OK;
}

static void add_job(struct rf_call *c, struct batch *b, struct line *line, struct rf_request *request)
{
    struct rf_app *app = c->app;
    struct rf_submit job = {.request = request};
    RF_AUTO(rf_free) struct rf_file *input = NULL;
    if (request->image != NULL) {
        input = rf_new(struct rf_file);
        rf_store_new_id(app->store, rf_now_ms(), job.id);
        if (rf_submit_store_image(app, request, job.id, input, line->param, &line->err) != RF_OK) {
            rf_request_destroy(&request);
            return;
        }
        job.input = input;
    }
    if (b->key != NULL) {
        job.key = rf_asprintf("%s%s%s#%d", c->token.name, c->token.name[0] ? "\n" : "", b->key, line->number);
        job.fingerprint = b->fingerprint;
    }
    b->jobs = rf_realloc(b->jobs, (size_t)b->n_jobs + 1, sizeof *b->jobs);
    b->requests = rf_realloc(b->requests, (size_t)b->n_jobs + 1, sizeof(struct rf_request *));
    b->inputs = rf_realloc(b->inputs, (size_t)b->n_jobs + 1, sizeof(struct rf_file *));
    b->requests[b->n_jobs] = request;
    b->inputs[b->n_jobs] = input;
    input = NULL;
    b->jobs[b->n_jobs] = job;
    line->job = b->n_jobs++;
}

static void answer_line(struct rf_out *t, const struct batch *b, const struct line *line, bool added)
{
    const struct rf_submit *job = line->job >= 0 ? &b->jobs[line->job] : NULL;
    const struct rf_err *err = job == NULL ? &line->err : &job->err;
    enum rf_code rc = job == NULL ? line->err.code : job->code != RF_OK ? job->code : added ? RF_OK : b->op.code;
    t->need_comma = false;
    rf_json_open(t, NULL, '{');
    rf_json_int(t, "line", line->number);
    if (rc == RF_OK && added) {
        rf_json_str(t, "id", job->id);
    } else {
        const char *message = err->msg[0] ? err->msg
                              : b->op.code != RF_OK && b->op.err.msg[0] ? b->op.err.msg
                                                                        : "not added, because another line was refused";
        rf_json_open(t, "error", '{');
        rf_json_str(t, "message", message);
        rf_json_str(t, "type", "invalid_request_error");
        rf_json_str(t, "param", line->param[0] ? line->param : NULL);
        rf_json_str(t, "code", rf_code_name(rc == RF_OK ? RF_ERR_CANCELLED : rc));
        rf_json_close(t, '}');
    }
    rf_json_close(t, '}');
    rf_out_puts(t, "\n");
}

static void answer(struct rf_call *c, bool posted)
{
    struct batch *b = c->state;
    struct rf_out t = {0};
    int n_added = 0;
    bool whole_op_failed = posted && b->op.code != RF_OK;
    for (int i = 0; i < b->n_lines; i++) {
        int job = b->lines[i].job;
        bool added = posted && !whole_op_failed && job >= 0 && b->jobs[job].code == RF_OK;
        n_added += added;
        answer_line(&t, b, &b->lines[i], added);
    }
    for (int i = 0; i < b->n_jobs; i++)
        if (b->inputs[i] != NULL && (!posted || whole_op_failed || b->jobs[i].code != RF_OK || b->jobs[i].replayed))
            rf_files_remove(c->app->files, b->jobs[i].id, b->inputs[i]->disk_name);
    /* 2xx promises that what has an id is on disk. When nothing was added, the status says why. */
    int status = n_added > 0 || b->n_lines == 0 ? 200 : whole_op_failed ? rf_code_http_status(b->op.code) : 400;
    size_t n;
    char *body = rf_out_take(&t, &n);
    rf_answer_take(c, status, "application/x-ndjson", body, n);
}

static void after_submit(struct rf_call *c)
{
    answer(c, true);
}

static void work(void *call)
{
    struct rf_call *c = call;
    struct batch *b = c->state;
    const char *text;
    size_t at = 0, n;
    int n_refused = 0;
    for (int number = 1; rf_batch_next_line(c->body, c->body_n, &at, &text, &n); number++) {
        if (n == 0)
            continue;
        if (b->n_lines == RF_MAX_BATCH) {
            rf_answer_error(c, 413, NULL, "too_many_lines", "at most %d lines at a time; nothing was added", RF_MAX_BATCH);
            rf_call_resume(c, NULL);
            return;
        }
        if (b->n_lines == b->lines_room)
            b->lines = rf_realloc(b->lines, (size_t)(b->lines_room = b->lines_room * 2 + 64), sizeof *b->lines);
        struct line *line = &b->lines[b->n_lines++];
        *line = (struct line){.number = number, .job = -1};
        struct rf_request *request = NULL;
        if (read_line(c, text, n, line, &request) == RF_OK)
            add_job(c, b, line, request);
        n_refused += line->job < 0;
    }
    if (b->n_jobs == 0 || (b->atomic && n_refused > 0)) {
        answer(c, false);
        rf_call_resume(c, NULL);
        return;
    }
    b->op.kind = RF_OP_SUBMIT;
    b->op.u.submit.jobs = b->jobs;
    b->op.u.submit.n_jobs = b->n_jobs;
    b->op.u.submit.atomic = b->atomic;
    rf_call_post_suspended(c, &b->op, after_submit);
}

void rf_batch_handle(struct rf_call *c)
{
    struct rf_err err = {0};
    static const char *const known[] = {"atomic", NULL};
    struct batch *b = rf_new(struct batch);
    c->state = b;
    c->free_state = free_batch;
    if (rf_params_only(&c->query, known, &err) != RF_OK || rf_params_bool(&c->query, "atomic", &b->atomic, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
        return;
    }
    b->key = rf_call_header(c, "Idempotency-Key");
    if (b->key != NULL && (b->key[0] == '\0' || strlen(b->key) > RF_KEY_MAX - 8)) {
        rf_answer_error(c, 400, "Idempotency-Key", "invalid", "Idempotency-Key must be 1 to %d characters here",
                        RF_KEY_MAX - 8);
        return;
    }
    if (b->key != NULL && c->body_n > 0)
        EVP_Digest(c->body, c->body_n, b->fingerprint, NULL, EVP_sha256(), NULL);
    rf_call_offload(c, work);
}
