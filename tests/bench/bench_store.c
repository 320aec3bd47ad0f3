/* How fast the store is, beside how fast this machine syncs. Not a test: run it by hand on an idle machine.
 *     bench_store [FOLDER [SECONDS [QUEUED]]]     QUEUED: jobs put into the queue first
 * Submits and lease+complete pairs go through rf_store_post() with a number of callers that each wait for the commit
 * before the next one, as HTTP connections do. SPDX-License-Identifier: Apache-2.0 */
#include "server/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Of the whole process: on a machine that others use as well, this says more than the clock on the wall. */
static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Appended 4 KiB blocks, each synced: what one commit costs at least. */
static double sync_rate(const char *folder)
{
    char block[4096] = {0};
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/sync-probe", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), n = 0;
    double start = now_s();
    for (; now_s() - start < 1 && write(fd, block, sizeof block) == sizeof block; n++)
        fdatasync(fd);
    close(fd);
    unlink(path);
    return n / (now_s() - start);
}

static struct rf_request *request(void)
{
    struct rf_request *r = rf_request_create();
    free(r->prompt);
    r->prompt = rf_strdup("a red circle moves left over a blue background while a small green triangle turns slowly");
    r->given = 1;
    struct rf_model_defaults m = {.name = "demo", .width = 192, .height = 128};
    RF_ASSERT(rf_request_resolve(r, &m, 0x123456789abcdef0, NULL, NULL, NULL) == RF_OK);
    return r;
}

/* One caller: its op goes round and round; each answer posts the next. */
struct caller {
    struct rf_store *s;
    struct rf_op op;
    struct rf_submit job;
    const struct rf_request *request;
    char worker_id[RF_WORKER_ID_SIZE];
    struct rf_wire_lease lease;
    struct rf_wire_report report;
    int64_t n;
    double posted, *latency;
    int64_t max_latency;
    volatile bool *stop;
    pthread_mutex_t *lock;
    pthread_cond_t *ended;
    int *n_running;
};

static void end(struct caller *c)
{
    pthread_mutex_lock(c->lock);
    if (--*c->n_running == 0)
        pthread_cond_signal(c->ended);
    pthread_mutex_unlock(c->lock);
}

static void note(struct caller *c)
{
    if (c->n < c->max_latency)
        c->latency[c->n] = now_s() - c->posted;
    c->n++;
    c->posted = now_s();
}

static void submit(struct rf_op *op)
{
    struct caller *c = op->ctx;
    if (op->kind == RF_OP_SUBMIT)
        note(c);
    if (*c->stop || op->code != RF_OK) {
        end(c);
        return;
    }
    c->job = (struct rf_submit){.request = c->request};
    *op = (struct rf_op){.kind = RF_OP_SUBMIT, .now_ms = now_ms(), .done = submit, .ctx = c,
                         .u.submit = {.jobs = &c->job, .n_jobs = 1}};
    rf_store_post(c->s, op);
}

static void pair(struct rf_op *op)
{
    struct caller *c = op->ctx;
    bool claimed = op->kind == RF_OP_CLAIM && op->code == RF_OK;
    if (claimed) {
        rf_wire_lease_finish(&c->lease);
        c->lease = op->u.claim.lease;
        c->report.lease = c->lease.lease;
        *op = (struct rf_op){.kind = RF_OP_COMPLETE, .now_ms = now_ms(), .done = pair, .ctx = c,
                             .u.report = {.task_id = c->lease.task_id, .report = &c->report}};
    } else {
        if (op->kind == RF_OP_COMPLETE)
            note(c);
        if (*c->stop || op->code != RF_OK) {
            end(c);
            return;
        }
        *op = (struct rf_op){.kind = RF_OP_CLAIM, .now_ms = now_ms(), .done = pair, .ctx = c,
                             .u.claim.worker_id = c->worker_id};
    }
    rf_store_post(c->s, op);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void run(struct rf_store *s, const char *what, void (*step)(struct rf_op *op), int n_callers, double seconds,
                const struct rf_request *r)
{
    volatile bool stop = false;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
    int n_running = n_callers;
    const int64_t keep = 200000 / n_callers;
    struct caller *callers = rf_new_array(struct caller, (size_t)n_callers);
    static struct rf_wire_timing timings[] = {{"load", -1, 0, 0.5}, {"text", -1, 0, 0.02}, {"high_noise", 0, 0, 3.1},
        {"high_noise", 1, 0, 3.2}, {"low_noise", 2, 0, 3.3}, {"low_noise", 3, 0, 3.4}, {"decode", -1, 0, 1.25},
        {"interpolate", -1, 0, 1.5}, {"encode", -1, 0, 0.75}, {"upload", -1, 0, 0.1}};
    for (int i = 0; i < n_callers; i++) {
        struct caller *c = &callers[i];
        *c = (struct caller){.s = s, .request = r, .stop = &stop, .lock = &lock, .ended = &ended, .n_running = &n_running,
                             .max_latency = keep, .latency = rf_new_array(double, (size_t)keep), .posted = now_s()};
        c->report = (struct rf_wire_report){.kind = RF_REPORT_COMPLETE, .timings = timings, .n_timings = 10};
        if (step != pair)
            continue;
        char name[32];
        snprintf(name, sizeof name, "bench-%s-%d", what, i);
        struct rf_wire_model m = {.name = (char *)"demo", .hash = (char *)"", .takes_text = true, .max_segment_frames = 81};
        struct rf_wire_register reg = {.protocol = RF_PROTOCOL, .name = name, .device_kind = (char *)"cpu",
                                       .models = &m, .n_models = 1};
        RF_ASSERT(rf_store_register(s, &reg, now_ms(), c->worker_id, NULL) == RF_OK);
        memcpy(c->report.worker_id, c->worker_id, sizeof c->worker_id);
    }
    double start = now_s(), cpu = cpu_s();
    for (int i = 0; i < n_callers; i++) {
        callers[i].op = (struct rf_op){.kind = RF_OP_TICK, .ctx = &callers[i]};
        step(&callers[i].op);
    }
    while (now_s() - start < seconds)
        usleep(10000);
    stop = true;
    pthread_mutex_lock(&lock);
    while (n_running > 0)
        pthread_cond_wait(&ended, &lock);
    pthread_mutex_unlock(&lock);
    double took = now_s() - start;
    cpu = cpu_s() - cpu;
    int64_t n = 0, n_kept = 0;
    double *all = rf_new_array(double, 200000);
    for (int i = 0; i < n_callers; i++) {
        struct caller *c = &callers[i];
        int64_t have = c->n < keep ? c->n : keep;
        memcpy(all + n_kept, c->latency, (size_t)have * sizeof(double));
        n_kept += have;
        n += c->n;
        rf_wire_lease_finish(&c->lease);
        free(c->latency);
    }
    if (n_kept > 0) {
        qsort(all, (size_t)n_kept, sizeof *all, by_size);
        printf("%-22s %4d callers  %9.0f /s   p50 %6.2f ms  p99 %6.2f ms  cpu %5.1f us each\n", what, n_callers,
               (double)n / took, all[n_kept / 2] * 1e3, all[n_kept * 99 / 100] * 1e3, cpu / (double)n * 1e6);
    }
    fflush(stdout);
    free(all);
    free(callers);
}

static void batch(struct rf_store *s, const struct rf_request *r, int64_t n_jobs, const char *what)
{
    const int n = 1000;
    struct rf_submit *jobs = rf_new_array(struct rf_submit, (size_t)n);
    double start = now_s(), cpu = cpu_s();
    for (int64_t done = 0; done < n_jobs; done += n) {
        for (int i = 0; i < n; i++)
            jobs[i] = (struct rf_submit){.request = r};
        struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = now_ms(), .u.submit = {.jobs = jobs, .n_jobs = n}};
        RF_ASSERT(rf_store_run(s, &op, NULL) == RF_OK);
    }
    double took = now_s() - start;
    printf("%-22s %4d a batch  %9.0f /s %37s cpu %5.1f us each\n", what, n, (double)n_jobs / took, "",
           (cpu_s() - cpu) / (double)n_jobs * 1e6);
    free(jobs);
}

