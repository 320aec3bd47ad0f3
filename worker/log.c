/* One write(2) per line, so lines of several threads and processes never mix; see log.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over the four below */
static enum rf_log_level least_level = RF_LOG_INFO;
static char worker_name[128], task_id[128];
static int task_attempt;

static const char *const level_names[] = {"debug", "info", "warn", "error"};
_Static_assert(RF_COUNT_OF(level_names) == RF_LOG_LEVEL_COUNT, "a level has no name");

void rf_log_set_level(enum rf_log_level level)
{
    pthread_mutex_lock(&lock);
    least_level = level;
    pthread_mutex_unlock(&lock);
}

void rf_log_set_worker(const char *name)
{
    pthread_mutex_lock(&lock);
    snprintf(worker_name, sizeof worker_name, "%s", name ? name : "");
    pthread_mutex_unlock(&lock);
}

void rf_log_set_task(const char *id, int attempt)
{
    pthread_mutex_lock(&lock);
    snprintf(task_id, sizeof task_id, "%s", id ? id : "");
    task_attempt = attempt;
    pthread_mutex_unlock(&lock);
}

void rf_log_quote(char *line, size_t capacity, size_t *used, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = *used;
    if (n + 3 > capacity)
        return;
    line[n++] = '"';
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && n + 6 < capacity; c++) {
        if (*c == '"' || *c == '\\') {
            line[n++] = '\\';
            line[n++] = (char)*c;
        } else if (*c == '\n') {
            line[n++] = '\\';
            line[n++] = 'n';
        } else if (*c < 0x20 || *c == 0x7f) {
            line[n++] = '\\';
            line[n++] = 'x';
            line[n++] = hex[*c >> 4];
            line[n++] = hex[*c & 15];
        } else {
            line[n++] = (char)*c;
        }
    }
    line[n++] = '"';
    line[n] = '\0';
    *used = n;
}

static void add(char *line, size_t capacity, size_t *used, const char *format, ...) RF_PRINTF(4, 5);
static void add(char *line, size_t capacity, size_t *used, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + *used, capacity - *used, format, args);
    va_end(args);
    *used = n < 0 ? *used : (size_t)n < capacity - *used ? *used + (size_t)n : capacity - 1;
}

void rf_log(enum rf_log_level level, const char *doing, enum rf_code code, const char *format, ...)
{
    char text[512], line[1024];
    size_t used = 0;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);

    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t room = sizeof line - 1; /* for the newline */
    pthread_mutex_lock(&lock);
    if (level < least_level) {
        pthread_mutex_unlock(&lock);
        return;
    }
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    add(line, room, &used, "time=%s.%03ldZ level=%s", stamp, now.tv_nsec / 1000000, level_names[level]);
    if (worker_name[0] != '\0') {
        add(line, room, &used, " worker=");
        rf_log_quote(line, room, &used, worker_name);
    }
    if (task_id[0] != '\0')
        add(line, room, &used, " task=%s attempt=%d", task_id, task_attempt);
    pthread_mutex_unlock(&lock);
    add(line, room, &used, " doing=%s", doing);
    if (code != RF_OK)
        add(line, room, &used, " code=%s", rf_code_name(code));
    add(line, room, &used, " msg=");
    rf_log_quote(line, room, &used, text);
    line[used++] = '\n';
    for (size_t done = 0; done < used;) {
        ssize_t n = write(STDERR_FILENO, line + done, used - done);
        if (n <= 0)
            return; /* nowhere left to complain */
        done += (size_t)n;
    }
}
