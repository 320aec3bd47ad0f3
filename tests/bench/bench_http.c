/* How fast a running server is over HTTP, beside how fast its disk syncs. Not a test; scripts/bench-farm runs it.
 *     bench_http --port PORT --pid PID --folder FOLDER [--seconds S] SCENARIO[:NUMBER]...
 * One thread makes all the load, so on a machine of two cores the server keeps the other one. Loopback only.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define WARM_S 0.3                  /* not counted: caches, the first growth of the log */

/* Peers that each do one thing again and again. */
struct group {
    struct rf_bench *b;
    const char *what;
    void (*next)(struct rf_peer *p, struct group *g); /* sends the next request */
    bool (*check)(struct rf_peer *p, struct group *g); /* true: one more is done. NULL: any 200 */
    int n_peers;
    bool bare;                      /* pairs: nothing reported but the end */
    int64_t weight;                 /* things done by one answer, for batches; 0 = 1 */
    double from_s, to_s;            /* what began in between is counted */
    int64_t n, n_all;               /* counted; and with those before and after */
    struct rf_hist h;
    struct lane *lanes;
};

/* One peer's own memory. */
struct lane {
    struct group *g;
    char worker_id[64];
    struct rf_bench_task task;
    bool leased;
    double began_s;
};

static int64_t next_number;         /* no two jobs of a run have the same prompt */

static void answered(struct rf_peer *p)
{
    struct lane *lane = p->ctx;
    struct group *g = lane->g;
    bool done = g->check != NULL ? g->check(p, g) : p->status == 200;
    if (g->check == NULL && !done)
        rf_bench_bad(g->b, p, g->what);
    double began = lane->began_s;
    int64_t weight = g->weight > 0 ? g->weight : 1;
    g->n_all += done ? weight : 0;
    if (done && began >= g->from_s && p->whole_s <= g->to_s) {
        g->n += weight;
        rf_hist_add(&g->h, p->whole_s - began);
    }
    if (done)
        lane->began_s = p->whole_s;
    if (p->whole_s < g->to_s && g->b->n_failed == 0)
        g->next(p, g);
}

/* Runs groups side by side for the bench's seconds. */
static void run_groups(struct rf_bench *b, struct group *groups, int n_groups)
{
    RF_AUTO(rf_load_destroy) struct rf_load *load = rf_load_create(b->port);
    double start = rf_bench_now();
    bool never = false;
    for (int i = 0; i < n_groups; i++) {
        struct group *g = &groups[i];
        g->b = b;
        g->from_s = start + WARM_S;
        g->to_s = g->from_s + b->seconds;
        if (g->lanes == NULL)
            g->lanes = rf_new_array(struct lane, (size_t)g->n_peers);
        for (int k = 0; k < g->n_peers; k++) {
            g->lanes[k].g = g;
            g->lanes[k].began_s = rf_bench_now();
            g->next(rf_peer_create(load, answered, &g->lanes[k]), g);
        }
    }
    rf_load_run(load, start + WARM_S, &never);
    rf_load_run(load, groups[0].to_s + 0.5, &never); /* the rest is answered while nobody counts */
    for (int i = 0; i < n_groups; i++)
        rf_free(&groups[i].lanes);
}

static void measure(struct rf_bench *b, struct group *g, bool with_sync)
{
    double syncs = with_sync ? rf_bench_sync_rate(b) : 0;
    struct rf_use before = rf_bench_use(b);
    run_groups(b, g, 1);
    rf_bench_row(b, g->what, g->n_peers, g->n, b->seconds, &g->h, g->n_all, before, syncs);
}

/* ---- scenarios ---- */

static void ask_health(struct rf_peer *p, struct group *g)
{
    rf_peer_send(p, "GET", "/healthz", NULL, NULL, 0);
}

static void submit(struct rf_peer *p, struct group *g)
{
    char body[512];
    int n = rf_bench_job(body, sizeof body, next_number++);
    rf_peer_send(p, "POST", "/v1/videos", "application/json", body, (size_t)n);
}

static void submit_batch(struct rf_peer *p, struct group *g)
{
    size_t n = 0, room = (size_t)g->weight * 256;
    RF_AUTO(rf_free) char *body = rf_calloc(room, 1);
    for (int64_t i = 0; i < g->weight; i++) {
        n += (size_t)rf_bench_job(body + n, room - n, next_number++);
        body[n++] = '\n';
    }
    rf_peer_send(p, "POST", "/v1/videos/batch", "application/x-ndjson", body, n);
}

