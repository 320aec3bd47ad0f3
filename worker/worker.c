/* The task loop; see worker.h. The only file that decides what becomes of a task: completed, failed, handed back or
 * dropped without a word (when the server said that it is not ours any more).
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/log.h"

#define LEASE_WAIT_MS 25000
#define TELLING_WAIT_MS 10000 /* of a device that tells how it is: polls carry that, and nobody wants it much older */
#define IMPATIENT_MS 100      /* a server that says "nothing" faster than this does not hold the poll: slow down */
#define IMPATIENT_PAUSE_MS 500
#define ABANDON_REPORT_MS 2000

struct rf_worker {
    const struct rf_config *config;
    struct rf_studio studio;
    struct rf_catalogue *catalogue;
    struct rf_farm *farm;
    struct rf_nvml *nvml;  /* NULL: the device tells nothing of itself */
    struct rf_stop drain;

    pthread_mutex_t lock;  /* over the one below */
    struct rf_task *task;  /* at hand; NULL: none */
};

/* ---- opening ---- */

static int64_t memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_bytes > 0 ? (int64_t)pages * page_bytes : 0;
}

static void lower(char *text)
{
    for (; *text != '\0'; text++)
        *text = (char)tolower((unsigned char)*text);
}

/* Who we are, for the server. */
static enum rf_code create_farm(struct rf_worker *w, struct rf_err *err)
{
    const struct rf_config *config = w->config;
    const struct rf_engine *engine = w->studio.engine;
    bool on_cpu = strcmp(rf_engine_device_kind(engine), "cpu") == 0;
    char host[256] = "host";
    gethostname(host, sizeof host - 1);
    RF_AUTO(rf_free) char *name = config->name ? rf_strdup(config->name)
                                               : rf_asprintf("%s-%s", host, rf_engine_device_kind(engine));
    RF_AUTO(rf_free) char *kind = rf_strdup(rf_engine_device_kind(engine));
    RF_AUTO(rf_free) char *device = rf_strdup(rf_engine_device_name(engine));
    RF_AUTO(rf_free) char *precision =
        rf_strdup(config->precision ? config->precision : rf_dtype_name(rf_engine_act_dtype(engine)));
    lower(precision);
    if (config->attention != NULL && strcmp(config->attention, "8bit") == 0) { /* other frames, other times: another kind */
        char *both = rf_asprintf("%s+8bit", precision);
        free(precision);
        precision = both;
    }
    struct rf_wire_register about = {
        .protocol = RF_PROTOCOL, .name = name, .build = FRAMEFARM_VERSION, .host = host, .pid = getpid(),
        .device_kind = kind, .device_name = device, .precision = precision,
        .memory_bytes = config->vram_bytes ? config->vram_bytes : on_cpu ? memory_bytes()
                                                                         : rf_nvml_memory_bytes(w->nvml)};
    about.models = rf_new_array(struct rf_wire_model, (size_t)w->catalogue->n_models);
    for (; about.n_models < w->catalogue->n_models && about.n_models < RF_WIRE_MAX_MODELS; about.n_models++)
        about.models[about.n_models] = w->catalogue->models[about.n_models]->about; /* borrowed */
    rf_log_set_worker(name);
    rf_log(RF_LOG_INFO, "start", RF_OK, "%s on %s, %d models from %s", FRAMEFARM_VERSION, device, about.n_models,
           config->models);
    enum rf_code rc = rf_farm_create(config->server, config->token, &about, &w->farm, err);
    free(about.models);
    return rc;
}

/* "auto" took the CPU: nobody should have to guess why a machine with a GPU is slow. */
static void explain_cpu(const struct rf_worker *w, struct rf_engine_config config)
{
    bool choice = config.device == NULL || strcmp(config.device, "auto") == 0;
    if (!choice || strcmp(rf_engine_device_kind(w->studio.engine), "cpu") != 0)
        return;
    struct rf_engine *gpu = NULL;
    struct rf_err why = {0};
    config.device = "cuda:0";
    if (rf_engine_open(&config, &gpu, &why) == RF_OK) { /* it has come to itself since */
        rf_engine_close(&gpu);
        snprintf(why.msg, sizeof why.msg, "cuda:0 did not answer at first and does now: start again");
    }
    rf_log(RF_LOG_WARN, "start", why.code, "rendering on the CPU, because %s; --device cuda:0 makes that an error, "
           "--device cpu makes it a choice", why.msg);
}

enum rf_code rf_worker_create(const struct rf_config *config, struct rf_worker **ret_worker, struct rf_err *err)
{
    RF_AUTO(rf_worker_destroy) struct rf_worker *w = rf_new(struct rf_worker);
    w->config = config;
    rf_stop_init(&w->drain);
    pthread_mutex_init(&w->lock, NULL);
    w->studio.n_threads = config->n_threads;
    w->studio.pace = rf_pace_guess;
    struct rf_engine_config engine = {.device = config->device, .precision = config->precision,
                                      .attention = config->attention, .n_threads = config->n_threads,
                                      .budget_bytes = config->vram_bytes};
    enum rf_code rc = rf_catalogue_read(config->models, &w->catalogue, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "--models");
    w->studio.catalogue = w->catalogue;
    rc = rf_engine_open(&engine, &w->studio.engine, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "--device");
    w->nvml = rf_nvml_open(rf_engine_pci_address(w->studio.engine));
    rc = rf_scratch_create(&w->studio.scratch, err);
    if (rc == RF_OK)
        rc = create_farm(w, err);
    if (rc != RF_OK)
        return rc;
    explain_cpu(w, engine);
    w->studio.link = rf_link_create(w->farm);
    *ret_worker = w;
    w = NULL;
    return RF_OK;
}

