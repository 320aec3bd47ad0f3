/* See auth.h.
 * A server on loopback is still reached by every page that its user has open: a form on a foreign site may POST to it, and
 * a foreign name that resolves to 127.0.0.1 may read from it (DNS rebinding). So, without tokens, the Host header must be
 * a loopback name when we listen on loopback, and what a browser sends for another site is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/auth.h"

#include "server/app.h"
#include "server/config.h"

#include <string.h>
#include <strings.h>

bool rf_auth_is_local_host(const char *host)
{
    char name[64];
    size_t n = host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");
    if (host[0] == '[') {
        host++;
        n--;
    }
    if (n >= sizeof name)
        return false;
    memcpy(name, host, n);
    name[n] = '\0';
    return rf_config_is_loopback(name);
}

/* Whether a browser says that the call comes from a page of another site. Programs send neither header. */
static bool is_cross_site(struct rf_call *c, const char *host)
{
    const char *site = rf_call_header(c, "Sec-Fetch-Site");
    if (site != NULL)
        return strcmp(site, "cross-site") == 0 || strcmp(site, "same-site") == 0;
    const char *origin = rf_call_header(c, "Origin");
    if (origin == NULL)
        return false;
    const char *slashes = strstr(origin, "://");
    return slashes == NULL || host == NULL || strcasecmp(slashes + 3, host) != 0;
}

bool rf_auth_check(struct rf_call *c)
{
    const char *host = rf_call_header(c, "Host");
    if (rf_config_is_loopback(c->app->config->host) && host != NULL && !rf_auth_is_local_host(host)) {
        rf_answer_error(c, 403, NULL, "host_not_allowed", "this server answers only as localhost; "
                        "a proxy in front of it must send Host: localhost");
        return false;
    }
    if (c->method != RF_GET && c->method != RF_HEAD && is_cross_site(c, host)) {
        rf_answer_error(c, 403, NULL, "cross_site", "calls from pages of other sites are refused");
        return false;
    }
    return true;
}