static void lease_or_complete(struct rf_peer *p, struct group *g)
{
    struct lane *lane = p->ctx;
    char body[2048], path[160];
    if (!lane->leased) {
        int n = rf_bench_lease(body, sizeof body, lane->worker_id, 0);
        rf_peer_send(p, "POST", "/farm/v1/lease", "application/json", body, (size_t)n);
        return;
    }
    int n = (g->bare ? rf_bench_complete_bare : rf_bench_complete)(body, sizeof body, lane->worker_id,
                                                                   lane->task.lease);
    snprintf(path, sizeof path, "/farm/v1/tasks/%s/complete", lane->task.id);
    rf_peer_send(p, "POST", path, "application/json", body, (size_t)n);
}

static bool check_pair(struct rf_peer *p, struct group *g)
{
    struct lane *lane = p->ctx;
    if (lane->leased) {
        lane->leased = false;
        if (p->status != 200)
            rf_bench_bad(g->b, p, "complete");
        return p->status == 200;
    }
    lane->leased = rf_bench_read_lease(p, &lane->task);
    if (!lane->leased)
        rf_bench_bad(g->b, p, p->status == 204 ? "lease (the queue ran dry)" : "lease");
    return false;
}

static void run_pairs(struct rf_bench *b, int n, bool bare)
{
    char (*ids)[64] = rf_calloc((size_t)n, sizeof *ids);
    struct group g = {.what = bare ? "lease+complete, no timings" : "lease+complete, ten timings", .bare = bare,
                      .next = lease_or_complete, .check = check_pair, .n_peers = n,
                      .lanes = rf_new_array(struct lane, (size_t)n)};
    rf_bench_workers(b, "pair-", n, ids);
    rf_bench_fill(b, (int64_t)((b->seconds + 1) * 12000)); /* two tasks a job */
    for (int i = 0; i < n; i++)
        memcpy(g.lanes[i].worker_id, ids[i], sizeof *ids);
    measure(b, &g, true);
    free(ids);
}

static char newest_id[64];

static void read_list(struct rf_peer *p, struct group *g)
{
    rf_peer_send(p, "GET", "/v1/videos?limit=20", NULL, NULL, 0);
}

static void read_one(struct rf_peer *p, struct group *g)
{
    char path[128];
    snprintf(path, sizeof path, "/v1/videos/%s", newest_id);
    rf_peer_send(p, "GET", path, NULL, NULL, 0);
}

static bool keep_id(struct rf_peer *p, struct group *g)
{
    if (p->status != 200)
        rf_bench_bad(g->b, p, g->what);
    else if (newest_id[0] == '\0')
        rf_bench_find(p->body, "id", newest_id, sizeof newest_id);
    return p->status == 200;
}

/* A page's reads while n others submit as fast as they can. */
static void run_reads(struct rf_bench *b, int n)
{
    struct group once = {.what = "submit", .next = submit, .check = keep_id, .n_peers = 1};
    double seconds = b->seconds;
    b->seconds = 0.2;
    run_groups(b, &once, 1);
    b->seconds = seconds;
    struct group groups[] = {{.what = "get", .next = read_one, .n_peers = 1},
                             {.what = "list of 20", .next = read_list, .n_peers = 1},
                             {.what = "submit", .next = submit, .n_peers = n}};
    run_groups(b, groups, n > 0 ? 3 : 2);
    for (int i = 0; i < (n > 0 ? 3 : 2); i++) {
        char what[64];
        snprintf(what, sizeof what, "%s, %d submitting", groups[i].what, n);
        rf_bench_row(b, what, groups[i].n_peers, groups[i].n, seconds, &groups[i].h, 0, (struct rf_use){0}, 0);
    }
}

/* First bytes, one call at a time, as somebody who opens the page has them. */
static const char *first_byte_path;

static void read_first_byte(struct rf_peer *p, struct group *g)
{
    rf_peer_send(p, "GET", first_byte_path, NULL, NULL, 0);
}

