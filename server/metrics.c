/* See metrics.h. Counters start anew with the process, as Prometheus expects; what must not be lost is in the database.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/metrics.h"

#include "server/app.h"
#include "server/events.h"
#include "server/histogram.h"
#include "server/out.h"
#include "server/webhook.h"

#include <inttypes.h>
#include <string.h>

#define MAX_STAGES 16

/* A step of a small model takes milliseconds, a decode of a long segment minutes. */
static const double stage_bounds[RF_HISTOGRAM_BOUNDS] = {0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800};

struct rf_metrics {
    struct rf_histogram stage[MAX_STAGES]; /* as in rf_stage_names */
};

struct rf_metrics *rf_metrics_create(void)
{
    int n = 0;
    while (rf_stage_names[n] != NULL)
        n++;
    RF_ASSERT(n <= MAX_STAGES);
    return rf_new(struct rf_metrics);
}

void rf_metrics_destroy(struct rf_metrics **metrics)
{
    rf_free(metrics);
}

void rf_metrics_add_timings(struct rf_metrics *m, const struct rf_wire_timing *timings, int n)
{
    for (int i = 0; i < n; i++) {
        int stage = rf_stage_index(timings[i].stage);
        RF_ASSERT(stage >= 0); /* the message was read */
        rf_histogram_add(&m->stage[stage], stage_bounds, timings[i].seconds);
    }
}

static void head(struct rf_out *t, const char *name, const char *type, const char *help)
{
    rf_out_printf(t, "# HELP framefarm_%s %s\n# TYPE framefarm_%s %s\n", name, help, name, type);
}

/* A worker's name, and its device's, is text from outside. */
static void put_label(struct rf_out *t, const char *name, const char *text)
{
    rf_out_printf(t, ",%s=\"", name);
    for (const char *c = text; *c != '\0'; c++)
        if (*c == '\n')
            rf_out_puts(t, "\\n");
        else
            rf_out_printf(t, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    rf_out_puts(t, "\"");
}

static bool is_here(const struct rf_worker *w)
{
    return w->state == RF_WORKER_IDLE || w->state == RF_WORKER_BUSY || w->state == RF_WORKER_DRAINING;
}

/* What every living worker said of its device as it registered, and what those that tell said last. */
static void add_devices(struct rf_out *t, const struct rf_workers *all)
{
    enum { FIRST_TOLD = 2 };
    static const struct {
        const char *name, *help;
    } gauges[] = {
        {"device_info", "Always 1, for each worker that is here; the labels say what it renders on."},
        {"device_memory_bytes", "Memory that the worker may use: of the whole device, or its --vram."},
        {"device_memory_used_bytes", "Device memory in use by everybody."},
        {"device_utilization", "Load of the device, 0 to 1."},
        {"device_temperature_celsius", "Temperature of the device."},
        {"device_power_watts", "Power the device takes."},
        {"device_told_timestamp_seconds", "When the device told these, Unix time."},
    };
    for (size_t i = 0; i < RF_COUNT_OF(gauges); i++) {
        bool headed = false;
        for (int k = 0; k < all->n_workers; k++) {
            const struct rf_worker *w = &all->workers[k];
            const struct rf_wire_gauges *g = &w->gauges;
            const double values[RF_COUNT_OF(gauges)] = {
                1, (double)w->memory_bytes, (double)g->memory_used_bytes, g->utilization, g->temperature_c, g->power_w,
                (double)w->gauges_ms / 1000};
            if (!is_here(w) || (i >= FIRST_TOLD && (!g->told || values[i] < 0)))
                continue;
            if (!headed)
                head(t, gauges[i].name, "gauge", gauges[i].help);
            headed = true;
            rf_out_printf(t, "framefarm_%s{id=\"%s\"", gauges[i].name, w->id);
            put_label(t, "worker", w->name);
            if (i == 0) {
                put_label(t, "kind", w->device_kind);
                put_label(t, "device", w->device_name);
                put_label(t, "precision", w->precision);
            }
            rf_out_printf(t, "} %.15g\n", values[i]);
        }
    }
}

static void add_queue(struct rf_out *t, struct rf_app *app)
{
    struct rf_store_counts counts;
    rf_store_counts(app->store, &counts);
    head(t, "jobs", "gauge", "Jobs in the database by state.");
    for (unsigned i = 0; i < RF_JOB_STATE_COUNT; i++)
        rf_out_printf(t, "framefarm_jobs{state=\"%s\"} %" PRId64 "\n", rf_job_state_name((enum rf_job_state)i),
                       counts.jobs[i]);
    head(t, "tasks_leased", "gauge", "Tasks in workers' hands.");
    rf_out_printf(t, "framefarm_tasks_leased %" PRId64 "\n", counts.leased);
    head(t, "queue_paused", "gauge", "1 while the queue is paused.");
    rf_out_printf(t, "framefarm_queue_paused %d\n", counts.paused);
    RF_AUTO(rf_workers_destroy) struct rf_workers *all = NULL;
    rf_store_workers(app->store, &all);
    int n[RF_WORKER_STATE_COUNT] = {0};
    for (int i = 0; i < all->n_workers; i++)
        n[all->workers[i].state]++;
    head(t, "workers", "gauge", "Workers by state; lost and left ones for a day.");
    for (unsigned i = 0; i < RF_WORKER_STATE_COUNT; i++)
        rf_out_printf(t, "framefarm_workers{state=\"%s\"} %d\n", rf_worker_state_name((enum rf_worker_state)i), n[i]);
    add_devices(t, all);
}

static void add_stages(struct rf_out *t, struct rf_metrics *m)
{
    head(t, "stage_seconds", "histogram", "Time that workers reported, by stage (steps counted singly).");
    for (int i = 0; rf_stage_names[i] != NULL; i++)
        rf_histogram_print(t, "framefarm_stage_seconds", "stage", rf_stage_names[i], &m->stage[i], stage_bounds);
}

static void add_http(struct rf_out *t, struct rf_app *app)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "other"};
    struct rf_http_stats *stats = rf_http_stats(app->http);
    head(t, "http_requests_total", "counter", "Answered requests by method and class of status.");
    for (unsigned m = 0; m < RF_METHOD_COUNT; m++)
        for (int family = 2; family <= 5; family++) {
            long long n = atomic_load_explicit(&stats->requests[m][family], memory_order_relaxed);
            if (n > 0 || family == 2)
                rf_out_printf(t, "framefarm_http_requests_total{method=\"%s\",status=\"%dxx\"} %lld\n", methods[m], family,
                               n);
        }
    head(t, "http_request_duration_seconds", "histogram",
         "From whole headers to the answer's last byte, by kind of call; streams of events are left out.");
    for (unsigned i = 0; i < RF_CLASS_COUNT; i++)
        rf_histogram_print(t, "framefarm_http_request_duration_seconds", "call",
                           rf_route_class_name((enum rf_route_class)i), &stats->duration[i], rf_http_bounds);
    head(t, "http_received_bytes_total", "counter", "Bytes of request bodies.");
    rf_out_printf(t, "framefarm_http_received_bytes_total %lld\n", atomic_load(&stats->bytes_in));
    head(t, "http_connections", "gauge", "Open connections.");
    rf_out_printf(t, "framefarm_http_connections %d\n", atomic_load(&stats->connections));
    head(t, "http_slow_clients_cut_total", "counter", "Connections ended because the client kept us waiting.");
    rf_out_printf(t, "framefarm_http_slow_clients_cut_total %lld\n", atomic_load(&stats->cut));
    head(t, "http_waiting", "gauge", "Requests that wait for a commit or for work.");
    rf_out_printf(t, "framefarm_http_waiting %d\n", atomic_load(&stats->suspended));
    head(t, "event_streams", "gauge", "Open streams of /v1/events.");
    rf_out_printf(t, "framefarm_event_streams %d\n", rf_events_n_streams(app->events));
}

