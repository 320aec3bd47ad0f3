/* framefarm-server: reads the configuration, puts the parts together, and sleeps until a signal or the next thing due.
 *
 * Order of the end, all within STOP_MS: workers are asked to hand back and are still answered; then no new requests; those
 * that wait are answered; then the threads, the store, the lock.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/app.h"
#include "server/auth.h"
#include "server/command.h"
#include "server/config.h"
#include "server/events.h"
#include "server/farm.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/offload.h"
#include "server/recent.h"
#include "server/retention.h"
#include "server/supervisor.h"
#include "server/webhook.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FLUSH_MS 100            /* how long a change may wait before the open pages hear of it */
#define TICK_MS 500
#define COUNT_MS 2000
#define OWN_DESCRIPTORS 512     /* database, files being sent and taken, workers' pipes */
#define COLLECT_MS 10000
#define STOP_WORKERS_MS 10000
#define STOP_REQUESTS_MS 5000

int64_t rf_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char *from_environment(const char *name)
{
    return getenv(name);
}

/* A folder, and its name on the disk: all that we promise to keep lies behind it. True: it is there now. */
static bool make_one(const char *path)
{
    if (mkdir(path, 0755) != 0)
        return errno == EEXIST;
    const char *slash = strrchr(path, '/');
    RF_AUTO(rf_free) char *parent = slash == NULL ? rf_strdup(".") : rf_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0)
        close(fd);
    errno = why;
    return synced;
}

/* mkdir -p */
static enum rf_code make_folder(const char *path, struct rf_err *err)
{
    RF_AUTO(rf_free) char *part = rf_strdup(path);
    for (char *p = part + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            make_one(part); /* one that cannot be made shows in what comes after it */
            *p = '/';
        }
    if (!make_one(path))
        return rf_fail(err, RF_ERR_IO, "make the data folder '%s': %s", path, strerror(errno));
    return RF_OK;
}

/* One server per data folder, held by a lock that the kernel drops whatever way we end. */
static enum rf_code lock_folder(const char *path, int *ret_fd, struct rf_err *err)
{
    RF_AUTO(rf_free) char *name = rf_asprintf("%s/lock", path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return rf_fail(err, RF_ERR_IO, "open '%s': %s", name, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        char holder[32] = "";
        if (read(fd, holder, sizeof holder - 1) > 0)
            holder[strcspn(holder, "\n")] = '\0';
        close(fd);
        return rf_fail(err, RF_ERR_CONFLICT, "the data folder '%s' is in use by another server (process %s)", path, holder);
    }
    char pid[32];
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) != 0 || write(fd, pid, (size_t)n) != n)
        rf_log(RF_LOG_WARN, "doing=lock msg=%s", RF_QUOTE(strerror(errno)));
    *ret_fd = fd;
    return RF_OK;
}

/* Connections cost a descriptor each; the soft limit is often 1024. Where the hard one is too low we take fewer
 * connections: without a descriptor left for the database and the files, nobody would be served. */
static void raise_descriptor_limit(struct rf_config *config)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    rlim_t wanted = (rlim_t)config->max_connections + OWN_DESCRIPTORS;
    if (limit.rlim_cur < wanted) {
        rlim_t before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > wanted ? wanted : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            limit.rlim_cur = before;
    }
    if (limit.rlim_cur >= wanted)
        return;
    config->max_connections = limit.rlim_cur > 2 * OWN_DESCRIPTORS ? (int)(limit.rlim_cur - OWN_DESCRIPTORS)
                                                                    : (int)(limit.rlim_cur / 2);
    rf_log(RF_LOG_WARN, "doing=limits max_connections=%d msg=\"only %llu open files are allowed\"",
           config->max_connections, (unsigned long long)limit.rlim_cur);
}

