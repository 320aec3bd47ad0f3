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

/* True when the n bytes are UTF-8 without surrogates, overlong forms or NUL. ret_n_chars may be NULL. */
bool rf_utf8_valid(const char *text, size_t n_bytes, size_t *ret_n_chars);

#endif
