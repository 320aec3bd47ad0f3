/* The front of the queue, for those who show it or play it forward. Nothing here changes the order.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/schedule_private.h"

/* The first `limit` of the subtree, in order. */
static int take(struct rf_live_job *root, int limit, struct rf_live_job **ret)
{
    if (root == NULL || limit <= 0)
        return 0;
    int n = take(root->left, limit, ret);
    if (n < limit)
        ret[n++] = root;
    return n + (n < limit ? take(root->right, limit - n, ret + n) : 0);
}

static int n_within(const struct rf_level *l, int each)
{
    int64_t n = 0;
    for (int i = 0; i < l->n_buckets; i++)
        n += l->buckets[i]->root->n_below < (uint32_t)each ? (int)l->buckets[i]->root->n_below : each;
    return n < INT32_MAX ? (int)n : INT32_MAX;
}

int rf_sched_front(struct rf_sched *s, int limit, struct rf_live_job **ret_jobs)
{
    int n = 0;
    for (int i = 0; i < s->n_levels && n < limit; i++) {
        const struct rf_level *l = &s->levels[i];
        int low = 1, high = limit - n; /* the most that all can have of each bucket: users take turns */
        while (low < high) {
            int middle = low + (high - low + 1) / 2;
            if (n_within(l, middle) <= limit - n)
                low = middle;
            else
                high = middle - 1;
        }
        for (int k = 0; k < l->n_buckets && n < limit; k++)
            n += take(l->buckets[k]->root, low < limit - n ? low : limit - n, ret_jobs + n);
    }
    return n;
}

int64_t rf_sched_n_ready(const struct rf_sched *s)
{
    return s->n_ready;
}

struct rf_live_job *rf_sched_waiting(struct rf_sched *s, int i)
{
    return i < s->waiting.n ? s->waiting.jobs[i] : NULL;
}
