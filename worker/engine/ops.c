/* The ops of the front: each checks the shapes, types and aliases that engine.h promises, then calls the backend.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/attention8.h"
#include "worker/engine/dtype.h"
#include "worker/engine/front.h"

#include <math.h>

static bool present(const struct rf_tensor *t)
{
    return t != NULL && t->data != NULL;
}

static int64_t last_dim(const struct rf_tensor *t)
{
    return t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1;
}

static int64_t n_rows(const struct rf_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

/* An activation: F32 or what the backend computes in. */
static bool is_act(const struct rf_engine *e, const struct rf_tensor *t)
{
    return t->dtype == RF_F32 || t->dtype == e->act_dtype;
}

static bool is_f32_vector(const struct rf_tensor *t, int64_t n)
{
    return t->dtype == RF_F32 && rf_tensor_elements(t) == n;
}

static bool same_rows(const struct rf_tensor *a, const struct rf_tensor *b)
{
    return n_rows(a) == n_rows(b) && last_dim(a) == last_dim(b);
}

/* Apart in memory: neither begins inside the other. */
static bool apart(const struct rf_tensor *a, const struct rf_tensor *b)
{
    const char *pa = a->data, *pb = b->data;
    return pa + rf_tensor_bytes(a) <= pb || pb + rf_tensor_bytes(b) <= pa;
}

/* Apart, or exactly the same memory. */
static bool apart_or_same(const struct rf_tensor *a, const struct rf_tensor *b)
{
    return apart(a, b) || (a->data == b->data && a->dtype == b->dtype);
}

#define RUN(e, entry, ...) \
    do { \
        if (!rf_front_failed(e)) \
            rf_front_note((e), (e)->backend->entry((e)->self, __VA_ARGS__, &(e)->scratch_err)); \
    } while (0)

/* ---- transformer and text encoder ---- */

void rf_linear(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
               const struct rf_linear_opts *opts)
{
    static const struct rf_linear_opts plain = {0};
    if (opts == NULL)
        opts = &plain;
    RF_ASSERT(w->w.n_dims == 2 && rf_dtype_is_float(w->w.dtype));
    int64_t out = w->w.shape[0], in = w->w.shape[1];
    RF_ASSERT(is_act(e, x) && is_act(e, y) && apart(x, y));
    RF_ASSERT(last_dim(x) == in && last_dim(y) == out && n_rows(x) == n_rows(y));
    RF_ASSERT(!present(&w->b) || is_f32_vector(&w->b, out));
    RF_ASSERT(!present(&w->scale) || is_f32_vector(&w->scale, 1) || is_f32_vector(&w->scale, out));
    RF_ASSERT((unsigned)opts->act < RF_ACT_COUNT);
    if (opts->add)
        RF_ASSERT(y->dtype == RF_F32 && opts->act == RF_ACT_NONE);
    else
        RF_ASSERT(opts->gate == NULL);
    RF_ASSERT(opts->gate == NULL || is_f32_vector(opts->gate, out));
    RF_ASSERT(w->n_loras >= 0 && w->n_loras <= RF_MAX_LORAS);
    for (int i = 0; i < w->n_loras; i++) {
        const struct rf_tensor *down = &w->lora[i].down, *up = &w->lora[i].up;
        RF_ASSERT(rf_dtype_is_float(down->dtype) && rf_dtype_is_float(up->dtype) && down->n_dims == 2 &&
                  up->n_dims == 2 && down->shape[1] == in && up->shape[0] == out && down->shape[0] == up->shape[1]);
    }
    if (rf_tensor_elements(y) == 0)
        return;
    RUN(e, linear, y, x, w, opts);
}

void rf_layer_norm(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                   const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus, float eps)
{
    RF_ASSERT(is_act(e, x) && is_act(e, y) && same_rows(x, y) && apart_or_same(x, y));
    RF_ASSERT(present(scale) == present(shift));
    if (present(scale))
        RF_ASSERT(is_f32_vector(scale, last_dim(x)) && is_f32_vector(shift, last_dim(x)));
    RUN(e, layer_norm, y, x, present(scale) ? scale : NULL, present(shift) ? shift : NULL, one_plus, eps);
}

void rf_rms_norm(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                 const struct rf_tensor *weight, float eps)
{
    RF_ASSERT(is_act(e, x) && is_act(e, y) && same_rows(x, y) && apart_or_same(x, y));
    RF_ASSERT(present(weight) && is_f32_vector(weight, last_dim(x)));
    RUN(e, rms_norm, y, x, weight, eps);
}

