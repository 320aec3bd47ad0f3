/* The order of work; schedule.h explains it. Buckets are treaps (balanced by chance, no rebalancing to get wrong) that know
 * their subtree sizes, because people ask "how many are ahead of me?". Workers are in schedule_worker.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/schedule_private.h"

#include <string.h>

/* ---- jobs by row: open addressing, removal closes the gap ---- */

static size_t map_slot(const struct rf_sched *s, int64_t row)
{
    return (size_t)((uint64_t)row * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (s->map_size - 1);
}

static void map_put(struct rf_sched *s, struct rf_live_job *job)
{
    size_t i = map_slot(s, job->row);
    while (s->map[i] != NULL)
        i = (i + 1) & (s->map_size - 1);
    s->map[i] = job;
}

static void map_insert(struct rf_sched *s, struct rf_live_job *job)
{
    if (2 * (s->n_jobs + 1) > (int64_t)s->map_size) {
        struct rf_live_job **old = s->map;
        size_t n_old = s->map_size;
        s->map_size = n_old ? 2 * n_old : 1024;
        s->map = rf_new_array(struct rf_live_job *, s->map_size);
        for (size_t i = 0; i < n_old; i++)
            if (old[i] != NULL)
                map_put(s, old[i]);
        free(old);
    }
    map_put(s, job);
    s->n_jobs++;
}

static void map_remove(struct rf_sched *s, const struct rf_live_job *job)
{
    size_t mask = s->map_size - 1, i = map_slot(s, job->row);
    while (s->map[i] != job)
        i = (i + 1) & mask;
    for (size_t k = (i + 1) & mask; s->map[k] != NULL; k = (k + 1) & mask) {
        size_t home = map_slot(s, s->map[k]->row);
        if (((k - home) & mask) >= ((k - i) & mask)) { /* k may move back to i without passing its home */
            s->map[i] = s->map[k];
            i = k;
        }
    }
    s->map[i] = NULL;
    s->n_jobs--;
}

struct rf_live_job *rf_sched_find(struct rf_sched *s, int64_t row)
{
    if (s->map_size == 0)
        return NULL;
    for (size_t i = map_slot(s, row); s->map[i] != NULL; i = (i + 1) & (s->map_size - 1))
        if (s->map[i]->row == row)
            return s->map[i];
    return NULL;
}

/* ---- heaps by due_ms ---- */

static void heap_set(struct rf_heap *h, int i, struct rf_live_job *job)
{
    h->jobs[i] = job;
    job->heap_index = i;
}

static void heap_settle(struct rf_heap *h, int i)
{
    struct rf_live_job *job = h->jobs[i];
    for (; i > 0 && h->jobs[(i - 1) / 2]->due_ms > job->due_ms; i = (i - 1) / 2)
        heap_set(h, i, h->jobs[(i - 1) / 2]);
    for (;;) {
        int child = 2 * i + 1;
        if (child + 1 < h->n && h->jobs[child + 1]->due_ms < h->jobs[child]->due_ms)
            child++;
        if (child >= h->n || h->jobs[child]->due_ms >= job->due_ms)
            break;
        heap_set(h, i, h->jobs[child]);
        i = child;
    }
    heap_set(h, i, job);
}

static void heap_add(struct rf_heap *h, struct rf_live_job *job)
{
    if (h->n == h->capacity) {
        h->capacity = h->capacity ? 2 * h->capacity : 64;
        h->jobs = rf_realloc(h->jobs, (size_t)h->capacity, sizeof *h->jobs);
    }
    heap_set(h, h->n++, job);
    heap_settle(h, job->heap_index);
}

static void heap_remove(struct rf_heap *h, struct rf_live_job *job)
{
    int i = job->heap_index;
    RF_ASSERT(i < h->n && h->jobs[i] == job);
    h->n--;
    if (i < h->n) {
        heap_set(h, i, h->jobs[h->n]);
        heap_settle(h, i);
    }
}

/* ---- treaps ---- */

static uint32_t n_below(const struct rf_live_job *job)
{
    return job == NULL ? 0 : job->n_below;
}

static void count(struct rf_live_job *job)
{
    job->n_below = 1 + n_below(job->left) + n_below(job->right);
}

/* Whether a goes before b within a bucket. */
static bool before(const struct rf_live_job *a, const struct rf_live_job *b)
{
    if (a->begun != b->begun)
        return a->begun;
    return a->turn != b->turn ? a->turn < b->turn : a->row < b->row;
}

/* Parts `root` into those before `key` and the others. */
static void split(struct rf_live_job *root, const struct rf_live_job *key, struct rf_live_job **ret_low,
                  struct rf_live_job **ret_high)
{
    if (root == NULL) {
        *ret_low = *ret_high = NULL;
    } else if (before(root, key)) {
        split(root->right, key, &root->right, ret_high);
        *ret_low = root;
        count(root);
    } else {
        split(root->left, key, ret_low, &root->left);
        *ret_high = root;
        count(root);
    }
}

static struct rf_live_job *merge(struct rf_live_job *low, struct rf_live_job *high)
{
    if (low == NULL || high == NULL)
        return low ? low : high;
    if (low->weight > high->weight) {
        low->right = merge(low->right, high);
        count(low);
        return low;
    }
    high->left = merge(low, high->left);
    count(high);
    return high;
}

static struct rf_live_job *treap_add(struct rf_live_job *root, struct rf_live_job *job)
{
    struct rf_live_job *low, *high;
    job->left = job->right = NULL;
    job->weight = (uint32_t)((uint64_t)job->row * UINT64_C(0xD6E8FEB86659FD93) >> 32);
    count(job);
    split(root, job, &low, &high);
    return merge(merge(low, job), high);
}

static struct rf_live_job *treap_remove(struct rf_live_job *root, struct rf_live_job *job)
{
    if (root == job)
        return merge(job->left, job->right);
    if (before(job, root))
        root->left = treap_remove(root->left, job);
    else
        root->right = treap_remove(root->right, job);
    count(root);
    return root;
}

static const struct rf_live_job *treap_first(const struct rf_live_job *root)
{
    while (root->left != NULL)
        root = root->left;
    return root;
}

/* ---- buckets, shares, lanes ---- */

static struct rf_level *level_of(struct rf_sched *s, int priority)
{
    int i = 0;
    while (i < s->n_levels && s->levels[i].priority > priority)
        i++;
    if (i < s->n_levels && s->levels[i].priority == priority)
        return &s->levels[i];
    RF_ASSERT(s->n_levels < (int)RF_COUNT_OF(s->levels));
    memmove(&s->levels[i + 1], &s->levels[i], (size_t)(s->n_levels - i) * sizeof s->levels[0]);
    s->n_levels++;
    s->levels[i] = (struct rf_level){.priority = priority};
    return &s->levels[i];
}

static struct rf_bucket *bucket_of(struct rf_sched *s, const struct rf_live_job *job)
{
    struct rf_lane *lane = rf_sched_lane_of(s, job);
    for (struct rf_bucket *b = job->share->buckets; b != NULL; b = b->next_of_share)
        if (b->priority == job->priority && b->lane == lane)
            return b;
    struct rf_bucket *b = rf_new(struct rf_bucket);
    *b = (struct rf_bucket){.priority = job->priority, .lane = lane, .share = job->share,
                            .next_of_share = job->share->buckets};
    job->share->buckets = b;
    lane->n_jobs++; /* a bucket keeps its lane */
    struct rf_level *l = level_of(s, job->priority);
    if (l->n_buckets == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 4;
        l->buckets = rf_realloc(l->buckets, (size_t)l->capacity, sizeof *l->buckets);
    }
    b->index = l->n_buckets;
    l->buckets[l->n_buckets++] = b;
    return b;
}

static void bucket_drop_empty(struct rf_sched *s, struct rf_bucket *b)
{
    if (b->root != NULL)
        return;
    struct rf_level *l = level_of(s, b->priority);
    l->buckets[b->index] = l->buckets[--l->n_buckets];
    l->buckets[b->index]->index = b->index;
    struct rf_bucket **at = &b->share->buckets;
    while (*at != b)
        at = &(*at)->next_of_share;
    *at = b->next_of_share;
    rf_sched_lane_unref(s, b->lane);
    free(b);
    if (l->n_buckets == 0) {
        free(l->buckets);
        size_t i = (size_t)(l - s->levels);
        s->n_levels--;
        memmove(l, l + 1, ((size_t)s->n_levels - i) * sizeof *l);
    }
}

static size_t share_slot(const char *user)
{
    return rf_sched_hash(user) % RF_SHARE_SLOTS;
}

static struct rf_share *share_ref(struct rf_sched *s, const char *user)
{
    struct rf_share **slot = &s->shares[share_slot(user)], *share = *slot;
    while (share != NULL && strcmp(share->user, user) != 0)
        share = share->next;
    if (share == NULL) {
        share = rf_new(struct rf_share);
        share->user = rf_strdup(user);
        share->next = *slot;
        *slot = share;
    }
    share->n_jobs++;
    return share;
}

static void share_unref(struct rf_sched *s, struct rf_share *share)
{
    if (--share->n_jobs > 0)
        return;
    struct rf_share **at = &s->shares[share_slot(share->user)];
    while (*at != share)
        at = &(*at)->next;
    *at = share->next;
    free(share->user);
    free(share);
}

/* ---- the scheduler ---- */

struct rf_sched *rf_sched_create(void)
{
    struct rf_sched *s = rf_new(struct rf_sched);
    s->anywhere = rf_sched_lane_ref(s, "", "", "");
    s->epoch = 1;
    return s;
}

void rf_sched_add(struct rf_sched *s, struct rf_live_job *job, const char *user, const char *model, const char *hash,
                  const char *precision)
{
    job->share = share_ref(s, user);
    job->lane = rf_sched_lane_ref(s, model, hash ? hash : "", precision ? precision : "");
    job->place = RF_PLACE_NONE;
    s->reserved_bytes += job->reserved_bytes;
    map_insert(s, job);
}

void rf_sched_leave_place(struct rf_sched *s, struct rf_live_job *job)
{
    struct rf_bucket *b = job->bucket;
    switch (job->place) {
    case RF_PLACE_NONE:
        return;
    case RF_PLACE_READY:
        b->root = treap_remove(b->root, job);
        level_of(s, b->priority)->n_jobs--;
        s->n_ready--;
        job->bucket = NULL;
        bucket_drop_empty(s, b);
        job->share->n_active--;
        break;
    case RF_PLACE_WAITING:
        heap_remove(&s->waiting, job);
        break;
    case RF_PLACE_LEASED:
        heap_remove(&s->leased, job);
        rf_free(&job->run);
        job->share->n_active--;
        break;
    }
    job->place = RF_PLACE_NONE;
}

void rf_sched_remove(struct rf_sched *s, struct rf_live_job *job)
{
    rf_sched_leave_place(s, job);
    s->reserved_bytes -= job->reserved_bytes;
    map_remove(s, job);
    share_unref(s, job->share);
    rf_sched_lane_unref(s, job->lane);
    free(job->avoid);
    free(job);
}

void rf_sched_clear_jobs(struct rf_sched *s)
{
    for (size_t i = 0; i < s->map_size;)
        if (s->map[i] != NULL)
            rf_sched_remove(s, s->map[i]); /* closing the gap may bring another one here */
        else
            i++;
}

void rf_sched_destroy(struct rf_sched **sched)
{
    struct rf_sched *s = *sched;
    if (s == NULL)
        return;
    rf_sched_clear_jobs(s);
    rf_sched_free_workers(s);
    rf_sched_lane_unref(s, s->anywhere);
    RF_ASSERT(s->lanes == NULL);
    free(s->map);
    free(s->waiting.jobs);
    free(s->leased.jobs);
    free(s);
    *sched = NULL;
}

int64_t rf_sched_reserved_bytes(const struct rf_sched *s)
{
    return s->reserved_bytes;
}

int64_t rf_sched_n_jobs(const struct rf_sched *s)
{
    return s->n_jobs;
}

int64_t rf_sched_n_leased(const struct rf_sched *s)
{
    return s->leased.n;
}

/* Whoever had nothing to do starts level with the one served last: waiting at home earns no credit. */
static void activate(struct rf_sched *s, struct rf_share *share)
{
    if (share->n_active++ == 0 && share->served < s->served_last)
        share->served = s->served_last;
}

void rf_sched_make_ready(struct rf_sched *s, struct rf_live_job *job)
{
    /* Activated before it leaves its place: a job going from leased to ready is no new arrival of its user. */
    activate(s, job->share);
    rf_sched_leave_place(s, job);
    job->bucket = bucket_of(s, job);
    job->bucket->root = treap_add(job->bucket->root, job);
    level_of(s, job->priority)->n_jobs++;
    s->n_ready++;
    job->place = RF_PLACE_READY;
}

void rf_sched_make_waiting(struct rf_sched *s, struct rf_live_job *job, int64_t due_ms)
{
    rf_sched_leave_place(s, job);
    job->due_ms = due_ms;
    heap_add(&s->waiting, job);
    job->place = RF_PLACE_WAITING;
}

void rf_sched_make_leased(struct rf_sched *s, struct rf_live_job *job, struct rf_run *run, int64_t due_ms)
{
    if (job->place == RF_PLACE_READY)
        s->served_last = job->share->served;
    bool assembling = job->task == job->n_tasks - 1;
    double n_frames = job->n_frames < job->max_segment_frames ? job->n_frames : job->max_segment_frames;
    activate(s, job->share);
    rf_sched_leave_place(s, job);
    job->share->served += assembling ? 0 : (double)job->width * job->height * n_frames * job->n_steps;
    job->run = run;
    job->begun = true;
    job->due_ms = due_ms;
    heap_add(&s->leased, job);
    job->place = RF_PLACE_LEASED;
}

void rf_sched_extend(struct rf_sched *s, struct rf_live_job *job, int64_t due_ms)
{
    RF_ASSERT(job->place == RF_PLACE_LEASED);
    job->due_ms = due_ms;
    heap_settle(&s->leased, job->heap_index);
}

void rf_sched_set_priority(struct rf_sched *s, struct rf_live_job *job, int priority)
{
    bool ready = job->place == RF_PLACE_READY;
    if (ready)
        rf_sched_leave_place(s, job);
    job->priority = priority;
    if (ready)
        rf_sched_make_ready(s, job);
}

void rf_sched_settle(struct rf_sched *s, struct rf_live_job *job, const char *hash, const char *precision)
{
    RF_ASSERT(job->place != RF_PLACE_READY);
    struct rf_lane *lane = rf_sched_lane_ref(s, job->lane->model, hash, precision);
    rf_sched_lane_unref(s, job->lane);
    job->lane = lane;
}

int rf_sched_wake(struct rf_sched *s, int64_t now_ms)
{
    int n = 0;
    for (; s->waiting.n > 0 && s->waiting.jobs[0]->due_ms <= now_ms; n++)
        rf_sched_make_ready(s, s->waiting.jobs[0]);
    return n;
}

struct rf_live_job *rf_sched_overdue(struct rf_sched *s, int64_t now_ms)
{
    return s->leased.n > 0 && s->leased.jobs[0]->due_ms <= now_ms ? s->leased.jobs[0] : NULL;
}

struct rf_live_job *rf_sched_leased(struct rf_sched *s, int i)
{
    return i < s->leased.n ? s->leased.jobs[i] : NULL;
}

int64_t rf_sched_next_due(const struct rf_sched *s)
{
    int64_t due = s->waiting.n > 0 ? s->waiting.jobs[0]->due_ms : INT64_MAX;
    return s->leased.n > 0 && s->leased.jobs[0]->due_ms < due ? s->leased.jobs[0]->due_ms : due;
}

/* ---- choosing ---- */

bool rf_sched_any_ready(const struct rf_sched *s)
{
    return s->n_ready > 0;
}

/* Whether bucket a is served before b: the needier user; between equals, the older first job. */
static bool bucket_before(const struct rf_bucket *a, const struct rf_bucket *b)
{
    if (a->share->served != b->share->served)
        return a->share->served < b->share->served;
    return before(treap_first(a->root), treap_first(b->root));
}

/* The first job of the subtree, in order, that this worker may have. Nearly always the very first. */
static struct rf_live_job *first_for(struct rf_sched *s, struct rf_live_job *root, const struct rf_live_worker *w)
{
    if (root == NULL)
        return NULL;
    struct rf_live_job *job = first_for(s, root->left, w);
    if (job == NULL && rf_sched_may_have(s, root, w))
        job = root;
    return job != NULL ? job : first_for(s, root->right, w);
}

struct rf_live_job *rf_sched_pick(struct rf_sched *s, const struct rf_live_worker *w)
{
    for (int i = 0; i < s->n_levels; i++) {
        struct rf_live_job *best = NULL;
        for (int k = 0; k < s->levels[i].n_buckets; k++) {
            struct rf_bucket *b = s->levels[i].buckets[k];
            if ((best != NULL && !bucket_before(b, best->bucket)) || !rf_sched_fits(w, b->lane))
                continue;
            struct rf_live_job *job = first_for(s, b->root, w);
            best = job != NULL ? job : best;
        }
        if (best != NULL)
            return best;
    }
    return NULL;
}

/* How many of the subtree go before `job`, which need not be in it. */
static int64_t n_before(const struct rf_live_job *root, const struct rf_live_job *job)
{
    int64_t n = 0;
    while (root != NULL)
        if (before(root, job)) {
            n += n_below(root->left) + 1;
            root = root->right;
        } else {
            root = root->left;
        }
    return n;
}

/* What one user has waiting at one priority, in all lanes. */
struct line {
    const struct rf_live_job *first;
    int64_t n_jobs, n_before;    /* n_before: of these, before the job in question */
};

/* `b` stands for its user: it is the first of the user's buckets at its priority. */
static bool line_of(const struct rf_bucket *b, const struct rf_live_job *job, struct line *ret)
{
    *ret = (struct line){0};
    for (const struct rf_bucket *each = b->share->buckets; each != NULL; each = each->next_of_share) {
        if (each->priority != b->priority)
            continue;
        if (ret->first == NULL && each != b)
            return false;
        const struct rf_live_job *first = treap_first(each->root);
        if (ret->first == NULL || before(first, ret->first))
            ret->first = first;
        ret->n_jobs += n_below(each->root);
        ret->n_before += n_before(each->root, job);
    }
    return true;
}

int64_t rf_sched_position(struct rf_sched *s, const struct rf_live_job *job)
{
    if (job->place != RF_PLACE_READY)
        return 0;
    struct line own = {0}, other;
    int i = 0;
    int64_t ahead = 0;
    for (; s->levels[i].priority != job->priority; i++)
        ahead += s->levels[i].n_jobs;
    const struct rf_level *l = &s->levels[i];
    for (int b = 0; b < l->n_buckets; b++)
        if (l->buckets[b]->share == job->share && line_of(l->buckets[b], job, &own))
            break;
    int64_t position = ahead + own.n_before + 1;
    for (int b = 0; b < l->n_buckets; b++) {
        const struct rf_share *share = l->buckets[b]->share;
        if (share == job->share || !line_of(l->buckets[b], job, &other))
            continue;
        bool first = share->served != job->share->served ? share->served < job->share->served
                                                         : before(other.first, own.first);
        int64_t rounds = own.n_before + first;
        position += other.n_jobs < rounds ? other.n_jobs : rounds;
    }
    return position;
}
