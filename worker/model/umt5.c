/* UMT5, encoder half. T5 with a relative position bias in every layer, gated GELU, no biases, no 1/sqrt(d) on the
 * logits and RMS norms that subtract no mean. Shapes at every arrow are in NOTES.md.
 *
 * Only the prompt's own rows are computed: the reference masks the padding keys with minus infinity and drops the
 * padding rows at the end, which is the same thing at a fraction of the work.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/umt5.h"

#include <stdio.h>

#include "worker/model/weights.h"

#define EPS 1e-6f
#define N_BUCKETS 32
#define MAX_LAYERS 64

struct umt5_layer {
    struct rf_tensor norm[2];         /* [width]: before attention, before the feed-forward */
    struct rf_linear q, k, v;         /* [inner, width] */
    struct rf_linear o;               /* [width, inner] */
    float *bias;                      /* [N_BUCKETS, heads], on the host */
    struct rf_linear gate, up, down;  /* wi_0, wi_1 [hidden, width], wo [width, hidden] */
};

struct rf_umt5 {
    struct rf_engine *engine;
    struct rf_weights *weights;
    struct rf_tensor embedding;       /* [vocabulary, width] */
    struct rf_tensor final_norm;
    int64_t vocabulary, width, inner, hidden, heads;
    int n_layers;
    struct umt5_layer layer[MAX_LAYERS];
};

/* ---- loading ---- */

static enum rf_code read_bias(struct rf_umt5 *u, const char *name, float **ret_bias, struct rf_err *err)
{
    struct rf_tensor t;
    enum rf_code rc = rf_weights_vector(u->weights, name, N_BUCKETS * u->heads, &t, err);
    if (rc != RF_OK)
        return rc;
    *ret_bias = rf_new_array(float, (size_t)(N_BUCKETS * u->heads));
    return rf_download(u->engine, &t, *ret_bias, err);
}

static enum rf_code read_layer(struct rf_umt5 *u, int index, struct rf_err *err)
{
    struct umt5_layer *l = &u->layer[index];
    char base[64], name[128];
    snprintf(base, sizeof base, "encoder.block.%d.layer", index);
    const struct {
        const char *suffix;
        int64_t out, in;
        struct rf_linear *linear;
    } linears[] = {
        {"0.SelfAttention.q", u->inner, u->width, &l->q},
        {"0.SelfAttention.k", u->inner, u->width, &l->k},
        {"0.SelfAttention.v", u->inner, u->width, &l->v},
        {"0.SelfAttention.o", u->width, u->inner, &l->o},
        {"1.DenseReluDense.wi_0", u->hidden, u->width, &l->gate},
        {"1.DenseReluDense.wi_1", u->hidden, u->width, &l->up},
        {"1.DenseReluDense.wo", u->width, u->hidden, &l->down},
    };
    enum rf_code rc = RF_OK;
    for (size_t i = 0; i < RF_COUNT_OF(linears) && rc == RF_OK; i++) {
        snprintf(name, sizeof name, "%s.%s", base, linears[i].suffix);
        rc = rf_weights_linear(u->weights, name, linears[i].out, linears[i].in, false, linears[i].linear, err);
    }
    for (int i = 0; i < 2 && rc == RF_OK; i++) {
        snprintf(name, sizeof name, "%s.%d.layer_norm.weight", base, i);
        rc = rf_weights_vector(u->weights, name, u->width, &l->norm[i], err);
    }
    snprintf(name, sizeof name, "%s.0.SelfAttention.relative_attention_bias.weight", base);
    return rc == RF_OK ? read_bias(u, name, &l->bias, err) : rc;
}

/* A tensor's shape, which must have two dimensions. */
static enum rf_code shape_of(const struct rf_umt5 *u, const char *name, int64_t ret_shape[2], struct rf_err *err)
{
    const struct rf_st_entry *entry = rf_weights_entry(u->weights, name);
    const char *path = rf_safetensors_path(rf_weights_file(u->weights));
    if (!entry)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: no tensor '%s': not a UMT5 text encoder", path, name);
    if (entry->n_dims != 2 || entry->shape[0] < 1 || entry->shape[1] < 1)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: '%s' is not a matrix", path, name);
    ret_shape[0] = entry->shape[0];
    ret_shape[1] = entry->shape[1];
    return RF_OK;
}

