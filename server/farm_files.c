/* Files between server and worker. An upload streams to disk while it is hashed; it is synced and moved on an offload
 * thread; it counts once the store has written its row under the lease.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/farm.h"

#include "server/app.h"
#include "server/store_call.h"
#include "server/out.h"

#include <string.h>

struct transfer {
    struct rf_op op;
    char job_id[RF_JOB_ID_SIZE];
    int64_t lease;
    char sha256[RF_SHA256_SIZE];
    struct rf_upload *upload;
    struct rf_file file;
};

static void free_transfer(void **state)
{
    struct transfer *t = *state;
    rf_upload_destroy(&t->upload);
    free(t);
    *state = NULL;
}

/* Task id, file name and lease from the address. NULL: answered. */
static struct transfer *read_address(struct rf_call *c)
{
    struct transfer *t = rf_new(struct transfer);
    c->state = t;
    c->free_state = free_transfer;
    static const char *const known[] = {"lease", NULL};
    struct rf_err err = {0};
    int index;
    if (rf_params_only(&c->query, known, &err) != RF_OK ||
        rf_params_int(&c->query, "lease", 1, INT64_MAX, 0, &t->lease, &err) != RF_OK)
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
    else if (t->lease == 0)
        rf_answer_error(c, 400, "lease", "invalid", "query parameter 'lease' is needed");
    else if (!rf_task_id_parse(c->param[0], t->job_id, &index))
        rf_answer_error(c, 404, NULL, "not_found", "'%.60s' is no task", c->param[0]);
    else if (!rf_file_name_valid(c->param[1]))
        rf_answer_error(c, 400, NULL, "invalid", "'%.60s' is none of a job's files", c->param[1]);
    else
        return t;
    return NULL;
}

/* ---- to the worker ---- */

static void after_check(struct rf_call *c)
{
    struct transfer *t = c->state;
    if (!rf_call_op_ok(c, &t->op))
        return;
    struct rf_err err = {0};
    int fd;
    enum rf_code rc = rf_store_file(c->app->store, t->job_id, c->param[1], &t->file, &err);
    if (rc == RF_OK)
        rc = rf_files_open_read(c->app->files, t->job_id, &t->file, &fd, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    rf_answer_header(c, "X-Content-SHA256", t->file.sha256);
    rf_answer_file(c, 200, "application/octet-stream", fd, 0, t->file.size_bytes);
}

void rf_farm_get_file(struct rf_call *c)
{
    struct transfer *t = read_address(c);
    if (t == NULL)
        return;
    t->op.kind = RF_OP_CHECK_LEASE;
    t->op.u.file.task_id = c->param[0];
    t->op.u.file.lease = t->lease;
    rf_call_post(c, &t->op, after_check);
}

/* ---- from the worker ---- */

static enum rf_code take_bytes(struct rf_call *c, const char *data, size_t n, struct rf_err *err)
{
    struct transfer *t = c->state;
    return rf_upload_write(t->upload, data, n, err);
}

void rf_farm_put_begin(struct rf_call *c)
{
    struct transfer *t = read_address(c);
    if (t == NULL)
        return;
    const char *hash = rf_call_header(c, "X-Content-SHA256");
    if (hash == NULL || strlen(hash) != RF_SHA256_SIZE - 1 ||
        strspn(hash, "0123456789abcdef") != RF_SHA256_SIZE - 1) {
        rf_answer_error(c, 400, "X-Content-SHA256", "invalid", "X-Content-SHA256 must be 64 lower-case hex digits");
        return;
    }
    memcpy(t->sha256, hash, sizeof t->sha256);
    struct rf_err err = {0};
    enum rf_code rc = rf_upload_begin(c->app->files, RF_FARM_MAX_FILE_BYTES, &t->upload, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    c->sink = take_bytes;
}

static void after_put(struct rf_call *c)
{
    struct transfer *t = c->state;
    if (t->op.code != RF_OK)
        rf_files_remove(c->app->files, t->job_id, t->file.disk_name);
    if (!rf_call_op_ok(c, &t->op))
        return;
    struct rf_out text = {0};
    rf_json_open(&text, NULL, '{');
    rf_json_str(&text, "name", t->file.name);
    rf_json_int(&text, "size_bytes", t->file.size_bytes);
    rf_json_str(&text, "sha256", t->file.sha256);
    rf_json_close(&text, '}');
    size_t n;
    char *body = rf_out_take(&text, &n);
    rf_answer_take(c, 200, "application/json", body, n);
}

static void finish_upload(void *call)
{
    struct rf_call *c = call;
    struct transfer *t = c->state;
    struct rf_err err = {0};
    enum rf_code rc = rf_upload_finish(t->upload, t->job_id, c->param[1], t->sha256, rf_now_ms(), &t->file, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        rf_call_resume(c, NULL);
        return;
    }
    t->op.kind = RF_OP_PUT_FILE;
    t->op.u.file.task_id = c->param[0];
    t->op.u.file.lease = t->lease;
    t->op.u.file.file = &t->file;
    rf_call_post_suspended(c, &t->op, after_put);
}

void rf_farm_put_file(struct rf_call *c)
{
    rf_call_offload(c, finish_upload);
}
