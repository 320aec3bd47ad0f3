/* The table behind the codes, and the two ways to write a message.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int http_status;
    bool retryable;
} codes[] = {
    [RF_OK] = {"ok", 200, false},
    [RF_ERR_INVALID] = {"invalid", 400, false},
    [RF_ERR_NOT_FOUND] = {"not_found", 404, false},
    [RF_ERR_CONFLICT] = {"conflict", 409, false},
    [RF_ERR_LIMIT] = {"limit", 429, false},
    [RF_ERR_FORMAT] = {"format", 422, false},
    [RF_ERR_CANCELLED] = {"cancelled", 409, false},
    [RF_ERR_IO] = {"io", 503, true},
    [RF_ERR_NO_SPACE] = {"no_space", 507, true},
    [RF_ERR_NO_MEMORY] = {"no_memory", 503, true},
    [RF_ERR_DEVICE] = {"device", 503, true},
};
_Static_assert(RF_COUNT_OF(codes) == RF_CODE_COUNT, "a code has no row");

enum rf_code rf_fail(struct rf_err *err, enum rf_code code, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->msg, sizeof err->msg, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

enum rf_code rf_wrap(struct rf_err *err, enum rf_code code, const char *format, ...)
{
    if (err != NULL) {
        char inner[sizeof err->msg];
        memcpy(inner, err->msg, sizeof inner);
        va_list args;
        va_start(args, format);
        int n = vsnprintf(err->msg, sizeof err->msg, format, args);
        va_end(args);
        size_t used = n < 0 ? 0 : (size_t)n;
        if (used < sizeof err->msg - 1)
            snprintf(err->msg + used, sizeof err->msg - used, ": %s", inner);
        err->code = code;
    }
    return code;
}

const char *rf_code_name(enum rf_code code)
{
    return (unsigned)code < RF_CODE_COUNT ? codes[code].name : "unknown";
}

enum rf_code rf_code_from_name(const char *name)
{
    for (unsigned i = 0; i < RF_CODE_COUNT; i++)
        if (strcmp(codes[i].name, name) == 0)
            return (enum rf_code)i;
    return RF_CODE_COUNT;
}

bool rf_code_retryable(enum rf_code code)
{
    return (unsigned)code < RF_CODE_COUNT && codes[code].retryable;
}

int rf_code_http_status(enum rf_code code)
{
    return (unsigned)code < RF_CODE_COUNT ? codes[code].http_status : 500;
}
