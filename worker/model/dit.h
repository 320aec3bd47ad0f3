/* The transformer ("expert"): latent, timestep and text features in, velocity out. Wan2.1/2.2 of any width and depth; the
 * configuration is read from the tensors' shapes. Shapes at every arrow: NOTES.md.
 *
 * What does not change is computed once: the text path and the cross-attention's keys and values once per prompt and
 * expert (struct rf_dit_context), the modulation rows once per timestep, the rotary table once per latent size. All
 * memory of a forward pass comes from an arena that the caller sized beforehand.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_DIT_H
#define RF_MODEL_DIT_H

#include "worker/model/weights.h"

struct rf_dit_config {
    int64_t dim, ffn_dim, text_dim, freq_dim;
    int n_heads, n_layers;         /* head_dim is 128 in the whole family */
    int in_channels, out_channels; /* 16 or 36 in; with 36: noise 16, mask 4, image 16 */
};

struct rf_dit;

/* Reads configuration and weights. LoRA files must have been added to `w` before; keys of theirs that match nothing are
 * an error here. `w` is borrowed and must live as long as the expert.
 *   RF_ERR_FORMAT  not a transformer of this family, or a tensor is missing or has the wrong shape; named */
enum rf_code rf_dit_open(struct rf_engine *e, struct rf_weights *w, struct rf_dit **ret_dit, struct rf_err *err);
void rf_dit_close(struct rf_dit **dit);

const struct rf_dit_config *rf_dit_config(const struct rf_dit *d);

/* How much memory a pass may take. SMALL: keys and values of the text are made anew in every layer of every pass (at the
 * length of a real clip one operation in four hundred), and the hidden layer in the fewest rows. The same numbers. */
enum rf_dit_plan { RF_DIT_FAST, RF_DIT_SMALL };

/* Keys and values of one prompt for one expert. A plain value whose memory is the arena's. */
struct rf_dit_context {
    struct rf_tensor k, v; /* [layers, text_len, dim]; SMALL: [1, text_len, dim], of the layer at hand */
    struct rf_tensor text; /* SMALL: [text_len, dim], what k and v are made from; absent otherwise */
};

/* What rf_dit_context_make() leaves in the arena, and what it takes at its peak. text_len: rows of the features. */
int64_t rf_dit_context_bytes(const struct rf_dit *d, int64_t text_len, enum rf_dit_plan plan);
int64_t rf_dit_context_peak_bytes(const struct rf_dit *d, int64_t text_len, enum rf_dit_plan plan);

/* text [text_len, text_dim] F32 (or the engine's activation type): the text encoder's output, zero rows after the prompt;
 * all rows are attended to, the zero ones too. */
struct rf_dit_context rf_dit_context_make(struct rf_dit *d, struct rf_arena *arena, const struct rf_tensor *text,
                                          enum rf_dit_plan plan);

/* Everything a forward pass needs besides weights and context, for latents [C, T, h, w]. Made once, used for every step of
 * every expert of the same configuration. A plain value whose memory is the arena's. */
struct rf_dit_scratch {
    int64_t t, hp, wp, n_tokens, ffn_rows;
    struct rf_tensor freqs;                        /* [tokens, 64, 2] F32 */
    struct rf_tensor x;                            /* [tokens, dim] F32: the residual stream */
    struct rf_tensor a, q, k, v;                   /* [tokens, dim] */
    struct rf_tensor hidden;                       /* [ffn_rows, ffn_dim] */
    struct rf_tensor patches;                      /* [tokens, 4 * channels] F32 */
    struct rf_tensor freq_row, e_hidden, e, e_act; /* [1, freq_dim], [1, dim] */
    struct rf_tensor e6;                           /* [6, dim] */
    struct rf_tensor modulation;                   /* [layers, 6, dim] F32 */
    struct rf_tensor head_modulation;              /* [2, dim] */
    const struct rf_dit *modulated_for;            /* whose rows `modulation` holds, and for which timestep */
    double modulated_t;
};

int64_t rf_dit_scratch_bytes(const struct rf_dit *d, int64_t t, int64_t h, int64_t w, enum rf_dit_plan plan);

/* h and w even.
 *   RF_ERR_NO_MEMORY  no host memory for the rotary table; RF_ERR_DEVICE as ever */
enum rf_code rf_dit_scratch_make(struct rf_dit *d, struct rf_arena *arena, int64_t t, int64_t h, int64_t w,
                                 enum rf_dit_plan plan, struct rf_dit_scratch *ret_scratch, struct rf_err *err);

/* One pass.
 *   latent    [in_channels, T, h, w] F32
 *   timestep  1000 * sigma, not rounded
 *   velocity  [out_channels, T, h, w] F32; overwritten
 * Failures stick to the engine. */
void rf_dit_forward(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_context *context,
                    const struct rf_tensor *latent, double timestep, const struct rf_tensor *velocity);

#endif
