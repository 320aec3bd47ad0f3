/* Who may call what. The one place where tokens and roles will be checked; today it keeps a loopback server to this
 * machine.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_AUTH_H
#define RF_SERVER_AUTH_H

#include "server/http.h"

/* True when the call may go on; otherwise the answer (401, 403) is set. Called once per request, before its body. */
bool rf_auth_check(struct rf_call *c);

/* "HOST" or "HOST:PORT" as a Host header carries it: does it mean this machine by a name no other host can take? */
bool rf_auth_is_local_host(const char *host);

#endif
