/* The worker's side of the farm calls (schema/api.md): register, lease, heartbeat, files, reports.
 *
 * The server may be killed and restarted while we render. So: what must arrive (files, reports) is tried until it is
 * delivered or refused, with growing, jittered pauses; heartbeats are tried once, the next one carries newer news; and
 * a server that does not know us is introduced to us again before the call is repeated.
 * A farm is shared by all threads; a link is one connection and belongs to one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_FARM_CLIENT_H
#define RF_WORKER_FARM_CLIENT_H

#include "schema/wire.h"
#include "worker/stop.h"

struct rf_farm;
/*   about  who we are; read here, not kept
 *   token  NULL: none
 *   RF_ERR_INVALID  url is not an address */
enum rf_code rf_farm_create(const char *url, const char *token, const struct rf_wire_register *about,
                            struct rf_farm **ret_farm, struct rf_err *err);
void rf_farm_destroy(struct rf_farm **farm); /* after all links */
int64_t rf_farm_heartbeat_ms(struct rf_farm *farm);

struct rf_link;
struct rf_link *rf_link_create(struct rf_farm *farm);
void rf_link_destroy(struct rf_link **link);

/* In every call: `stop` ends it early with RF_ERR_CANCELLED; NULL: nothing does. */

/* Introduces us, once. Other calls do so by themselves when it is needed.
 *   RF_ERR_IO        the server is not there (yet)
 *   RF_ERR_CONFLICT  it speaks another protocol: nothing will change by trying again
 *   RF_ERR_INVALID   it refuses us (token, registration): likewise */
enum rf_code rf_farm_register(struct rf_link *link, struct rf_stop *stop, struct rf_err *err);

/* Waits up to wait_ms for work.
 *   device                   what it says of itself now; nothing with told false
 *   ret_lease, ret_request   rf_wire_lease_finish(), rf_request_destroy()
 *   RF_ERR_NOT_FOUND  there was none; normal, do not log
 *   RF_ERR_IO         the server is away
 *   RF_ERR_FORMAT     it sent a task we cannot read; it has been told so */
enum rf_code rf_farm_lease(struct rf_link *link, int64_t wait_ms, const struct rf_wire_gauges *device,
                           struct rf_stop *stop, struct rf_wire_lease *ret_lease, struct rf_request **ret_request,
                           struct rf_err *err);

/* Tells how far we are. `beat` need not name worker or lease.
 *   RF_ERR_CONFLICT, RF_ERR_NOT_FOUND  the task is not ours any more
 *   RF_ERR_IO                          not delivered; try later with newer news */
enum rf_code rf_farm_heartbeat(struct rf_link *link, const struct rf_wire_lease *lease,
                               const struct rf_wire_heartbeat *beat, struct rf_stop *stop,
                               struct rf_wire_heartbeat_answer *ret_answer, struct rf_err *err);

/* Fetches a file of the job and checks its SHA-256. Tried until it is here or refused. */
enum rf_code rf_farm_fetch(struct rf_link *link, const struct rf_wire_lease *lease, const char *name,
                           const char *save_path, struct rf_stop *stop, struct rf_err *err);

/* Delivers a file, from `path`, under `name`. Tried until it is there or refused.
 *   RF_ERR_CONFLICT, RF_ERR_NOT_FOUND  the task is not ours any more
 *   RF_ERR_FORMAT                      it arrived damaged time and again */
enum rf_code rf_farm_deliver(struct rf_link *link, const struct rf_wire_lease *lease, const char *name,
                             const char *path, struct rf_stop *stop, struct rf_err *err);
/* The same from memory and only once: for previews, which are worth no second try. */
enum rf_code rf_farm_offer(struct rf_link *link, const struct rf_wire_lease *lease, const char *name,
                           const void *bytes, size_t size_bytes, struct rf_stop *stop, struct rf_err *err);

/* Completes, fails or releases the task. `report` need not name worker or lease. Tried until delivered or refused, but
 * no longer than within_ms (0: for ever).
 *   RF_ERR_CONFLICT, RF_ERR_NOT_FOUND  the task is not ours any more */
enum rf_code rf_farm_report(struct rf_link *link, const struct rf_wire_lease *lease, struct rf_wire_report *report,
                            int64_t within_ms, struct rf_stop *stop, struct rf_err *err);

/* Says goodbye, once. */
enum rf_code rf_farm_leave(struct rf_link *link, struct rf_err *err);

/* The pause before try number n (from 0): doubles from 200 ms to 10 s, of which a random part between half and all. */
int64_t rf_backoff_ms(int n);

#endif
