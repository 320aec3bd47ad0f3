/* Private to dit.c and dit_open.c: the expert's weights. D dim, F ffn_dim. SPDX-License-Identifier: Apache-2.0 */
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
    struct rf_tensor modulation;      /* [6 * D]: shift, scale, gate of attention, then of the FFN */
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
};

#endif
