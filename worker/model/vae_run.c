/* One layer of a VAE on the frames of a stream; vae_stream.c tells how streams go through them.
 *
 * What a layer must remember (two input frames per 3x3x3 convolution, and a little for the changes of frame rate)
 * lies in `state`; everything else passes through slots. No history is copied where frames come singly: the input just
 * seen takes the place of the older one in it, whose room becomes the spare one for the next convolution of that size.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/vae_stream.h"

#include <math.h>

/* ---- slots and states ---- */

struct rf_tensor rf_vae_in_slot(struct rf_vae_stream *s, enum rf_vae_slot slot, enum rf_dtype dtype, int64_t n,
                                int64_t h, int64_t w, int64_t c)
{
    struct rf_tensor t = {.data = s->slot_data[slot], .dtype = dtype, .n_dims = 4, .shape = {n, h, w, c}};
    int64_t bytes = (int64_t)rf_tensor_bytes(&t);
    if (s->planning && bytes > s->slot_bytes[slot])
        s->slot_bytes[slot] = bytes;
    RF_ASSERT(bytes <= s->slot_bytes[slot]);
    RF_ASSERT(s->current < RF_VAE_SLOT_ONE_A || slot == s->current || slot == (s->current ^ 1)); /* others share room */
    return t;
}

/* The slot that does not hold the stream's frames right now; becomes the one that does. */
static struct rf_tensor next_frames(struct rf_vae_stream *s, enum rf_dtype dtype, int64_t n, int64_t h, int64_t w,
                                    int64_t c)
{
    s->current ^= 1;
    return rf_vae_in_slot(s, s->current, dtype, n, h, w, c);
}

static struct rf_tensor frame_like(const struct rf_tensor *like)
{
    struct rf_tensor frame = *like;
    frame.data = NULL;
    frame.shape[0] = 1;
    return frame;
}

static struct rf_vae_history *take_state(struct rf_vae_stream *s, int n, const struct rf_tensor *like)
{
    RF_ASSERT(s->next_state < RF_VAE_MAX_STATES);
    struct rf_vae_history *state = &s->state[s->next_state++];
    if (s->planning && s->started) {
        state->n = n;
        for (int i = 0; i < n; i++)
            state->frame[i] = frame_like(like);
        s->n_states = s->next_state;
    }
    const int64_t *shape = state->frame[0].shape;
    RF_ASSERT(state->n == n && shape[1] == like->shape[1] && shape[3] == like->shape[3]);
    return state;
}

/* The spare frame of this size; NULL when frames of it do not come singly as a rule. */
static struct rf_tensor *find_spare(struct rf_vae_stream *s, const struct rf_tensor *like)
{
    const int64_t *shape = like->shape;
    for (int i = 0; i < s->n_spares; i++)
        if (s->spare[i].shape[1] == shape[1] && s->spare[i].shape[2] == shape[2] && s->spare[i].shape[3] == shape[3])
            return &s->spare[i];
    if (!s->planning || !s->started)
        return NULL;
    RF_ASSERT(s->n_spares < RF_VAE_MAX_SPARES);
    s->spare[s->n_spares] = frame_like(like);
    s->spare[s->n_spares].dtype = s->act;
    return &s->spare[s->n_spares++];
}

/* ---- ops that do nothing while planning ---- */

static void conv(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                 const struct rf_conv_opts *opts)
{
    if (!s->planning)
        rf_conv(s->engine, y, x, w, opts);
}

static void norm(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *x,
                 const struct rf_tensor *gamma, enum rf_act act)
{
    if (!s->planning)
        rf_channel_norm(s->engine, y, x, gamma, act);
}

void rf_vae_copy_frames(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *x)
{
    if (!s->planning)
        rf_copy(s->engine, y, x);
}

struct rf_tensor rf_vae_frames(const struct rf_tensor *x, int64_t first, int64_t n)
{
    struct rf_tensor part = *x;
    if (x->data)
        return rf_tensor_slice(x, first, n);
    part.shape[0] = n;
    return part;
}

/* ---- layers: each takes the stream's frames and returns the new ones ---- */

/* Makes the last frames of x history. */
static void remember(struct rf_vae_stream *s, struct rf_vae_history *state, const struct rf_tensor *x)
{
    int64_t n = x->shape[0];
    if (n == 1) {
        struct rf_tensor older = state->frame[0];
        state->frame[0] = state->frame[1];
        state->frame[1] = older;
    }
    for (int64_t i = n == 1 ? 1 : 0; i < RF_VAE_HISTORY; i++) {
        struct rf_tensor last = rf_vae_frames(x, n - RF_VAE_HISTORY + i, 1);
        rf_vae_copy_frames(s, &state->frame[i], &last);
    }
}

/* What a convolution over three frames sees of x: norm and SiLU of it when gamma is there. The history is that too, so
 * zeros at the start are zeros there, not in x. */
