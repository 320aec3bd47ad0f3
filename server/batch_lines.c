/* The lines of an NDJSON body; apart from batch.c so that it can be fuzzed alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/batch.h"

#include <string.h>

bool rf_batch_next_line(const char *body, size_t body_n, size_t *at, const char **ret_line, size_t *ret_n)
{
    if (*at >= body_n)
        return false;
    const char *line = body + *at;
    const char *end = memchr(line, '\n', body_n - *at);
    size_t n = end ? (size_t)(end - line) : body_n - *at;
    *at += n + (end != NULL);
    while (n > 0 && strchr(" \t\r", line[n - 1]) != NULL && line[n - 1] != '\0')
        n--;
    while (n > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        n--;
    }
    *ret_line = line;
    *ret_n = n;
    return true;
}
