/* The table of the CUDA backend, and the ops that are one kernel each.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

_Static_assert((int)RF_KT_F32 == RF_F32 && (int)RF_KT_F16 == RF_F16 && (int)RF_KT_BF16 == RF_BF16 &&
               (int)RF_KT_E4M3 == RF_F8_E4M3 && (int)RF_KT_E5M2 == RF_F8_E5M2, "kernels.h numbers the types alike");
_Static_assert((int)RF_KA_NONE == RF_ACT_NONE && (int)RF_KA_GELU_TANH == RF_ACT_GELU_TANH &&
               (int)RF_KA_SILU == RF_ACT_SILU && RF_ACT_COUNT == 3, "and the activations");

/* Launches on the op's device; `call` names the stream through `c`. */
#define LAUNCH(name, call) \
    do { \
        cudaError_t status = cudaSetDevice(c->index); \
        return rf_cuda_check(c, status == cudaSuccess ? (call) : status, (name), err); \
    } while (0)

static int64_t last_dim(const struct rf_tensor *t)
{
    return t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1;
}

static int64_t n_rows(const struct rf_tensor *t)
{
    return last_dim(t) > 0 ? rf_tensor_elements(t) / last_dim(t) : 0;
}

static enum rf_code layer_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                               const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus, float eps,
                               struct rf_err *err)
{
    struct rf_cuda *c = self;
    struct rf_norm_args a = {.y = y->data, .x = x->data, .y_type = (int)y->dtype, .x_type = (int)x->dtype,
                             .scale = scale ? scale->data : NULL, .shift = shift ? shift->data : NULL,
                             .subtract_mean = true, .one_plus = one_plus, .eps = eps, .rows = n_rows(x),
                             .dim = last_dim(x)};
    LAUNCH("layer norm", rf_launch_norm(c->stream, &a));
}

static enum rf_code rms_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                             const struct rf_tensor *weight, float eps, struct rf_err *err)
{
    struct rf_cuda *c = self;
    struct rf_norm_args a = {.y = y->data, .x = x->data, .y_type = (int)y->dtype, .x_type = (int)x->dtype,
                             .scale = weight->data, .eps = eps, .rows = n_rows(x), .dim = last_dim(x)};
    LAUNCH("RMS norm", rf_launch_norm(c->stream, &a));
}

static enum rf_code rms_rope(void *self, const struct rf_tensor *x, const struct rf_tensor *weight,
                             const struct rf_tensor *freqs, int n_heads, float eps, struct rf_err *err)
{
    struct rf_cuda *c = self;
    struct rf_norm_args a = {.y = x->data, .x = x->data, .y_type = (int)x->dtype, .x_type = (int)x->dtype,
                             .scale = weight->data, .freqs = freqs ? freqs->data : NULL, .eps = eps,
                             .rows = n_rows(x), .dim = last_dim(x), .head_dim = last_dim(x) / n_heads};
    LAUNCH("RMS norm and rotation", rf_launch_norm(c->stream, &a));
}

static enum rf_code gelu_mul(void *self, const struct rf_tensor *y, const struct rf_tensor *a,
                             const struct rf_tensor *b, struct rf_err *err)
{
    struct rf_cuda *c = self;
    LAUNCH("gated GELU", rf_launch_gelu_mul(c->stream, y->data, (int)y->dtype, a->data, (int)a->dtype, b->data,
                                            (int)b->dtype, rf_tensor_elements(y)));
}

static enum rf_code embed(void *self, const struct rf_tensor *y, const struct rf_tensor *table, const int32_t *ids,
                          int64_t n, struct rf_err *err)
{
    struct rf_cuda *c = self;
    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    int32_t *on_device = rf_cuda_take(&scratch, (size_t)n * sizeof *ids);
    if (on_device == NULL)
        return rf_fail(err, RF_ERR_LIMIT, "%lld token numbers at once", (long long)n);
    enum rf_code rc = rf_cuda_upload(c, on_device, ids, (size_t)n * sizeof *ids, err);
    if (rc != RF_OK)
        return rc;
    LAUNCH("embedding", rf_launch_embed(c->stream, y->data, (int)y->dtype, table->data, (int)table->dtype, on_device,
                                        n, table->shape[1]));
}

static enum rf_code axpby(void *self, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b,
                          struct rf_err *err)
{
    struct rf_cuda *c = self;
    LAUNCH("sum", rf_launch_axpby(c->stream, y->data, a, x->data, b, rf_tensor_elements(y)));
}

static enum rf_code activate(void *self, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act,
                             struct rf_err *err)
{
    struct rf_cuda *c = self;
    LAUNCH("activation", rf_launch_activate(c->stream, y->data, (int)y->dtype, x->data, (int)x->dtype, (int)act,
                                            rf_tensor_elements(y)));
}

