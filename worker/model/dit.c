/* The transformer's forward pass, in the order of the paper. Opening it is in dit_open.c.
 *
 * Easy to get wrong: patches go in as (channel, ky, kx) and come out as (py, px, channel); q and k are normalised over
 * all features before the heads are split; the head's modulation adds e, not e6; cross-attention sees the padded text
 * rows. SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/dit_private.h"

#include <math.h>

#define FFN_ROWS 4096 /* of the hidden layer at once: exact, and the widest activation stays small */
#define FFN_ROWS_SMALL 512
#define HEAD_DIM 128

/* ---- text ---- */

static int64_t arena_bytes(enum rf_dtype dtype, int64_t a, int64_t b)
{
    return rf_arena_cost(dtype, 2, (int64_t[]){a, b});
}

int64_t rf_dit_context_bytes(const struct rf_dit *d, int64_t text_len, enum rf_dit_plan plan)
{
    enum rf_dtype act = rf_engine_act_dtype(d->e);
    if (plan == RF_DIT_SMALL)
        return 3 * arena_bytes(act, text_len, d->config.dim);
    return 2 * arena_bytes(act, d->config.n_layers * text_len, d->config.dim);
}

int64_t rf_dit_context_peak_bytes(const struct rf_dit *d, int64_t text_len, enum rf_dit_plan plan)
{
    int n_passing = plan == RF_DIT_SMALL ? 1 : 2;
    return rf_dit_context_bytes(d, text_len, plan) +
           n_passing * arena_bytes(rf_engine_act_dtype(d->e), text_len, d->config.dim);
}

/* Keys and values of the text for layer i. */
static void make_text_kv(struct rf_dit *d, int i, const struct rf_tensor *text, const struct rf_tensor *k,
                         const struct rf_tensor *v)
{
    const struct rf_dit_attention *w = &d->blocks[i].cross_attn;
    rf_linear(d->e, k, text, &w->k, NULL);
    rf_rms_rope(d->e, k, &w->norm_k, NULL, d->config.n_heads, RF_DIT_EPS);
    rf_linear(d->e, v, text, &w->v, NULL);
}

struct rf_dit_context rf_dit_context_make(struct rf_dit *d, struct rf_arena *arena, const struct rf_tensor *text,
                                          enum rf_dit_plan plan)
{
    struct rf_engine *e = d->e;
    const struct rf_dit_config *c = &d->config;
    enum rf_dtype act = rf_engine_act_dtype(e);
    int64_t text_len = text->shape[0];
    RF_ASSERT(text->n_dims == 2 && text->shape[1] == c->text_dim);
    int64_t n_kept = plan == RF_DIT_SMALL ? 1 : c->n_layers;
    struct rf_dit_context context = {
        .k = rf_arena_tensor(arena, act, RF_SHAPE(n_kept, text_len, c->dim)),
        .v = rf_arena_tensor(arena, act, RF_SHAPE(n_kept, text_len, c->dim)),
    };
    if (plan == RF_DIT_SMALL)
        context.text = rf_arena_tensor(arena, act, RF_SHAPE(text_len, c->dim));
    int64_t mark = rf_arena_mark(arena);
    struct rf_tensor h = rf_arena_tensor(arena, act, RF_SHAPE(text_len, c->dim));
    struct rf_tensor ctx = plan == RF_DIT_SMALL ? context.text : rf_arena_tensor(arena, act, RF_SHAPE(text_len, c->dim));
    rf_linear(e, &h, text, &d->text_embedding[0], &(struct rf_linear_opts){.act = RF_ACT_GELU_TANH});
    rf_linear(e, &ctx, &h, &d->text_embedding[1], NULL);
    for (int i = 0; i < c->n_layers && plan == RF_DIT_FAST; i++) {
        struct rf_tensor k = rf_tensor_slice(&context.k, i, 1), v = rf_tensor_slice(&context.v, i, 1);
        make_text_kv(d, i, &ctx, &k, &v);
    }
    rf_arena_rewind(arena, mark);
    return context;
}

/* ---- scratch ---- */

