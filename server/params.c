/* Strict query strings; see params.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/params.h"

#include "schema/json.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool rf_percent_decode(char *text, bool plus_is_space)
{
    char *to = text;
    for (const char *p = text; *p; p++) {
        if (*p == '%') {
            int high = hex_digit(p[1]);
            int low = high < 0 ? -1 : hex_digit(p[2]);
            if (low < 0 || (high | low) == 0)
                return false;
            *to++ = (char)(high << 4 | low);
            p += 2;
        } else {
            *to++ = *p == '+' && plus_is_space ? ' ' : *p;
        }
    }
    *to = '\0';
    return true;
}

bool rf_parse_int(const char *text, int64_t low, int64_t high, int64_t *ret_value)
{
    const char *digits = *text == '-' ? text + 1 : text;
    if (*digits == '\0' || strspn(digits, "0123456789") != strlen(digits))
        return false;
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno != 0 || value < low || value > high)
        return false;
    *ret_value = value;
    return true;
}

static enum rf_code read_pair(char *pair, struct rf_params *q, struct rf_err *err)
{
    char *equals = strchr(pair, '=');
    char *value = equals ? equals + 1 : pair + strlen(pair);
    if (equals != NULL)
        *equals = '\0';
    if (!rf_percent_decode(pair, true) || !rf_utf8_valid(pair, strlen(pair), NULL))
        return rf_fail(err, RF_ERR_INVALID, "query string: the name of parameter %d is broken", q->n + 1);
    if (!rf_percent_decode(value, true) || !rf_utf8_valid(value, strlen(value), NULL))
        return rf_fail(err, RF_ERR_INVALID, "query parameter '%.40s' has a broken value", pair);
    if (rf_params_get(q, pair) != NULL)
        return rf_fail(err, RF_ERR_INVALID, "query parameter '%.40s' is given twice", pair);
    if (q->n == RF_PARAMS_MAX)
        return rf_fail(err, RF_ERR_INVALID, "query string: more than %d parameters", RF_PARAMS_MAX);
    q->item[q->n].name = pair;
    q->item[q->n++].value = value;
    return RF_OK;
}

enum rf_code rf_params_parse(const char *text, struct rf_params *ret_query, struct rf_err *err)
{
    *ret_query = (struct rf_params){0};
    if (text == NULL || *text == '\0')
        return RF_OK;
    ret_query->text = rf_strdup(text);
    for (char *pair = ret_query->text, *next; pair != NULL; pair = next) {
        next = strchr(pair, '&');
        if (next != NULL)
            *next++ = '\0';
        enum rf_code rc = *pair ? read_pair(pair, ret_query, err) : RF_OK;
        if (rc != RF_OK) {
            rf_params_finish(ret_query);
            return rc;
        }
    }
    return RF_OK;
}

void rf_params_finish(struct rf_params *q)
{
    free(q->text);
    *q = (struct rf_params){0};
}

const char *rf_params_take(struct rf_params *q, const char *name)
{
    for (int i = 0; i < q->n; i++)
        if (strcmp(q->item[i].name, name) == 0) {
            const char *value = q->item[i].value;
            memmove(&q->item[i], &q->item[i + 1], (size_t)(--q->n - i) * sizeof q->item[0]);
            return value;
        }
    return NULL;
}

const char *rf_params_get(const struct rf_params *q, const char *name)
{
    for (int i = 0; i < q->n; i++)
        if (strcmp(q->item[i].name, name) == 0)
            return q->item[i].value;
    return NULL;
}

enum rf_code rf_params_only(const struct rf_params *q, const char *const *known, struct rf_err *err)
{
    for (int i = 0; i < q->n; i++) {
        const char *const *k = known;
        while (*k != NULL && strcmp(*k, q->item[i].name) != 0)
            k++;
        if (*k == NULL)
            return rf_fail(err, RF_ERR_INVALID, "unknown query parameter '%.40s'", q->item[i].name);
    }
    return RF_OK;
}

enum rf_code rf_params_int(const struct rf_params *q, const char *name, int64_t low, int64_t high, int64_t fallback,
                          int64_t *ret_value, struct rf_err *err)
{
    const char *text = rf_params_get(q, name);
    *ret_value = fallback;
    if (text == NULL || rf_parse_int(text, low, high, ret_value))
        return RF_OK;
    return rf_fail(err, RF_ERR_INVALID, "query parameter '%s' must be a whole number from %" PRId64 " to %" PRId64, name,
                   low, high);
}

enum rf_code rf_params_bool(const struct rf_params *q, const char *name, bool *ret_value, struct rf_err *err)
{
    const char *text = rf_params_get(q, name);
    *ret_value = text != NULL && (*text == '\0' || strcmp(text, "1") == 0 || strcmp(text, "true") == 0);
    if (text == NULL || *ret_value || strcmp(text, "0") == 0 || strcmp(text, "false") == 0)
        return RF_OK;
    return rf_fail(err, RF_ERR_INVALID, "query parameter '%s' must be 1 or 0", name);
}