static enum rf_code open_parts(struct rf_app *app, struct rf_err *err)
{
    const struct rf_config *config = app->config;
    enum rf_code rc = rf_files_open(config->data_dir, &app->files, err);
    if (rc != RF_OK)
        return rc;
    app->events = rf_events_create();
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/farm.db", config->data_dir);
    const struct rf_store_config store = {
        .path = path,
        .now_ms = app->started_ms,
        .lease_ms = RF_LEASE_MS,
        .heartbeat_ms = RF_HEARTBEAT_MS,
        .clock_jump_ms = RF_LEASE_MS / 2,
        .trust_outputs = config->trust_outputs,
        .max_unfinished = config->max_queued,
        .keep_ms = config->keep_days * INT64_C(86400000),
        .on_event = rf_events_push,
        .event_ctx = app->events,
    };
    rc = rf_store_open(&store, &app->store, err);
    if (rc == RF_OK)
        rc = rf_retention_look(app, app->started_ms, err);
    if (rc == RF_OK)
        rc = rf_files_sweep(app->files, app->store, app->started_ms, NULL, err);
    if (rc == RF_OK)
        rc = rf_auth_create(config, app->store, &app->auth, err);
    const struct rf_webhook_options webhooks = {.store = app->store, .db_path = path, .retry_ms = config->webhook_retry_ms,
                                                .allow_private = config->webhook_allow_private};
    if (rc == RF_OK)
        app->webhooks = rf_webhooks_create(&webhooks);
    return rc;
}

static enum rf_code start_http(struct rf_app *app, struct rf_err *err)
{
    const struct rf_config *config = app->config;
    app->offload = rf_offload_create(3);
    app->recent = rf_recent_create();
    app->metrics = rf_metrics_create();
    app->polls = rf_polls_create();
    const struct rf_http_options options = {
        .host = config->host,
        .port = config->port,
        .n_threads = config->http_threads,
        .max_connections = config->max_connections,
        .idle_seconds = config->idle_seconds,
        .routes = rf_routes,
        .n_routes = rf_n_routes,
        .app = app,
    };
    return rf_http_start(&options, &app->http, err);
}

static void announce(const struct rf_app *app)
{
    const struct rf_config *config = app->config;
    int port = rf_http_port(app->http);
    bool v6 = strchr(config->host, ':') != NULL;
    rf_log(RF_LOG_INFO, "doing=listen version=%s data=%s listening=http://%s%s%s:%d", FRAMEFARM_VERSION,
           RF_QUOTE(config->data_dir), v6 ? "[" : "", config->host, v6 ? "]" : "", port);
    if (config->port_file == NULL)
        return;
    /* Renamed into place, so that whoever waits for the file never reads half a number. */
    RF_AUTO(rf_free) char *fresh = rf_asprintf("%s.new", config->port_file);
    FILE *file = fopen(fresh, "we");
    bool good = file != NULL && fprintf(file, "%d\n", port) > 0;
    if (file != NULL)
        good &= fclose(file) == 0;
    if (!good || rename(fresh, config->port_file) != 0)
        rf_log(RF_LOG_WARN, "doing=write_port_file msg=%s", RF_QUOTE(strerror(errno)));
}

/* Upkeep that waits for the disk, on an offload thread, one at a time. */
struct upkeep {
    struct rf_app *app;
    atomic_bool busy;
    int64_t collected_ms, counted_ms;
};

static void do_upkeep(void *arg)
{
    struct upkeep *u = arg;
    struct rf_err err = {0};
    int64_t now_ms = rf_now_ms();
    int n = 0;
    rf_auth_refresh(u->app->auth, u->app->store);
    if (rf_retention_look(u->app, now_ms, &err) != RF_OK)
        rf_log(RF_LOG_ERROR, "doing=look_at_disk code=%s msg=%s", rf_code_name(err.code), RF_QUOTE(err.msg));
    if (rf_store_tick(u->app->store, now_ms, NULL, &err) != RF_OK)
        rf_log(RF_LOG_ERROR, "doing=tick code=%s msg=%s", rf_code_name(err.code), RF_QUOTE(err.msg));
    rf_store_forecast(u->app->store);
    if (now_ms - u->counted_ms >= COUNT_MS || now_ms < u->counted_ms) {
        u->counted_ms = now_ms;
        if (rf_store_count_hour(u->app->store, now_ms, &err) != RF_OK)
            rf_log(RF_LOG_WARN, "doing=count code=%s msg=%s", rf_code_name(err.code), RF_QUOTE(err.msg));
    }
    if (now_ms - u->collected_ms >= COLLECT_MS) {
        u->collected_ms = now_ms;
        if (rf_retention_run(u->app, now_ms, &err) != RF_OK)
            rf_log(RF_LOG_WARN, "doing=retention code=%s msg=%s", rf_code_name(err.code), RF_QUOTE(err.msg));
        if (rf_files_collect(u->app->files, u->app->store, now_ms, &n, &err) != RF_OK)
            rf_log(RF_LOG_WARN, "doing=collect code=%s msg=%s", rf_code_name(err.code), RF_QUOTE(err.msg));
    }
    atomic_store(&u->busy, false);
}

