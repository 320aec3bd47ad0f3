/* Which addresses a webhook may go to: a person's request must not make the server talk to its own neighbours.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_WEBHOOK_ADDRESS_H
#define RF_SERVER_WEBHOOK_ADDRESS_H

#include "schema/base.h"

struct sockaddr;

/* True for addresses of the public internet: not loopback, private, link-local, shared (100.64/10), multicast, reserved or
 * documentation ones, nor IPv6 forms that carry one of those inside (mapped, NAT64, 6to4, Teredo). */
bool rf_webhook_address_is_public(const struct sockaddr *address);

#endif
