/* Formats a line on the stack and hands it to the kernel in one write, so that lines of several threads never mix.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const names[] = {"error", "warn", "info", "debug"};
static enum rf_log_level highest = RF_LOG_INFO;

void rf_log_set_level(enum rf_log_level level)
{
    highest = level;
}

enum rf_log_level rf_log_level_from_name(const char *name)
{
    for (unsigned i = 0; i < RF_LOG_LEVEL_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return (enum rf_log_level)i;
    return RF_LOG_LEVEL_COUNT;
}

void rf_log(enum rf_log_level level, const char *format, ...)
{
    if (level > highest)
        return;
    char line[2048];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm day;
    gmtime_r(&now.tv_sec, &day);
    int used = snprintf(line, sizeof line, "level=%s time=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ ", names[level],
                        day.tm_year + 1900, day.tm_mon + 1, day.tm_mday, day.tm_hour, day.tm_min, day.tm_sec,
                        now.tv_nsec / 1000000);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    size_t n = (size_t)used + (more < 0 ? 0 : (size_t)more);
    if (n > sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* a closed stderr is no reason to stop a farm */
}

const char *rf_quote(char *room, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    char *to = room;
    *to++ = '"';
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)(text ? text : ""); *p && n < 200; p++, n++) {
        if (*p == '"' || *p == '\\') {
            *to++ = '\\';
            *to++ = (char)*p;
        } else if (*p < 0x20 || *p == 0x7f) {
            *to++ = '\\';
            *to++ = 'x';
            *to++ = hex[*p >> 4];
            *to++ = hex[*p & 15];
        } else {
            *to++ = (char)*p;
        }
    }
    *to++ = '"';
    *to = '\0';
    return room;
}
