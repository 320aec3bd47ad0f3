/* The transformer's forward pass, in the order of the paper. Opening it is in dit_open.c, what it needs beside
 * weights in dit_scratch.c, where its blocks lie in dit_place.c.
 *
 * Easy to get wrong: patches go in as (channel, ky, kx) and come out as (py, px, channel); q and k are normalised over
 * all features before the heads are split; the head's modulation adds e, not e6; cross-attention sees the padded text
 * rows. SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/dit_private.h"

#include <math.h>

#define HEAD_DIM 128

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

/* Rows [first, first + n) of what the pass works on. */
struct rows {
    struct rf_tensor x, a, q, freqs;
};

static struct rows rows_of(const struct rf_dit_scratch *s, int64_t first)
{
    int64_t n = s->n_tokens - first < s->query_rows ? s->n_tokens - first : s->query_rows;
    return (struct rows){rf_tensor_slice(&s->x, first, n), rf_tensor_slice(&s->a, 0, n), rf_tensor_slice(&s->q, 0, n),
                         rf_tensor_slice(&s->freqs, first, n)};
}

/* Keys and values of all rows first, then queries and output, chunk by chunk: a chunk's own rows of x change last. */
static void self_attention(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_block *b,
                           const struct rf_tensor *m)
{
    struct rf_engine *e = d->e;
    int n_heads = d->config.n_heads;
    struct rf_tensor shift = row(m, 0), scale = row(m, 1), gate = row(m, 2);
    bool in_one = s->query_rows >= s->n_tokens;
    for (int64_t first = 0; first < s->n_tokens; first += s->query_rows) {
        struct rows r = rows_of(s, first);
        struct rf_tensor k = rf_tensor_slice(&s->k, first, r.x.shape[0]);
        struct rf_tensor v = rf_tensor_slice(&s->v, first, r.x.shape[0]);
        rf_layer_norm(e, &r.a, &r.x, &scale, &shift, true, RF_DIT_EPS);
        rf_linear(e, &k, &r.a, &b->self_attn.k, NULL);
        rf_linear(e, &v, &r.a, &b->self_attn.v, NULL);
        rf_rms_rope(e, &k, &b->self_attn.norm_k, &r.freqs, n_heads, RF_DIT_EPS);
    }
    for (int64_t first = 0; first < s->n_tokens; first += s->query_rows) {
        struct rows r = rows_of(s, first);
        if (!in_one)
            rf_layer_norm(e, &r.a, &r.x, &scale, &shift, true, RF_DIT_EPS);
        rf_linear(e, &r.q, &r.a, &b->self_attn.q, NULL);
        rf_rms_rope(e, &r.q, &b->self_attn.norm_q, &r.freqs, n_heads, RF_DIT_EPS);
        rf_attention(e, &r.a, &r.q, &s->k, &s->v,
                     &(struct rf_attention_opts){.n_heads = n_heads, .scale = 1.0f / sqrtf(HEAD_DIM)});
        rf_linear(e, &r.x, &r.a, &b->self_attn.o, &(struct rf_linear_opts){.add = true, .gate = &gate});
    }
}

/* No modulation, no gate, no mask. */
static void cross_attention(struct rf_dit *d, const struct rows *r, const struct rf_dit_block *b,
                            const struct rf_tensor *k, const struct rf_tensor *v)
{
    struct rf_engine *e = d->e;
    int n_heads = d->config.n_heads;
    rf_layer_norm(e, &r->a, &r->x, &b->norm3, &b->norm3_b, false, RF_DIT_EPS);
    rf_linear(e, &r->q, &r->a, &b->cross_attn.q, NULL);
    rf_rms_rope(e, &r->q, &b->cross_attn.norm_q, NULL, n_heads, RF_DIT_EPS);
    rf_attention(e, &r->a, &r->q, k, v,
                 &(struct rf_attention_opts){.n_heads = n_heads, .scale = 1.0f / sqrtf(HEAD_DIM)});
    rf_linear(e, &r->x, &r->a, &b->cross_attn.o, &(struct rf_linear_opts){.add = true});
}

static void feed_forward(struct rf_dit *d, const struct rf_dit_scratch *s, const struct rows *r,
                         const struct rf_dit_block *b, const struct rf_tensor *m)
{
    struct rf_engine *e = d->e;
    struct rf_tensor shift = row(m, 3), scale = row(m, 4), gate = row(m, 5);
    int64_t n_rows = r->x.shape[0];
    rf_layer_norm(e, &r->a, &r->x, &scale, &shift, true, RF_DIT_EPS);
    for (int64_t first = 0; first < n_rows; first += s->ffn_rows) {
        int64_t n = n_rows - first < s->ffn_rows ? n_rows - first : s->ffn_rows;
        struct rf_tensor in = rf_tensor_slice(&r->a, first, n), out = rf_tensor_slice(&r->x, first, n);
        struct rf_tensor hidden = rf_tensor_slice(&s->hidden, 0, n);
        rf_linear(e, &hidden, &in, &b->ffn[0], &(struct rf_linear_opts){.act = RF_ACT_GELU_TANH});
        rf_linear(e, &out, &hidden, &b->ffn[1], &(struct rf_linear_opts){.add = true, .gate = &gate});
    }
}

static void run_block(struct rf_dit *d, struct rf_dit_scratch *s, const struct rf_dit_context *context, int i)
{
    struct rf_dit_block arrived;
    const struct rf_dit_block *b = rf_dit_block_begin(d, s->stream, i, &arrived);
    struct rf_tensor m = rf_tensor_slice(&s->modulation, i, 1);
    m = rf_tensor_reshape(&m, RF_SHAPE(6, d->config.dim));
    bool anew = context->text.data != NULL;
    struct rf_tensor k = rf_tensor_slice(&context->k, anew ? 0 : i, 1);
    struct rf_tensor v = rf_tensor_slice(&context->v, anew ? 0 : i, 1);
    if (anew)
        rf_dit_text_kv(d, b, &context->text, &k, &v);
    self_attention(d, s, b, &m);
    for (int64_t first = 0; first < s->n_tokens; first += s->query_rows) {
        struct rows r = rows_of(s, first);
        cross_attention(d, &r, b, &k, &v);
        feed_forward(d, s, &r, b, &m);
    }
    rf_dit_block_end(d, s->stream, i);
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
    rf_dit_pass_begin(d, s->stream);
    for (int i = 0; i < c->n_layers; i++)
        run_block(d, s, context, i);
    struct rf_tensor shift = row(&s->head_modulation, 0), scale = row(&s->head_modulation, 1);
    patches.shape[1] = 4 * c->out_channels;
    for (int64_t first = 0; first < s->n_tokens; first += s->query_rows) {
        struct rows r = rows_of(s, first);
        struct rf_tensor out = rf_tensor_slice(&patches, first, r.x.shape[0]);
        rf_layer_norm(e, &r.a, &r.x, &scale, &shift, true, RF_DIT_EPS);
        rf_linear(e, &out, &r.a, &d->head, NULL);
    }
    rf_unpatchify(e, velocity, &patches);
}
