/* The multipart reader, fed whole, byte by byte and in sevens.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/multipart.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct count { size_t parts, ends, bytes; };

static enum rf_code on_begin(void *self, const struct rf_multipart_part *part, struct rf_err *err)
{
    RF_ASSERT(part->name[0] != 0);
    ((struct count *)self)->parts++;
    return RF_OK;
}

static enum rf_code on_data(void *self, const char *bytes, size_t n, struct rf_err *err)
{
    ((struct count *)self)->bytes += n;
    return RF_OK;
}

static enum rf_code on_end(void *self, struct rf_err *err)
{
    ((struct count *)self)->ends++;
    return RF_OK;
}

static enum rf_code read_all(const char *type, const char *body, size_t n, size_t piece, struct count *count)
{
    const struct rf_multipart_listener listener = {.self = count, .begin = on_begin, .data = on_data, .end = on_end};
    RF_AUTO(rf_multipart_destroy) struct rf_multipart *m = NULL;
    enum rf_code rc = rf_multipart_create(type, &listener, &m, NULL);
    for (size_t i = 0; rc == RF_OK && i < n; i += piece)
        rc = rf_multipart_feed(m, body + i, n - i < piece ? n - i : piece, NULL);
    return rc == RF_OK ? rf_multipart_end(m, NULL) : rc;
}

/* The first line is the Content-Type. How a body is split must not matter. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *text = (const char *)data, *end = n ? memchr(text, '\n', n) : NULL;
    if (end == NULL)
        return 0;
    RF_AUTO(rf_free) char *type = rf_strndup(text, (size_t)(end - text));
    struct count whole = {0}, bytes = {0}, some = {0};
    size_t body_n = n - (size_t)(end + 1 - text);
    enum rf_code rc = read_all(type, end + 1, body_n, SIZE_MAX / 2, &whole);
    RF_ASSERT(read_all(type, end + 1, body_n, 1, &bytes) == rc);
    RF_ASSERT(read_all(type, end + 1, body_n, 7, &some) == rc);
    RF_ASSERT(rc != RF_OK || memcmp(&whole, &bytes, sizeof whole) == 0);
    RF_ASSERT(rc != RF_OK || memcmp(&whole, &some, sizeof whole) == 0);
    RF_ASSERT(rc != RF_OK || (whole.parts == whole.ends && whole.bytes <= body_n));
    return 0;
}
