/* What is in the public Wan2.2 A14B files: names, types and shapes, at full or reduced size. For checkpoints of random
 * values; the loaders know nothing of this page and read everything from the file.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_NET_SHAPES_H
#define RF_NET_SHAPES_H

#include "worker/net/phantom.h"

/* matrix: type of the linear weights; F8_E4M3 brings a scale for each and the marker `scaled_fp8`, as in the files
 * named *_fp8_scaled. rest: of everything else. */
struct rf_shape_types {
    enum rf_dtype matrix, rest;
};

struct rf_dit_shape {
    int64_t dim, ffn_dim, text_dim;
    int n_layers, in_channels;
};
extern const struct rf_dit_shape rf_shape_t2v_14b; /* 5120, 13824, 4096, 40 blocks, 16 channels */

void rf_shape_dit(struct rf_phantom_list *list, const struct rf_dit_shape *s, struct rf_shape_types types);

/* A LoRA of this rank on the ten linears of each block: down, up and alpha, in F32 as the 4-step files are. */
void rf_shape_lora(struct rf_phantom_list *list, const struct rf_dit_shape *s, int64_t rank);

struct rf_umt5_shape {
    int64_t width, hidden, heads, vocabulary; /* inner width: 64 per head */
    int n_layers;
};
extern const struct rf_umt5_shape rf_shape_umt5_xxl; /* 4096, 10240, 64 heads, 256384 words, 24 layers */

/* The tokenizer (tensor `spiece_model`) is the caller's to add. */
void rf_shape_umt5(struct rf_phantom_list *list, const struct rf_umt5_shape *s, struct rf_shape_types types);

/* base: 96 in the public file. */
void rf_shape_vae(struct rf_phantom_list *list, int64_t base, enum rf_dtype dtype);

/* Floating-point operations of one pass, 2 per multiply-add. Norms and the like are not counted, as is usual. */
double rf_shape_dit_flop(const struct rf_dit_shape *s, int64_t n_tokens, int64_t text_len);
double rf_shape_umt5_flop(const struct rf_umt5_shape *s, int64_t n_ids);
/* t, h, w: of the latent. The encoder's counts every frame, none of them known to be still. */
double rf_shape_vae_decode_flop(int64_t base, int64_t t, int64_t h, int64_t w);
double rf_shape_vae_encode_flop(int64_t base, int64_t t, int64_t h, int64_t w);

#endif
