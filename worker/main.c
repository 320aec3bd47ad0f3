/* framefarm-worker: options, signals, exit status. The work is in worker.c.
 *
 * Signals come through a pipe to a thread of their own: libraries start threads before main() runs, so no mask of ours
 * could keep a signal away from all of them.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/log.h"
#include "worker/worker.h"

static int signal_pipe[2] = {-1, -1};
static volatile sig_atomic_t n_signals;

static void on_signal(int number)
{
    int saved = errno;
    if (++n_signals > 1)
        _exit(128 + number);
    ssize_t n = write(signal_pipe[1], "T", 1);
    (void)n; /* the pipe is empty before the first */
    errno = saved;
}

struct watch {
    struct rf_worker *worker;
    const struct rf_config *config;
};

/* Waits for the first signal ("T") or the end of main ("Q"); after a signal, no longer than the bound for the end. */
static void *watch_signals(void *arg)
{
    const struct watch *watch = arg;
    struct pollfd pipe_end = {.fd = signal_pipe[0], .events = POLLIN};
    int timeout_ms = -1;
    for (;;) {
        int n = poll(&pipe_end, 1, timeout_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0) {
            rf_worker_abandon(watch->worker);
            _exit(RF_EXIT_DONE);
        }
        char what = 0;
        if (n < 0 || read(signal_pipe[0], &what, 1) != 1 || what == 'Q')
            return NULL;
        rf_worker_drain(watch->worker);
        rf_log(RF_LOG_INFO, "drain", RF_OK, "asked to leave; %s",
               watch->config->finish_on_term ? "the task at hand is finished first" : "the task at hand goes back");
        if (!watch->config->finish_on_term)
            timeout_ms = watch->config->drain_timeout_s * 1000;
    }
}

static enum rf_exit run(const struct rf_config *config)
{
    struct rf_worker *worker = NULL;
    struct rf_err err;
    enum rf_code rc = rf_worker_create(config, &worker, &err);
    if (rc != RF_OK) {
        rf_log(RF_LOG_ERROR, "start", rc, "%s", err.msg);
        return rc == RF_ERR_DEVICE ? RF_EXIT_DEVICE : RF_EXIT_ERROR;
    }
    struct watch watch = {worker, config};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    pthread_t watcher;
    RF_ASSERT(pipe(signal_pipe) == 0 && pthread_create(&watcher, NULL, watch_signals, &watch) == 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);

    enum rf_exit status = rf_worker_run(worker);

    ssize_t n = write(signal_pipe[1], "Q", 1);
    RF_ASSERT(n == 1);
    pthread_join(watcher, NULL);
    rf_worker_destroy(&worker);
    return status;
}

/* ", 2.1 GiB in use, 35 % busy, 41 C, 118 W": what the device tells of itself, if anything. */
static void print_gauges(const struct rf_engine *engine)
{
    struct rf_nvml *nvml = rf_nvml_open(rf_engine_pci_address(engine));
    struct rf_wire_gauges g;
    if (rf_nvml_read(nvml, &g)) {
        if (g.memory_used_bytes >= 0)
            printf(", %.1f GiB in use", (double)g.memory_used_bytes / 0x1p30);
        if (g.utilization >= 0)
            printf(", %.0f %% busy", 100 * g.utilization);
        if (g.temperature_c >= 0)
            printf(", %.0f C", g.temperature_c);
        if (g.power_w >= 0)
            printf(", %.0f W", g.power_w);
    }
    rf_nvml_close(&nvml);
}

static enum rf_exit list_devices(void)
{
    const int n_cuda = rf_engine_n_cuda();
    for (int i = -1; i < n_cuda || i == 0; i++) { /* without any, the first tells why */
        char name[16] = "cpu";
        if (i >= 0)
            snprintf(name, sizeof name, "cuda:%d", i);
        struct rf_engine *engine = NULL;
        struct rf_engine_config config = {.device = name};
        struct rf_err err;
        if (rf_engine_open(&config, &engine, &err) != RF_OK) {
            printf("%s\tnot usable: %s\n", name, err.msg);
            continue;
        }
        printf("%s\t%s", name, rf_engine_device_name(engine));
        print_gauges(engine);
        putchar('\n');
        rf_engine_close(&engine);
    }
    return RF_EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct rf_config config;
    struct rf_err err;
    if (rf_config_read(argc, argv, getenv, &config, &err) != RF_OK) {
        fprintf(stderr, "framefarm-worker: %s\n", err.msg);
        return RF_EXIT_USAGE;
    }
    enum rf_exit status = RF_EXIT_DONE;
    rf_log_set_level(config.log_level);
    if (config.help)
        fputs(rf_config_help, stdout);
    else if (config.version)
        puts("framefarm-worker " FRAMEFARM_VERSION);
    else if (config.list_devices)
        status = list_devices();
    else
        status = run(&config);
    rf_config_finish(&config);
    return (int)status;
}