static bool wait_for_signal(int signal_fd, int timeout_ms)
{
    struct pollfd wait = {.fd = signal_fd, .events = POLLIN};
    struct signalfd_siginfo info;
    if (poll(&wait, 1, timeout_ms) <= 0 || read(signal_fd, &info, sizeof info) != sizeof info)
        return false;
    rf_log(RF_LOG_INFO, "doing=stop signal=%u", info.ssi_signo);
    return true;
}

/* For spans of time, which a jump of the clock must not stretch. */
static int64_t steady_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void run(struct rf_app *app, struct rf_supervisor *supervisor, struct upkeep *upkeep, int signal_fd)
{
    int64_t ticked_ms = 0;
    do {
        int64_t now_ms = rf_now_ms();
        rf_events_flush(app->events, now_ms);
        if (now_ms - ticked_ms < TICK_MS && now_ms >= ticked_ms)
            continue;
        ticked_ms = now_ms;
        rf_supervisor_tick(supervisor, steady_ms());
        rf_http_cut_slow(app->http);
        if (!atomic_exchange(&upkeep->busy, true))
            rf_offload_run(app->offload, do_upkeep, upkeep);
    } while (!wait_for_signal(signal_fd, FLUSH_MS));
}

/* See the top of the file. A second signal while workers are awaited cuts that short. */
static void stop(struct rf_app *app, struct rf_supervisor *supervisor, int signal_fd)
{
    atomic_store(&app->stopping, true);
    rf_polls_end(app->polls, app);
    rf_supervisor_stop(supervisor);
    int64_t end_ms = steady_ms() + STOP_WORKERS_MS;
    for (bool waiting = true; waiting && rf_supervisor_n_alive(supervisor) > 0;) {
        waiting = !wait_for_signal(signal_fd, 50) && steady_ms() < end_ms;
        rf_supervisor_tick(supervisor, steady_ms());
    }
    if (rf_supervisor_n_alive(supervisor) > 0) {
        rf_log(RF_LOG_WARN, "doing=stop msg=\"%d workers did not end in time and are killed; their leases run out\"",
               rf_supervisor_n_alive(supervisor));
        rf_supervisor_kill(supervisor);
    }
    rf_http_close(app->http);
    rf_polls_end(app->polls, app);
    rf_events_stop(app->events);
    end_ms = steady_ms() + STOP_REQUESTS_MS;
    while (!rf_http_is_done(app->http) && steady_ms() < end_ms)
        poll(NULL, 0, 5);
    if (!rf_http_is_quiet(app->http)) {
        /* The disk hangs. What was answered is safe; the library would abort over the rest, so end here. */
        rf_log(RF_LOG_ERROR, "doing=stop msg=\"requests still wait for the disk; ending without them\"");
        _exit(1);
    }
}

static void close_parts(struct rf_app *app)
{
    /* Who resumed the last requests may still be on the way out of doing so, and must not find the loops gone: the offload
     * threads are joined, and an op of nothing is done when every `done` before it has returned. */
    rf_offload_destroy(&app->offload);
    struct rf_op nothing = {.kind = RF_OP_UNPARK};
    rf_webhooks_destroy(&app->webhooks);
    if (app->store != NULL)
        rf_store_run(app->store, &nothing, NULL);
    rf_http_stop(&app->http);
    rf_store_destroy(&app->store);
    rf_files_destroy(&app->files);
    rf_events_destroy(&app->events);
    rf_polls_destroy(&app->polls);
    rf_metrics_destroy(&app->metrics);
    rf_recent_destroy(&app->recent);
    rf_auth_destroy(&app->auth);
}

/* The news that a local worker has died, on its way to the store. */
struct obituary {
    struct rf_op op;
    char name[64], host[256], how[64];
};

