/* What a device must provide. engine.c checks shapes once for every backend, then calls this table.
 *
 * All entries take `self` from open(). Entries may fail; engine.c remembers the first failure. Every entry is required
 * unless the comment beside it says what the front does without it. Tensors arrive checked: shapes agree, required ones
 * are present, aliasing is as engine.h allows.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_BACKEND_H
#define RF_ENGINE_BACKEND_H

#include "worker/engine/engine.h"

struct rf_backend {
    const char *kind; /* "cpu", "cuda" */
    bool is_host;     /* tensors are ordinary memory */

    /* index: which device of this kind. ret_name: static or owned by self. */
    enum rf_code (*open)(const struct rf_engine_config *config, int index, void **ret_self, const char **ret_name,
                         enum rf_dtype *ret_act_dtype, struct rf_err *err);
    void (*close)(void *self);
    int (*count)(void); /* devices of this kind, sick ones too; NULL: not known */

    enum rf_code (*alloc)(void *self, size_t size_bytes, void **ret_data, struct rf_err *err);
    void (*release)(void *self, void *data);
    enum rf_code (*upload)(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err);
    enum rf_code (*download)(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err);
    enum rf_code (*sync)(void *self, struct rf_err *err);

    /* Owned by self. NULL: the device has none. */
    const char *(*pci_address)(void *self);
    /* Bytes that open() took, and that are free on the device now. NULL: 0, and no limit is known. */
    void (*memory)(void *self, int64_t *ret_fixed, int64_t *ret_free);
    /* Memory for fast copies. NULL: ordinary memory. */
    enum rf_code (*host_alloc)(void *self, size_t size_bytes, void **ret_data, struct rf_err *err);
    void (*host_release)(void *self, void *data);
    /* Copies beside the ops, see rf_slot_fill(). All three NULL: a fill is an upload. */
    enum rf_code (*slot_fill)(void *self, int slot, void *dst, const void *src, size_t size_bytes, struct rf_err *err);
    enum rf_code (*slot_wait)(void *self, int slot, struct rf_err *err);
    enum rf_code (*slot_release)(void *self, int slot, struct rf_err *err);

    enum rf_code (*linear)(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
                           const struct rf_linear_opts *opts, struct rf_err *err);
    enum rf_code (*layer_norm)(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                               const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus, float eps,
                               struct rf_err *err);
    enum rf_code (*rms_norm)(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                             const struct rf_tensor *weight, float eps, struct rf_err *err);
    enum rf_code (*rms_rope)(void *self, const struct rf_tensor *x, const struct rf_tensor *weight,
                             const struct rf_tensor *freqs, int n_heads, float eps, struct rf_err *err);
    enum rf_code (*attention)(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                              const struct rf_tensor *k, const struct rf_tensor *v,
                              const struct rf_attention_opts *opts, struct rf_err *err);
    /* The same from 8-bit operands (attention8.h): heads of RF_A8_DIM, no bias, scale > 0, RF_A8_LEAST_KEYS or more.
     * RF_ERR_NOT_FOUND, without a message: not for these; the front computes exactly, as it does when this is NULL. */
    enum rf_code (*attention8)(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                               const struct rf_tensor *k, const struct rf_tensor *v,
                               const struct rf_attention_opts *opts, struct rf_err *err);
    enum rf_code (*gelu_mul)(void *self, const struct rf_tensor *y, const struct rf_tensor *a,
                             const struct rf_tensor *b, struct rf_err *err);
    enum rf_code (*embed)(void *self, const struct rf_tensor *y, const struct rf_tensor *table, const int32_t *ids,
                          int64_t n, struct rf_err *err);
    enum rf_code (*axpby)(void *self, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b,
                          struct rf_err *err);
    enum rf_code (*activate)(void *self, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act,
                             struct rf_err *err);
    enum rf_code (*copy)(void *self, const struct rf_tensor *y, const struct rf_tensor *x, struct rf_err *err);
    enum rf_code (*fill)(void *self, const struct rf_tensor *y, float value, struct rf_err *err);
    enum rf_code (*patchify)(void *self, const struct rf_tensor *tokens, const struct rf_tensor *latent,
                             struct rf_err *err);
    enum rf_code (*unpatchify)(void *self, const struct rf_tensor *latent, const struct rf_tensor *tokens,
                               struct rf_err *err);
    enum rf_code (*conv)(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                         const struct rf_conv_opts *opts, struct rf_err *err);
    enum rf_code (*channel_norm)(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                 const struct rf_tensor *gamma, enum rf_act act, struct rf_err *err);
    enum rf_code (*to_channels_last)(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                     const float *mul, const float *add, struct rf_err *err);
    enum rf_code (*from_channels_last)(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                       const float *mul, const float *add, struct rf_err *err);
};

extern const struct rf_backend rf_backend_cpu;
extern const struct rf_backend rf_backend_cuda; /* a stub whose open() says so when CUDA is not built */

#endif
