/* Pages of waiting jobs in the order in which they will be handed out. SPDX-License-Identifier: Apache-2.0 */
#include "server/store_reader.h"

#include <string.h>

struct place {
    int64_t position, row;
};

static int by_position(const void *a, const void *b)
{
    int64_t x = ((const struct place *)a)->position, y = ((const struct place *)b)->position;
    return (x > y) - (x < y);
}

static bool wanted(const struct rf_query *query, const struct rf_live_job *job)
{
    return !job->begun && (query->user == NULL || strcmp(query->user, job->share->user) == 0) &&
           (query->model == NULL || strcmp(query->model, job->lane->model) == 0);
}

/* The jobs behind position `after` that are wanted, first ones first, out of the queue's front. With the lock held. */
static int collect(struct rf_store *s, const struct rf_query *query, int64_t after, struct place *ret)
{
    static _Thread_local struct rf_live_job *front[RF_QUEUE_LIST_MAX];
    int n_front = rf_sched_front(s->sched, RF_QUEUE_LIST_MAX, front), n = 0;
    for (int i = 0; i < n_front; i++) {
        if (!wanted(query, front[i]))
            continue;
        int64_t position = rf_sched_position(s->sched, front[i]);
        if (position > after)
            ret[n++] = (struct place){position, front[i]->row};
    }
    qsort(ret, (size_t)n, sizeof *ret, by_position);
    return n;
}

enum rf_code rf_read_queue_rows(struct rf_store *s, const struct rf_query *query, int limit, int64_t *rows, int *ret_n,
                                struct rf_err *err)
{
    static _Thread_local struct place places[RF_QUEUE_LIST_MAX];
    struct rf_id id;
    int64_t after = 0;
    *ret_n = 0;
    pthread_mutex_lock(&s->lock);
    if (query->after != NULL) {
        struct rf_live_job *last = rf_id_parse(query->after, &id) ? rf_sched_find(s->sched, id.row) : NULL;
        after = last != NULL && last->tail == id.tail ? rf_sched_position(s->sched, last) : 0;
    }
    int n = query->after != NULL && after == 0 ? -1 : collect(s, query, after, places);
    pthread_mutex_unlock(&s->lock);
    if (n < 0)
        return rf_fail(err, RF_ERR_NOT_FOUND, "after: job '%.40s' does not wait (any more)", query->after);
    for (; *ret_n < n && *ret_n < limit; (*ret_n)++)
        rows[*ret_n] = places[*ret_n].row;
    return RF_OK;
}
