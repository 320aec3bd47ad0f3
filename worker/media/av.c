/* FFmpeg's errors and log lines in our words; see av.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/av.h"

#include <libavutil/log.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Best effort: a codec that complains on a thread of its own is not heard, the error number still is. */
static _Thread_local char complaint[128];

RF_PRINTF(3, 0) static void keep_complaint(void *context, int level, const char *format, va_list args)
{
    if (level > AV_LOG_ERROR)
        return;
    vsnprintf(complaint, sizeof complaint, format, args);
    complaint[strcspn(complaint, "\n")] = '\0';
}

static void install_log(void)
{
    av_log_set_callback(keep_complaint);
}

void rf_av_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_log);
    complaint[0] = '\0';
}

static enum rf_code code_of(int av_error)
{
    switch (av_error) {
    case AVERROR(ENOMEM):
        return RF_ERR_NO_MEMORY;
    case AVERROR(EINVAL):
    case AVERROR_OPTION_NOT_FOUND:
        return RF_ERR_INVALID;
    case AVERROR(ENOENT):
        return RF_ERR_NOT_FOUND;
    case AVERROR_INVALIDDATA:
    case AVERROR_PATCHWELCOME:
    case AVERROR_EOF:
    case AVERROR_DECODER_NOT_FOUND:
        return RF_ERR_FORMAT;
    default:
        return RF_ERR_IO;
    }
}

enum rf_code rf_av_fail(struct rf_err *err, int av_error, const char *format, ...)
{
    char ours[160], theirs[AV_ERROR_MAX_STRING_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(ours, sizeof ours, format, args);
    va_end(args);
    av_strerror(av_error, theirs, sizeof theirs);
    enum rf_code code = code_of(av_error);
    if (complaint[0] == '\0')
        return rf_fail(err, code, "%s: %s", ours, theirs);
    return rf_fail(err, code, "%s: %s (%s)", ours, theirs, complaint);
}

char *rf_av_url(const char *path)
{
    return rf_asprintf("file:%s", path);
}

void rf_av_set(AVDictionary **options, const char *key, const char *value)
{
    RF_ASSERT(av_dict_set(options, key, value, 0) >= 0);
}
