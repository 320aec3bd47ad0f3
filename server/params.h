/* Query strings and percent-encoding. Strict: what is malformed is an error that names the parameter, because a silently
 * dropped `limit` or `status` shows a user the wrong jobs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_PARAMS_H
#define RF_SERVER_PARAMS_H

#include "schema/err.h"

#define RF_PARAMS_MAX 16

/* Zeroed is empty. Names and values point into `text`. */
struct rf_params {
    char *text;
    int n;
    struct {
        char *name, *value;
    } item[RF_PARAMS_MAX];
};

/* Reads "a=1&b=two+words&c" (without the '?', NULL is empty): '+' is a space, a name without '=' has the value "".
 *   ret_query        finish with rf_params_finish(); empty on failure
 *   RF_ERR_INVALID   a broken escape, an escaped NUL, bytes that are no UTF-8, a name twice, too many names */
enum rf_code rf_params_parse(const char *text, struct rf_params *ret_query, struct rf_err *err);
void rf_params_finish(struct rf_params *q);

/* NULL when absent. */
const char *rf_params_get(const struct rf_params *q, const char *name);

/* The value as rf_params_get() gives it, and the parameter is gone from the list. */
const char *rf_params_take(struct rf_params *q, const char *name);

/* RF_ERR_INVALID naming the first parameter that is not in the NULL-terminated list. */
enum rf_code rf_params_only(const struct rf_params *q, const char *const *known, struct rf_err *err);

/* A whole number within [low, high]; `fallback` when absent. */
enum rf_code rf_params_int(const struct rf_params *q, const char *name, int64_t low, int64_t high, int64_t fallback,
                          int64_t *ret_value, struct rf_err *err);

/* "1", "true" or "" (bare name) / "0" or "false"; false when absent. */
enum rf_code rf_params_bool(const struct rf_params *q, const char *name, bool *ret_value, struct rf_err *err);

/* Decodes %XX in place ('+' stays unless plus_is_space). False: broken escape or NUL inside. */
bool rf_percent_decode(char *text, bool plus_is_space);

/* Reads a decimal number that fills the whole text, no sign other than '-', no spaces. */
bool rf_parse_int(const char *text, int64_t low, int64_t high, int64_t *ret_value);

#endif
