/* A call that changes something: it posts an op to the store, sleeps until that is on disk, and goes on.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_CALL_H
#define RF_SERVER_STORE_CALL_H

#include "server/http.h"
#include "server/store.h"

/* Suspends the call and posts `op` (kind and union filled; it lives until the call ends). `then` runs on the call's thread
 * after the commit. */
void rf_call_post(struct rf_call *c, struct rf_op *op, void (*then)(struct rf_call *c));

/* The same for a call that is suspended already: from an offload thread or a done. */
void rf_call_post_suspended(struct rf_call *c, struct rf_op *op, void (*then)(struct rf_call *c));

/* Suspends the call and runs work(c) on an offload thread; work ends with rf_call_resume() or rf_call_post_suspended(). */
void rf_call_offload(struct rf_call *c, void (*work)(void *call));

/* For calls that need an op and nothing else: a zeroed op that goes with the call as its c->state. */
struct rf_op *rf_call_new_op(struct rf_call *c, enum rf_op_kind kind);

/* True when the op went well; otherwise its error is the answer. */
bool rf_call_op_ok(struct rf_call *c, const struct rf_op *op);

/* Whether the body is said to be JSON, or not said to be anything. */
bool rf_call_is_json(struct rf_call *c);
/* Parses the whole body as a JSON object; an error is answered and NULL returned. Empty body: an empty object when allowed.
 * cJSON_Delete() the result. */
struct cJSON *rf_call_json(struct rf_call *c, size_t max_bytes, bool may_be_empty);

#endif
