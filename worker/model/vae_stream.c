/* Running the VAE's layers on a few frames at a time. Shapes at every arrow are in NOTES.md.
 *
 * What a layer must remember (two input frames per 3x3x3 convolution, and a little for the changes of frame rate)
 * lies in `state`; everything else passes through three slots: two that layers read and write in turn, one for a
 * convolution's input. No history is copied where frames come singly: the input just seen takes the place of the older
 * one in it, whose room becomes the spare one for the next convolution of that size.
 * Where a layer's frames are at their largest, those after the decoder's last doubling of time and those before the
 * encoder's first halving, a sliced stream runs one frame at a time through all of them, in slots for one frame; each
 * frame finds the history that the one before it left, so the numbers are the same.
 * The walk over the layers that computes also plans: with `planning` set it notes the largest size each slot takes and
 * the states, and calls no op; so plan and use cannot disagree.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/vae_layers.h"

#include <math.h>

#define HISTORY 2 /* input frames that a convolution over three frames remembers */
#define MAX_STATES (2 * RF_VAE_MAX_LAYERS)

/* A and B, ONE_A and ONE_B are the pairs that layers read and write in turn; a slot's partner is slot ^ 1. SLICED: what
 * came of the frames that took the sliced layers one by one. */
enum slot { SLOT_A, SLOT_B, SLOT_ONE_A, SLOT_ONE_B, SLOT_INPUT, SLOT_SLICED, SLOT_COUNT };

#define MAX_SPARES 8 /* sizes of frame */

/* What a convolution saw last, older first, each in room of its own. */
struct history {
    struct rf_tensor frame[HISTORY];
    int n; /* frames remembered: HISTORY, or 1 */
};

struct rf_vae_stream {
    struct rf_engine *engine;
    const struct rf_vae_network *net;
    bool is_encoder, planning, started; /* started: the first frame has passed */
    bool slicing;                       /* a single frame is on its way through the sliced layers */
    enum rf_dtype act;
    struct rf_arena *arena;
    int64_t slot_bytes[SLOT_COUNT];
    void *slot_data[SLOT_COUNT];
    enum slot current;                  /* of a pair: where the stream's frames are */
    int slice_first, slice_end;         /* layers that take one frame at a time; none when equal */
    enum slot idle;                     /* of A and B: the one in which nothing lies while slices run */
    struct history state[MAX_STATES];
    int n_states, next_state, layer_state[RF_VAE_MAX_LAYERS];
    struct rf_tensor spare[MAX_SPARES]; /* one frame of each size that comes singly */
    int n_spares;
    /* Encoder: the last output frame of each DOWN layer, given out again while nothing moves, and its slot. */
    struct rf_tensor memo[RF_VAE_MAX_LAYERS];
    enum slot memo_slot[RF_VAE_MAX_LAYERS];
};

/* ---- slots and states ---- */

static struct rf_tensor in_slot(struct rf_vae_stream *s, enum slot slot, enum rf_dtype dtype, int64_t n, int64_t h,
                                int64_t w, int64_t c)
{
    struct rf_tensor t = {.data = s->slot_data[slot], .dtype = dtype, .n_dims = 4, .shape = {n, h, w, c}};
    int64_t bytes = (int64_t)rf_tensor_bytes(&t);
    if (s->planning && bytes > s->slot_bytes[slot])
        s->slot_bytes[slot] = bytes;
    RF_ASSERT(bytes <= s->slot_bytes[slot]);
    RF_ASSERT(!s->slicing || slot == SLOT_ONE_A || slot == SLOT_ONE_B);
    return t;
}

/* The slot that does not hold the stream's frames right now; becomes the one that does. */
static struct rf_tensor next_frames(struct rf_vae_stream *s, enum rf_dtype dtype, int64_t n, int64_t h, int64_t w,
                                    int64_t c)
{
    s->current ^= 1;
    return in_slot(s, s->current, dtype, n, h, w, c);
}

static struct rf_tensor frame_like(const struct rf_tensor *like)
{
    struct rf_tensor frame = *like;
    frame.data = NULL;
    frame.shape[0] = 1;
    return frame;
}

