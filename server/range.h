/* The conditional and partial side of GET: Range, If-Range, If-None-Match (RFC 9110 parts 13 and 14).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_RANGE_H
#define RF_SERVER_RANGE_H

#include "schema/base.h"

enum rf_range { RF_RANGE_WHOLE, RF_RANGE_PART, RF_RANGE_UNSATISFIABLE, RF_RANGE_COUNT };

/* What a Range header asks of `size` bytes. WHOLE also when the header is NULL, malformed, of another unit, or names several
 * ranges: the RFC lets a server ignore those, and no player sends them. PART sets first and length (> 0). */
enum rf_range rf_range_parse(const char *header, int64_t size, int64_t *ret_first, int64_t *ret_length);

/* Whether the list in If-None-Match names `etag` (quoted, strong) or is "*". Weak comparison. NULL header: false. */
bool rf_etag_listed(const char *header, const char *etag);

/* Whether Range may be honoured under If-Range: absent, or exactly our strong etag. A date never matches, since we send
 * none. */
bool rf_if_range_holds(const char *header, const char *etag);

#endif
