/* Wrong tokens counted by address, in a table that cannot grow: who comes too often is answered 429 for a while.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STRIKES_H
#define RF_SERVER_STRIKES_H

#include "schema/base.h"

#define RF_STRIKE_WINDOW_MS 60000

struct rf_strikes;

struct rf_strikes *rf_strikes_create(void);
void rf_strikes_destroy(struct rf_strikes **strikes);

/* Counts one for `address` (numbers; of IPv6 the first 64 bits) and returns how many it has within the last minute. Any
 * thread. An address pushed out by many others starts anew: an attacker with that many needs no second try from one. */
int rf_strikes_add(struct rf_strikes *strikes, const char *address, int64_t now_ms);

#endif
