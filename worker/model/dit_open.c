/* Opening an expert: configuration from shapes, then every tensor by name.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/dit_private.h"

#include <stdio.h>
#include <string.h>

#define HEAD_DIM 128
#define MAX_LAYERS 1000

static const char *path_of(const struct rf_weights *w)
{
    return rf_safetensors_path(rf_weights_file(w));
}

/* Dimension `d` of tensor `name`, which must have at least `min_dims` dimensions. */
static enum rf_code read_dim(const struct rf_weights *w, const char *name, int min_dims, int d, int64_t *ret_size,
                             struct rf_err *err)
{
    const struct rf_st_entry *entry = rf_weights_entry(w, name);
    if (entry == NULL)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s' is missing", path_of(w), name);
    if (entry->n_dims < min_dims || entry->shape[d] < 1 || entry->shape[d] > 1 << 24)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s' has %d dimensions or one of a size that makes no sense",
                       path_of(w), name, entry->n_dims);
    *ret_size = entry->shape[d];
    return RF_OK;
}

/* Blocks are numbered from 0 without a gap; a file cut in half says which is missing. */
static enum rf_code count_layers(const struct rf_weights *w, int *ret_n, struct rf_err *err)
{
    int n = 0, highest = -1;
    char name[64];
    for (;; n++) {
        snprintf(name, sizeof name, "blocks.%d.modulation", n);
        if (rf_weights_entry(w, name) == NULL)
            break;
    }
    const struct rf_safetensors *file = rf_weights_file(w);
    for (int i = 0; i < rf_safetensors_count(file); i++) {
        const char *at = strstr(rf_safetensors_at(file, i)->name, "blocks.");
        int block;
        if (at != NULL && sscanf(at, "blocks.%6d.", &block) == 1 && block > highest)
            highest = block;
    }
    if (n == 0 || highest >= n)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor 'blocks.%d.modulation' is missing", path_of(w), n);
    if (n > MAX_LAYERS)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: %d blocks are more than %d", path_of(w), n, MAX_LAYERS);
    *ret_n = n;
    return RF_OK;
}

static enum rf_code read_config(const struct rf_weights *w, struct rf_dit_config *c, struct rf_err *err)
{
    const struct rf_st_entry *m = rf_weights_entry(w, "head.modulation");
    if (m == NULL)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: not a Wan transformer (tensor 'head.modulation' is missing)",
                       path_of(w));
    if (rf_weights_entry(w, "img_emb.proj.0.weight") != NULL)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: a Wan2.1 image-to-video model (tensor 'img_emb.proj.0.weight'), "
                       "which is not supported", path_of(w));
    if (m->n_dims < 1 || m->shape[m->n_dims - 1] < HEAD_DIM || m->shape[m->n_dims - 1] % HEAD_DIM != 0 ||
        m->shape[m->n_dims - 1] > 1 << 20)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor 'head.modulation' must end in a multiple of %d", path_of(w),
                       HEAD_DIM);
    c->dim = m->shape[m->n_dims - 1];
    c->n_heads = (int)(c->dim / HEAD_DIM);
    int64_t in = 0, out = 0;
    enum rf_code rc = read_dim(w, "blocks.0.ffn.0.weight", 2, 0, &c->ffn_dim, err);
    if (rc == RF_OK)
        rc = read_dim(w, "text_embedding.0.weight", 2, 1, &c->text_dim, err);
    if (rc == RF_OK)
        rc = read_dim(w, "time_embedding.0.weight", 2, 1, &c->freq_dim, err);
    if (rc == RF_OK)
        rc = read_dim(w, "patch_embedding.weight", 5, 1, &in, err);
    if (rc == RF_OK)
        rc = read_dim(w, "head.head.weight", 2, 0, &out, err);
    if (rc == RF_OK)
        rc = count_layers(w, &c->n_layers, err);
    if (rc != RF_OK)
        return rc;
    if (c->freq_dim % 2 != 0 || c->freq_dim > RF_DIT_MAX_FREQ_DIM)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor 'time_embedding.0.weight': %lld time features", path_of(w),
                       (long long)c->freq_dim);
    if (out % 4 != 0 || in > 4096 || out > 4 * 4096)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: %lld channels in (patch_embedding.weight), %lld / 4 out "
                       "(head.head.weight)", path_of(w), (long long)in, (long long)out);
    c->in_channels = (int)in;
    c->out_channels = (int)(out / 4);
    return RF_OK;
}

/* The first failure ends the loading; later calls do nothing. */
struct loader {
    struct rf_weights *w;
    char prefix[64];
    enum rf_code rc;
    struct rf_err *err;
};

static void linear(struct loader *l, const char *name, int64_t out, int64_t in, struct rf_linear *ret)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    if (l->rc == RF_OK)
        l->rc = rf_weights_linear(l->w, full, out, in, true, ret, l->err);
}

