/* Tells webhooks that a job has ended. What is to be told is in the database since the end itself (store_job.c), so neither
 * a crash nor a receiver that is away loses it: it is sent again, with growing pauses, for about a day. At least once, in
 * no order; the receiver knows repeats by `webhook-id`.
 *
 * The only file that calls out, and the only one of the server that knows libcurl. It connects where the requester's
 * address resolves to at that moment and looks at the address of the very socket, so a name that changes between check
 * and use (DNS rebinding) gains nothing; it follows no redirect, heeds no proxy, reads 64 KiB of an answer at most.
 * One thread, RF_WEBHOOKS_AT_ONCE transfers, two to one host.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_WEBHOOK_H
#define RF_SERVER_WEBHOOK_H

#include "server/store.h"

#include <stdatomic.h>

#define RF_WEBHOOKS_AT_ONCE 8
#define RF_WEBHOOK_ATTEMPTS 14     /* pauses of 10 s, 20 s, … 2^12 * 10 s: 22.8 hours in all */

struct rf_webhooks;
struct rf_webhook_options {
    struct rf_store *store;
    const char *db_path;           /* where the secret is made when there is none; borrowed for the call */
    int retry_ms;                  /* the first pause */
    bool allow_private;
};
struct rf_webhook_stats {
    atomic_llong delivered, retried, given_up;
};

struct rf_webhooks *rf_webhooks_create(const struct rf_webhook_options *options);
/* Within a second; what was on its way is sent again by the next server. Before the store goes. */
void rf_webhooks_destroy(struct rf_webhooks **webhooks);
const struct rf_webhook_stats *rf_webhooks_stats(const struct rf_webhooks *webhooks);

#endif
