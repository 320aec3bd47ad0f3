/* POST /v1/videos/retry: all failed (or cancelled) jobs once more. The jobs are listed first and then posted together,
 * so that they share commits; one that somebody else retries or deletes meanwhile is passed over.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/videos.h"

#include "server/app.h"
#include "server/auth.h"
#include "server/out.h"
#include "server/store_call.h"

#include <pthread.h>
#include <string.h>

#define MAX_JOBS 10000

struct bulk {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    int n_left, n_good;
};

struct retry {
    struct rf_op op;             /* first: `done` gets its address */
    char id[RF_JOB_ID_SIZE];
};

static void one_done(struct rf_op *op)
{
    struct bulk *b = op->ctx;
    pthread_mutex_lock(&b->lock);
    b->n_good += op->code == RF_OK;
    if (--b->n_left == 0)
        pthread_cond_signal(&b->ended);
    pthread_mutex_unlock(&b->lock);
}

/* Ids of the jobs to retry, oldest first, at most MAX_JOBS. */
static enum rf_code list_jobs(struct rf_call *c, struct rf_query *query, struct retry *ret, int *ret_n, bool *ret_more,
                              struct rf_err *err)
{
    enum rf_code rc = RF_OK;
    *ret_more = true;
    *ret_n = 0;
    while (rc == RF_OK && *ret_more && *ret_n < MAX_JOBS) {
        RF_AUTO(rf_page_destroy) struct rf_page *page = NULL;
        query->limit = MAX_JOBS - *ret_n < 500 ? MAX_JOBS - *ret_n : 500;
        query->after = *ret_n > 0 ? ret[*ret_n - 1].id : NULL;
        rc = rf_store_list(c->app->store, query, &page, err);
        for (int i = 0; rc == RF_OK && i < page->n_jobs; i++)
            memcpy(ret[(*ret_n)++].id, page->jobs[i]->id, RF_JOB_ID_SIZE);
        *ret_more = rc == RF_OK && page->has_more;
    }
    return rc;
}

static int post_all(struct rf_call *c, struct retry *jobs, int n)
{
    struct bulk b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, n, 0};
    for (int i = 0; i < n; i++) {
        jobs[i].op = (struct rf_op){.kind = RF_OP_RETRY, .now_ms = rf_now_ms(), .done = one_done, .ctx = &b,
                                    .u.job.id = jobs[i].id};
        rf_store_post(c->app->store, &jobs[i].op);
    }
    pthread_mutex_lock(&b.lock);
    while (b.n_left > 0)
        pthread_cond_wait(&b.ended, &b.lock);
    pthread_mutex_unlock(&b.lock);
    pthread_cond_destroy(&b.ended);
    pthread_mutex_destroy(&b.lock);
    return b.n_good;
}

static enum rf_code read_query(struct rf_call *c, struct rf_query *ret, struct rf_err *err)
{
    static const char *const known[] = {"status", "user", "created_after", "created_before", NULL};
    int64_t from = 0, to = 0;
    const char *status = rf_params_get(&c->query, "status"), *owner = rf_auth_owner(c);
    enum rf_code rc = rf_params_only(&c->query, known, err);
    if (rc == RF_OK)
        rc = rf_params_int(&c->query, "created_after", 0, INT32_MAX * 4LL, 0, &from, err);
    if (rc == RF_OK)
        rc = rf_params_int(&c->query, "created_before", 0, INT32_MAX * 4LL, 0, &to, err);
    enum rf_job_state state = status != NULL ? rf_job_state_from_name(status) : RF_JOB_FAILED;
    if (rc == RF_OK && state != RF_JOB_FAILED && state != RF_JOB_CANCELLED)
        rc = rf_fail(err, RF_ERR_INVALID, "query parameter 'status' must be failed or cancelled");
    *ret = (struct rf_query){.states = 1u << (state & 7), .user = rf_params_get(&c->query, "user"), .ascending = true,
                             .created_from_ms = 1000 * from, .created_to_ms = 1000 * to};
    if (owner != NULL && ret->user != NULL && strcmp(owner, ret->user) != 0 && rc == RF_OK)
        rc = rf_fail(err, RF_ERR_INVALID, "query parameter 'user': this token sees the jobs of '%s' alone", owner);
    if (owner != NULL)
        ret->user = owner;
    return rc;
}

static void retry_all(void *call)
{
    struct rf_call *c = call;
    struct rf_query query;
    struct rf_err err = {0};
    RF_AUTO(rf_free) struct retry *jobs = rf_new_array(struct retry, MAX_JOBS);
    int n = 0;
    bool more = false;
    enum rf_code rc = read_query(c, &query, &err);
    if (rc == RF_OK)
        rc = list_jobs(c, &query, jobs, &n, &more, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        rf_call_resume(c, NULL);
        return;
    }
    struct rf_out t = {0};
    rf_json_open(&t, NULL, '{');
    rf_json_str(&t, "object", "video.retried");
    rf_json_int(&t, "retried", n > 0 ? post_all(c, jobs, n) : 0);
    rf_json_bool(&t, "has_more", more);
    rf_json_close(&t, '}');
    size_t size;
    char *body = rf_out_take(&t, &size);
    rf_answer_take(c, 200, "application/json", body, size);
    rf_call_resume(c, NULL);
}

void rf_videos_retry_all(struct rf_call *c)
{
    rf_call_offload(c, retry_all);
}