/* The tensors of the scratch, in one place for both planning and making. */
static void lay_out(const struct rf_dit *d, int64_t t, int64_t h, int64_t w, enum rf_dit_plan plan,
                    struct rf_dit_scratch *s)
{
    const struct rf_dit_config *c = &d->config;
    enum rf_dtype act = rf_engine_act_dtype(d->e);
    RF_ASSERT(t > 0 && h > 0 && w > 0 && h % 2 == 0 && w % 2 == 0);
    int64_t n = t * (h / 2) * (w / 2);
    *s = (struct rf_dit_scratch){.t = t, .hp = h / 2, .wp = w / 2, .n_tokens = n};
    int64_t most_rows = plan == RF_DIT_SMALL ? FFN_ROWS_SMALL : FFN_ROWS;
    s->ffn_rows = n < most_rows ? n : most_rows;
    int64_t patch = 4 * (c->in_channels > c->out_channels ? c->in_channels : c->out_channels);
    s->freqs = (struct rf_tensor){NULL, RF_F32, 2, {n, HEAD_DIM}};
    s->x = (struct rf_tensor){NULL, RF_F32, 2, {n, c->dim}};
    s->a = s->q = s->k = s->v = (struct rf_tensor){NULL, act, 2, {n, c->dim}};
    s->hidden = (struct rf_tensor){NULL, act, 2, {s->ffn_rows, c->ffn_dim}};
    s->patches = (struct rf_tensor){NULL, RF_F32, 2, {n, patch}};
    s->freq_row = (struct rf_tensor){NULL, RF_F32, 2, {1, c->freq_dim}};
    s->e_hidden = s->e = s->e_act = (struct rf_tensor){NULL, RF_F32, 2, {1, c->dim}};
    s->e6 = (struct rf_tensor){NULL, RF_F32, 2, {1, 6 * c->dim}};
    s->modulation = (struct rf_tensor){NULL, RF_F32, 3, {c->n_layers, 6, c->dim}};
    s->head_modulation = (struct rf_tensor){NULL, RF_F32, 2, {2, c->dim}};
}

#define N_SCRATCH 14
static void list_scratch(struct rf_dit_scratch *s, struct rf_tensor *list[N_SCRATCH])
{
    struct rf_tensor *all[N_SCRATCH] = {&s->freqs, &s->x, &s->a, &s->q, &s->k, &s->v, &s->hidden, &s->patches,
                                        &s->freq_row, &s->e_hidden, &s->e, &s->e_act, &s->e6, &s->modulation};
    for (int i = 0; i < N_SCRATCH; i++)
        list[i] = all[i];
}

int64_t rf_dit_scratch_bytes(const struct rf_dit *d, int64_t t, int64_t h, int64_t w, enum rf_dit_plan plan)
{
    struct rf_dit_scratch s;
    struct rf_tensor *list[N_SCRATCH];
    lay_out(d, t, h, w, plan, &s);
    list_scratch(&s, list);
    int64_t bytes = rf_arena_cost(RF_F32, 2, s.head_modulation.shape);
    for (int i = 0; i < N_SCRATCH; i++)
        bytes += rf_arena_cost(list[i]->dtype, list[i]->n_dims, list[i]->shape);
    return bytes;
}

/* (cos, sin) of position * 10000^(-2j/axis) for the 64 pairs of a head: 22 pairs turn with t, 21 with y, 21 with x. */
static void fill_freqs(float *freqs, int64_t t, int64_t hp, int64_t wp)
{
    static const int n_pairs[3] = {22, 21, 21};
    for (int64_t n = 0; n < t * hp * wp; n++) {
        int64_t position[3] = {n / (hp * wp), n / wp % hp, n % wp};
        for (int axis = 0; axis < 3; axis++)
            for (int j = 0; j < n_pairs[axis]; j++) {
                double angle = (double)position[axis] * pow(10000.0, -(double)j / n_pairs[axis]);
                *freqs++ = (float)cos(angle);
                *freqs++ = (float)sin(angle);
            }
    }
}

