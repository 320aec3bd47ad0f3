/* A whole farm of pretence: each worker has one connection and lives like a real one: a long poll until there is work,
 * then heartbeats every 5 s, complete after a minute, and again. Jobs come at the rate that keeps four of five workers
 * busy, so the others wait in their polls. What a worker sends is never late here because of a server that was slow
 * before: the next heartbeat is 5 s after the last one was due.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include <stdio.h>
#include <string.h>

#define SEGMENT_S 60.0
#define ASSEMBLE_S 2.0
#define HEARTBEAT_S 5.0
#define POLL_MS 30000
#define BUSY_SHARE 0.8
#define N_SUBMITTERS 16
#define N_TIMES (1 << 16)

enum asked { ASKED_NOTHING, ASKED_LEASE, ASKED_HEARTBEAT, ASKED_COMPLETE };

struct farm {
    struct rf_bench *b;
    struct rf_load *load;
    bool counting, over;
    struct rf_hist heartbeat, complete, submit, handed;
    int64_t n_lost, n_late;         /* leases that ended under a living worker; heartbeats sent 1 s late by us */
    int64_t n_leased, n_busy;
    double submit_every_s, submit_due_s;
    double submitted_s[N_TIMES];    /* by job number */
    int64_t next_number;
    struct rf_peer *submitters[N_SUBMITTERS];
    struct rf_timer submit_timer;
    uint64_t random;
};

struct worker {
    struct farm *f;
    char id[64];
    struct rf_peer *peer;
    struct rf_timer timer;
    enum asked asked;
    struct rf_bench_task task;
    double end_s, due_s, polled_s;
    bool working, begun;
};

static double chance(struct farm *f)
{
    f->random = f->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (double)(f->random >> 11) / 9007199254740992.0;
}

static void poll_for_work(struct worker *w)
{
    char body[160];
    int n = rf_bench_lease(body, sizeof body, w->id, POLL_MS);
    w->asked = ASKED_LEASE;
    w->polled_s = rf_bench_now();
    rf_peer_send(w->peer, "POST", "/farm/v1/lease", "application/json", body, (size_t)n);
}

static void act(struct rf_timer *t)
{
    struct worker *w = t->ctx;
    if (w->f->over)
        return;
    if (!w->working) { /* its first poll */
        poll_for_work(w);
        return;
    }
    double now = rf_bench_now();
    if (w->peer->busy) { /* still waiting for the last answer */
        w->f->n_late++;
        rf_load_timer(w->f->load, t, 0.1);
        return;
    }
    char body[2048], path[160];
    bool ends = now >= w->end_s;
    int n = ends ? rf_bench_complete(body, sizeof body, w->id, w->task.lease)
                 : rf_bench_heartbeat(body, sizeof body, w->id, w->task.lease, 1 - (w->end_s - now) / SEGMENT_S);
    snprintf(path, sizeof path, "/farm/v1/tasks/%s/%s", w->task.id, ends ? "complete" : "heartbeat");
    w->asked = ends ? ASKED_COMPLETE : ASKED_HEARTBEAT;
    w->due_s += HEARTBEAT_S;
    if (!ends) {
        double next = w->due_s < w->end_s ? w->due_s : w->end_s;
        rf_load_timer(w->f->load, t, next > now ? next - now : 0);
    }
    rf_peer_send(w->peer, "POST", path, "application/json", body, (size_t)n);
}

static void begin_task(struct worker *w, const struct rf_peer *p)
{
    struct farm *f = w->f;
    bool assembles = strstr(p->body, "\"kind\":\"assemble\"") != NULL;
    double length = assembles ? ASSEMBLE_S : SEGMENT_S;
    /* At the start everybody is somewhere within a segment, as in a farm that has been running. */
    if (!w->begun)
        length *= chance(f);
    w->begun = true;
    w->working = true;
    f->n_busy++;
    w->end_s = p->whole_s + length;
    w->due_s = p->whole_s + HEARTBEAT_S;
    rf_load_timer(f->load, &w->timer, length < HEARTBEAT_S ? length : HEARTBEAT_S);
    int64_t number = rf_bench_job_number(p->body);
    if (f->counting && !assembles && number >= 0 && number < f->next_number) {
        double since = f->submitted_s[number % N_TIMES];
        since = since > w->polled_s ? since : w->polled_s; /* the later of the two: work and worker both there */
        rf_hist_add(&f->handed, p->whole_s - since);
    }
    f->n_leased += f->counting;
}

