/* Private to dit*.c: the expert's weights and where they lie. D dim, F ffn_dim. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_DIT_PRIVATE_H
#define RF_MODEL_DIT_PRIVATE_H

#include "worker/model/dit.h"

#define RF_DIT_EPS 1e-6f
#define RF_DIT_MAX_FREQ_DIM 4096

struct rf_dit_attention {
    struct rf_linear q, k, v, o;      /* [D, D] */
    struct rf_tensor norm_q, norm_k;  /* [D] */
};

struct rf_dit_block {
    struct rf_tensor modulation;      /* [6 * D]: shift, scale, gate of attention, then of the FFN; always on the
                                         device, because the rows of all blocks are made at once */
    struct rf_dit_attention self_attn, cross_attn;
    struct rf_tensor norm3, norm3_b;  /* [D]: the affine norm before cross-attention */
    struct rf_linear ffn[2];          /* [F, D], [D, F] */
};

struct rf_dit {
    struct rf_engine *e;
    struct rf_dit_config config;
    struct rf_linear patch_embedding;   /* [D, C_in * 4] */
    struct rf_linear text_embedding[2]; /* [D, text_dim], [D, D] */
    struct rf_linear time_embedding[2]; /* [D, freq_dim], [D, D] */
    struct rf_linear time_projection;   /* [6 * D, D] */
    struct rf_linear head;              /* [C_out * 4, D] */
    struct rf_tensor head_modulation;   /* [2 * D] */
    struct rf_dit_block *blocks;

    struct rf_weights *weights;         /* borrowed */
    bool mapped;                        /* all weights are where the file is mapped; no pieces */
    struct rf_dit_piece *pieces;        /* [n_layers + 1]; see dit_place.c */
    int64_t block_bytes;                /* of the largest block */
    int n_streamed;
};

/* dit_open.c: fetch from `weights` to where rf_weights_place() says. */
enum rf_code rf_dit_load_globals(struct rf_dit *d, struct rf_err *err);
enum rf_code rf_dit_load_block(struct rf_dit *d, int index, struct rf_err *err);

/* dit_scratch.c: keys and values of the text, for one block. */
void rf_dit_text_kv(struct rf_dit *d, const struct rf_dit_block *b, const struct rf_tensor *text,
                    const struct rf_tensor *k, const struct rf_tensor *v);

/* dit_place.c */
enum rf_code rf_dit_measure(struct rf_dit *d, struct rf_err *err);
void rf_dit_unplace(struct rf_dit *d);
/* Around the ops of a pass and of a block. begin: the block, or `room` filled with it as it lies in its slot. */
void rf_dit_pass_begin(const struct rf_dit *d, struct rf_dit_stream *stream);
const struct rf_dit_block *rf_dit_block_begin(const struct rf_dit *d, struct rf_dit_stream *stream, int index,
                                              struct rf_dit_block *room);
void rf_dit_block_end(const struct rf_dit *d, struct rf_dit_stream *stream, int index);

#endif