static enum rf_code read_config(struct rf_umt5 *u, struct rf_err *err)
{
    int64_t table[2], q[2], bias[2], up[2];
    enum rf_code rc = shape_of(u, "shared.weight", table, err);
    if (rc == RF_OK)
        rc = shape_of(u, "encoder.block.0.layer.0.SelfAttention.q.weight", q, err);
    if (rc == RF_OK)
        rc = shape_of(u, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", bias, err);
    if (rc == RF_OK)
        rc = shape_of(u, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", up, err);
    if (rc != RF_OK)
        return rc;
    u->vocabulary = table[0];
    u->width = table[1];
    u->inner = q[0];
    u->heads = bias[1];
    u->hidden = up[0];
    for (char name[96]; u->n_layers <= MAX_LAYERS; u->n_layers++) {
        snprintf(name, sizeof name, "encoder.block.%d.layer.0.layer_norm.weight", u->n_layers);
        if (!rf_weights_entry(u->weights, name))
            break;
    }
    if (u->inner % u->heads != 0 || u->n_layers < 1 || u->n_layers > MAX_LAYERS || u->vocabulary > INT32_MAX)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: %lld heads over %lld features in %d layers: not a UMT5 encoder",
                       rf_safetensors_path(rf_weights_file(u->weights)), (long long)u->heads, (long long)u->inner,
                       u->n_layers);
    return RF_OK;
}

enum rf_code rf_umt5_open(struct rf_engine *e, const char *path, struct rf_umt5 **ret_umt5, struct rf_err *err)
{
    RF_AUTO(rf_umt5_close) struct rf_umt5 *u = rf_new(struct rf_umt5);
    u->engine = e;
    enum rf_code rc = rf_weights_open(e, path, &u->weights, err);
    if (rc == RF_OK)
        rc = read_config(u, err);
    if (rc == RF_OK)
        rc = rf_weights_table(u->weights, "shared.weight", u->vocabulary, u->width, &u->embedding, err);
    for (int i = 0; i < u->n_layers && rc == RF_OK; i++)
        rc = read_layer(u, i, err);
    if (rc == RF_OK)
        rc = rf_weights_vector(u->weights, "encoder.final_layer_norm.weight", u->width, &u->final_norm, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "text encoder");
    *ret_umt5 = u;
    u = NULL;
    return RF_OK;
}

void rf_umt5_close(struct rf_umt5 **umt5)
{
    if (!*umt5)
        return;
    for (int i = 0; i < MAX_LAYERS; i++)
        free((*umt5)->layer[i].bias);
    rf_weights_close(&(*umt5)->weights);
    rf_free(umt5);
}

int64_t rf_umt5_width(const struct rf_umt5 *u)
{
    return u->width;
}

int64_t rf_umt5_vocabulary(const struct rf_umt5 *u)
{
    return u->vocabulary;
}

const struct rf_safetensors *rf_umt5_file(const struct rf_umt5 *u)
{
    return rf_weights_file(u->weights);
}

/* ---- running ---- */

/* Half of the buckets for keys to the right; in each half 8 exact distances, then 8 on a logarithmic scale up to 128.
 * The scale is compared by thresholds: a float logarithm may land on the wrong side of a whole number. */
static int bucket(int64_t distance)
{
    static const int64_t threshold[] = {8, 12, 16, 23, 32, 46, 64, 91};
    int base = distance > 0 ? 16 : 0;
    int64_t a = llabs(distance);
    if (a < 8)
        return base + (int)a;
    int i = 7;
    while (a < threshold[i])
        i--;
    return base + 8 + i;
}

/* Depends only on key - query: one value per diagonal. */
static void fill_bias(const struct rf_umt5 *u, const struct umt5_layer *l, int64_t n, float *host)
{
    for (int64_t head = 0; head < u->heads; head++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                *host++ = l->bias[bucket(j - i) * u->heads + head];
}

#define MAX_SCRATCH 9 /* tensors of struct scratch */

struct scratch {
    struct rf_tensor x, normed, q, k, v, o, gate, up, bias;
};

/* The tensors of one call, in the order in which the arena gives them. */
static int scratch_shapes(const struct rf_umt5 *u, int64_t n, struct scratch *s, struct rf_tensor **ret_list)
{
    enum rf_dtype act = rf_engine_act_dtype(u->engine);
    *s = (struct scratch){
        .x = {NULL, RF_F32, 2, {n, u->width}},      .normed = {NULL, act, 2, {n, u->width}},
        .q = {NULL, act, 2, {n, u->inner}},         .k = {NULL, act, 2, {n, u->inner}},
        .v = {NULL, act, 2, {n, u->inner}},         .o = {NULL, act, 2, {n, u->inner}},
        .gate = {NULL, act, 2, {n, u->hidden}},     .up = {NULL, act, 2, {n, u->hidden}},
        .bias = {NULL, RF_F32, 3, {u->heads, n, n}},
    };
    struct rf_tensor *list[] = {&s->x, &s->normed, &s->q, &s->k, &s->v, &s->o, &s->gate, &s->up, &s->bias};
    for (size_t i = 0; i < RF_COUNT_OF(list); i++)
        ret_list[i] = list[i];
    return (int)RF_COUNT_OF(list);
}


int64_t rf_umt5_scratch_bytes(const struct rf_umt5 *u, int64_t n_ids)
{
    struct scratch s;
    struct rf_tensor *list[MAX_SCRATCH];
    int n = scratch_shapes(u, n_ids, &s, list);
    int64_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += rf_arena_cost(list[i]->dtype, list[i]->n_dims, list[i]->shape);
    return bytes;
}

static void run_layer(struct rf_engine *e, const struct umt5_layer *l, const struct scratch *s, int heads)
{
    const struct rf_attention_opts attention = {.n_heads = heads, .scale = 1, .bias = &s->bias};
    const struct rf_linear_opts add = {.add = true};
    rf_rms_norm(e, &s->normed, &s->x, &l->norm[0], EPS);
    rf_linear(e, &s->q, &s->normed, &l->q, NULL);
    rf_linear(e, &s->k, &s->normed, &l->k, NULL);
    rf_linear(e, &s->v, &s->normed, &l->v, NULL);
    rf_attention(e, &s->o, &s->q, &s->k, &s->v, &attention);
    rf_linear(e, &s->x, &s->o, &l->o, &add);

    rf_rms_norm(e, &s->normed, &s->x, &l->norm[1], EPS);
    rf_linear(e, &s->gate, &s->normed, &l->gate, NULL);
    rf_linear(e, &s->up, &s->normed, &l->up, NULL);
    rf_gelu_mul(e, &s->gate, &s->gate, &s->up);
    rf_linear(e, &s->x, &s->gate, &l->down, &add);
}

static enum rf_code check_ids(const struct rf_umt5 *u, const int32_t *ids, int64_t n_ids, struct rf_err *err)
{
    if (n_ids < 1 || n_ids > RF_TEXT_TOKENS)
        return rf_fail(err, RF_ERR_INVALID, "a prompt has 1 to %d tokens, not %lld", RF_TEXT_TOKENS, (long long)n_ids);
    for (int64_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= u->vocabulary)
            return rf_fail(err, RF_ERR_INVALID, "token %lld is %d; the text encoder knows 0 to %lld", (long long)i,
                           ids[i], (long long)u->vocabulary - 1);
    return RF_OK;
}

enum rf_code rf_umt5_encode(struct rf_umt5 *u, const int32_t *ids, int64_t n_ids, const struct rf_tensor *hidden,
                            struct rf_err *err)
{
    RF_ASSERT(hidden->n_dims == 2 && hidden->shape[0] == RF_TEXT_TOKENS && hidden->shape[1] == u->width);
    enum rf_code rc = check_ids(u, ids, n_ids, err);
    if (rc != RF_OK)
        return rc;
    struct scratch s;
    struct rf_tensor *list[MAX_SCRATCH];
    int n = scratch_shapes(u, n_ids, &s, list);
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    rc = rf_arena_create(u->engine, rf_umt5_scratch_bytes(u, n_ids), &arena, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "text encoder");
    for (int i = 0; i < n; i++)
        *list[i] = rf_arena_tensor(arena, list[i]->dtype, list[i]->n_dims, list[i]->shape);

    RF_AUTO(rf_free) float *bias = rf_new_array(float, (size_t)rf_tensor_elements(&s.bias));
    rf_embed(u->engine, &s.x, &u->embedding, ids, n_ids);
    for (int i = 0; i < u->n_layers; i++) {
        fill_bias(u, &u->layer[i], n_ids, bias);
        rf_upload(u->engine, &s.bias, bias);
        run_layer(u->engine, &u->layer[i], &s, (int)u->heads);
    }
    rf_fill(u->engine, hidden, 0);
    struct rf_tensor rows = rf_tensor_slice(hidden, 0, n_ids);
    rf_rms_norm(u->engine, &rows, &s.x, &u->final_norm, EPS);
    return rf_engine_sync(u->engine, err); /* the arena goes when we return */
}
