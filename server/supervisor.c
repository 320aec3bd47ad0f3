/* See supervisor.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/supervisor.h"

#include "server/config.h"
#include "server/log.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAUSE_FIRST_MS 1000
#define PAUSE_MAX_MS 60000
#define STEADY_MS 60000           /* a worker that lived this long has not failed at its start */

extern char **environ;

struct slot {
    char name[64];                /* "local-cuda0", "local-cpu0" */
    char device[16];
    pid_t pid;                    /* 0: none */
    uint64_t start_time;          /* of the process, from /proc: tells it from a later one of the same id */
    bool ours;                    /* our child: waitpid() tells of its end */
    int64_t started_ms, next_start_ms, pause_ms;
};

struct rf_supervisor {
    char *worker_path, *server_url, *models_dir, *pid_dir, *token_file;
    struct slot *slots;
    int n_slots;
    bool stopping;
    struct rf_supervisor_listener listener;
};

int rf_supervisor_count_gpus(const char *root)
{
    int n = 0;
    RF_AUTO(rf_free) char *folder = rf_asprintf("%s/proc/driver/nvidia/gpus", root);
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    /* Containers often see the device nodes but not the driver's folder. */
    for (int i = 0; n == 0 && i < 64; i++) {
        RF_AUTO(rf_free) char *node = rf_asprintf("%s/dev/nvidia%d", root, i);
        if (access(node, F_OK) == 0)
            n = i + 1;
    }
    return n;
}

/* Beside our own binary (installed), in the build tree, or on PATH. NULL: nowhere. */
static char *find_worker(void)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        static const char *const beside[] = {"framefarm-worker", "../worker/framefarm-worker"};
        for (size_t i = 0; i < RF_COUNT_OF(beside); i++) {
            char *path = rf_asprintf("%s/%s", self, beside[i]);
            if (access(path, X_OK) == 0)
                return path;
            free(path);
        }
    }
    const char *list = getenv("PATH");
    while (list != NULL && *list) {
        size_t folder = strcspn(list, ":");
        char *path = rf_asprintf("%.*s/framefarm-worker", (int)folder, list);
        if (folder > 0 && access(path, X_OK) == 0)
            return path;
        free(path);
        list += folder + (list[folder] == ':');
    }
    return NULL;
}

static void make_slots(struct rf_supervisor *s, int wanted)
{
    int n_gpus = wanted == RF_WORKERS_AUTO ? rf_supervisor_count_gpus("") : 0;
    s->n_slots = wanted == RF_WORKERS_AUTO ? (n_gpus > 0 ? n_gpus : 1) : wanted;
    s->slots = rf_new_array(struct slot, (size_t)s->n_slots);
    for (int i = 0; i < s->n_slots; i++) {
        struct slot *slot = &s->slots[i];
        snprintf(slot->name, sizeof slot->name, "local-%s%d", n_gpus > 0 ? "cuda" : "cpu", i);
        if (n_gpus > 0)
            snprintf(slot->device, sizeof slot->device, "cuda:%d", i);
        else
            snprintf(slot->device, sizeof slot->device, "cpu");
    }
}

/* ---- telling one process from another ---- */

