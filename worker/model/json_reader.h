/* A strict pull reader of JSON for file headers: no tree, no dependency, no recursion.
 *
 * The caller says what it expects next; anything else is an error with the byte's position. Strings come out as UTF-8
 * without escapes; invalid UTF-8, lone surrogates and NUL are refused.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_JSON_READER_H
#define RF_MODEL_JSON_READER_H

#include "schema/err.h"

struct rf_json_reader {
    const char *text; /* not NUL-terminated */
    size_t size, at;
};

/* Skips white space and takes the byte c if it comes next. */
bool rf_json_take(struct rf_json_reader *r, char c);

/* Takes c or fails. */
enum rf_code rf_json_expect(struct rf_json_reader *r, char c, struct rf_err *err);

/* A string, decoded into new memory: free(*ret_text). */
enum rf_code rf_json_string(struct rf_json_reader *r, char **ret_text, struct rf_err *err);

/* A whole number from 0 to INT64_MAX, written without sign, fraction, exponent or leading zero. */
enum rf_code rf_json_uint(struct rf_json_reader *r, int64_t *ret_value, struct rf_err *err);

/* Nothing but white space is left. */
bool rf_json_at_end(struct rf_json_reader *r);

#endif
