/* What a forward pass needs beside weights: the text's keys and values, the tensors of one pass. Sizes come from the
 * configuration alone, by the same listing that lays the tensors out, so that a plan made of them cannot disagree.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/dit_private.h"

#include <math.h>
#include <string.h>

#define FFN_ROWS 6144 /* of the hidden layer at once, if nothing else is asked: the widest activation stays small */
#define HEAD_DIM 128

/* ---- text ---- */

static int64_t matrix_bytes(enum rf_dtype dtype, int64_t rows, int64_t columns)
{
    return rf_arena_cost(dtype, 2, (int64_t[]){rows, columns});
}

int64_t rf_dit_context_bytes_for(const struct rf_dit_config *c, enum rf_dtype act, const struct rf_dit_layout *layout,
                                 int64_t text_len)
{
    return layout->keep_text ? 2 * matrix_bytes(act, c->n_layers * text_len, c->dim)
                             : 3 * matrix_bytes(act, text_len, c->dim);
}

int64_t rf_dit_context_peak_bytes_for(const struct rf_dit_config *c, enum rf_dtype act,
                                      const struct rf_dit_layout *layout, int64_t text_len)
{
    return rf_dit_context_bytes_for(c, act, layout, text_len) +
           (layout->keep_text ? 2 : 1) * matrix_bytes(act, text_len, c->dim);
}

int64_t rf_dit_context_bytes(const struct rf_dit *d, int64_t text_len, struct rf_dit_layout layout)
{
    return rf_dit_context_bytes_for(&d->config, rf_engine_act_dtype(d->e), &layout, text_len);
}

int64_t rf_dit_context_peak_bytes(const struct rf_dit *d, int64_t text_len, struct rf_dit_layout layout)
{
    return rf_dit_context_peak_bytes_for(&d->config, rf_engine_act_dtype(d->e), &layout, text_len);
}

void rf_dit_text_kv(struct rf_dit *d, const struct rf_dit_block *b, const struct rf_tensor *text,
                    const struct rf_tensor *k, const struct rf_tensor *v)
{
    const struct rf_dit_attention *w = &b->cross_attn;
    rf_linear(d->e, k, text, &w->k, NULL);
    rf_rms_rope(d->e, k, &w->norm_k, NULL, d->config.n_heads, RF_DIT_EPS);
    rf_linear(d->e, v, text, &w->v, NULL);
}

struct rf_dit_context rf_dit_context_make(struct rf_dit *d, struct rf_arena *arena, const struct rf_tensor *text,
                                          struct rf_dit_layout layout)
{
    struct rf_engine *e = d->e;
    const struct rf_dit_config *c = &d->config;
    enum rf_dtype act = rf_engine_act_dtype(e);
    int64_t text_len = text->shape[0], n_kept = layout.keep_text ? c->n_layers : 1;
    RF_ASSERT(text->n_dims == 2 && text->shape[1] == c->text_dim);
    RF_ASSERT(!layout.keep_text || d->n_streamed == 0); /* all blocks are needed at once */
    struct rf_dit_context context = {
        .k = rf_arena_tensor(arena, act, RF_SHAPE(n_kept, text_len, c->dim)),
        .v = rf_arena_tensor(arena, act, RF_SHAPE(n_kept, text_len, c->dim)),
    };
    if (!layout.keep_text)
        context.text = rf_arena_tensor(arena, act, RF_SHAPE(text_len, c->dim));
    int64_t mark = rf_arena_mark(arena);
    struct rf_tensor h = rf_arena_tensor(arena, act, RF_SHAPE(text_len, c->dim));
    struct rf_tensor ctx = layout.keep_text ? rf_arena_tensor(arena, act, RF_SHAPE(text_len, c->dim)) : context.text;
    rf_linear(e, &h, text, &d->text_embedding[0], &(struct rf_linear_opts){.act = RF_ACT_GELU_TANH});
    rf_linear(e, &ctx, &h, &d->text_embedding[1], NULL);
    for (int i = 0; i < c->n_layers && layout.keep_text; i++) {
        struct rf_tensor k = rf_tensor_slice(&context.k, i, 1), v = rf_tensor_slice(&context.v, i, 1);
        rf_dit_text_kv(d, &d->blocks[i], &ctx, &k, &v);
    }
    rf_arena_rewind(arena, mark);
    return context;
}

/* ---- scratch ---- */

static int64_t at_most(int64_t wanted, int64_t usual, int64_t most)
{
    int64_t n = wanted > 0 ? wanted : usual;
    return n < most ? n : most;
}

