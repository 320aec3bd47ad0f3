/* See bench.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- the machine ---- */

struct rf_use rf_bench_use(const struct rf_bench *b)
{
    struct rf_use use = {0};
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", b->pid);
    FILE *file = fopen(path, "re");
    size_t n = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file != NULL)
        fclose(file);
    text[n] = '\0';
    const char *rest = strrchr(text, ')'); /* the name may hold anything */
    unsigned long user = 0, kernel = 0;
    long rss = 0;
    static const char fields[] =
        ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld";
    if (rest != NULL && sscanf(rest, fields, &user, &kernel, &rss) == 3) {
        use.cpu_s = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
        use.rss_bytes = (double)rss * (double)sysconf(_SC_PAGESIZE);
    }
    return use;
}

double rf_bench_load(void)
{
    double load = NAN;
    return getloadavg(&load, 1) == 1 ? load : NAN;
}

double rf_bench_sync_rate(const struct rf_bench *b)
{
    static const char block[4096];
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/sync-probe", b->folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), n = 0;
    double start = rf_bench_now();
    for (; rf_bench_now() - start < 0.3 && write(fd, block, sizeof block) == sizeof block; n++)
        fdatasync(fd);
    double rate = n / (rf_bench_now() - start);
    close(fd);
    unlink(path);
    return rate;
}

/* ---- the table ---- */

/* Markdown, and still columns on a terminal. */
void rf_bench_header(void)
{
    printf("| %-36s | %5s | %7s | %7s | %7s | %7s | %7s | %5s | %7s | %4s |\n", "what", "peers", "per s", "p50 ms", "p99 ms", "max ms",
           "cpu us", "MiB", "syncs/s", "load");
    puts("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
}

void rf_bench_row(const struct rf_bench *b, const char *what, int n_peers, int64_t n, double seconds,
                  const struct rf_hist *h, int64_t n_all, struct rf_use before, double syncs)
{
    struct rf_use after = rf_bench_use(b);
    printf("| %-36s | %5d | %7.0f | %7.2f | %7.2f | %7.2f ", what, n_peers, (double)n / seconds, rf_hist_at(h, 0.5) * 1e3,
           rf_hist_at(h, 0.99) * 1e3, h->max_s * 1e3);
    if (n_all > 0)
        printf("| %7.1f ", (after.cpu_s - before.cpu_s) / (double)n_all * 1e6);
    else
        printf("| %7s ", "");
    printf("| %5.0f ", after.rss_bytes / (1 << 20));
    if (syncs > 0)
        printf("| %7.0f ", syncs);
    else
        printf("| %7s ", "");
    printf("| %4.1f |\n", rf_bench_load());
    fflush(stdout);
}

void rf_bench_bad(struct rf_bench *b, const struct rf_peer *p, const char *doing)
{
    if (b->n_failed++ < 5)
        fprintf(stderr, "bench: %s: answer %d: %.300s\n", doing, p->status, p->body);
}

/* ---- messages ---- */

int rf_bench_job(char *to, size_t room, int64_t number)
{
    return snprintf(to, room, "{\"prompt\":\"number %" PRId64 ": a red circle moves left over a blue background "
                    "while a small green triangle turns slowly\",\"size\":\"192x128\",\"seconds\":\"5\",\"seed\":%"
                    PRId64 "}", number, number);
}

int64_t rf_bench_job_number(const char *lease_body)
{
    const char *at = strstr(lease_body, "\"prompt\":\"number ");
    return at != NULL ? atoll(at + 17) : -1;
}

int rf_bench_register(char *to, size_t room, const char *name, int pid)
{
    return snprintf(to, room, "{\"protocol\":1,\"name\":\"%s\",\"build\":\"bench\",\"host\":\"localhost\",\"pid\":%d,"
                    "\"device\":{\"kind\":\"cpu\",\"name\":\"none\",\"memory_bytes\":1073741824,\"precision\":\"f32\"},"
                    "\"models\":[{\"name\":\"demo\",\"title\":\"Coloured shapes\","
                    "\"hash\":\"b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c\","
                    "\"takes_text\":true,\"takes_image\":true,\"max_segment_frames\":81,\"sizes\":[\"192x128\"],"
                    "\"defaults\":{\"size\":\"192x128\",\"num_frames\":81,\"num_inference_steps\":4,\"switch_step\":2,"
                    "\"flow_shift\":5.0,\"guidance_scale\":1.0},\"loras\":[\"demo_4steps\"],"
                    "\"examples\":[\"a red circle\"],"
                    "\"vocabulary\":[\"red\",\"circle\"],\"note\":\"of a benchmark\"}]}", name, pid);
}

int rf_bench_lease(char *to, size_t room, const char *worker_id, int wait_ms)
{
    return snprintf(to, room, "{\"worker_id\":\"%s\",\"wait_ms\":%d}", worker_id, wait_ms);
}

int rf_bench_heartbeat(char *to, size_t room, const char *worker_id, int64_t lease, double fraction)
{
    return snprintf(to, room, "{\"worker_id\":\"%s\",\"lease\":%" PRId64 ",\"stage\":\"high_noise\",\"step\":1,"
                    "\"steps\":4,\"fraction\":%.3f}", worker_id, lease, fraction);
}

#define TIMING(stage, step, seconds) "{\"stage\":\"" stage "\",\"step\":" step ",\"started_at_ms\":1700000000000," \
    "\"seconds\":" seconds "}"

/* Ten timings, as a four-step clip has. */
int rf_bench_complete(char *to, size_t room, const char *worker_id, int64_t lease)
{
    static const char rest[] = TIMING("load", "null", "0.5") "," TIMING("text", "null", "0.02") ","
        TIMING("high_noise", "0", "3.1") "," TIMING("high_noise", "1", "3.2") "," TIMING("low_noise", "2", "3.3") ","
        TIMING("low_noise", "3", "3.4") "," TIMING("decode", "null", "1.25") ","
        TIMING("interpolate", "null", "1.5") ","
        TIMING("encode", "null", "0.75") "," TIMING("upload", "null", "0.1");
    return snprintf(to, room, "{\"worker_id\":\"%s\",\"lease\":%" PRId64 ",\"timings\":[%s],\"notes\":[],\"result\":{"
                    "\"num_frames\":162,\"width\":192,\"height\":128,\"fps\":32,\"seconds\":5.0625}}", worker_id, lease,
                    rest);
}

int rf_bench_complete_bare(char *to, size_t room, const char *worker_id, int64_t lease)
{
    return snprintf(to, room, "{\"worker_id\":\"%s\",\"lease\":%" PRId64 ",\"timings\":[],\"result\":{}}", worker_id,
                    lease);
}

bool rf_bench_find(const char *body, const char *key, char *to, size_t room)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(body, quoted);
    if (at == NULL)
        return false;
    at += strlen(quoted);
    at += *at == '"';
    snprintf(to, room, "%.*s", (int)strcspn(at, "\",}"), at);
    return true;
}