static bool check_first_byte(struct rf_peer *p, struct group *g)
{
    if (p->status != 200)
        rf_bench_bad(g->b, p, first_byte_path);
    p->whole_s = p->first_byte_s;
    return p->status == 200;
}

static void run_page(struct rf_bench *b)
{
    static const char *const paths[] = {"/", "/v1/videos?limit=20", "/v1/videos?limit=100",
        "/v1/videos?limit=20&status=completed", "/v1/videos?limit=20&status=queued", "/v1/videos?limit=20&order=asc",
        "/v1/videos?limit=20&q=number+7", "/v1/queue", "/metrics"};
    double seconds = b->seconds;
    b->seconds = seconds < 1 ? seconds : 1;
    for (size_t i = 0; i < RF_COUNT_OF(paths); i++) {
        char what[64];
        snprintf(what, sizeof what, "first byte %s", paths[i]);
        first_byte_path = paths[i];
        struct group g = {.what = what, .next = read_first_byte, .check = check_first_byte, .n_peers = 1};
        measure(b, &g, false);
    }
    b->seconds = seconds;
}

static bool run(struct rf_bench *b, const char *name, int number)
{
    if (strcmp(name, "health") == 0) {
        struct group g = {.what = "GET /healthz", .next = ask_health, .n_peers = number > 0 ? number : 32};
        measure(b, &g, false);
    } else if (strcmp(name, "submit") == 0) {
        struct group g = {.what = "submit", .next = submit, .n_peers = number > 0 ? number : 32};
        measure(b, &g, true);
    } else if (strcmp(name, "batch") == 0) {
        char what[32];
        struct group g = {.what = what, .next = submit_batch, .n_peers = 2, .weight = number > 0 ? number : 1000};
        snprintf(what, sizeof what, "batch of %d, jobs", (int)g.weight);
        measure(b, &g, true);
    } else if (strcmp(name, "pairs") == 0) {
        run_pairs(b, number > 0 ? number : 32, false);
    } else if (strcmp(name, "bare-pairs") == 0) {
        run_pairs(b, number > 0 ? number : 32, true);
    } else if (strcmp(name, "reads") == 0) {
        run_reads(b, number);
    } else if (strcmp(name, "page") == 0) {
        run_page(b);
    } else if (strcmp(name, "fill") == 0) {
        rf_bench_fill(b, number);
    } else if (strcmp(name, "farm") == 0) {
        rf_bench_farm(b, number > 0 ? number : 10000);
    } else {
        return false;
    }
    return true;
}

static const char help[] =
    "usage: bench_http --port PORT --pid PID --folder FOLDER [--seconds S] SCENARIO[:NUMBER]...\n"
    "  health:CONNECTIONS  submit:CONNECTIONS  batch:LINES  reads:SUBMITTERS  page  fill:JOBS\n"
    "  pairs:WORKERS  bare-pairs:WORKERS  farm:WORKERS     these need a server with --trust-outputs\n";

int main(int argc, char **argv)
{
    struct rf_bench b = {.seconds = 5, .folder = "/tmp"};
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    int i = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--port") == 0)
            b.port = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--pid") == 0)
            b.pid = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--folder") == 0)
            b.folder = argv[i + 1];
        else if (strcmp(argv[i], "--seconds") == 0)
            b.seconds = atof(argv[i + 1]);
        else
            break;
    }
    bool good = i < argc && strncmp(argv[i], "--", 2) != 0 && b.port > 0 && b.pid > 0;
    if (!good || !(b.seconds > 0 && b.seconds <= 600)) {
        fputs(help, stderr);
        return 2;
    }
    /* As in a farm: somebody has registered a model, so that a submit looks up its defaults. It never asks for work. */
    char one[1][64];
    rf_bench_workers(&b, "idle-", 1, one);
    rf_bench_header();
    for (; i < argc; i++) {
        char name[32];
        const char *colon = strchr(argv[i], ':');
        snprintf(name, sizeof name, "%.*s", (int)strcspn(argv[i], ":"), argv[i]);
        if (!run(&b, name, colon != NULL ? atoi(colon + 1) : 0)) {
            fputs(help, stderr);
            return 2;
        }
    }
    if (b.n_failed > 0)
        fprintf(stderr, "bench: %lld answers were not as they should be\n", (long long)b.n_failed);
    return b.n_failed > 0;
}
