/* Who may call what: the one place where tokens, roles and tickets are checked.
 *
 * No token is needed on loopback, unless --require-tokens says so (for a server behind a proxy); everywhere else every
 * call but those of role ANYONE shows one: `Authorization: Bearer …`. Then c->role and c->token say who calls, and handlers
 * ask rf_auth_owner() whose jobs it may touch. Without tokens everybody may do everything.
 *
 * A ticket is what a page puts behind an address that the browser fetches by itself (<video>, <img>, EventSource, a
 * download): `?ticket=` with a date and an HMAC, good for reading on routes marked by_ticket, for RF_TICKET_SECONDS, in
 * this server's lifetime, while its token is not revoked.
 *
 * Wrong tokens are counted per address (IPv6: per /64); beyond RF_STRIKES in a minute they are answered 429. A right one
 * always passes, because behind a proxy everybody has the same address and must not be locked out by one mistaken script.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_AUTH_H
#define RF_SERVER_AUTH_H

#include "server/http.h"

#define RF_TICKET_SECONDS 3600
#define RF_STRIKES 20

struct rf_auth;
struct rf_config;
struct rf_job;
struct rf_store;

/* Reads the tokens; when local workers will need one, makes it (a file only we may read, in the data folder).
 *   RF_ERR_IO  the file or the table cannot be read */
enum rf_code rf_auth_create(const struct rf_config *config, struct rf_store *store, struct rf_auth **ret_auth,
                            struct rf_err *err);
void rf_auth_destroy(struct rf_auth **auth);
/* Reads the tokens again when they have changed. Called with every tick: that is how soon a revoked token is dead. */
void rf_auth_refresh(struct rf_auth *auth, struct rf_store *store);
bool rf_auth_is_required(const struct rf_auth *auth);
/* For --token-file of the local workers; NULL when none is needed. */
const char *rf_auth_worker_token_file(const struct rf_auth *auth);

/* True when the call may go on; otherwise the answer (401, 403, 429) is set. Called once per request, before its body. */
bool rf_auth_check(struct rf_call *c);

/* The name whose jobs alone the caller may see and steer; NULL: all. */
const char *rf_auth_owner(const struct rf_call *c);
/* False, and 404 answered (that it exists is nobody else's business), when the job is not the caller's. */
bool rf_auth_may_see(struct rf_call *c, const struct rf_job *job);
/* The same by id; reads the job, and only when it must. Answers what goes wrong. */
bool rf_auth_may_touch(struct rf_call *c, const char *job_id);
/* Whether the call's token still stands; for streams that outlive their check. */
bool rf_auth_is_good(struct rf_auth *auth, const struct rf_call *c);

/* POST /v1/tickets */
void rf_auth_ticket_handle(struct rf_call *c);

/* "HOST" or "HOST:PORT" as a Host header carries it: does it mean this machine by a name no other host can take? */
bool rf_auth_is_local_host(const char *host);

#endif
