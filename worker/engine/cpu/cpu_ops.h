/* What the files of the CPU backend share: the device's state and one function per table entry.
 *
 * Entries take `self`, which is a struct rf_cpu. Tensors arrive checked (engine.c); activations are F32.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CPU_CPU_OPS_H
#define RF_ENGINE_CPU_CPU_OPS_H

#include "worker/engine/backend.h"
#include "worker/engine/cpu/gemm.h"
#include "worker/engine/cpu/kernels.h"
#include "worker/engine/cpu/pool.h"

/* Scratch is fixed at open: ops choose their tiles to fit, so that no op ever allocates. */
#define RF_CPU_SCRATCH_BYTES ((size_t)8 << 20) /* per thread: dequantised weights, im2col rows, scores */
#define RF_CPU_SHARED_BYTES ((size_t)8 << 20)  /* one, for what all threads of an op read */

struct rf_cpu {
    struct rf_pool *pool;
    const struct rf_kernels *kernels; /* inner loops for this machine's vectors */
    char *scratch;                    /* n_threads * RF_CPU_SCRATCH_BYTES, 64-byte aligned */
    void *shared;                     /* RF_CPU_SHARED_BYTES, 64-byte aligned */
    char name[128];
};

/* The private scratch of a pool worker, RF_CPU_SCRATCH_BYTES. */
static inline void *rf_cpu_scratch(const struct rf_cpu *cpu, int worker)
{
    return cpu->scratch + (size_t)worker * RF_CPU_SCRATCH_BYTES;
}

/* linear.c */
enum rf_code rf_cpu_linear(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
                           const struct rf_linear_opts *opts, struct rf_err *err);

/* attention.c */
enum rf_code rf_cpu_attention(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                              const struct rf_tensor *k, const struct rf_tensor *v,
                              const struct rf_attention_opts *opts, struct rf_err *err);

/* attention8.c */
enum rf_code rf_cpu_attention8(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                               const struct rf_tensor *k, const struct rf_tensor *v,
                               const struct rf_attention_opts *opts, struct rf_err *err);

/* norm.c */
enum rf_code rf_cpu_layer_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                               const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus, float eps,
                               struct rf_err *err);
enum rf_code rf_cpu_rms_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                             const struct rf_tensor *weight, float eps, struct rf_err *err);
enum rf_code rf_cpu_rms_rope(void *self, const struct rf_tensor *x, const struct rf_tensor *weight,
                             const struct rf_tensor *freqs, int n_heads, float eps, struct rf_err *err);

/* elementwise.c */
enum rf_code rf_cpu_gelu_mul(void *self, const struct rf_tensor *y, const struct rf_tensor *a,
                             const struct rf_tensor *b, struct rf_err *err);
enum rf_code rf_cpu_embed(void *self, const struct rf_tensor *y, const struct rf_tensor *table, const int32_t *ids,
                          int64_t n, struct rf_err *err);
enum rf_code rf_cpu_axpby(void *self, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b,
                          struct rf_err *err);
enum rf_code rf_cpu_activate(void *self, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act,
                             struct rf_err *err);
enum rf_code rf_cpu_copy(void *self, const struct rf_tensor *y, const struct rf_tensor *x, struct rf_err *err);
enum rf_code rf_cpu_fill(void *self, const struct rf_tensor *y, float value, struct rf_err *err);
enum rf_code rf_cpu_patchify(void *self, const struct rf_tensor *tokens, const struct rf_tensor *latent,
                             struct rf_err *err);
enum rf_code rf_cpu_unpatchify(void *self, const struct rf_tensor *latent, const struct rf_tensor *tokens,
                               struct rf_err *err);

/* conv.c */
enum rf_code rf_cpu_conv(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                         const struct rf_conv_opts *opts, struct rf_err *err);

/* vae_ops.c */
enum rf_code rf_cpu_channel_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                 const struct rf_tensor *gamma, enum rf_act act, struct rf_err *err);
enum rf_code rf_cpu_to_channels_last(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                     const float *mul, const float *add, struct rf_err *err);
enum rf_code rf_cpu_from_channels_last(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                       const float *mul, const float *add, struct rf_err *err);

#endif
