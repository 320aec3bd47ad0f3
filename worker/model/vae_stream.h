/* Private to vae_stream.c and vae_run.c: a stream, its memory, and what runs one layer of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_VAE_STREAM_H
#define RF_MODEL_VAE_STREAM_H

#include "worker/model/vae_layers.h"

#define RF_VAE_HISTORY 2 /* input frames that a convolution over three frames remembers */
#define RF_VAE_MAX_STATES (2 * RF_VAE_MAX_LAYERS)

/* A and B, ONE_A and ONE_B are the pairs that layers read and write in turn; a slot's partner is slot ^ 1. SLICED: what
 * came of the frames that took the sliced layers one by one. */
enum rf_vae_slot {
    RF_VAE_SLOT_A, RF_VAE_SLOT_B, RF_VAE_SLOT_ONE_A, RF_VAE_SLOT_ONE_B, RF_VAE_SLOT_INPUT, RF_VAE_SLOT_SLICED,
    RF_VAE_SLOT_COUNT
};

#define RF_VAE_MAX_SPARES 8 /* sizes of frame */

/* What a convolution saw last, older first, each in room of its own. */
struct rf_vae_history {
    struct rf_tensor frame[RF_VAE_HISTORY];
    int n; /* frames remembered: RF_VAE_HISTORY, or 1 */
};

struct rf_vae_stream {
    struct rf_engine *engine;
    const struct rf_vae_network *net;
    bool is_encoder, planning, started; /* started: the first frame has passed */
    enum rf_dtype act;
    struct rf_arena *arena;
    int64_t slot_bytes[RF_VAE_SLOT_COUNT];
    void *slot_data[RF_VAE_SLOT_COUNT];
    enum rf_vae_slot current;           /* of a pair: where the stream's frames are; in slices of ONE_A and ONE_B */
    int slice_first, slice_end;         /* layers that take one frame at a time; none when equal */
    enum rf_vae_slot idle;              /* of A and B: the one in which nothing lies while slices run */
    struct rf_vae_history state[RF_VAE_MAX_STATES];
    int n_states, next_state, layer_state[RF_VAE_MAX_LAYERS];
    struct rf_tensor spare[RF_VAE_MAX_SPARES]; /* one frame of each size that comes singly */
    int n_spares;
    /* Encoder: the last output frame of each DOWN layer, given out again while nothing moves, and its slot. */
    struct rf_tensor memo[RF_VAE_MAX_LAYERS];
    enum rf_vae_slot memo_slot[RF_VAE_MAX_LAYERS];
};

/* What lies in a slot, as a tensor of this shape; while planning, the slot grows to hold it. */
struct rf_tensor rf_vae_in_slot(struct rf_vae_stream *s, enum rf_vae_slot slot, enum rf_dtype dtype, int64_t n,
                                int64_t h, int64_t w, int64_t c);

/* Frames [first, first + n) of x, which while planning has a shape only. */
struct rf_tensor rf_vae_frames(const struct rf_tensor *x, int64_t first, int64_t n);

/* y = x; nothing while planning. */
void rf_vae_copy_frames(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *x);

/* The frames that layer `index` makes of x, in the stream's next slot, or in x's own. */
struct rf_tensor rf_vae_run_layer(struct rf_vae_stream *s, int index, struct rf_tensor x);

#endif
