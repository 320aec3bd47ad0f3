/* Running the VAE's layers on a few frames at a time. Shapes at every arrow are in NOTES.md; a layer runs in vae_run.c.
 *
 * Frames pass through three slots: two that layers read and write in turn, one for a convolution's input.
 * Where a layer's frames are at their largest, those after the decoder's last doubling of time and those before the
 * encoder's first halving, a sliced stream runs one frame at a time through all of them, in slots for one frame; each
 * frame finds the history that the one before it left, so the numbers are the same.
 * The walk over the layers that computes also plans: with `planning` set it notes the largest size each slot takes and
 * the states, and calls no op; so plan and use cannot disagree.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/vae_stream.h"

/* ---- the grey tail ---- */

/* How the shape of the stream and the number of still frames at its end change in a layer. */
static void still_after(const struct rf_vae_layer *l, int64_t *n, int64_t *h, int64_t *w, int64_t *still)
{
    int convs = l->kind == RF_VAE_RES ? 2 : l->kind == RF_VAE_CONV ? 1 : 0;
    *still = *still > RF_VAE_HISTORY * convs ? *still - RF_VAE_HISTORY * convs : 0;
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
    *x = rf_vae_in_slot(s, s->current, s->act, skip_n, memo->shape[1], memo->shape[2], memo->shape[3]);
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
    struct rf_tensor last = rf_vae_frames(y, y->shape[0] - 1, 1);
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
    enum rf_vae_slot before = s->current;
    struct rf_tensor whole = {0};
    RF_ASSERT(s->planning || s->idle == (before ^ 1));
    s->idle = before ^ 1;
    for (int64_t f = 0; f < (s->planning ? 1 : n); f++) {
        struct rf_tensor y = rf_vae_frames(&x, f, 1);
        s->current = RF_VAE_SLOT_ONE_B;
        for (int i = s->slice_first; i < s->slice_end; i++)
            y = rf_vae_run_layer(s, i, y);
        s->current = before;
        whole = rf_vae_in_slot(s, RF_VAE_SLOT_SLICED, y.dtype, n, y.shape[1], y.shape[2], y.shape[3]);
        struct rf_tensor to = rf_vae_frames(&whole, f, 1);
        rf_vae_copy_frames(s, &to, &y);
    }
    return whole;
}

/* ---- streams ---- */

static struct rf_tensor run(struct rf_vae_stream *s, struct rf_tensor x, int64_t still)
{
    s->current = RF_VAE_SLOT_B;
    s->next_state = 0;
    int first = s->is_encoder && s->started && still > 0 && !s->planning ? skip_still(s, &x, still) : 0;
    for (int i = first; i < s->net->n_layers;) {
        if (i == s->slice_first && i < s->slice_end) {
            x = run_slices(s, x);
            i = s->slice_end;
        } else {
            x = rf_vae_run_layer(s, i, x);
            keep_memo(s, i++, &x);
        }
    }
    s->started = true;
    return x;
}

/* In whose room a slot lies. What is in use only between slices shares the room of what is in use only in them. */
static enum rf_vae_slot room_of(const struct rf_vae_stream *s, enum rf_vae_slot slot)
{
    if (s->slice_first == s->slice_end)
        return slot;
    return slot == RF_VAE_SLOT_INPUT ? RF_VAE_SLOT_ONE_A : slot == s->idle ? RF_VAE_SLOT_ONE_B : slot;
}

static void share_rooms(struct rf_vae_stream *s)
{
    for (enum rf_vae_slot i = 0; i < RF_VAE_SLOT_COUNT; i++) {
        int64_t *room = &s->slot_bytes[room_of(s, i)];
        if (*room < s->slot_bytes[i])
            *room = s->slot_bytes[i];
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
    for (enum rf_vae_slot i = 0; i < RF_VAE_SLOT_COUNT; i++)
        if (room_of(s, i) == i)
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
    for (enum rf_vae_slot i = 0; i < RF_VAE_SLOT_COUNT; i++)
        if (room_of(s, i) == i)
            s->slot_data[i] = rf_arena_tensor(s->arena, RF_U8, 1, &s->slot_bytes[i]).data;
    for (enum rf_vae_slot i = 0; i < RF_VAE_SLOT_COUNT; i++)
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