static void lists(struct rf_store *s)
{
    const struct { const char *what; struct rf_query query; } queries[] = {
        {"list newest 20", {.limit = 20}},
        {"list queued 20", {.limit = 20, .states = 1u << RF_JOB_QUEUED}},
        {"list done+failed 20", {.limit = 20, .states = 1u << RF_JOB_COMPLETED | 1u << RF_JOB_FAILED}},
        {"list of nobody 20", {.limit = 20, .user = "nobody"}},
    };
    for (size_t i = 0; i < RF_COUNT_OF(queries); i++) {
        double start = now_s();
        struct rf_page *page = NULL;
        for (int k = 0; k < 20; k++) {
            rf_page_destroy(&page);
            RF_ASSERT(rf_store_list(s, &queries[i].query, &page, NULL) == RF_OK);
        }
        printf("%-22s %4d jobs     %9.2f ms\n", queries[i].what, page->n_jobs, (now_s() - start) / 20 * 1e3);
        rf_page_destroy(&page);
    }
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "/tmp";
    double seconds = argc > 2 ? atof(argv[2]) : 3;
    int64_t queued = argc > 3 ? atoll(argv[3]) : 0;
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/bench-farm-%d.db", folder, (int)getpid());
    struct rf_store_config config = {.path = path, .now_ms = now_ms(), .trust_outputs = true, .max_unfinished = 100000000};
    struct rf_store *s = NULL;
    struct rf_err err;
    struct rf_request *r = request();
    if (rf_store_open(&config, &s, &err) != RF_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("this machine syncs %.0f times a second (4 KiB appended, fdatasync)\n", sync_rate(folder));
    if (queued > 0)
        batch(s, r, queued, "submit in batches");
    const int callers[] = {1, 8, 32, 256};
    for (size_t i = 0; i < RF_COUNT_OF(callers); i++)
        run(s, "submit", submit, callers[i], seconds, r);
    for (size_t i = 0; i < RF_COUNT_OF(callers); i++)
        run(s, "lease+complete", pair, callers[i], seconds, r);
    batch(s, r, 50000, "submit in batches");
    lists(s);
    double start = now_s();
    rf_store_destroy(&s);
    printf("close %.2f s\n", now_s() - start);
    start = now_s();
    config.now_ms = now_ms();
    RF_ASSERT(rf_store_open(&config, &s, &err) == RF_OK);
    struct rf_store_counts counts;
    rf_store_counts(s, &counts);
    printf("open %.2f s: %lld queued, %lld in progress, %lld completed\n", now_s() - start,
           (long long)counts.jobs[RF_JOB_QUEUED], (long long)counts.jobs[RF_JOB_IN_PROGRESS],
           (long long)counts.jobs[RF_JOB_COMPLETED]);
    rf_store_destroy(&s);
    rf_request_destroy(&r);
    for (int i = 0; i < 4; i++) {
        static const char *const tails[] = {"", "-wal", "-shm", "-lock"};
        RF_AUTO(rf_free) char *file = rf_asprintf("%s%s", path, tails[i]);
        unlink(file);
    }
    return 0;
}
