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