void rf_rms_rope(struct rf_engine *e, const struct rf_tensor *x, const struct rf_tensor *weight,
                 const struct rf_tensor *freqs, int n_heads, float eps)
{
    int64_t width = last_dim(x);
    RF_ASSERT(is_act(e, x) && n_heads > 0 && width % n_heads == 0);
    RF_ASSERT(present(weight) && is_f32_vector(weight, width));
    if (present(freqs)) {
        int64_t head_dim = width / n_heads;
        RF_ASSERT(head_dim % 2 == 0 && freqs->dtype == RF_F32 && rf_tensor_elements(freqs) == n_rows(x) * head_dim);
    }
    RUN(e, rms_rope, x, weight, present(freqs) ? freqs : NULL, n_heads, eps);
}

void rf_attention(struct rf_engine *e, const struct rf_tensor *o, const struct rf_tensor *q, const struct rf_tensor *k,
                  const struct rf_tensor *v, const struct rf_attention_opts *opts)
{
    int64_t width = last_dim(q), n_q = n_rows(q), n_k = n_rows(k);
    RF_ASSERT(is_act(e, o) && is_act(e, q) && is_act(e, k) && is_act(e, v));
    RF_ASSERT(same_rows(o, q) && same_rows(k, v) && last_dim(k) == width);
    RF_ASSERT(apart(o, q) && apart(o, k) && apart(o, v));
    RF_ASSERT(opts->n_heads > 0 && width % opts->n_heads == 0 && isfinite(opts->scale));
    RF_ASSERT(n_k > 0 && opts->n_valid_keys >= 0 && opts->n_valid_keys <= n_k);
    RF_ASSERT(!present(opts->bias) || is_f32_vector(opts->bias, opts->n_heads * (n_q + n_k - 1)));
    if (n_q == 0 || rf_front_failed(e))
        return;
    int64_t n_keys = opts->n_valid_keys ? opts->n_valid_keys : n_k;
    if (e->attention8 && e->backend->attention8 != NULL && width / opts->n_heads == RF_A8_DIM && opts->scale > 0 &&
        !present(opts->bias) && n_keys >= RF_A8_LEAST_KEYS) {
        enum rf_code rc = e->backend->attention8(e->self, o, q, k, v, opts, &e->scratch_err);
        if (rc != RF_ERR_NOT_FOUND) {
            rf_front_note(e, rc);
            return;
        }
    }
    RUN(e, attention, o, q, k, v, opts);
}

void rf_gelu_mul(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *a, const struct rf_tensor *b)
{
    RF_ASSERT(is_act(e, y) && is_act(e, a) && is_act(e, b));
    RF_ASSERT(rf_tensor_elements(y) == rf_tensor_elements(a) && rf_tensor_elements(y) == rf_tensor_elements(b));
    RF_ASSERT(apart_or_same(y, a) && apart(y, b));
    RUN(e, gelu_mul, y, a, b);
}

void rf_embed(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *table, const int32_t *ids,
              int64_t n)
{
    RF_ASSERT(is_act(e, y) && rf_dtype_is_float(table->dtype) && table->n_dims == 2);
    RF_ASSERT(n_rows(y) == n && last_dim(y) == table->shape[1]);
    for (int64_t i = 0; i < n; i++)
        RF_ASSERT(ids[i] >= 0 && ids[i] < table->shape[0]);
    RUN(e, embed, y, table, ids, n);
}

void rf_axpby(struct rf_engine *e, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b)
{
    RF_ASSERT(y->dtype == RF_F32 && x->dtype == RF_F32 && rf_tensor_elements(x) == rf_tensor_elements(y));
    RF_ASSERT(apart_or_same(x, y));
    RUN(e, axpby, y, a, x, b);
}

void rf_activate(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act)
{
    RF_ASSERT(is_act(e, y) && is_act(e, x) && rf_tensor_elements(x) == rf_tensor_elements(y));
    RF_ASSERT((unsigned)act < RF_ACT_COUNT && apart_or_same(x, y));
    RUN(e, activate, y, x, act);
}

void rf_copy(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x)
{
    RF_ASSERT(rf_tensor_elements(x) == rf_tensor_elements(y) && apart(x, y));
    RF_ASSERT(x->dtype == y->dtype || (rf_dtype_is_float(x->dtype) && rf_dtype_is_float(y->dtype)));
    if (rf_tensor_elements(y) > 0)
        RUN(e, copy, y, x);
}

void rf_fill(struct rf_engine *e, const struct rf_tensor *y, float value)
{
    RF_ASSERT(rf_dtype_is_float(y->dtype));
    RUN(e, fill, y, value);
}

/* tokens [T*Hp*Wp, 4*C] and latent [C, T, 2Hp, 2Wp] describe the same picture. */
static bool is_patching(const struct rf_tensor *tokens, const struct rf_tensor *latent)
{
    if (latent->n_dims != 4 || latent->shape[2] % 2 != 0 || latent->shape[3] % 2 != 0)
        return false;
    return last_dim(tokens) == 4 * latent->shape[0] &&
           n_rows(tokens) == latent->shape[1] * (latent->shape[2] / 2) * (latent->shape[3] / 2);
}

