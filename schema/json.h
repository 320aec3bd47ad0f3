/* JSON from outside, read behind a guard, and the small readers that request.c and wire.c share.
 *
 * cJSON is lenient where we must not be: it recurses a thousand levels, keeps the first of two equal keys, cuts strings
 * at \u0000 and takes raw control characters. The guard walks the bytes once before cJSON sees them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_JSON_H
#define RF_SCHEMA_JSON_H

#include "schema/err.h"

#include <cjson/cJSON.h>

#define RF_JSON_MAX_DEPTH 16

/* Parses exactly one JSON text of n_bytes.
 *   ret_json        new; cJSON_Delete() or RF_AUTO(rf_json_destroy). Untouched on failure
 *   RF_ERR_INVALID  not JSON, not UTF-8, too deep, a key twice in one object, a NUL inside a string
 *   RF_ERR_LIMIT    over max_bytes */
enum rf_code rf_json_parse(const char *text, size_t n_bytes, size_t max_bytes, cJSON **ret_json, struct rf_err *err);
void rf_json_destroy(cJSON **json);

/* JSON text written straight into a growing buffer: some ten times cheaper than a cJSON tree, for the busy paths. */
struct rf_text {
    char *text;      /* NUL-terminated once anything was added; free() it, or hand it over */
    size_t n_bytes, capacity;
};
void rf_text_add(struct rf_text *t, const char *raw);
void rf_text_add_bytes(struct rf_text *t, const char *raw, size_t n_bytes);
void rf_text_add_string(struct rf_text *t, const char *utf8); /* quoted and escaped */
void rf_text_add_int(struct rf_text *t, int64_t n);
void rf_text_add_double(struct rf_text *t, double x);         /* shortest of 15 or 17 digits; not finite: null */
void rf_text_finish(struct rf_text *t);                       /* frees; for RF_AUTO */

/* True when the n bytes are UTF-8 without surrogates, overlong forms or NUL. ret_n_chars may be NULL. */
bool rf_utf8_valid(const char *text, size_t n_bytes, size_t *ret_n_chars);

#endif