static void vector(struct loader *l, const char *name, int64_t n, struct rf_tensor *ret)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    if (l->rc == RF_OK)
        l->rc = rf_weights_vector(l->w, full, n, ret, l->err);
}

static void attention(struct loader *l, const char *block, const char *which, int64_t dim, struct rf_dit_attention *a)
{
    snprintf(l->prefix, sizeof l->prefix, "%s%s.", block, which);
    linear(l, "q", dim, dim, &a->q);
    linear(l, "k", dim, dim, &a->k);
    linear(l, "v", dim, dim, &a->v);
    linear(l, "o", dim, dim, &a->o);
    vector(l, "norm_q.weight", dim, &a->norm_q);
    vector(l, "norm_k.weight", dim, &a->norm_k);
}

enum rf_code rf_dit_load_block(struct rf_dit *d, int index, struct rf_err *err)
{
    const struct rf_dit_config *c = &d->config;
    struct rf_dit_block *b = &d->blocks[index];
    struct loader l = {.w = d->weights, .rc = RF_OK, .err = err};
    char block[32];
    snprintf(block, sizeof block, "blocks.%d.", index);
    attention(&l, block, "self_attn", c->dim, &b->self_attn);
    attention(&l, block, "cross_attn", c->dim, &b->cross_attn);
    snprintf(l.prefix, sizeof l.prefix, "%s", block);
    vector(&l, "norm3.weight", c->dim, &b->norm3);
    vector(&l, "norm3.bias", c->dim, &b->norm3_b);
    linear(&l, "ffn.0", c->ffn_dim, c->dim, &b->ffn[0]);
    linear(&l, "ffn.2", c->dim, c->ffn_dim, &b->ffn[1]);
    return l.rc;
}

enum rf_code rf_dit_load_globals(struct rf_dit *d, struct rf_err *err)
{
    const struct rf_dit_config *c = &d->config;
    struct loader l = {.w = d->weights, .rc = RF_OK, .err = err};
    linear(&l, "patch_embedding", c->dim, 4 * (int64_t)c->in_channels, &d->patch_embedding);
    linear(&l, "text_embedding.0", c->dim, c->text_dim, &d->text_embedding[0]);
    linear(&l, "text_embedding.2", c->dim, c->dim, &d->text_embedding[1]);
    linear(&l, "time_embedding.0", c->dim, c->freq_dim, &d->time_embedding[0]);
    linear(&l, "time_embedding.2", c->dim, c->dim, &d->time_embedding[1]);
    linear(&l, "time_projection.1", 6 * c->dim, c->dim, &d->time_projection);
    for (int i = 0; i < c->n_layers; i++) {
        snprintf(l.prefix, sizeof l.prefix, "blocks.%d.", i);
        vector(&l, "modulation", 6 * c->dim, &d->blocks[i].modulation);
    }
    l.prefix[0] = '\0';
    vector(&l, "head.modulation", 2 * c->dim, &d->head_modulation);
    linear(&l, "head.head", 4 * (int64_t)c->out_channels, c->dim, &d->head);
    return l.rc;
}

enum rf_code rf_dit_open_unplaced(struct rf_engine *e, struct rf_weights *w, struct rf_dit **ret_dit,
                                  struct rf_err *err)
{
    RF_AUTO(rf_dit_close) struct rf_dit *d = rf_new(struct rf_dit);
    d->e = e;
    d->weights = w;
    enum rf_code rc = read_config(w, &d->config, err);
    if (rc != RF_OK)
        return rc;
    d->blocks = rf_new_array(struct rf_dit_block, (size_t)d->config.n_layers);
    rc = rf_dit_measure(d, err);
    if (rc == RF_OK)
        rc = rf_weights_loras_check(w, err);
    if (rc != RF_OK)
        return rc;
    *ret_dit = d;
    d = NULL;
    return RF_OK;
}

enum rf_code rf_dit_open(struct rf_engine *e, struct rf_weights *w, struct rf_dit **ret_dit, struct rf_err *err)
{
    RF_AUTO(rf_dit_close) struct rf_dit *d = NULL;
    enum rf_code rc = rf_dit_open_unplaced(e, w, &d, err);
    if (rc == RF_OK)
        rc = rf_dit_place(d, 0, err);
    if (rc != RF_OK)
        return rc;
    *ret_dit = d;
    d = NULL;
    return RF_OK;
}

void rf_dit_close(struct rf_dit **dit)
{
    if (*dit == NULL)
        return;
    rf_dit_unplace(*dit);
    free((*dit)->blocks);
    free(*dit);
    *dit = NULL;
}

const struct rf_dit_config *rf_dit_config(const struct rf_dit *d)
{
    return &d->config;
}