void rf_patchify(struct rf_engine *e, const struct rf_tensor *tokens, const struct rf_tensor *latent)
{
    RF_ASSERT(is_act(e, tokens) && is_act(e, latent) && is_patching(tokens, latent) && apart(tokens, latent));
    RUN(e, patchify, tokens, latent);
}

void rf_unpatchify(struct rf_engine *e, const struct rf_tensor *latent, const struct rf_tensor *tokens)
{
    RF_ASSERT(is_act(e, tokens) && is_act(e, latent) && is_patching(tokens, latent) && apart(tokens, latent));
    RUN(e, unpatchify, latent, tokens);
}

/* ---- VAE ---- */

/* One frame, of the size and type of x's. */
static bool is_frame_of(const struct rf_tensor *frame, const struct rf_tensor *x)
{
    return present(frame) && frame->dtype == x->dtype && frame->n_dims == 4 && frame->shape[0] == 1 &&
           frame->shape[1] == x->shape[1] && frame->shape[2] == x->shape[2] && frame->shape[3] == x->shape[3];
}

void rf_conv(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
             const struct rf_conv_opts *opts)
{
    static const struct rf_conv_opts plain = {0};
    if (opts == NULL)
        opts = &plain;
    int stride_t = opts->stride_t ? opts->stride_t : 1, stride_s = opts->stride_s ? opts->stride_s : 1;
    RF_ASSERT(is_act(e, x) && is_act(e, y) && x->n_dims == 4 && y->n_dims == 4 && apart(x, y));
    RF_ASSERT(w->w.n_dims == 5 && rf_dtype_is_float(w->w.dtype));
    const int64_t *k = w->w.shape; /* out, kt, kh, kw, in */
    RF_ASSERT(k[2] % 2 == 1 && k[3] % 2 == 1 && stride_t >= 1 && (stride_s == 1 || stride_s == 2));
    int64_t up = opts->upsample ? 2 : 1;
    int64_t n_in = x->shape[0] + (opts->before ? 2 : 0);
    RF_ASSERT(x->shape[3] == k[4] && y->shape[3] == k[0] && n_in >= k[1]);
    RF_ASSERT(y->shape[0] == (n_in - k[1]) / stride_t + 1);
    for (int i = 0; opts->before && i < 2; i++)
        RF_ASSERT(is_frame_of(&opts->before[i], x) && apart(&opts->before[i], y));
    /* Stride 2 pads one row less in all: (H + k - 2 - k) / 2 + 1 = H / 2. */
    RF_ASSERT(y->shape[1] == (stride_s == 1 ? up * x->shape[1] : up * x->shape[1] / 2));
    RF_ASSERT(y->shape[2] == (stride_s == 1 ? up * x->shape[2] : up * x->shape[2] / 2));
    RF_ASSERT(!present(&w->b) || is_f32_vector(&w->b, k[0]));
    if (present(opts->add))
        RF_ASSERT(is_act(e, opts->add) && rf_tensor_elements(opts->add) == rf_tensor_elements(y) &&
                  apart_or_same(opts->add, y));
    if (rf_tensor_elements(y) > 0)
        RUN(e, conv, y, x, w, opts);
}

void rf_channel_norm(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                     const struct rf_tensor *gamma, enum rf_act act)
{
    RF_ASSERT(is_act(e, x) && is_act(e, y) && same_rows(x, y) && apart_or_same(x, y));
    RF_ASSERT(present(gamma) && is_f32_vector(gamma, last_dim(x)) && (unsigned)act < RF_ACT_COUNT);
    RUN(e, channel_norm, y, x, gamma, act);
}

/* last [T, H, W, C], first [C, T, H, W] */
static bool is_transposed(const struct rf_tensor *last, const struct rf_tensor *first)
{
    return last->n_dims == 4 && first->n_dims == 4 && last->shape[3] == first->shape[0] &&
           last->shape[0] == first->shape[1] && last->shape[1] == first->shape[2] && last->shape[2] == first->shape[3];
}

void rf_to_channels_last(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const float *mul,
                         const float *add)
{
    RF_ASSERT(is_act(e, x) && is_act(e, y) && is_transposed(y, x) && apart(x, y));
    RUN(e, to_channels_last, y, x, mul, add);
}

void rf_from_channels_last(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                           const float *mul, const float *add)
{
    RF_ASSERT(is_act(e, x) && is_act(e, y) && is_transposed(x, y) && apart(x, y));
    RUN(e, from_channels_last, y, x, mul, add);
}