/* Field 22 of /proc/PID/stat: when the process began. 0: there is none (or it is a zombie). */
static uint64_t process_start(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    char *p = strrchr(text, ')'); /* the name before it may hold anything */
    if (p == NULL || p[1] == '\0' || p[2] == 'Z' || p[2] == 'X')
        return 0;
    for (int field = 2; p != NULL && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p ? strtoull(p + 1, NULL, 10) : 0;
}

static void write_pid(const struct rf_supervisor *s, const struct slot *slot)
{
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s.pid", s->pid_dir, slot->name);
    RF_AUTO(rf_free) char *fresh = rf_asprintf("%s.new", path);
    FILE *file = fopen(fresh, "we");
    bool good = file != NULL && fprintf(file, "%d %" PRIu64 " %s\n", (int)slot->pid, slot->start_time,
                                                 s->server_url) > 0;
    if (file != NULL)
        good &= fclose(file) == 0;
    if (!good || rename(fresh, path) != 0)
        rf_log(RF_LOG_WARN, "worker=%s doing=write_pid msg=%s", slot->name, RF_QUOTE(strerror(errno)));
}

static void forget_pid(const struct rf_supervisor *s, struct slot *slot)
{
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s.pid", s->pid_dir, slot->name);
    unlink(path);
    slot->pid = 0;
}

static void adopt(struct rf_supervisor *s, struct slot *slot)
{
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s.pid", s->pid_dir, slot->name);
    FILE *file = fopen(path, "re");
    int pid = 0;
    uint64_t start = 0;
    char url[300] = "";
    bool read = file != NULL && fscanf(file, "%d %" SCNu64 " %299s", &pid, &start, url) == 3;
    if (file != NULL)
        fclose(file);
    if (!read || pid <= 1 || start == 0 || process_start(pid) != start)
        return;
    slot->pid = pid;
    slot->start_time = start;
    slot->ours = false;
    rf_log(RF_LOG_INFO, "worker=%s doing=adopt pid=%d msg=\"was started by an earlier server\"", slot->name, pid);
    if (strcmp(url, s->server_url) == 0)
        return;
    /* It looks for us where we are not any more. What it renders is lost; a new one starts when it has ended. */
    rf_log(RF_LOG_WARN, "worker=%s doing=stop pid=%d msg=\"it knows the server by another address\"", slot->name, pid);
    kill(pid, SIGTERM);
}

/* ---- starting ---- */

static void start(struct rf_supervisor *s, struct slot *slot, int64_t now_ms)
{
    char *argv[12] = {s->worker_path, "--server", s->server_url, "--device", slot->device, "--name", slot->name};
    int n = 7;
    if (s->models_dir != NULL) {
        argv[n++] = "--models";
        argv[n++] = s->models_dir;
    }
    if (s->token_file != NULL) {
        argv[n++] = "--token-file";
        argv[n++] = s->token_file;
    }
    /* Own process group: Ctrl+C in a terminal reaches the server alone, which then asks the workers to hand back. All
     * signals at their defaults and none blocked, whatever the server does with its own. */
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    pid_t pid = 0;
    int rc = posix_spawn(&pid, s->worker_path, NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    slot->started_ms = now_ms;
    if (rc != 0) {
        slot->pause_ms = slot->pause_ms ? slot->pause_ms * 2 : PAUSE_FIRST_MS;
        slot->pause_ms = slot->pause_ms > PAUSE_MAX_MS ? PAUSE_MAX_MS : slot->pause_ms;
        slot->next_start_ms = now_ms + slot->pause_ms;
        rf_log(RF_LOG_ERROR, "worker=%s doing=start msg=%s", slot->name, RF_QUOTE(strerror(rc)));
        return;
    }
    slot->pid = pid;
    slot->ours = true;
    slot->start_time = process_start(pid);
    write_pid(s, slot);
    rf_log(RF_LOG_INFO, "worker=%s doing=start pid=%d device=%s", slot->name, (int)pid, slot->device);
}

/* True when the slot's process has ended; `why` says how. */
static bool has_ended(struct slot *slot, char *why, size_t room)
{
    int status = 0;
    snprintf(why, room, "gone");
    if (!slot->ours)
        return process_start(slot->pid) != slot->start_time;
    if (waitpid(slot->pid, &status, WNOHANG) != slot->pid)
        return false;
    if (WIFEXITED(status))
        snprintf(why, room, "exit %d", WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        snprintf(why, room, "signal %d", WTERMSIG(status));
    return true;
}

static void look_after(struct rf_supervisor *s, struct slot *slot, int64_t now_ms)
{
    char why[32];
    if (slot->pid != 0 && has_ended(slot, why, sizeof why)) {
        bool steady = now_ms - slot->started_ms >= STEADY_MS;
        slot->pause_ms = steady || slot->pause_ms == 0 ? PAUSE_FIRST_MS : slot->pause_ms * 2;
        slot->pause_ms = slot->pause_ms > PAUSE_MAX_MS ? PAUSE_MAX_MS : slot->pause_ms;
        slot->next_start_ms = now_ms + slot->pause_ms;
        if (s->stopping)
            rf_log(RF_LOG_INFO, "worker=%s doing=stop pid=%d how=%s", slot->name, (int)slot->pid, RF_QUOTE(why));
        else
            rf_log(RF_LOG_WARN, "worker=%s doing=restart pid=%d how=%s in_ms=%" PRId64, slot->name, (int)slot->pid,
                   RF_QUOTE(why), slot->pause_ms);
        s->listener.ended(s->listener.ctx, slot->name, slot->pid, why);
        forget_pid(s, slot);
    }
    if (slot->pid == 0 && !s->stopping && now_ms >= slot->next_start_ms)
        start(s, slot, now_ms);
}

/* ---- the outside ---- */

enum rf_code rf_supervisor_create(const struct rf_config *config, int port, const char *token_file,
                                  const struct rf_supervisor_listener *listener, struct rf_supervisor **ret_supervisor,
                                  struct rf_err *err)
{
    RF_AUTO(rf_supervisor_destroy) struct rf_supervisor *s = rf_new(struct rf_supervisor);
    s->listener = *listener;
    make_slots(s, config->n_workers);
    s->pid_dir = rf_asprintf("%s/workers", config->data_dir);
    if (s->n_slots > 0) {
        s->worker_path = find_worker();
        if (s->worker_path == NULL)
            return rf_fail(err, RF_ERR_NOT_FOUND, "local workers are wanted, but framefarm-worker is neither beside this "
                           "program nor on PATH; --workers 0 runs without");
        if (mkdir(s->pid_dir, 0755) != 0 && errno != EEXIST)
            return rf_fail(err, RF_ERR_IO, "make '%s': %s", s->pid_dir, strerror(errno));
    }
    /* A server that listens on all addresses is reached by its own workers through loopback. */
    bool any = strcmp(config->host, "0.0.0.0") == 0 || strcmp(config->host, "::") == 0;
    bool v6 = strchr(config->host, ':') != NULL;
    s->server_url = any  ? rf_asprintf("http://%s:%d", v6 ? "[::1]" : "127.0.0.1", port)
                    : v6 ? rf_asprintf("http://[%s]:%d", config->host, port)
                         : rf_asprintf("http://%s:%d", config->host, port);
    s->models_dir = rf_strdup(config->models_dir);
    s->token_file = rf_strdup(token_file);
    for (int i = 0; i < s->n_slots; i++)
        adopt(s, &s->slots[i]);
    *ret_supervisor = s;
    s = NULL;
    return RF_OK;
}

void rf_supervisor_destroy(struct rf_supervisor **supervisor)
{
    struct rf_supervisor *s = *supervisor;
    if (s == NULL)
        return;
    free(s->worker_path);
    free(s->server_url);
    free(s->models_dir);
    free(s->token_file);
    free(s->pid_dir);
    free(s->slots);
    rf_free(supervisor);
}

void rf_supervisor_tick(struct rf_supervisor *s, int64_t now_ms)
{
    for (int i = 0; i < s->n_slots; i++)
        look_after(s, &s->slots[i], now_ms);
}

static void signal_all(struct rf_supervisor *s, int signal_number)
{
    for (int i = 0; i < s->n_slots; i++)
        if (s->slots[i].pid != 0 && process_start(s->slots[i].pid) == s->slots[i].start_time)
            kill(s->slots[i].pid, signal_number);
}

void rf_supervisor_stop(struct rf_supervisor *s)
{
    s->stopping = true;
    signal_all(s, SIGTERM);
}

int rf_supervisor_n_alive(struct rf_supervisor *s)
{
    int n = 0;
    for (int i = 0; i < s->n_slots; i++)
        n += s->slots[i].pid != 0;
    return n;
}

void rf_supervisor_kill(struct rf_supervisor *s)
{
    signal_all(s, SIGKILL);
}