static void free_obituary(struct rf_op *op)
{
    if (op->code != RF_OK)
        rf_log(RF_LOG_WARN, "doing=bury code=%s msg=%s", rf_code_name(op->code), RF_QUOTE(op->err.msg));
    free(op->ctx);
}

static void on_worker_ended(void *ctx, const char *name, pid_t pid, const char *how)
{
    struct rf_app *app = ctx;
    struct obituary *o = rf_new(struct obituary);
    snprintf(o->name, sizeof o->name, "%s", name);
    snprintf(o->host, sizeof o->host, "host"); /* as the worker says without a name */
    gethostname(o->host, sizeof o->host - 1);
    snprintf(o->how, sizeof o->how, "%s", how);
    o->op = (struct rf_op){.kind = RF_OP_DIED, .now_ms = rf_now_ms(), .done = free_obituary, .ctx = o,
                           .u.died = {.name = o->name, .host = o->host, .how = o->how, .pid = pid}};
    rf_store_post(app->store, &o->op);
}

static enum rf_code serve(const struct rf_config *config, int signal_fd, struct rf_err *err)
{
    struct rf_app app = {.config = config, .started_ms = rf_now_ms()};
    RF_AUTO(rf_supervisor_destroy) struct rf_supervisor *supervisor = NULL;
    struct upkeep upkeep = {.app = &app};
    int lock_fd = -1;
    enum rf_code rc = make_folder(config->data_dir, err);
    if (rc == RF_OK)
        rc = lock_folder(config->data_dir, &lock_fd, err);
    if (rc == RF_OK)
        rc = open_parts(&app, err);
    if (rc == RF_OK)
        rc = start_http(&app, err);
    if (rc == RF_OK)
        rc = rf_supervisor_create(config, rf_http_port(app.http), rf_auth_worker_token_file(app.auth),
                                  &(struct rf_supervisor_listener){on_worker_ended, &app}, &supervisor, err);
    if (rc == RF_OK) {
        announce(&app);
        run(&app, supervisor, &upkeep, signal_fd);
        stop(&app, supervisor, signal_fd);
    }
    close_parts(&app);
    if (lock_fd >= 0)
        close(lock_fd);
    return rc;
}

int main(int argc, char **argv)
{
    struct rf_config config;
    struct rf_err err = {0};
    enum rf_config_wish wish;
    /* The routes as "METHOD pattern" lines: what the test of openapi.yaml compares with. */
    if (argc == 2 && strcmp(argv[1], "--routes") == 0) {
        static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE"};
        for (size_t i = 0; i < rf_n_routes; i++)
            printf("%s %s\n", methods[rf_routes[i].method], rf_routes[i].pattern);
        return 0;
    }
    umask(0077); /* prompts, videos and the webhooks' secret are for nobody else on this machine */
    int status = 0;
    if (rf_command_run(argc, argv, &status))
        return status;
    enum rf_code rc = rf_config_read(argc, argv, from_environment, &config, &wish, &err);
    if (wish == RF_CONFIG_HELP || wish == RF_CONFIG_VERSION) {
        fputs(wish == RF_CONFIG_HELP ? rf_config_help : "framefarm-server " FRAMEFARM_VERSION "\n", stdout);
        rf_config_finish(&config);
        return 0;
    }
    if (rc != RF_OK) {
        fprintf(stderr, "framefarm-server: %s\n", err.msg);
        rf_config_finish(&config);
        return 2;
    }
    rf_log_set_level(config.log_level);
    signal(SIGPIPE, SIG_IGN);
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigprocmask(SIG_BLOCK, &wanted, NULL); /* before any thread starts: all inherit it */
    int signal_fd = signalfd(-1, &wanted, SFD_CLOEXEC);
    raise_descriptor_limit(&config);
    rc = signal_fd < 0 ? rf_fail(&err, RF_ERR_IO, "signalfd: %s", strerror(errno)) : serve(&config, signal_fd, &err);
    if (rc != RF_OK)
        rf_log(RF_LOG_ERROR, "doing=serve code=%s msg=%s", rf_code_name(rc), RF_QUOTE(err.msg));
    else
        rf_log(RF_LOG_INFO, "doing=stop msg=\"done\"");
    rf_config_finish(&config);
    return rc == RF_OK ? 0 : 1;
}