static struct rf_tensor prepare(struct rf_vae_stream *s, const struct rf_tensor *x, const struct rf_tensor *gamma)
{
    if (!gamma->data && x->dtype == s->act)
        return *x;
    const struct rf_tensor *spare = x->shape[0] == 1 ? find_spare(s, x) : NULL;
    const int64_t *n = x->shape;
    struct rf_tensor in = spare ? *spare : rf_vae_in_slot(s, RF_VAE_SLOT_INPUT, s->act, n[0], n[1], n[2], n[3]);
    if (gamma->data)
        norm(s, &in, x, gamma, RF_ACT_SILU);
    else
        rf_vae_copy_frames(s, &in, x);
    return in;
}

/* y = a convolution over three frames of `in`, which prepare() gave. */
static void conv_in_time(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *in,
                         const struct rf_conv *w, const struct rf_tensor *add)
{
    struct rf_vae_history *state = take_state(s, RF_VAE_HISTORY, in);
    conv(s, y, in, w, &(struct rf_conv_opts){.before = state->frame, .add = add});
    struct rf_tensor *spare = in->shape[0] == 1 ? find_spare(s, in) : NULL;
    if (spare != NULL && spare->data == in->data) {
        *spare = state->frame[0];
        state->frame[0] = state->frame[1];
        state->frame[1] = *in;
    } else {
        remember(s, state, in);
    }
}

static struct rf_tensor run_conv(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x, bool last)
{
    struct rf_tensor in = prepare(s, &x, &l->gamma[0]);
    struct rf_tensor y = next_frames(s, last ? RF_F32 : s->act, x.shape[0], x.shape[1], x.shape[2], l->out);
    conv_in_time(s, &y, &in, &l->conv[0], NULL);
    return y;
}

static struct rf_tensor run_point(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x, bool last)
{
    struct rf_tensor y = next_frames(s, last ? RF_F32 : s->act, x.shape[0], x.shape[1], x.shape[2], l->out);
    conv(s, &y, &x, &l->conv[0], NULL);
    return y;
}

static struct rf_tensor run_res(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x)
{
    int64_t n = x.shape[0], h = x.shape[1], w = x.shape[2];
    struct rf_tensor in = prepare(s, &x, &l->gamma[0]);
    struct rf_tensor other = rf_vae_in_slot(s, s->current ^ 1, s->act, n, h, w, l->out);
    conv_in_time(s, &other, &in, &l->conv[0], NULL);

    in = prepare(s, &other, &l->gamma[1]);
    struct rf_tensor y = x; /* in place: x is read only as the residual */
    if (l->in != l->out) {
        y = next_frames(s, s->act, n, h, w, l->out); /* `other` again, of which only `in` is left */
        conv(s, &y, &x, &l->shortcut, NULL);
    }
    conv_in_time(s, &y, &in, &l->conv[1], &y);
    return y;
}

/* One head over the positions of each frame. */
static struct rf_tensor run_attention(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x)
{
    int64_t h = x.shape[1], w = x.shape[2], c = l->in;
    struct rf_tensor qkv = rf_vae_in_slot(s, RF_VAE_SLOT_INPUT, s->act, 3, h, w, c);
    struct rf_tensor normed = rf_vae_in_slot(s, s->current ^ 1, s->act, 1, h, w, c);
    if (s->planning)
        return x;
    const struct rf_attention_opts opts = {.n_heads = 1, .scale = 1.0f / sqrtf((float)c)};
    for (int64_t i = 0; i < x.shape[0]; i++) {
        struct rf_tensor frame = rf_tensor_slice(&x, i, 1), part[3];
        norm(s, &normed, &frame, &l->gamma[0], RF_ACT_NONE);
        for (int p = 0; p < 3; p++) {
            struct rf_conv third = rf_vae_conv_slice(&l->conv[0], p * c, c);
            part[p] = rf_tensor_slice(&qkv, p, 1);
            conv(s, &part[p], &normed, &third, NULL);
            part[p] = rf_tensor_reshape(&part[p], RF_SHAPE(h * w, c));
        }
        struct rf_tensor o = rf_tensor_reshape(&normed, RF_SHAPE(h * w, c));
        rf_attention(s->engine, &o, &part[0], &part[1], &part[2], &opts);
        conv(s, &frame, &normed, &l->conv[1], &(struct rf_conv_opts){.add = &frame});
    }
    return x;
}

/* Space by 2, then time by 2. The clip's first frame passes by the time convolution but is history for the next. */
static struct rf_tensor run_down(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x)
{
    int64_t n = x.shape[0], h = x.shape[1] / 2, w = x.shape[2] / 2;
    const struct rf_conv_opts halve = {.stride_s = 2}, halve_time = {.stride_t = 2};
    if (!l->time) {
        struct rf_tensor y = next_frames(s, s->act, n, h, w, l->out);
        conv(s, &y, &x, &l->conv[0], &halve);
        return y;
    }
    /* in = the frame before this push, then the new ones: as many pairs as come out. */
    struct rf_tensor in = rf_vae_in_slot(s, RF_VAE_SLOT_INPUT, s->act, 1 + n, h, w, l->out);
    struct rf_tensor *state = take_state(s, 1, &in)->frame;
    struct rf_tensor before = rf_vae_frames(&in, 0, 1), fresh = rf_vae_frames(&in, 1, n);
    struct rf_tensor last = rf_vae_frames(&in, n, 1);
    conv(s, &fresh, &x, &l->conv[0], &halve);
    if (s->started) {
        rf_vae_copy_frames(s, &before, state);
        rf_vae_copy_frames(s, state, &last);
        struct rf_tensor y = next_frames(s, s->act, n / 2, h, w, l->out);
        conv(s, &y, &in, &l->time_conv[0], &halve_time);
        return y;
    }
    rf_vae_copy_frames(s, state, &last);
    struct rf_tensor y = next_frames(s, s->act, 1 + n / 2, h, w, l->out);
    struct rf_tensor first = rf_vae_frames(&fresh, 0, 1), y_first = rf_vae_frames(&y, 0, 1);
    struct rf_tensor y_rest = rf_vae_frames(&y, 1, n / 2);
    rf_vae_copy_frames(s, &y_first, &first);
    if (n > 1)
        conv(s, &y_rest, &fresh, &l->time_conv[0], &halve_time);
    return y;
}

