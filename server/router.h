/* Which route answers a path. A table and a matcher, nothing else; the table itself is in routes.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_ROUTER_H
#define RF_SERVER_ROUTER_H

#include "server/http.h"

/* The first route whose pattern and method fit c->path and c->method; fills c->param. NULL when none does; `allowed` then
 * lists the methods ("GET, HEAD, POST") that would, or is empty when the path is unknown. Literal patterns must stand
 * before those with a {…} in the same place. */
const struct rf_route *rf_router_find(const struct rf_route *routes, size_t n, struct rf_call *c, char *allowed,
                                      size_t room);

/* Whether `path` fits `pattern`; a {…} takes one non-empty segment, percent-decoded; "{*" at the end takes all that is left,
 * slashes included. False too when a segment is broken or too long. */
bool rf_router_match(const char *pattern, const char *path, char param[RF_CALL_PARAMS][RF_CALL_PARAM_BYTES]);

/* Where its duration is counted; NULL: RF_CLASS_NONE. */
enum rf_route_class rf_router_class(const struct rf_route *route);

#endif
