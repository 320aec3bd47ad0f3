/* Log lines: one event, one line of key=value on stderr. Ids always, prompts never above debug, secrets never.
 * error: someone must act. warn: we went on, the line says how. info: a state changed.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_LOG_H
#define RF_SERVER_LOG_H

#include "schema/base.h"

enum rf_log_level { RF_LOG_ERROR, RF_LOG_WARN, RF_LOG_INFO, RF_LOG_DEBUG, RF_LOG_LEVEL_COUNT };

/* Lines above this level are dropped. Set once, before threads start. */
void rf_log_set_level(enum rf_log_level level);

/* "error", "warn", "info", "debug"; RF_LOG_LEVEL_COUNT for any other word. */
enum rf_log_level rf_log_level_from_name(const char *name);

/* Writes "level=… time=… <formatted>\n" in one write. The format holds the keys ("doing=listen port=%d"); text that came
 * from outside goes through RF_QUOTE, which puts it in quotes and escapes it. Any thread. */
void rf_log(enum rf_log_level level, const char *format, ...) RF_PRINTF(2, 3);

/* A quoted, escaped copy of `text` that lives until the end of the enclosing block. Cut after 200 bytes. */
#define RF_QUOTE(text) rf_quote((char[RF_QUOTE_BYTES]){0}, (text))
#define RF_QUOTE_BYTES 816
const char *rf_quote(char *room, const char *text);

#endif
