/* Which creates were sent a moment ago, so that a stock client's silent second send joins the first instead of costing a
 * GPU twice. Stock SDKs repeat a POST after a lost answer with the same content and X-Stainless-Retry-Count above 0; they
 * send no idempotency key. Memory only: a server that died in between has forgotten, and callers who must survive that
 * send an Idempotency-Key, which the store keeps.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_RECENT_H
#define RF_SERVER_RECENT_H

#include "schema/wire.h"

#define RF_FINGERPRINT_BYTES 32
#define RF_RECENT_MS (15 * 60 * 1000) /* the SDKs give up on an answer after ten minutes */

struct rf_recent;

struct rf_recent *rf_recent_create(void);
void rf_recent_destroy(struct rf_recent **recent);

/* Remembers that `fingerprint` (caller and content) became job `id`. The oldest of a few thousand is forgotten. */
void rf_recent_add(struct rf_recent *recent, const uint8_t *fingerprint, const char *id, int64_t now_ms);
/* The newest job of this fingerprint within RF_RECENT_MS. */
bool rf_recent_find(struct rf_recent *recent, const uint8_t *fingerprint, int64_t now_ms, char ret_id[RF_JOB_ID_SIZE]);

#endif
