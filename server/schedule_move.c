/* Moving a job among those of its own user; schedule.h has the contract. Turns are only handed on, never made up: a job
 * that is put k places up takes the turn of the one it displaces, and those k each take the next one's. So a move costs
 * k + 1 rows in the database and nobody else's order changes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/schedule_private.h"

struct found {
    int64_t above, below;        /* turns strictly between these */
    struct rf_live_job **jobs;
    int n, capacity;             /* n goes on counting past the capacity */
};

/* Jobs of the subtree whose turn lies in the range. It is in order of turns but for begun ones, which go first. */
static void find(struct rf_live_job *root, struct found *f)
{
    if (root == NULL || f->n > f->capacity)
        return;
    if (root->begun || root->turn > f->above)
        find(root->left, f);
    if (!root->begun && root->turn > f->above && root->turn < f->below) {
        if (f->n < f->capacity)
            f->jobs[f->n] = root;
        f->n++;
    }
    if (root->begun || root->turn < f->below)
        find(root->right, f);
}

static int by_turn(const void *a, const void *b)
{
    int64_t x = (*(struct rf_live_job *const *)a)->turn, y = (*(struct rf_live_job *const *)b)->turn;
    return (x > y) - (x < y);
}

/* jobs[0..n) in order of their turns: the first one's goes to the second and so on, the last one's to the first; or the
 * other way round. */
static void hand_on(struct rf_live_job **jobs, int n, bool up)
{
    int64_t spare = up ? jobs[n - 1]->turn : jobs[0]->turn;
    for (int i = 0; i < n - 1; i++) {
        int k = up ? n - 1 - i : i;
        jobs[k]->turn = jobs[up ? k - 1 : k + 1]->turn;
    }
    jobs[up ? 0 : n - 1]->turn = spare;
}

int rf_sched_move(struct rf_sched *s, struct rf_live_job *job, struct rf_live_job *other, bool after, int limit,
                  struct rf_live_job ***ret_changed)
{
    RF_ASSERT(job != other && job->share == other->share && !job->begun && !other->begun);
    RF_ASSERT(job->place == RF_PLACE_READY && other->place == RF_PLACE_READY);
    bool earlier = other->turn < job->turn, passes = earlier != after; /* it goes past `other`, too */
    struct found f = {.above = (earlier ? other : job)->turn - (passes && earlier),
                      .below = (earlier ? job : other)->turn + (passes && !earlier), .capacity = limit};
    f.jobs = rf_new_array(struct rf_live_job *, (size_t)limit + 1);
    rf_sched_leave_place(s, job);
    for (struct rf_bucket *b = other->share->buckets; b != NULL; b = b->next_of_share)
        if (b->priority == other->priority)
            find(b->root, &f);
    bool good = f.n < limit;
    if (good) {
        f.jobs[f.n++] = job;
        qsort(f.jobs, (size_t)f.n, sizeof *f.jobs, by_turn);
        /* The others keep their order among themselves, so their trees stay in order while the turns change. */
        hand_on(f.jobs, f.n, !earlier);
        job->priority = other->priority;
    }
    rf_sched_make_ready(s, job);
    if (!good)
        rf_free(&f.jobs);
    *ret_changed = f.jobs;
    return good ? f.n : -1;
}