static void add_disk(struct rf_out *t, struct rf_app *app)
{
    struct rf_store_counts counts;
    rf_store_counts(app->store, &counts);
    const struct { const char *name, *help; int64_t value; } gauges[] = {
        {"disk_free_bytes", "Bytes that may still be written in the data folder.", counts.disk_free_bytes},
        {"disk_floor_bytes", "Below this much free nothing is accepted or begun.", counts.disk_floor_bytes},
        {"disk_reserved_bytes", "Set aside for accepted jobs until they end.", counts.disk_reserved_bytes},
        {"disk_low", "1 while the disk is too full to go on.", counts.disk_low},
    };
    for (size_t i = 0; i < RF_COUNT_OF(gauges); i++) {
        head(t, gauges[i].name, "gauge", gauges[i].help);
        rf_out_printf(t, "framefarm_%s %" PRId64 "\n", gauges[i].name, gauges[i].value);
    }
}

void rf_metrics_handle(struct rf_call *c)
{
    struct rf_app *app = c->app;
    struct rf_out t = {0};
    head(&t, "build_info", "gauge", "Always 1; the version is the label.");
    rf_out_printf(&t, "framefarm_build_info{version=\"%s\"} 1\n", FRAMEFARM_VERSION);
    head(&t, "start_time_seconds", "gauge", "When the server started, Unix time.");
    rf_out_printf(&t, "framefarm_start_time_seconds %.3f\n", (double)app->started_ms / 1000);
    add_queue(&t, app);
    add_stages(&t, app->metrics);
    add_http(&t, app);
    const struct rf_webhook_stats *w = rf_webhooks_stats(app->webhooks);
    head(&t, "webhook_attempts_total", "counter", "Tries to tell a webhook, by what came of them.");
    rf_out_printf(&t, "framefarm_webhook_attempts_total{result=\"delivered\"} %lld\n", atomic_load(&w->delivered));
    rf_out_printf(&t, "framefarm_webhook_attempts_total{result=\"to_be_retried\"} %lld\n", atomic_load(&w->retried));
    rf_out_printf(&t, "framefarm_webhook_attempts_total{result=\"given_up\"} %lld\n", atomic_load(&w->given_up));
    add_disk(&t, app);
    size_t n;
    char *body = rf_out_take(&t, &n);
    rf_answer_take(c, 200, "text/plain; version=0.0.4; charset=utf-8", body, n);
}
