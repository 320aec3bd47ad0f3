/* Small allocations that abort instead of failing; see base.h for why.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void rf_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "level=error doing=assert at=%s:%d msg=\"%s\"\n", file, line, cond);
    abort();
}

static void *must(void *block)
{
    if (block == NULL) {
        fputs("level=error doing=allocate msg=\"out of memory\"\n", stderr);
        abort();
    }
    return block;
}

void *rf_calloc(size_t n, size_t size)
{
    return must(calloc(n > 0 ? n : 1, size > 0 ? size : 1));
}

void *rf_realloc(void *block, size_t n, size_t size)
{
    RF_ASSERT(size == 0 || n <= SIZE_MAX / size);
    size_t n_bytes = n * size;
    return must(realloc(block, n_bytes > 0 ? n_bytes : 1));
}

char *rf_strdup(const char *text)
{
    return text ? rf_strndup(text, strlen(text)) : NULL;
}

char *rf_strndup(const char *text, size_t n_bytes)
{
    char *copy = rf_calloc(n_bytes + 1, 1);
    memcpy(copy, text, n_bytes);
    return copy;
}

char *rf_asprintf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n < 0 ? must(NULL) : text;
}