/* The tensors of the scratch, in one place for both planning and making. */
static void lay_out(const struct rf_dit_config *c, enum rf_dtype act, const struct rf_dit_layout *layout, int64_t t,
                    int64_t h, int64_t w, struct rf_dit_scratch *s)
{
    RF_ASSERT(t > 0 && h > 0 && w > 0 && h % 2 == 0 && w % 2 == 0);
    int64_t n = t * (h / 2) * (w / 2);
    *s = (struct rf_dit_scratch){.t = t, .hp = h / 2, .wp = w / 2, .n_tokens = n};
    s->query_rows = at_most(layout->query_rows, n, n);
    s->ffn_rows = at_most(layout->ffn_rows, FFN_ROWS, s->query_rows);
    int64_t patch = 4 * (c->in_channels > c->out_channels ? c->in_channels : c->out_channels);
    s->freqs = (struct rf_tensor){NULL, RF_F32, 2, {n, HEAD_DIM}};
    s->x = (struct rf_tensor){NULL, RF_F32, 2, {n, c->dim}};
    s->a = s->q = (struct rf_tensor){NULL, act, 2, {s->query_rows, c->dim}};
    s->k = s->v = (struct rf_tensor){NULL, act, 2, {n, c->dim}};
    s->hidden = (struct rf_tensor){NULL, act, 2, {s->ffn_rows, c->ffn_dim}};
    s->patches = (struct rf_tensor){NULL, RF_F32, 2, {n, patch}};
    s->freq_row = (struct rf_tensor){NULL, RF_F32, 2, {1, c->freq_dim}};
    s->e_hidden = s->e = s->e_act = (struct rf_tensor){NULL, RF_F32, 2, {1, c->dim}};
    s->e6 = (struct rf_tensor){NULL, RF_F32, 2, {1, 6 * c->dim}};
    s->modulation = (struct rf_tensor){NULL, RF_F32, 3, {c->n_layers, 6, c->dim}};
    s->head_modulation = (struct rf_tensor){NULL, RF_F32, 2, {2, c->dim}};
}

#define N_SCRATCH 15
static void list_scratch(struct rf_dit_scratch *s, struct rf_tensor *list[N_SCRATCH])
{
    struct rf_tensor *all[N_SCRATCH] = {&s->freqs, &s->x, &s->a, &s->q, &s->k, &s->v, &s->hidden, &s->patches,
                                        &s->freq_row, &s->e_hidden, &s->e, &s->e_act, &s->e6, &s->modulation,
                                        &s->head_modulation};
    for (int i = 0; i < N_SCRATCH; i++)
        list[i] = all[i];
}

int64_t rf_dit_scratch_bytes_for(const struct rf_dit_config *c, enum rf_dtype act, const struct rf_dit_layout *layout,
                                 int64_t t, int64_t h, int64_t w)
{
    struct rf_dit_scratch s;
    struct rf_tensor *list[N_SCRATCH];
    lay_out(c, act, layout, t, h, w, &s);
    list_scratch(&s, list);
    int64_t bytes = 0;
    for (int i = 0; i < N_SCRATCH; i++)
        bytes += rf_arena_cost(list[i]->dtype, list[i]->n_dims, list[i]->shape);
    return bytes;
}

int64_t rf_dit_scratch_bytes(const struct rf_dit *d, int64_t t, int64_t h, int64_t w, struct rf_dit_layout layout)
{
    return rf_dit_scratch_bytes_for(&d->config, rf_engine_act_dtype(d->e), &layout, t, h, w);
}

/* (cos, sin) of position * 10000^(-2j/axis) for the pairs of one axis. */
static void fill_axis(float *pair, int64_t position, int n_pairs)
{
    for (int j = 0; j < n_pairs; j++) {
        double angle = (double)position * pow(10000.0, -(double)j / n_pairs);
        *pair++ = (float)cos(angle);
        *pair++ = (float)sin(angle);
    }
}

/* The 64 pairs of a head: 22 turn with t, 21 with y, 21 with x. Each position of an axis is worked out once, for the
 * first token that has it: a long clip has millions of pairs. */
static void fill_freqs(float *freqs, int64_t t, int64_t hp, int64_t wp)
{
    static const int n_pairs[3] = {22, 21, 21};
    for (int64_t n = 0; n < t * hp * wp; n++) {
        const int64_t position[3] = {n / (hp * wp), n / wp % hp, n % wp};
        const int64_t first[3] = {position[0] * hp * wp, position[1] * wp, position[2]};
        float *pair = freqs + n * HEAD_DIM;
        for (int axis = 0; axis < 3; pair += 2 * n_pairs[axis++])
            if (first[axis] < n)
                memcpy(pair, pair - (n - first[axis]) * HEAD_DIM, 2 * (size_t)n_pairs[axis] * sizeof *pair);
            else
                fill_axis(pair, position[axis], n_pairs[axis]);
    }
}

enum rf_code rf_dit_scratch_make(struct rf_dit *d, struct rf_arena *arena, int64_t t, int64_t h, int64_t w,
                                 struct rf_dit_layout layout, struct rf_dit_scratch *ret_scratch, struct rf_err *err)
{
    struct rf_dit_scratch s;
    struct rf_tensor *list[N_SCRATCH];
    lay_out(&d->config, rf_engine_act_dtype(d->e), &layout, t, h, w, &s);
    RF_AUTO(rf_free) float *freqs = malloc(rf_tensor_bytes(&s.freqs));
    if (freqs == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "a rotary table for %lld tokens", (long long)s.n_tokens);
    fill_freqs(freqs, s.t, s.hp, s.wp);
    list_scratch(&s, list);
    for (int i = 0; i < N_SCRATCH; i++)
        *list[i] = rf_arena_tensor(arena, list[i]->dtype, list[i]->n_dims, list[i]->shape);
    rf_upload(d->e, &s.freqs, freqs);
    enum rf_code rc = rf_engine_sync(d->e, err);
    if (rc == RF_OK)
        *ret_scratch = s;
    return rc;
}
