/* Private to the front (engine.c, ops.c): the engine itself and how a failure is kept.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_FRONT_H
#define RF_ENGINE_FRONT_H

#include "worker/engine/backend.h"

struct rf_engine {
    const struct rf_backend *backend;
    void *self;
    const char *device_name;
    enum rf_dtype act_dtype;
    int64_t budget_bytes, allocated_bytes;
    int n_arenas;
    struct rf_err failure;     /* the first since the last sync; code RF_OK: none */
    struct rf_err scratch_err; /* where a backend writes before it is known to be the first */
};

static inline bool rf_front_failed(const struct rf_engine *e)
{
    return e->failure.code != RF_OK;
}

/* Keeps scratch_err when rc is a failure and the first. */
void rf_front_note(struct rf_engine *e, enum rf_code rc);

#endif
