/* Log lines of the worker: one line, one event, on stderr, as key=value with quoted text.
 *
 *   time=2025-01-31T12:00:00.123Z level=warn worker=host-cuda0 task=video_….0 attempt=2 doing=upload code=io msg="…"
 *
 * error: someone must act. warn: we went on, the message says how. info: a state changed. Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_LOG_H
#define RF_WORKER_LOG_H

#include "schema/err.h"

enum rf_log_level { RF_LOG_DEBUG, RF_LOG_INFO, RF_LOG_WARN, RF_LOG_ERROR, RF_LOG_LEVEL_COUNT };

void rf_log_set_level(enum rf_log_level level);
/* The ids that every following line carries; copied. NULL: none. */
void rf_log_set_worker(const char *name);
void rf_log_set_task(const char *task_id, int attempt);

/*   doing  one word: what the worker was at
 *   code   RF_OK: not shown */
void rf_log(enum rf_log_level level, const char *doing, enum rf_code code, const char *format, ...) RF_PRINTF(4, 5);

/* Appends `text` to `line` (capacity bytes, *used in use) in double quotes, escaping quotes, backslashes and control
 * bytes, so that nobody's prompt can forge a log line. Cut to what fits; always terminated. */
void rf_log_quote(char *line, size_t capacity, size_t *used, const char *text);

#endif
