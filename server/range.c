/* Range and etag headers; see range.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/range.h"

#include <string.h>
#include <strings.h>

/* Reads digits at *p; -1 when there is none. Saturates: a number past the end is past the end, however long. */
static int64_t read_number(const char **p)
{
    if (**p < '0' || **p > '9')
        return -1;
    int64_t value = 0;
    for (; **p >= '0' && **p <= '9'; ++*p)
        value = value > INT64_MAX / 10 - 1 ? INT64_MAX / 10 : value * 10 + (**p - '0');
    return value;
}

static const char *skip_blanks(const char *p)
{
    return p + strspn(p, " \t");
}

enum rf_range rf_range_parse(const char *header, int64_t size, int64_t *ret_first, int64_t *ret_length)
{
    if (header == NULL || strncasecmp(header, "bytes=", 6) != 0)
        return RF_RANGE_WHOLE;
    const char *p = skip_blanks(header + 6);
    int64_t first = read_number(&p);
    if (*p++ != '-')
        return RF_RANGE_WHOLE;
    int64_t last = read_number(&p);
    if (*skip_blanks(p) != '\0' || (first < 0 && last < 0) || (last >= 0 && first > last))
        return RF_RANGE_WHOLE;
    if (first < 0) { /* the last `last` bytes */
        if (last == 0 || size == 0)
            return RF_RANGE_UNSATISFIABLE;
        *ret_length = last < size ? last : size;
        *ret_first = size - *ret_length;
        return RF_RANGE_PART;
    }
    if (first >= size)
        return RF_RANGE_UNSATISFIABLE;
    if (last < 0 || last >= size)
        last = size - 1;
    *ret_first = first;
    *ret_length = last - first + 1;
    return RF_RANGE_PART;
}

bool rf_etag_listed(const char *header, const char *etag)
{
    if (header == NULL)
        return false;
    if (strcmp(header, "*") == 0)
        return true;
    size_t n = strlen(etag);
    for (const char *p = header; *p;) {
        p += strspn(p, " \t,");
        if (strncmp(p, "W/", 2) == 0)
            p += 2;
        if (*p != '"')
            return false; /* not a list of etags: no match is the safe reading, it sends the whole body */
        const char *end = strchr(p + 1, '"');
        if (end == NULL)
            return false;
        if ((size_t)(end + 1 - p) == n && memcmp(p, etag, n) == 0)
            return true;
        p = end + 1;
    }
    return false;
}

bool rf_if_range_holds(const char *header, const char *etag)
{
    return header == NULL || strcmp(header, etag) == 0;
}