static void worker_answered(struct rf_peer *p)
{
    struct worker *w = p->ctx;
    struct farm *f = w->f;
    double took = p->whole_s - p->sent_s;
    switch (w->asked) {
    case ASKED_LEASE:
        if (rf_bench_read_lease(p, &w->task))
            begin_task(w, p);
        else if (p->status == 204 && !f->over)
            poll_for_work(w);
        else if (!f->over)
            rf_bench_bad(f->b, p, "lease");
        break;
    case ASKED_HEARTBEAT:
        if (f->counting)
            rf_hist_add(&f->heartbeat, took);
        if (p->status != 200 || strstr(p->body, "\"cancel\":false") == NULL) {
            f->n_lost++;
            rf_bench_bad(f->b, p, "heartbeat");
        }
        break;
    case ASKED_COMPLETE:
        if (f->counting)
            rf_hist_add(&f->complete, took);
        if (p->status != 200) {
            f->n_lost++;
            rf_bench_bad(f->b, p, "complete");
        }
        w->working = false;
        f->n_busy--;
        if (!f->over)
            poll_for_work(w);
        break;
    case ASKED_NOTHING:
        break;
    }
}

static void submit_answered(struct rf_peer *p)
{
    struct farm *f = p->ctx;
    if (p->status != 200)
        rf_bench_bad(f->b, p, "submit");
    else if (f->counting)
        rf_hist_add(&f->submit, p->whole_s - p->sent_s);
}

static void submit_due(struct rf_timer *t)
{
    struct farm *f = t->ctx;
    if (f->over)
        return;
    double now = rf_bench_now();
    for (int i = 0; i < N_SUBMITTERS && f->submit_due_s <= now; i++) {
        struct rf_peer *p = f->submitters[i];
        if (p->busy)
            continue;
        char body[512];
        f->submitted_s[f->next_number % N_TIMES] = now;
        int n = rf_bench_job(body, sizeof body, f->next_number++);
        rf_peer_send(p, "POST", "/v1/videos", "application/json", body, (size_t)n);
        f->submit_due_s += f->submit_every_s * 2 * chance(f);
    }
    rf_load_timer(f->load, t, 0);
}

static void row(const struct rf_bench *b, const char *what, int n_peers, const struct rf_hist *h, double seconds)
{
    rf_bench_row(b, what, n_peers, h->n, seconds, h, 0, (struct rf_use){0}, 0);
}

void rf_bench_farm(struct rf_bench *b, int n_workers)
{
    bool never = false;
    struct farm *f = rf_new(struct farm);
    struct worker *workers = rf_new_array(struct worker, (size_t)n_workers);
    char (*ids)[64] = rf_calloc((size_t)n_workers, sizeof *ids);
    *f = (struct farm){.b = b, .random = 42, .submit_every_s = (SEGMENT_S + ASSEMBLE_S) / (BUSY_SHARE * n_workers)};
    double start = rf_bench_now();
    struct rf_use idle = rf_bench_use(b);
    rf_bench_workers(b, "farm-", n_workers, ids);
    fprintf(stderr, "%d workers registered in %.1f s\n", n_workers, rf_bench_now() - start);
    rf_bench_fill(b, (int64_t)(BUSY_SHARE * n_workers));
    f->load = rf_load_create(b->port);
    double ramp_s = n_workers / 2000.0;
    for (int i = 0; i < n_workers && b->n_failed == 0; i++) {
        struct worker *w = &workers[i];
        memcpy(w->id, ids[i], sizeof w->id);
        w->f = f;
        w->peer = rf_peer_create(f->load, worker_answered, w);
        w->timer = (struct rf_timer){.fire = act, .ctx = w};
        rf_load_timer(f->load, &w->timer, ramp_s * chance(f));
        if (i % 500 == 0) /* those that are connected already are served meanwhile */
            rf_load_run(f->load, rf_bench_now() + 0.01, &never);
    }
    for (int i = 0; i < N_SUBMITTERS; i++)
        f->submitters[i] = rf_peer_create(f->load, submit_answered, f);
    f->submit_timer = (struct rf_timer){.fire = submit_due, .ctx = f};
    f->submit_due_s = rf_bench_now() + ramp_s;
    rf_load_timer(f->load, &f->submit_timer, ramp_s);
    rf_load_run(f->load, rf_bench_now() + ramp_s + 5, &never);
    f->counting = true;
    struct rf_use before = rf_bench_use(b);
    start = rf_bench_now();
    rf_load_run(f->load, start + b->seconds, &never);
    f->counting = false;
    double took = rf_bench_now() - start;
    struct rf_use after = rf_bench_use(b);
    row(b, "farm: heartbeat", n_workers, &f->heartbeat, took);
    row(b, "farm: complete", n_workers, &f->complete, took);
    row(b, "farm: submit", N_SUBMITTERS, &f->submit, took);
    row(b, "farm: work handed over", n_workers, &f->handed, took);
    double share = (after.cpu_s - before.cpu_s) / took;
    printf("\n%lld workers busy at the end, %lld leases given, %lld lost wrongly, %lld sent late by this program; "
           "server: %.0f %% of a core, %.0f MiB (%.1f KiB a worker)\n", (long long)f->n_busy, (long long)f->n_leased,
           (long long)f->n_lost, (long long)f->n_late, share * 100, after.rss_bytes / (1 << 20),
           (after.rss_bytes - idle.rss_bytes) / 1024 / n_workers);
    f->over = true;
    rf_load_destroy(&f->load);
    free(ids);
    free(workers);
    free(f);
}