enum rf_code rf_dit_scratch_make(struct rf_dit *d, struct rf_arena *arena, int64_t t, int64_t h, int64_t w,
                                 enum rf_dit_plan plan, struct rf_dit_scratch *ret_scratch, struct rf_err *err)
{
    struct rf_dit_scratch s;
    struct rf_tensor *list[N_SCRATCH];
    lay_out(d, t, h, w, plan, &s);
    RF_AUTO(rf_free) float *freqs = malloc(rf_tensor_bytes(&s.freqs));
    if (freqs == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "a rotary table for %lld tokens", (long long)s.n_tokens);
    fill_freqs(freqs, s.t, s.hp, s.wp);
    list_scratch(&s, list);
    for (int i = 0; i < N_SCRATCH; i++)
        *list[i] = rf_arena_tensor(arena, list[i]->dtype, list[i]->n_dims, list[i]->shape);
    s.head_modulation = rf_arena_tensor(arena, RF_F32, 2, s.head_modulation.shape);
    rf_upload(d->e, &s.freqs, freqs);
    enum rf_code rc = rf_engine_sync(d->e, err);
    if (rc == RF_OK)
        *ret_scratch = s;
    return rc;
}

/* ---- forward ---- */

static struct rf_tensor row(const struct rf_tensor *m, int64_t r)
{
    return rf_tensor_slice(m, r, 1);
}

/* Time path: e, e6 and the rows of every block, which hold for all tokens. Skipped when they are there already, as in
 * the second pass of guidance. */
static void modulate(struct rf_dit *d, struct rf_dit_scratch *s, double timestep)
{
    struct rf_engine *e = d->e;
    const struct rf_dit_config *c = &d->config;
    if (s->modulated_for == d && s->modulated_t == timestep)
        return;
    float features[RF_DIT_MAX_FREQ_DIM];
    int64_t half = c->freq_dim / 2;
    for (int64_t j = 0; j < half; j++) { /* cosines first */
        double angle = timestep * pow(10000.0, -(double)j / (double)half);
        features[j] = (float)cos(angle);
        features[half + j] = (float)sin(angle);
    }
    rf_upload(e, &s->freq_row, features);
    rf_linear(e, &s->e_hidden, &s->freq_row, &d->time_embedding[0], &(struct rf_linear_opts){.act = RF_ACT_SILU});
    rf_linear(e, &s->e, &s->e_hidden, &d->time_embedding[1], NULL);
    rf_activate(e, &s->e_act, &s->e, RF_ACT_SILU);
    rf_linear(e, &s->e6, &s->e_act, &d->time_projection, NULL);
    for (int i = 0; i < c->n_layers; i++) {
        struct rf_tensor m = rf_tensor_slice(&s->modulation, i, 1);
        rf_copy(e, &m, &d->blocks[i].modulation);
        rf_axpby(e, &m, 1, &s->e6, 1);
    }
    rf_copy(e, &s->head_modulation, &d->head_modulation);
    for (int r = 0; r < 2; r++) { /* the same e on both rows */
        struct rf_tensor m = row(&s->head_modulation, r);
        rf_axpby(e, &m, 1, &s->e, 1);
    }
    s->modulated_for = d;
    s->modulated_t = timestep;
}

static void self_attention(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_block *b,
                           const struct rf_tensor *m)
{
    struct rf_engine *e = d->e;
    int n_heads = d->config.n_heads;
    struct rf_tensor shift = row(m, 0), scale = row(m, 1), gate = row(m, 2);
    rf_layer_norm(e, &s->a, &s->x, &scale, &shift, true, RF_DIT_EPS);
    rf_linear(e, &s->q, &s->a, &b->self_attn.q, NULL);
    rf_linear(e, &s->k, &s->a, &b->self_attn.k, NULL);
    rf_linear(e, &s->v, &s->a, &b->self_attn.v, NULL);
    rf_rms_rope(e, &s->q, &b->self_attn.norm_q, &s->freqs, n_heads, RF_DIT_EPS);
    rf_rms_rope(e, &s->k, &b->self_attn.norm_k, &s->freqs, n_heads, RF_DIT_EPS);
    rf_attention(e, &s->a, &s->q, &s->k, &s->v,
                 &(struct rf_attention_opts){.n_heads = n_heads, .scale = 1.0f / sqrtf(HEAD_DIM)});
    rf_linear(e, &s->x, &s->a, &b->self_attn.o, &(struct rf_linear_opts){.add = true, .gate = &gate});
}