void rf_worker_destroy(struct rf_worker **worker)
{
    struct rf_worker *w = *worker;
    *worker = NULL;
    if (w == NULL)
        return;
    rf_studio_drop_model(&w->studio);
    rf_link_destroy(&w->studio.link);
    rf_farm_destroy(&w->farm);
    rf_nvml_close(&w->nvml);
    rf_scratch_destroy(&w->studio.scratch);
    if (w->studio.engine != NULL)
        rf_engine_close(&w->studio.engine);
    rf_catalogue_destroy(&w->catalogue);
    rf_stop_finish(&w->drain);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

/* ---- leaving ---- */

/* With `lock` held, so that the task cannot end under our hands. */
static void stop_task(struct rf_worker *w)
{
    if (w->task != NULL && !w->config->finish_on_term && rf_stop_reason(&w->drain) != RF_STOP_NONE)
        rf_stop_raise(&w->task->stop, RF_STOP_DRAIN);
}

void rf_worker_drain(struct rf_worker *w)
{
    rf_stop_raise(&w->drain, RF_STOP_DRAIN);
    pthread_mutex_lock(&w->lock);
    stop_task(w);
    pthread_mutex_unlock(&w->lock);
}

static void set_task(struct rf_worker *w, struct rf_task *task)
{
    pthread_mutex_lock(&w->lock);
    w->task = task;
    stop_task(w); /* SIGTERM may have come between the lease and now */
    pthread_mutex_unlock(&w->lock);
}

void rf_worker_abandon(struct rf_worker *w)
{
    struct rf_link *link = rf_link_create(w->farm);
    struct rf_wire_report report = {.kind = RF_REPORT_RELEASE};
    struct rf_wire_lease lease = {0};
    pthread_mutex_lock(&w->lock);
    if (w->task != NULL && rf_stop_reason(&w->task->gone) == RF_STOP_NONE) {
        lease.lease = w->task->lease->lease;
        snprintf(lease.task_id, sizeof lease.task_id, "%s", w->task->lease->task_id);
    }
    pthread_mutex_unlock(&w->lock);
    rf_log(RF_LOG_WARN, "drain", RF_OK, "the renderer did not let go within %d s; leaving without it",
           w->config->drain_timeout_s);
    if (lease.task_id[0] != '\0')
        rf_farm_report(link, &lease, &report, ABANDON_REPORT_MS, NULL, NULL);
    rf_farm_leave(link, NULL);
    rf_scratch_destroy(&w->studio.scratch);
    rf_link_destroy(&link);
}

/* ---- one task ---- */

/* Makes a failure out of the half-filled completion, keeping its timings. */
static void turn_into_failure(struct rf_wire_report *report, enum rf_code rc, const struct rf_err *err)
{
    report->kind = RF_REPORT_FAIL;
    report->retryable = rf_code_retryable(rc);
    snprintf(report->code, sizeof report->code, "%s", rf_code_name(rc));
    free(report->message);
    report->message = rf_strdup(err->msg);
    rf_make_sendable(report->message, sizeof err->msg);
}

static void report_failure(struct rf_worker *w, struct rf_task *task, enum rf_code why, const struct rf_err *err)
{
    rf_log(RF_LOG_WARN, "task", why, "failed: %s", err->msg);
    turn_into_failure(task->report, why, err);
    struct rf_err undelivered;
    enum rf_code rc = rf_farm_report(w->studio.link, task->lease, task->report, 0, &task->gone, &undelivered);
    if (rc != RF_OK)
        rf_log(RF_LOG_WARN, "fail", rc, "the failure was not taken: %s", undelivered.msg);
}

static void hand_back(struct rf_worker *w, struct rf_task *task)
{
    task->report->kind = RF_REPORT_RELEASE;
    struct rf_err err;
    enum rf_code rc = rf_farm_report(w->studio.link, task->lease, task->report,
                                     (int64_t)w->config->drain_timeout_s * 1000, &task->gone, &err);
    if (rc == RF_OK)
        rf_log(RF_LOG_INFO, "release", RF_OK, "handed back");
    else
        rf_log(RF_LOG_WARN, "release", rc, "not handed back, its lease will run out: %s", err.msg);
}

/* What becomes of the task after its work ended with `rc`. */
static void conclude(struct rf_worker *w, struct rf_task *task, enum rf_code rc, struct rf_err *err)
{
    if (rf_stop_reason(&task->gone) != RF_STOP_NONE)
        rf_log(RF_LOG_INFO, "task", RF_OK, "dropped: %s",
               rf_stop_reason(&task->gone) == RF_STOP_CANCELLED ? "it was cancelled" : "it is not ours any more");
    else if (rc == RF_ERR_CANCELLED && rf_stop_reason(&task->stop) == RF_STOP_DRAIN)
        hand_back(w, task);
    else if (rc == RF_ERR_CONFLICT)
        rf_log(RF_LOG_WARN, "task", rc, "dropped, it is not ours any more: %s", err->msg);
    else
        report_failure(w, task, rc, err);
}

/* Returns how the task ended, for --once and for what a dead device asks for. */
static enum rf_code run_task(struct rf_worker *w, const struct rf_wire_lease *lease, const struct rf_request *request)
{
    struct rf_task task;
    struct rf_err err = {0};
    struct rf_stopwatch watch = rf_stopwatch_start();
    bool is_segment = lease->kind == RF_TASK_SEGMENT;
    rf_task_init(&task, lease, request);
    rf_log_set_task(lease->task_id, lease->attempt);
    if (is_segment)
        rf_log(RF_LOG_INFO, "segment", RF_OK, "begins: %d of %d, %d frames of %dx%d", lease->index + 1,
               lease->n_segments, lease->n_frames, request->width, request->height);
    else
        rf_log(RF_LOG_INFO, "assemble", RF_OK, "begins: %d segments", lease->n_segments);
    task.reporter = rf_reporter_start(w->farm, lease, w->nvml, &task.stop, &task.gone);
    set_task(w, &task);

    enum rf_code rc = is_segment ? rf_segment_run(&w->studio, &task, &err) : rf_assemble_run(&w->studio, &task, &err);
    rf_reporter_conclude(task.reporter);
    if (rc == RF_OK)
        rc = rf_farm_report(w->studio.link, lease, task.report, 0, &task.gone, &err);
    if (rc == RF_OK)
        rf_log(RF_LOG_INFO, is_segment ? "segment" : "assemble", RF_OK, "done in %.1f s", rf_stopwatch_seconds(&watch));
    else
        conclude(w, &task, rc, &err);

    set_task(w, NULL);
    rf_task_finish(&task);
    rf_scratch_clear(w->studio.scratch);
    rf_log_set_task(NULL, 0);
    if (rc == RF_ERR_NO_MEMORY || rc == RF_ERR_DEVICE)
        rf_studio_drop_model(&w->studio);
    return rc;
}

/* ---- the loop ---- */

/* Waits out a server that is away. False: asking again makes no sense. */
static bool survive(struct rf_worker *w, enum rf_code rc, const struct rf_err *err, int *n_failed)
{
    if (rc == RF_ERR_INVALID || rc == RF_ERR_CONFLICT) {
        rf_log(RF_LOG_ERROR, "lease", rc, "%s", err->msg);
        return false;
    }
    rf_log(*n_failed == 0 ? RF_LOG_WARN : RF_LOG_DEBUG, "lease", rc, "%s; asking again", err->msg);
    rf_stop_wait(&w->drain, rf_backoff_ms((*n_failed)++));
    return true;
}

static enum rf_exit loop(struct rf_worker *w)
{
    int n_failed = 0;
    while (rf_stop_reason(&w->drain) == RF_STOP_NONE) {
        struct rf_wire_lease lease = {0};
        RF_AUTO(rf_request_destroy) struct rf_request *request = NULL;
        struct rf_err err = {0};
        struct rf_wire_gauges device;
        int64_t wait_ms = rf_nvml_read(w->nvml, &device) ? TELLING_WAIT_MS : LEASE_WAIT_MS;
        struct rf_stopwatch watch = rf_stopwatch_start();
        enum rf_code rc = rf_farm_lease(w->studio.link, wait_ms, &device, &w->drain, &lease, &request, &err);
        if (rc == RF_OK) {
            n_failed = 0;
            rc = run_task(w, &lease, request);
            rf_wire_lease_finish(&lease);
            if (rc == RF_ERR_DEVICE)
                return RF_EXIT_DEVICE;
            if (w->config->once)
                return rc == RF_OK ? RF_EXIT_DONE : RF_EXIT_ERROR;
        } else if (rc == RF_ERR_NOT_FOUND) {
            n_failed = 0;
            if (rf_stopwatch_seconds(&watch) * 1000 < IMPATIENT_MS)
                rf_stop_wait(&w->drain, IMPATIENT_PAUSE_MS);
        } else if (rc != RF_ERR_CANCELLED && !survive(w, rc, &err, &n_failed)) {
            return RF_EXIT_ERROR;
        }
    }
    return RF_EXIT_DONE;
}

enum rf_exit rf_worker_run(struct rf_worker *w)
{
    enum rf_exit status = loop(w);
    struct rf_err err;
    enum rf_code rc = rf_farm_leave(w->studio.link, &err);
    if (rc == RF_OK)
        rf_log(RF_LOG_INFO, "leave", RF_OK, "goodbye");
    else
        rf_log(RF_LOG_WARN, "leave", rc, "left without a goodbye: %s", err.msg);
    return status;
}