static enum rf_code copy(void *self, const struct rf_tensor *y, const struct rf_tensor *x, struct rf_err *err)
{
    struct rf_cuda *c = self;
    if (x->dtype == y->dtype)
        LAUNCH("copy", cudaMemcpyAsync(y->data, x->data, rf_tensor_bytes(y), cudaMemcpyDeviceToDevice, c->stream));
    LAUNCH("conversion", rf_launch_convert(c->stream, y->data, (int)y->dtype, x->data, (int)x->dtype,
                                           rf_tensor_elements(y)));
}

static enum rf_code fill(void *self, const struct rf_tensor *y, float value, struct rf_err *err)
{
    struct rf_cuda *c = self;
    LAUNCH("fill", rf_launch_fill(c->stream, y->data, (int)y->dtype, value, rf_tensor_elements(y)));
}

static enum rf_code patch(struct rf_cuda *c, const struct rf_tensor *tokens, const struct rf_tensor *latent,
                          bool to_tokens, struct rf_err *err)
{
    const int64_t *s = latent->shape;
    LAUNCH("patches", rf_launch_patch(c->stream, tokens->data, (int)tokens->dtype, latent->data, (int)latent->dtype,
                                      s[0], s[1], s[2] / 2, s[3] / 2, to_tokens));
}

static enum rf_code patchify(void *self, const struct rf_tensor *tokens, const struct rf_tensor *latent,
                             struct rf_err *err)
{
    return patch(self, tokens, latent, true, err);
}

static enum rf_code unpatchify(void *self, const struct rf_tensor *latent, const struct rf_tensor *tokens,
                               struct rf_err *err)
{
    return patch(self, tokens, latent, false, err);
}

static enum rf_code channel_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                 const struct rf_tensor *gamma, enum rf_act act, struct rf_err *err)
{
    struct rf_cuda *c = self;
    LAUNCH("channel norm", rf_launch_channel_norm(c->stream, y->data, (int)y->dtype, x->data, (int)x->dtype,
                                                  gamma->data, (int)act, n_rows(x), last_dim(x)));
}

static enum rf_code change_layout(struct rf_cuda *c, const struct rf_tensor *last, const struct rf_tensor *first,
                                  const float *mul, const float *add, bool to_last, struct rf_err *err)
{
    const int64_t *s = last->shape;
    size_t bytes = (size_t)s[3] * sizeof(float);
    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    float *on_device[2] = {NULL, NULL};
    const float *on_host[2] = {mul, add};
    for (int i = 0; i < 2; i++) {
        if (on_host[i] == NULL)
            continue;
        on_device[i] = rf_cuda_take(&scratch, bytes);
        if (on_device[i] == NULL)
            return rf_fail(err, RF_ERR_LIMIT, "%lld channels", (long long)s[3]);
        enum rf_code rc = rf_cuda_upload(c, on_device[i], on_host[i], bytes, err);
        if (rc != RF_OK)
            return rc;
    }
    LAUNCH("layout", rf_launch_channels(c->stream, last->data, (int)last->dtype, first->data, (int)first->dtype,
                                        on_device[0], on_device[1], s[3], s[0], s[1] * s[2], to_last));
}

static enum rf_code to_channels_last(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                     const float *mul, const float *add, struct rf_err *err)
{
    return change_layout(self, y, x, mul, add, true, err);
}

static enum rf_code from_channels_last(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                       const float *mul, const float *add, struct rf_err *err)
{
    return change_layout(self, x, y, mul, add, false, err);
}

const struct rf_backend rf_backend_cuda = {
    .kind = "cuda",
    .is_host = false,
    .open = rf_cuda_open,
    .close = rf_cuda_close,
    .count = rf_cuda_count,
    .alloc = rf_cuda_alloc,
    .release = rf_cuda_release,
    .upload = rf_cuda_upload,
    .download = rf_cuda_download,
    .sync = rf_cuda_sync,
    .pci_address = rf_cuda_pci_address,
    .memory = rf_cuda_memory,
    .host_alloc = rf_cuda_host_alloc,
    .host_release = rf_cuda_host_release,
    .slot_fill = rf_cuda_slot_fill,
    .slot_wait = rf_cuda_slot_wait,
    .slot_release = rf_cuda_slot_release,
    .linear = rf_cuda_linear,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .rms_rope = rms_rope,
    .attention = rf_cuda_attention,
    .attention8 = rf_cuda_attention8,
    .gelu_mul = gelu_mul,
    .embed = embed,
    .axpby = axpby,
    .activate = activate,
    .copy = copy,
    .fill = fill,
    .patchify = patchify,
    .unpatchify = unpatchify,
    .conv = rf_cuda_conv,
    .channel_norm = channel_norm,
    .to_channels_last = to_channels_last,
    .from_channels_last = from_channels_last,
};