static struct history *take_state(struct rf_vae_stream *s, int n, const struct rf_tensor *like)
{
    RF_ASSERT(s->next_state < MAX_STATES);
    struct history *state = &s->state[s->next_state++];
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
    RF_ASSERT(s->n_spares < MAX_SPARES);
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

static void copy(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *x)
{
    if (!s->planning)
        rf_copy(s->engine, y, x);
}

static struct rf_tensor frames_of(const struct rf_tensor *x, int64_t first, int64_t n)
{
    struct rf_tensor part = *x;
    if (x->data)
        return rf_tensor_slice(x, first, n);
    part.shape[0] = n;
    return part;
}

/* ---- layers: each takes the stream's frames and returns the new ones ---- */

/* Makes the last frames of x history. */
static void remember(struct rf_vae_stream *s, struct history *state, const struct rf_tensor *x)
{
    int64_t n = x->shape[0];
    if (n == 1) {
        struct rf_tensor older = state->frame[0];
        state->frame[0] = state->frame[1];
        state->frame[1] = older;
    }
    for (int64_t i = n == 1 ? 1 : 0; i < HISTORY; i++) {
        struct rf_tensor last = frames_of(x, n - HISTORY + i, 1);
        copy(s, &state->frame[i], &last);
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
    struct rf_tensor in = spare ? *spare : in_slot(s, SLOT_INPUT, s->act, n[0], n[1], n[2], n[3]);
    if (gamma->data)
        norm(s, &in, x, gamma, RF_ACT_SILU);
    else
        copy(s, &in, x);
    return in;
}

/* y = a convolution over three frames of `in`, which prepare() gave. */
static void conv_in_time(struct rf_vae_stream *s, const struct rf_tensor *y, const struct rf_tensor *in,
                         const struct rf_conv *w, const struct rf_tensor *add)
{
    struct history *state = take_state(s, HISTORY, in);
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
    struct rf_tensor other = in_slot(s, s->current ^ 1, s->act, n, h, w, l->out);
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
    struct rf_tensor qkv = in_slot(s, SLOT_INPUT, s->act, 3, h, w, c);
    struct rf_tensor normed = in_slot(s, s->current ^ 1, s->act, 1, h, w, c);
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
    struct rf_tensor in = in_slot(s, SLOT_INPUT, s->act, 1 + n, h, w, l->out);
    struct rf_tensor *state = take_state(s, 1, &in)->frame;
    struct rf_tensor before = frames_of(&in, 0, 1), fresh = frames_of(&in, 1, n), last = frames_of(&in, n, 1);
    conv(s, &fresh, &x, &l->conv[0], &halve);
    if (s->started) {
        copy(s, &before, state);
        copy(s, state, &last);
        struct rf_tensor y = next_frames(s, s->act, n / 2, h, w, l->out);
        conv(s, &y, &in, &l->time_conv[0], &halve_time);
        return y;
    }
    copy(s, state, &last);
    struct rf_tensor y = next_frames(s, s->act, 1 + n / 2, h, w, l->out);
    struct rf_tensor first = frames_of(&fresh, 0, 1), y_first = frames_of(&y, 0, 1), y_rest = frames_of(&y, 1, n / 2);
    copy(s, &y_first, &first);
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
    struct rf_tensor rest = frames_of(&x, skip, n);
    if (skip) {
        struct rf_tensor from = frames_of(&x, 0, 1), to = frames_of(&y, 0, 1);
        copy(s, &to, &from);
    }
    if (n == 0)
        return y;
    struct history *state = take_state(s, HISTORY, &rest);
    for (int64_t i = 0; i < n && !s->planning; i++) {
        struct rf_tensor frame = frames_of(&rest, i, 1), before[HISTORY];
        for (int64_t j = 0; j < HISTORY; j++)
            before[j] = i + j < HISTORY ? state->frame[i + j] : frames_of(&rest, i + j - HISTORY, 1);
        for (int half = 0; half < 2; half++) {
            struct rf_tensor out = frames_of(&y, skip + 2 * i + half, 1);
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
    struct rf_tensor *added = take_state(s, HISTORY, &y)->frame; /* to the next frame, to the one after it */
    for (int64_t i = 0; i < n; i++) {
        struct rf_tensor frame = frames_of(&in, i, 1), colours = frames_of(&y, i, 1);
        conv(s, &colours, &frame, &l->time_conv[2], &(struct rf_conv_opts){.add = &added[0]});
        conv(s, &added[0], &frame, &l->time_conv[1], &(struct rf_conv_opts){.add = &added[1]});
        conv(s, &added[1], &frame, &l->time_conv[0], NULL);
    }
    return y;
}

static struct rf_tensor run_layer(struct rf_vae_stream *s, int index, struct rf_tensor x)
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

/* ---- the grey tail ---- */

/* How the shape of the stream and the number of still frames at its end change in a layer. */
static void still_after(const struct rf_vae_layer *l, int64_t *n, int64_t *h, int64_t *w, int64_t *still)
{
    int convs = l->kind == RF_VAE_RES ? 2 : l->kind == RF_VAE_CONV ? 1 : 0;
    *still = *still > HISTORY * convs ? *still - HISTORY * convs : 0;
    if (l->kind != RF_VAE_DOWN)
        return;
    *h /= 2;
    *w /= 2;
    if (l->time) {
        *n /= 2;
        *still = *still > 0 ? (*still - 1) / 2 : 0; /* windows of three frames, two apart */
    }
}

/* Finds the last DOWN layer all of whose outputs, and the one before them, see nothing but still frames: then they are
 * that one before again, which is in memo, and so are all histories up to there. Returns the layer to go on with. */
static int skip_still(struct rf_vae_stream *s, struct rf_tensor *x, int64_t still)
{
    int64_t n = x->shape[0], h = x->shape[1], w = x->shape[2], skip_n = 0;
    int skip = -1;
    for (int i = 0; i < s->net->n_layers; i++) {
        still_after(&s->net->layer[i], &n, &h, &w, &still);
        if (s->net->layer[i].kind == RF_VAE_DOWN && still > n && i >= s->slice_end) {
            skip = i;
            skip_n = n;
        }
    }
    if (skip < 0)
        return 0;
    const struct rf_tensor *memo = &s->memo[skip];
    s->current = s->memo_slot[skip]; /* where the plan expects it */
    *x = in_slot(s, s->current, s->act, skip_n, memo->shape[1], memo->shape[2], memo->shape[3]);
    for (int64_t i = 0; i < skip_n; i++) {
        struct rf_tensor frame = rf_tensor_slice(x, i, 1);
        rf_copy(s->engine, &frame, memo);
    }
    return skip + 1;
}

static void keep_memo(struct rf_vae_stream *s, int index, const struct rf_tensor *y)
{
    if (!s->is_encoder || s->net->layer[index].kind != RF_VAE_DOWN)
        return;
    struct rf_tensor last = frames_of(y, y->shape[0] - 1, 1);
    if (s->planning && s->started) {
        s->memo[index] = last;
        s->memo_slot[index] = s->current;
    } else if (!s->planning) {
        rf_copy(s->engine, &s->memo[index], &last);
    }
}

/* ---- slices ---- */

/* Which layers a sliced stream takes frame by frame: all on the side of the pixels, up to the nearest change of time. */
static void choose_slices(struct rf_vae_stream *s)
{
    int n = s->net->n_layers, i = s->is_encoder ? 0 : n - 1, step = s->is_encoder ? 1 : -1;
    while (i >= 0 && i < n && !s->net->layer[i].time)
        i += step;
    s->slice_first = s->is_encoder ? 0 : i + 1;
    s->slice_end = s->is_encoder ? i : n;
}

/* Runs the sliced layers on x; a plan needs to see one frame only. */
static struct rf_tensor run_slices(struct rf_vae_stream *s, struct rf_tensor x)
{
    int64_t n = x.shape[0];
    enum slot before = s->current;
    struct rf_tensor whole = {0};
    RF_ASSERT(s->planning || s->idle == (before ^ 1));
    s->idle = before ^ 1;
    for (int64_t f = 0; f < (s->planning ? 1 : n); f++) {
        struct rf_tensor y = frames_of(&x, f, 1);
        s->current = SLOT_ONE_B;
        s->slicing = true;
        for (int i = s->slice_first; i < s->slice_end; i++)
            y = run_layer(s, i, y);
        s->slicing = false;
        whole = in_slot(s, SLOT_SLICED, y.dtype, n, y.shape[1], y.shape[2], y.shape[3]);
        struct rf_tensor to = frames_of(&whole, f, 1);
        copy(s, &to, &y);
    }
    s->current = before;
    return whole;
}

/* ---- streams ---- */

static struct rf_tensor run(struct rf_vae_stream *s, struct rf_tensor x, int64_t still)
{
    s->current = SLOT_B;
    s->next_state = 0;
    int first = s->is_encoder && s->started && still > 0 && !s->planning ? skip_still(s, &x, still) : 0;
    for (int i = first; i < s->net->n_layers;) {
        if (i == s->slice_first && i < s->slice_end) {
            x = run_slices(s, x);
            i = s->slice_end;
        } else {
            x = run_layer(s, i, x);
            keep_memo(s, i++, &x);
        }
    }
    s->started = true;
    return x;
}

/* In whose room a slot lies. What is in use only between slices shares the room of what is in use only in them. */
static enum slot room_of(const struct rf_vae_stream *s, enum slot slot)
{
    if (s->slice_first == s->slice_end)
        return slot;
    return slot == SLOT_INPUT ? SLOT_ONE_A : slot == s->idle ? SLOT_ONE_B : slot;
}

static void share_rooms(struct rf_vae_stream *s)
{
    for (int i = 0; i < SLOT_COUNT; i++) {
        enum slot room = room_of(s, i);
        if (room != (enum slot)i && s->slot_bytes[room] < s->slot_bytes[i])
            s->slot_bytes[room] = s->slot_bytes[i];
    }
}

static int64_t frame_cost(const struct rf_tensor *frame)
{
    return rf_arena_cost(frame->dtype, frame->n_dims, frame->shape);
}

/* Notes the sizes of a push of max_push frames, later and first, in `s`; returns the bytes of the arena. The later one
 * sees every history and which frames come singly, so it goes ahead. */
static int64_t plan(struct rf_vae_stream *s, int64_t height, int64_t width, int max_push, int64_t channels)
{
    if (max_push == RF_VAE_SLICED)
        max_push = s->is_encoder ? RF_VAE_FRAMES : 1;
    RF_ASSERT(max_push > 0);
    struct rf_tensor x = {.dtype = RF_F32, .n_dims = 4, .shape = {max_push, height, width, channels}};
    s->planning = s->started = true;
    if (s->is_encoder)
        x.shape[0] = max_push < RF_VAE_FRAMES ? RF_VAE_FRAMES : max_push / RF_VAE_FRAMES * RF_VAE_FRAMES;
    run(s, x, 0);
    s->started = false;
    x.shape[0] = max_push;
    if (s->is_encoder)
        x.shape[0] = (max_push - 1) / RF_VAE_FRAMES * RF_VAE_FRAMES + 1;
    run(s, x, 0);
    s->planning = s->started = false;

    share_rooms(s);
    int64_t bytes = 0;
    for (int i = 0; i < SLOT_COUNT; i++)
        if (room_of(s, i) == (enum slot)i)
            bytes += rf_arena_cost(RF_U8, 1, &s->slot_bytes[i]);
    for (int i = 0; i < s->n_states; i++)
        bytes += s->state[i].n * frame_cost(&s->state[i].frame[0]);
    for (int i = 0; i < s->n_spares; i++)
        bytes += frame_cost(&s->spare[i]);
    for (int i = 0; i < s->net->n_layers; i++)
        if (s->memo[i].n_dims)
            bytes += frame_cost(&s->memo[i]);
    return bytes;
}

static void place(struct rf_vae_stream *s, struct rf_tensor *t)
{
    *t = rf_arena_tensor(s->arena, t->dtype, t->n_dims, t->shape);
}

static struct rf_vae_stream *stream_new(const struct rf_vae *vae, bool is_encoder, bool sliced)
{
    struct rf_vae_stream *s = rf_new(struct rf_vae_stream);
    s->engine = vae->engine;
    s->is_encoder = is_encoder;
    s->net = is_encoder ? &vae->encoder : &vae->decoder;
    s->act = rf_engine_act_dtype(vae->engine);
    if (sliced)
        choose_slices(s);
    return s;
}

static enum rf_code stream_create(struct rf_vae *vae, bool is_encoder, int64_t height, int64_t width, int max_push,
                                  struct rf_vae_stream **ret_stream, struct rf_err *err)
{
    RF_ASSERT(height > 0 && width > 0);
    RF_AUTO(rf_vae_stream_destroy) struct rf_vae_stream *s = stream_new(vae, is_encoder, max_push == RF_VAE_SLICED);
    int64_t bytes = plan(s, height, width, max_push, s->net->layer[0].in);
    enum rf_code rc = rf_arena_create(s->engine, bytes, &s->arena, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "VAE %s", is_encoder ? "encoder" : "decoder");
    for (int i = 0; i < SLOT_COUNT; i++)
        if (room_of(s, i) == (enum slot)i)
            s->slot_data[i] = rf_arena_tensor(s->arena, RF_U8, 1, &s->slot_bytes[i]).data;
    for (int i = 0; i < SLOT_COUNT; i++)
        s->slot_data[i] = s->slot_data[room_of(s, i)];
    for (int i = 0; i < s->n_states; i++)
        for (int f = 0; f < s->state[i].n; f++) {
            place(s, &s->state[i].frame[f]);
            rf_fill(s->engine, &s->state[i].frame[f], 0);
        }
    for (int i = 0; i < s->n_spares; i++)
        place(s, &s->spare[i]);
    for (int i = 0; i < s->net->n_layers; i++)
        if (s->memo[i].n_dims)
            place(s, &s->memo[i]);
    *ret_stream = s;
    s = NULL;
    return RF_OK;
}

static int64_t stream_bytes(const struct rf_vae *vae, bool is_encoder, int64_t height, int64_t width, int max_push)
{
    RF_AUTO(rf_vae_stream_destroy) struct rf_vae_stream *s = stream_new(vae, is_encoder, max_push == RF_VAE_SLICED);
    return plan(s, height, width, max_push, s->net->layer[0].in);
}

int64_t rf_vae_decoder_bytes(const struct rf_vae *vae, int height, int width, int max_push)
{
    return stream_bytes(vae, false, height, width, max_push);
}

int64_t rf_vae_encoder_bytes(const struct rf_vae *vae, int height, int width, int max_push)
{
    return stream_bytes(vae, true, (int64_t)height * RF_VAE_SCALE, (int64_t)width * RF_VAE_SCALE, max_push);
}

enum rf_code rf_vae_decoder_create(struct rf_vae *vae, int height, int width, int max_push,
                                   struct rf_vae_stream **ret_stream, struct rf_err *err)
{
    return stream_create(vae, false, height, width, max_push, ret_stream, err);
}

enum rf_code rf_vae_encoder_create(struct rf_vae *vae, int height, int width, int max_push,
                                   struct rf_vae_stream **ret_stream, struct rf_err *err)
{
    return stream_create(vae, true, (int64_t)height * RF_VAE_SCALE, (int64_t)width * RF_VAE_SCALE, max_push,
                         ret_stream, err);
}

void rf_vae_stream_destroy(struct rf_vae_stream **stream)
{
    if (!*stream)
        return;
    rf_arena_destroy(&(*stream)->arena);
    rf_free(stream);
}

struct rf_tensor rf_vae_decoder_push(struct rf_vae_stream *stream, const struct rf_tensor *latent)
{
    RF_ASSERT(!stream->is_encoder && latent->n_dims == 4 && latent->shape[0] > 0);
    return run(stream, *latent, 0);
}

struct rf_tensor rf_vae_encoder_push(struct rf_vae_stream *stream, const struct rf_tensor *frames, int64_t n_still)
{
    int64_t extra = stream->started ? 0 : 1;
    RF_ASSERT(stream->is_encoder && frames->n_dims == 4 && frames->shape[0] >= 1);
    RF_ASSERT(frames->shape[0] % RF_VAE_FRAMES == extra);
    return run(stream, *frames, n_still);
}
