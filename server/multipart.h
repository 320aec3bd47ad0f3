/* A streaming reader of multipart/form-data. Bodies may be split anywhere, down to single bytes; nothing is held back but
 * a possible beginning of the delimiter.
 *
 * Why not libmicrohttpd's post processor: it takes a body that ends in the middle of a part for a whole one (a lost
 * connection would submit half a start image), keeps no count of parts or bytes, mixes in nested multipart, and cannot be
 * fuzzed or used without a connection. The grammar that clients speak (RFC 7578) is small enough to be read whole.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_MULTIPART_H
#define RF_SERVER_MULTIPART_H

#include "schema/err.h"

#define RF_MULTIPART_MAX_PARTS 256
#define RF_MULTIPART_MAX_HEADERS 2048 /* bytes of one part's header block; browsers and SDKs send about 150 */

struct rf_multipart_part {
    const char *name;          /* decoded, UTF-8, not empty */
    const char *filename;      /* NULL: a text value */
    const char *content_type;  /* NULL when not said */
};

/* What the reader tells. Any code but RF_OK stops it; the error is handed on. Pointers are valid during the call. */
struct rf_multipart_listener {
    void *self;
    enum rf_code (*begin)(void *self, const struct rf_multipart_part *part, struct rf_err *err);
    enum rf_code (*data)(void *self, const char *data, size_t n, struct rf_err *err);
    enum rf_code (*end)(void *self, struct rf_err *err);
};

struct rf_multipart;

/* `content_type` is the request's header with its boundary.
 *   RF_ERR_INVALID  no multipart/form-data, or no usable boundary */
enum rf_code rf_multipart_create(const char *content_type, const struct rf_multipart_listener *listener,
                                 struct rf_multipart **ret_multipart, struct rf_err *err);
void rf_multipart_destroy(struct rf_multipart **multipart);

/* Reads the next bytes. After a failure every further call fails alike. */
enum rf_code rf_multipart_feed(struct rf_multipart *m, const char *data, size_t n, struct rf_err *err);

/* The body has ended. RF_ERR_INVALID when the closing delimiter did not come. */
enum rf_code rf_multipart_end(struct rf_multipart *m, struct rf_err *err);

#endif