/* No modulation, no gate, no mask. */
static void cross_attention(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_block *b,
                            const struct rf_tensor *k, const struct rf_tensor *v)
{
    struct rf_engine *e = d->e;
    int n_heads = d->config.n_heads;
    rf_layer_norm(e, &s->a, &s->x, &b->norm3, &b->norm3_b, false, RF_DIT_EPS);
    rf_linear(e, &s->q, &s->a, &b->cross_attn.q, NULL);
    rf_rms_rope(e, &s->q, &b->cross_attn.norm_q, NULL, n_heads, RF_DIT_EPS);
    rf_attention(e, &s->a, &s->q, k, v,
                 &(struct rf_attention_opts){.n_heads = n_heads, .scale = 1.0f / sqrtf(HEAD_DIM)});
    rf_linear(e, &s->x, &s->a, &b->cross_attn.o, &(struct rf_linear_opts){.add = true});
}

static void feed_forward(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_block *b,
                         const struct rf_tensor *m)
{
    struct rf_engine *e = d->e;
    struct rf_tensor shift = row(m, 3), scale = row(m, 4), gate = row(m, 5);
    rf_layer_norm(e, &s->a, &s->x, &scale, &shift, true, RF_DIT_EPS);
    for (int64_t first = 0; first < s->n_tokens; first += s->ffn_rows) {
        int64_t n = s->n_tokens - first < s->ffn_rows ? s->n_tokens - first : s->ffn_rows;
        struct rf_tensor in = rf_tensor_slice(&s->a, first, n), out = rf_tensor_slice(&s->x, first, n);
        struct rf_tensor hidden = rf_tensor_slice(&s->hidden, 0, n);
        rf_linear(e, &hidden, &in, &b->ffn[0], &(struct rf_linear_opts){.act = RF_ACT_GELU_TANH});
        rf_linear(e, &out, &hidden, &b->ffn[1], &(struct rf_linear_opts){.add = true, .gate = &gate});
    }
}

void rf_dit_forward(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_context *context,
                    const struct rf_tensor *latent, double timestep, const struct rf_tensor *velocity)
{
    struct rf_engine *e = d->e;
    const struct rf_dit_config *c = &d->config;
    RF_ASSERT(latent->n_dims == 4 && latent->shape[0] == c->in_channels && latent->shape[1] == s->t &&
              latent->shape[2] == 2 * s->hp && latent->shape[3] == 2 * s->wp);
    RF_ASSERT(velocity->shape[0] == c->out_channels);

    /* The buffer is as wide as the wider end; each end sees a packed view of its own width. */
    struct rf_tensor patches = s->patches;
    patches.shape[1] = 4 * c->in_channels;
    rf_patchify(e, &patches, latent);
    rf_linear(e, &s->x, &patches, &d->patch_embedding, NULL);
    modulate(d, s, timestep);
    for (int i = 0; i < c->n_layers; i++) {
        const struct rf_dit_block *b = &d->blocks[i];
        struct rf_tensor m = rf_tensor_slice(&s->modulation, i, 1);
        m = rf_tensor_reshape(&m, RF_SHAPE(6, c->dim));
        bool anew = context->text.data != NULL;
        struct rf_tensor k = rf_tensor_slice(&context->k, anew ? 0 : i, 1);
        struct rf_tensor v = rf_tensor_slice(&context->v, anew ? 0 : i, 1);
        if (anew)
            make_text_kv(d, i, &context->text, &k, &v);
        self_attention(d, s, b, &m);
        cross_attention(d, s, b, &k, &v);
        feed_forward(d, s, b, &m);
    }
    struct rf_tensor shift = row(&s->head_modulation, 0), scale = row(&s->head_modulation, 1);
    rf_layer_norm(e, &s->a, &s->x, &scale, &shift, true, RF_DIT_EPS);
    patches.shape[1] = 4 * c->out_channels;
    rf_linear(e, &patches, &s->a, &d->head, NULL);
    rf_unpatchify(e, velocity, &patches);
}
