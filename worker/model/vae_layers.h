/* Private to vae.c and the streams: the layers as read from the file.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_VAE_LAYERS_H
#define RF_MODEL_VAE_LAYERS_H

#include "worker/model/vae.h"
#include "worker/model/weights.h"

#define RF_VAE_MAX_LAYERS 40
#define RF_VAE_COLOURS 3

enum rf_vae_kind {
    RF_VAE_POINT, RF_VAE_CONV, RF_VAE_HEAD, RF_VAE_RES, RF_VAE_ATTENTION, RF_VAE_DOWN, RF_VAE_UP_TIME, RF_VAE_UP,
    RF_VAE_KIND_COUNT
};

struct rf_vae_layer {
    enum rf_vae_kind kind;
    int64_t in, out;             /* channels */
    bool time;                   /* the number of frames changes: UP_TIME, and DOWN when it halves them too */
    struct rf_tensor gamma[2];   /* [in], [out]; of CONV and HEAD: the norm before it, if any */
    struct rf_conv conv[2];      /* RES: both; ATTENTION: to_qkv [3 in, in] and proj; others: the spatial one */
    struct rf_conv shortcut;     /* RES with in != out: 1x1x1 */
    struct rf_conv time_conv[3]; /* DOWN: one; UP_TIME: the earlier and the later frame of each pair; HEAD: the part that
                                    sees the frame two before, one before, and the frame itself */
};

struct rf_vae_network {
    struct rf_vae_layer layer[RF_VAE_MAX_LAYERS];
    int n_layers;
};

struct rf_vae {
    struct rf_engine *engine;
    struct rf_weights *weights;
    struct rf_vae_network encoder, decoder;
};

/* Output channels [first, first + n) of a convolution, as a view. */
static inline struct rf_conv rf_vae_conv_slice(const struct rf_conv *conv, int64_t first, int64_t n)
{
    return (struct rf_conv){rf_tensor_slice(&conv->w, first, n), rf_tensor_slice(&conv->b, first, n)};
}

#endif
