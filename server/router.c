/* See router.h. Forty short patterns are compared one by one: under a microsecond, and nothing to keep in step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/router.h"

#include "schema/json.h"

#include <stdio.h>
#include <string.h>

static const char *const method_names[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "", ""};

bool rf_router_match(const char *pattern, const char *path, char param[RF_CALL_PARAMS][RF_CALL_PARAM_BYTES])
{
    int n_params = 0;
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        bool rest = pattern[1] == '*';
        size_t n = rest ? strlen(path) : strcspn(path, "/");
        if (n == 0 || n >= RF_CALL_PARAM_BYTES || n_params == RF_CALL_PARAMS)
            return false;
        char *to = param[n_params++];
        memcpy(to, path, n);
        to[n] = '\0';
        if (!rf_percent_decode(to, false) || !rf_utf8_valid(to, strlen(to), NULL))
            return false;
        path += n;
        pattern += strcspn(pattern, "}") + 1;
    }
    return *path == '\0';
}

const struct rf_route *rf_router_find(const struct rf_route *routes, size_t n, struct rf_call *c, char *allowed,
                                      size_t room)
{
    enum rf_method wanted = c->method == RF_HEAD ? RF_GET : c->method;
    bool possible[RF_METHOD_COUNT] = {false}, known = false;
    allowed[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        /* A catch-all takes what no other pattern knows, and what only it would take is unknown, not known under another
         * method: GET /v1/queue/pause is 405, POST /nonsense is 404. */
        bool catches_all = strstr(routes[i].pattern, "{*") != NULL;
        if ((catches_all && known) || !rf_router_match(routes[i].pattern, c->path, c->param))
            continue;
        if (routes[i].method == wanted)
            return &routes[i];
        if (!catches_all)
            known = possible[routes[i].method] = true;
    }
    possible[RF_HEAD] = possible[RF_GET];
    size_t used = 0;
    for (unsigned m = 0; m < RF_METHOD_OTHER; m++)
        if (possible[m] && used < room)
            used += (size_t)snprintf(allowed + used, room - used, "%s%s", used ? ", " : "", method_names[m]);
    return NULL;
}

const char *rf_route_class_name(enum rf_route_class class)
{
    static const char *const names[RF_CLASS_COUNT] = {
        [RF_CLASS_SUBMIT] = "submit", [RF_CLASS_STEER] = "steer", [RF_CLASS_READ] = "read", [RF_CLASS_CONTENT] = "content",
        [RF_CLASS_LEASE] = "lease", [RF_CLASS_HEARTBEAT] = "heartbeat", [RF_CLASS_REPORT] = "report",
        [RF_CLASS_TRANSFER] = "transfer", [RF_CLASS_PAGE] = "page", [RF_CLASS_NONE] = "none"};
    return names[class];
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* From the pattern itself, so that a new route needs no further thought. */
enum rf_route_class rf_router_class(const struct rf_route *route)
{
    if (route == NULL)
        return RF_CLASS_NONE;
    const char *p = route->pattern;
    if (strncmp(p, "/farm/", 6) == 0)
        return ends_with(p, "/lease") ? RF_CLASS_LEASE : ends_with(p, "/heartbeat") ? RF_CLASS_HEARTBEAT
             : ends_with(p, "/files/{name}") ? RF_CLASS_TRANSFER : RF_CLASS_REPORT;
    if (strncmp(p, "/v1/", 4) != 0)
        return RF_CLASS_PAGE;
    if (route->method == RF_GET)
        return ends_with(p, "/content") ? RF_CLASS_CONTENT : RF_CLASS_READ;
    bool creates = ends_with(p, "/videos") || ends_with(p, "/batch") || ends_with(p, "/remix");
    return route->method == RF_POST && creates ? RF_CLASS_SUBMIT : RF_CLASS_STEER;
}
