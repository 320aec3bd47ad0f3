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
    bool separate_memory, attention8; /* attention8: in 8 bits where it pays */
    int64_t budget_bytes, fixed_bytes, allocated_bytes, peak_bytes; /* allocated: by arenas; peak: with `fixed` */
    int n_arenas;
    struct rf_err failure;     /* the first since the last sync; code RF_OK: none */
    struct rf_err scratch_err; /* where a backend writes before it is known to be the first */
};

static inline bool rf_front_failed(const struct rf_engine *e)
{
    return e->failure.code != RF_OK;
}

/* rf_engine_open() for a backend that has no name there: what tests put in the place of a device. */
enum rf_code rf_front_open(const struct rf_backend *b, int index, const struct rf_engine_config *config,
                           struct rf_engine **ret_engine, struct rf_err *err);

/* Keeps scratch_err when rc is a failure and the first. */
void rf_front_note(struct rf_engine *e, enum rf_code rc);

#endif