/* The clip's first frame passes by the convolution and is not history either: the frames after it see zeros in its
 * place. */
static struct rf_tensor run_up_time(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x)
{
    int64_t skip = s->started ? 0 : 1, n = x.shape[0] - skip;
    struct rf_tensor y = next_frames(s, s->act, skip + 2 * n, x.shape[1], x.shape[2], l->in);
    struct rf_tensor rest = rf_vae_frames(&x, skip, n);
    if (skip) {
        struct rf_tensor from = rf_vae_frames(&x, 0, 1), to = rf_vae_frames(&y, 0, 1);
        rf_vae_copy_frames(s, &to, &from);
    }
    if (n == 0)
        return y;
    struct rf_vae_history *state = take_state(s, RF_VAE_HISTORY, &rest);
    for (int64_t i = 0; i < n && !s->planning; i++) {
        struct rf_tensor frame = rf_vae_frames(&rest, i, 1), before[RF_VAE_HISTORY];
        for (int64_t j = 0; j < RF_VAE_HISTORY; j++)
            before[j] = i + j < RF_VAE_HISTORY ? state->frame[i + j] : rf_vae_frames(&rest, i + j - RF_VAE_HISTORY, 1);
        for (int half = 0; half < 2; half++) {
            struct rf_tensor out = rf_vae_frames(&y, skip + 2 * i + half, 1);
            conv(s, &out, &frame, &l->time_conv[half], &(struct rf_conv_opts){.before = before});
        }
    }
    remember(s, state, &rest);
    return y;
}

static struct rf_tensor run_up(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x)
{
    struct rf_tensor y = next_frames(s, s->act, x.shape[0], 2 * x.shape[1], 2 * x.shape[2], l->out);
    conv(s, &y, &x, &l->conv[0], &(struct rf_conv_opts){.upsample = true});
    return y;
}

/* A frame's colours are what it, the one before and the one before that add to them. What a frame adds to the two after
 * it is remembered, 3 values a pixel, not its channels. */
static struct rf_tensor run_head(struct rf_vae_stream *s, const struct rf_vae_layer *l, struct rf_tensor x)
{
    int64_t n = x.shape[0], h = x.shape[1], w = x.shape[2];
    struct rf_tensor in = prepare(s, &x, &l->gamma[0]);
    struct rf_tensor y = next_frames(s, RF_F32, n, h, w, l->out);
    struct rf_tensor *added = take_state(s, RF_VAE_HISTORY, &y)->frame; /* to the next frame, to the one after it */
    for (int64_t i = 0; i < n; i++) {
        struct rf_tensor frame = rf_vae_frames(&in, i, 1), colours = rf_vae_frames(&y, i, 1);
        conv(s, &colours, &frame, &l->time_conv[2], &(struct rf_conv_opts){.add = &added[0]});
        conv(s, &added[0], &frame, &l->time_conv[1], &(struct rf_conv_opts){.add = &added[1]});
        conv(s, &added[1], &frame, &l->time_conv[0], NULL);
    }
    return y;
}

struct rf_tensor rf_vae_run_layer(struct rf_vae_stream *s, int index, struct rf_tensor x)
{
    const struct rf_vae_layer *l = &s->net->layer[index];
    bool last = index == s->net->n_layers - 1;
    if (s->planning && s->started)
        s->layer_state[index] = s->next_state;
    s->next_state = s->layer_state[index]; /* a push may skip layers, or a state */
    switch (l->kind) {
    case RF_VAE_POINT:
        return run_point(s, l, x, last);
    case RF_VAE_CONV:
        return run_conv(s, l, x, last);
    case RF_VAE_RES:
        return run_res(s, l, x);
    case RF_VAE_ATTENTION:
        return run_attention(s, l, x);
    case RF_VAE_DOWN:
        return run_down(s, l, x);
    case RF_VAE_UP_TIME:
        return run_up_time(s, l, x);
    case RF_VAE_UP:
        return run_up(s, l, x);
    case RF_VAE_HEAD:
        return run_head(s, l, x);
    case RF_VAE_KIND_COUNT:
        break;
    }
    RF_ASSERT(!"a layer of unknown kind");
}
