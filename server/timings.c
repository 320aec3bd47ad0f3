/* Timings as data: of one job in JSON or CSV, of all jobs as CSV. The CSV of a whole farm may be large, so it is written to
 * an unnamed file on an offload thread and sent from there; memory stays flat.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/videos.h"

#include "server/app.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/store_call.h"
#include "server/out.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const char csv_head[] = "id,task,attempt,worker,outcome,stage,step,started_at_ms,seconds\n";

struct writer {
    struct rf_out text;
    int fd;              /* -1: keep it in `text` */
    int64_t size;
    bool failed;
};

static bool add_csv(void *ctx, const struct rf_timing_row *row)
{
    struct writer *w = ctx;
    rf_out_printf(&w->text, "%s,%d,%d,", row->id, row->task, row->attempt);
    rf_csv_str(&w->text, row->worker);
    rf_out_printf(&w->text, ",%s,%s,", rf_outcome_name(row->outcome), row->timing.stage);
    if (row->timing.step >= 0)
        rf_out_printf(&w->text, "%d", row->timing.step);
    rf_out_printf(&w->text, ",%" PRId64 ",%.6f\n", row->timing.started_at_ms, row->timing.seconds);
    if (w->fd < 0 || w->text.text.n_bytes < 65536)
        return true;
    w->failed = write(w->fd, w->text.text.text, w->text.text.n_bytes) != (ssize_t)w->text.text.n_bytes;
    w->size += (int64_t)w->text.text.n_bytes;
    w->text.text.n_bytes = 0;
    return !w->failed;
}

static bool add_json(void *ctx, const struct rf_timing_row *row)
{
    struct rf_out *t = ctx;
    rf_json_open(t, NULL, '{');
    rf_json_int(t, "task", row->task);
    rf_json_int(t, "attempt", row->attempt);
    rf_json_str(t, "worker", row->worker);
    rf_json_str(t, "outcome", rf_outcome_name(row->outcome));
    rf_json_str(t, "stage", row->timing.stage);
    if (row->timing.step >= 0)
        rf_json_int(t, "step", row->timing.step);
    else
        rf_json_null(t, "step");
    rf_json_int(t, "started_at_ms", row->timing.started_at_ms);
    rf_json_num(t, "seconds", row->timing.seconds);
    rf_json_close(t, '}');
    return true;
}

/* ?format=json|csv, else what Accept asks for. False: answered. */
static bool wants_csv(struct rf_call *c, bool *ret_csv)
{
    const char *format = rf_params_get(&c->query, "format"), *accept = rf_call_header(c, "Accept");
    *ret_csv = format != NULL ? strcmp(format, "csv") == 0 : accept != NULL && strncasecmp(accept, "text/csv", 8) == 0;
    if (format == NULL || *ret_csv || strcmp(format, "json") == 0)
        return true;
    rf_answer_error(c, 400, "format", "invalid", "query parameter 'format' must be json or csv");
    return false;
}

void rf_videos_timings(struct rf_call *c)
{
    static const char *const known[] = {"format", NULL};
    struct rf_err err = {0};
    bool csv = false;
    if (rf_params_only(&c->query, known, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
        return;
    }
    if (!wants_csv(c, &csv))
        return;
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    enum rf_code rc = rf_store_get(c->app->store, c->param[0], 0, &job, &err);
    if (rc == RF_OK && !rf_auth_may_see(c, job))
        return;
    struct writer w = {.fd = -1};
    if (csv)
        rf_out_puts(&w.text, csv_head);
    else {
        rf_json_open(&w.text, NULL, '{');
        rf_json_str(&w.text, "object", "list");
        rf_json_open(&w.text, "data", '[');
    }
    if (rc == RF_OK)
        rc = rf_store_timings(c->app->store, c->param[0], 0, INT64_MAX, csv ? add_csv : add_json,
                              csv ? (void *)&w : (void *)&w.text, &err);
    if (rc != RF_OK) {
        rf_out_finish(&w.text);
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    if (!csv) {
        rf_json_close(&w.text, ']');
        rf_json_close(&w.text, '}');
    }
    size_t n;
    char *body = rf_out_take(&w.text, &n);
    rf_answer_take(c, 200, csv ? "text/csv; charset=utf-8" : "application/json", body, n);
}

static void write_all(void *call)
{
    struct rf_call *c = call;
    struct rf_err err = {0};
    int64_t from = 0, to = 0;
    RF_AUTO(rf_free) char *folder = rf_asprintf("%s/tmp", c->app->config->data_dir);
    struct writer w = {.fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
    enum rf_code rc = w.fd < 0 ? rf_fail(&err, RF_ERR_IO, "make a temporary file: %s", strerror(errno)) : RF_OK;
    rf_out_puts(&w.text, csv_head);
    if (rc == RF_OK)
        rc = rf_params_int(&c->query, "from", 0, INT32_MAX * 4LL, 0, &from, &err);
    if (rc == RF_OK)
        rc = rf_params_int(&c->query, "to", 0, INT32_MAX * 4LL, INT32_MAX * 4LL, &to, &err);
    if (rc == RF_OK)
        rc = rf_store_timings(c->app->store, NULL, from * 1000, to * 1000, add_csv, &w, &err);
    if (rc == RF_OK && (w.failed || write(w.fd, w.text.text.text, w.text.text.n_bytes) != (ssize_t)w.text.text.n_bytes))
        rc = rf_fail(&err, RF_ERR_IO, "write a temporary file: %s", strerror(errno));
    w.size += (int64_t)w.text.text.n_bytes;
    rf_out_finish(&w.text);
    if (rc == RF_OK) {
        rf_answer_header(c, "Content-Disposition", "attachment; filename=\"framefarm-timings.csv\"");
        rf_answer_file(c, 200, "text/csv; charset=utf-8", w.fd, 0, w.size);
    } else {
        if (w.fd >= 0)
            close(w.fd);
        rf_answer_failed(c, rc, NULL, &err);
    }
    rf_call_resume(c, NULL);
}

void rf_timings_all(struct rf_call *c)
{
    static const char *const known[] = {"from", "to", NULL};
    struct rf_err err = {0};
    if (rf_params_only(&c->query, known, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
        return;
    }
    rf_call_offload(c, write_all);
}