bool rf_bench_read_lease(const struct rf_peer *p, struct rf_bench_task *ret_task)
{
    char lease[24];
    if (p->status != 200 || !rf_bench_find(p->body, "task_id", ret_task->id, sizeof ret_task->id) ||
        !rf_bench_find(p->body, "lease", lease, sizeof lease))
        return false;
    ret_task->lease = atoll(lease);
    return true;
}

/* ---- preparing ---- */

struct filler {
    struct rf_bench *b;
    int64_t wanted, left, number;
    char *body;
    bool counted, done;
};

#define FILL_LINES 1000

static void fill_some(struct rf_peer *p)
{
    struct filler *f = p->ctx;
    char queued[24];
    if (p->sent_s == 0) {
        rf_peer_send(p, "GET", "/v1/queue", NULL, NULL, 0);
        return;
    }
    if (p->status != 200)
        rf_bench_bad(f->b, p, "batch");
    else if (!f->counted && rf_bench_find(p->body, "queued", queued, sizeof queued))
        f->left = f->wanted - atoll(queued);
    f->counted = true;
    if (f->left <= 0 || f->b->n_failed > 0) {
        f->done = true;
        return;
    }
    size_t n = 0, room = FILL_LINES * 256;
    for (int i = 0; i < FILL_LINES && f->left > 0; i++, f->left--) {
        n += (size_t)rf_bench_job(f->body + n, room - n, f->number++);
        f->body[n++] = '\n';
    }
    rf_peer_send(p, "POST", "/v1/videos/batch", "application/x-ndjson", f->body, n);
}

void rf_bench_fill(struct rf_bench *b, int64_t n)
{
    RF_AUTO(rf_load_destroy) struct rf_load *load = rf_load_create(b->port);
    RF_AUTO(rf_free) char *body = rf_calloc(FILL_LINES, 256);
    struct filler f = {.b = b, .wanted = n, .number = INT64_C(1000000000), .body = body};
    fill_some(rf_peer_create(load, fill_some, &f));
    rf_load_run(load, rf_bench_now() + 300, &f.done);
}

struct registrar {
    struct rf_bench *b;
    const char *prefix;
    int n, next, n_done;
    char (*ids)[64];
    bool done;
};

static void register_one(struct rf_peer *p)
{
    struct registrar *r = p->ctx;
    if (p->sent_s > 0) {
        if (p->status != 200 || !rf_bench_find(p->body, "worker_id", r->ids[r->n_done], sizeof *r->ids))
            rf_bench_bad(r->b, p, "register");
        r->done = ++r->n_done == r->n || r->b->n_failed > 0;
    }
    if (r->next == r->n || r->b->n_failed > 0)
        return;
    char name[48], body[2048];
    snprintf(name, sizeof name, "%s%d", r->prefix, r->next++);
    int n = rf_bench_register(body, sizeof body, name, 0);
    rf_peer_send(p, "POST", "/farm/v1/register", "application/json", body, (size_t)n);
}

void rf_bench_workers(struct rf_bench *b, const char *prefix, int n, char (*ret_ids)[64])
{
    RF_AUTO(rf_load_destroy) struct rf_load *load = rf_load_create(b->port);
    struct registrar r = {.b = b, .prefix = prefix, .n = n, .ids = ret_ids};
    for (int i = 0; i < 16 && i < n; i++)
        register_one(rf_peer_create(load, register_one, &r));
    rf_load_run(load, rf_bench_now() + 120, &r.done);
}
