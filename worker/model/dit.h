/* The transformer ("expert"): latent, timestep and text features in, velocity out. Wan2.1/2.2 of any width and depth;
 * the configuration is read from the tensors' shapes. Shapes at every arrow: NOTES.md.
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
/* The same, but no weight is on the device yet: rf_dit_place() must come before anything is run. */
enum rf_code rf_dit_open_unplaced(struct rf_engine *e, struct rf_weights *w, struct rf_dit **ret_dit,
                                  struct rf_err *err);
void rf_dit_close(struct rf_dit **dit);

/* What its weights take of the engine's memory: all that is outside the blocks, and the largest block. 0 on an engine
 * that reads the mapped file; blocks cannot be streamed there. */
int64_t rf_dit_globals_bytes(const struct rf_dit *d);
int64_t rf_dit_block_bytes(const struct rf_dit *d);

/* Puts the weights where they belong when n_streamed blocks are in host memory and the others on the device; moves only
 * what is elsewhere. Which blocks: rf_memory_plan_streams(). `vacate` gives back the device memory of blocks that are
 * to be streamed and takes none: call it for all experts before placing any.
 *   RF_ERR_NO_MEMORY  device or host memory is short; placing again goes on from here */
void rf_dit_vacate(struct rf_dit *d, int n_streamed);
enum rf_code rf_dit_place(struct rf_dit *d, int n_streamed, struct rf_err *err);

const struct rf_dit_config *rf_dit_config(const struct rf_dit *d);

/* How much memory a pass may take; the numbers that come out are the same. */
struct rf_dit_layout {
    int64_t ffn_rows;   /* rows of the hidden layer at once; 0: 6144 */
    int64_t query_rows; /* rows of normed input, queries and attention output at once; 0: all */
    bool keep_text;     /* the text's keys and values are kept for all blocks; else made anew in each block of each pass
                           (at the length of a real clip one operation in four hundred) */
};
#define RF_DIT_FAST ((struct rf_dit_layout){.keep_text = true})
#define RF_DIT_SMALL ((struct rf_dit_layout){.ffn_rows = 384, .query_rows = 768})

/* Keys and values of one prompt for one expert. A plain value whose memory is the arena's. */
struct rf_dit_context {
    struct rf_tensor k, v; /* [layers, text_len, dim]; not kept: [1, text_len, dim], of the block at hand */
    struct rf_tensor text; /* not kept: [text_len, dim], what k and v are made from; else absent */
};

/* What rf_dit_context_make() leaves in the arena, and what it takes at its peak. text_len: rows of the features. */
int64_t rf_dit_context_bytes(const struct rf_dit *d, int64_t text_len, struct rf_dit_layout layout);
int64_t rf_dit_context_peak_bytes(const struct rf_dit *d, int64_t text_len, struct rf_dit_layout layout);
/* The same from the configuration alone, for activations of type `act`. */
int64_t rf_dit_context_bytes_for(const struct rf_dit_config *c, enum rf_dtype act, const struct rf_dit_layout *layout,
                                 int64_t text_len);
int64_t rf_dit_context_peak_bytes_for(const struct rf_dit_config *c, enum rf_dtype act,
                                      const struct rf_dit_layout *layout, int64_t text_len);

/* text [text_len, text_dim] F32 (or the engine's activation type): the text encoder's output, zero rows after the
 * prompt; all rows are attended to, the zero ones too. */
struct rf_dit_context rf_dit_context_make(struct rf_dit *d, struct rf_arena *arena, const struct rf_tensor *text,
                                          struct rf_dit_layout layout);

/* Slots through which the streamed blocks of both experts pass, one ahead of the compute. A plain value whose memory
 * is the arena's; zero but for `slot` at first. */
struct rf_dit_stream {
    struct rf_tensor slot[RF_COPY_SLOTS]; /* as large as the largest streamed block */
    struct {
        const struct rf_dit *of;          /* NULL: empty, or released */
        int index;
    } holds[RF_COPY_SLOTS];
    int at;                               /* the slot that the next streamed block is in, or will be */
    const struct rf_dit *next;            /* set before a pass: whose blocks come after its own; NULL: nobody's */
};

/* Everything a forward pass needs besides weights and context, for latents [C, T, h, w]. Made once, used for every
 * step of every expert of the same configuration. A plain value whose memory is the arena's. */
struct rf_dit_scratch {
    int64_t t, hp, wp, n_tokens, ffn_rows, query_rows;
    struct rf_tensor freqs;                        /* [tokens, 64, 2] F32 */
    struct rf_tensor x;                            /* [tokens, dim] F32: the residual stream */
    struct rf_tensor a, q;                         /* [query_rows, dim] */
    struct rf_tensor k, v;                         /* [tokens, dim] */
    struct rf_tensor hidden;                       /* [ffn_rows, ffn_dim] */
    struct rf_tensor patches;                      /* [tokens, 4 * channels] F32 */
    struct rf_tensor freq_row, e_hidden, e, e_act; /* [1, freq_dim], [1, dim] */
    struct rf_tensor e6;                           /* [6, dim] */
    struct rf_tensor modulation;                   /* [layers, 6, dim] F32 */
    struct rf_tensor head_modulation;              /* [2, dim] */
    const struct rf_dit *modulated_for;            /* whose rows `modulation` holds, and for which timestep */
    double modulated_t;
    struct rf_dit_stream *stream;                  /* borrowed, set by the caller when blocks are streamed; else NULL */
};

int64_t rf_dit_scratch_bytes(const struct rf_dit *d, int64_t t, int64_t h, int64_t w, struct rf_dit_layout layout);
int64_t rf_dit_scratch_bytes_for(const struct rf_dit_config *c, enum rf_dtype act, const struct rf_dit_layout *layout,
                                 int64_t t, int64_t h, int64_t w);

/* h and w even.
 *   RF_ERR_NO_MEMORY  no host memory for the rotary table; RF_ERR_DEVICE as ever */
enum rf_code rf_dit_scratch_make(struct rf_dit *d, struct rf_arena *arena, int64_t t, int64_t h, int64_t w,
                                 struct rf_dit_layout layout, struct rf_dit_scratch *ret_scratch, struct rf_err *err);

/* One pass.
 *   latent    [in_channels, T, h, w] F32
 *   timestep  1000 * sigma, not rounded
 *   velocity  [out_channels, T, h, w] F32; overwritten
 * Failures stick to the engine. */
void rf_dit_forward(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_context *context,
                    const struct rf_tensor *latent, double timestep, const struct rf_tensor *velocity);

#endif
