/* UMT5, encoder half. T5 with a relative position bias in every layer, gated GELU, no biases, no 1/sqrt(d) on the
 * logits and RMS norms that subtract no mean. Shapes at every arrow are in NOTES.md.
 *
 * Only the prompt's own rows are computed: the reference masks the padding keys with minus infinity and drops the
 * padding rows at the end, which is the same thing at a fraction of the work.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/umt5.h"

#include <stdio.h>

#include "worker/engine/dtype.h"
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
    struct rf_arena *arena;           /* on the device; NULL: where the file is mapped, or nowhere yet */
};

struct rf_umt5 {
    struct rf_engine *engine;
    struct rf_weights *weights;
    const struct rf_st_entry *embedding; /* [vocabulary, width], in the file: a prompt needs a few rows of 2 GB */
    struct rf_tensor final_norm;
    bool mapped;                      /* layers are where the file is mapped */
    int64_t globals_bytes, layer_bytes; /* of the engine's memory: outside the layers, and the largest layer */
    struct rf_arena *globals;
    int64_t vocabulary, width, inner, hidden, heads;
    int n_layers;
    struct umt5_layer layer[MAX_LAYERS];
};

/* ---- loading ---- */

/* Checked like any tensor, but never on the device. */
static enum rf_code read_bias(struct rf_umt5 *u, int index, struct rf_err *err)
{
    char name[128];
    snprintf(name, sizeof name, "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight", index);
    struct rf_tensor t;
    int64_t n = N_BUCKETS * u->heads;
    rf_weights_place(u->weights, RF_PLACE_MEASURE, NULL, 0);
    enum rf_code rc = rf_weights_vector(u->weights, name, n, &t, err);
    rf_weights_place(u->weights, RF_PLACE_MAP, NULL, 0);
    if (rc != RF_OK)
        return rc;
    const struct rf_st_entry *entry = rf_weights_entry(u->weights, name);
    u->layer[index].bias = rf_new_array(float, (size_t)n);
    rf_dtype_to_f32(u->layer[index].bias, entry->data, entry->dtype, n);
    return RF_OK;
}

/* Fetches a layer to where rf_weights_place() says. */
static enum rf_code read_layer(struct rf_umt5 *u, int index, struct umt5_layer *l, struct rf_err *err)
{
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
    return rc;
}

static enum rf_code read_globals(struct rf_umt5 *u, struct rf_err *err)
{
    return rf_weights_vector(u->weights, "encoder.final_layer_norm.weight", u->width, &u->final_norm, err);
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

/* The embedding stays in the file; its rows are checked here and read when they are wanted. */
static enum rf_code find_embedding(struct rf_umt5 *u, struct rf_err *err)
{
    struct rf_tensor t;
    rf_weights_place(u->weights, RF_PLACE_MEASURE, NULL, 0);
    enum rf_code rc = rf_weights_table(u->weights, "shared.weight", u->vocabulary, u->width, &t, err);
    rf_weights_place(u->weights, RF_PLACE_MAP, NULL, 0);
    u->embedding = rf_weights_entry(u->weights, "shared.weight");
    return rc;
}

static enum rf_code measure(struct rf_umt5 *u, struct rf_err *err)
{
    enum rf_weights_place how = u->mapped ? RF_PLACE_MAP : RF_PLACE_MEASURE;
    rf_weights_place(u->weights, how, NULL, 0);
    enum rf_code rc = read_globals(u, err);
    u->globals_bytes = rf_weights_placed_bytes(u->weights);
    for (int i = 0; i < u->n_layers && rc == RF_OK; i++) {
        rf_weights_place(u->weights, how, NULL, 0);
        rc = read_layer(u, i, &u->layer[i], err);
        if (rf_weights_placed_bytes(u->weights) > u->layer_bytes)
            u->layer_bytes = rf_weights_placed_bytes(u->weights);
        if (rc == RF_OK)
            rc = read_bias(u, i, err);
    }
    rf_weights_place(u->weights, RF_PLACE_MAP, NULL, 0);
    return rc;
}

enum rf_code rf_umt5_open_unplaced(struct rf_engine *e, const char *path, struct rf_umt5 **ret_umt5,
                                   struct rf_err *err)
{
    RF_AUTO(rf_umt5_close) struct rf_umt5 *u = rf_new(struct rf_umt5);
    u->engine = e;
    u->mapped = rf_engine_is_host(e);
    enum rf_code rc = rf_weights_open(e, path, &u->weights, err);
    if (rc == RF_OK)
        rc = read_config(u, err);
    if (rc == RF_OK)
        rc = find_embedding(u, err);
    if (rc == RF_OK)
        rc = measure(u, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "text encoder");
    *ret_umt5 = u;
    u = NULL;
    return RF_OK;
}

enum rf_code rf_umt5_open(struct rf_engine *e, const char *path, struct rf_umt5 **ret_umt5, struct rf_err *err)
{
    RF_AUTO(rf_umt5_close) struct rf_umt5 *u = NULL;
    enum rf_code rc = rf_umt5_open_unplaced(e, path, &u, err);
    if (rc == RF_OK)
        rc = rf_umt5_place(u, true, err);
    if (rc != RF_OK)
        return rc;
    *ret_umt5 = u;
    u = NULL;
    return RF_OK;
}

void rf_umt5_vacate(struct rf_umt5 *u)
{
    for (int i = 0; i < u->n_layers; i++)
        rf_arena_destroy(&u->layer[i].arena);
}

/* A piece of the device's memory, and weights go there from now on. */
static enum rf_code take_piece(struct rf_umt5 *u, int64_t bytes, struct rf_arena **ret_arena, struct rf_err *err)
{
    enum rf_code rc = rf_arena_create(u->engine, bytes, ret_arena, err);
    if (rc == RF_OK)
        rf_weights_place(u->weights, RF_PLACE_DEVICE, rf_arena_tensor(*ret_arena, RF_U8, RF_SHAPE(bytes)).data, bytes);
    return rc;
}

enum rf_code rf_umt5_place(struct rf_umt5 *u, bool keep, struct rf_err *err)
{
    enum rf_code rc = RF_OK;
    if (u->mapped)
        return RF_OK;
    if (!keep)
        rf_umt5_vacate(u);
    if (u->globals == NULL) {
        rc = take_piece(u, u->globals_bytes, &u->globals, err);
        if (rc == RF_OK)
            rc = read_globals(u, err);
    }
    for (int i = 0; i < u->n_layers && keep && rc == RF_OK; i++) {
        if (u->layer[i].arena != NULL)
            continue;
        rc = take_piece(u, u->layer_bytes, &u->layer[i].arena, err);
        if (rc == RF_OK)
            rc = read_layer(u, i, &u->layer[i], err);
        if (rc != RF_OK)
            rf_arena_destroy(&u->layer[i].arena);
    }
    rf_weights_place(u->weights, RF_PLACE_MAP, NULL, 0);
    if (rc == RF_OK)
        rc = rf_engine_sync(u->engine, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "text encoder");
}

void rf_umt5_close(struct rf_umt5 **umt5)
{
    if (!*umt5)
        return;
    rf_umt5_vacate(*umt5);
    rf_arena_destroy(&(*umt5)->globals);
    for (int i = 0; i < MAX_LAYERS; i++)
        free((*umt5)->layer[i].bias);
    rf_weights_close(&(*umt5)->weights);
    rf_free(umt5);
}

int64_t rf_umt5_globals_bytes(const struct rf_umt5 *u)
{
    return u->globals_bytes;
}

int64_t rf_umt5_layer_bytes(const struct rf_umt5 *u)
{
    return u->layer_bytes;
}

int rf_umt5_n_layers(const struct rf_umt5 *u)
{
    return u->n_layers;
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

/* [heads, 2n - 1]: depends only on key - query. */
static void fill_bias(const struct rf_umt5 *u, const struct umt5_layer *l, int64_t n, float *host)
{
    for (int64_t head = 0; head < u->heads; head++)
        for (int64_t distance = 1 - n; distance < n; distance++)
            *host++ = l->bias[bucket(distance) * u->heads + head];
}

#define MAX_SCRATCH 10 /* tensors of struct scratch */

/* Attention is F32 whatever the precision: logits are not scaled down and reach tens, so that what bf16 takes off the
 * norm, q and k before the exponential alone costs 2.1e-2 of the result (worker/engine/SPEED.md). The feed-forward half,
 * about twice the work, has the engine's type. */
struct scratch {
    struct rf_tensor x, exact, q, k, v, o, normed, gate, up, bias;
};

/* The tensors of one call, in the order in which the arena gives them. */
static int scratch_shapes(const struct rf_umt5 *u, int64_t n, struct scratch *s, struct rf_tensor **ret_list)
{
    enum rf_dtype act = rf_engine_act_dtype(u->engine);
    *s = (struct scratch){
        .x = {NULL, RF_F32, 2, {n, u->width}},      .exact = {NULL, RF_F32, 2, {n, u->width}},
        .q = {NULL, RF_F32, 2, {n, u->inner}},      .k = {NULL, RF_F32, 2, {n, u->inner}},
        .v = {NULL, RF_F32, 2, {n, u->inner}},      .o = {NULL, RF_F32, 2, {n, u->inner}},
        .normed = {NULL, act, 2, {n, u->width}},    .gate = {NULL, act, 2, {n, u->hidden}},
        .up = {NULL, act, 2, {n, u->hidden}},
        .bias = {NULL, RF_F32, 2, {u->heads, 2 * n - 1}},
    };
    struct rf_tensor *list[] = {&s->x, &s->exact, &s->q, &s->k, &s->v, &s->o, &s->normed, &s->gate, &s->up, &s->bias};
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
    /* wide: read once per prompt, so that fp8 rows would cost 1.2e-1 of the result and save nothing that is felt */
    const struct rf_linear_opts add = {.add = true, .wide = true}, wide = {.wide = true};
    rf_rms_norm(e, &s->exact, &s->x, &l->norm[0], EPS);
    rf_linear(e, &s->q, &s->exact, &l->q, NULL);
    rf_linear(e, &s->k, &s->exact, &l->k, NULL);
    rf_linear(e, &s->v, &s->exact, &l->v, NULL);
    rf_attention(e, &s->o, &s->q, &s->k, &s->v, &attention);
    rf_linear(e, &s->x, &s->o, &l->o, &add);

    rf_rms_norm(e, &s->normed, &s->x, &l->norm[1], EPS);
    rf_linear(e, &s->gate, &s->normed, &l->gate, &wide);
    rf_linear(e, &s->up, &s->normed, &l->up, &wide);
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

/* The rows of the prompt's tokens. */
static enum rf_code embed(struct rf_umt5 *u, const struct rf_tensor *x, const int32_t *ids, int64_t n_ids,
                          struct rf_err *err)
{
    RF_AUTO(rf_free) float *rows = malloc((size_t)(n_ids * u->width) * sizeof *rows);
    if (rows == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld rows of the embedding", (long long)n_ids);
    size_t row_bytes = (size_t)u->width * rf_dtype_size(u->embedding->dtype);
    for (int64_t i = 0; i < n_ids; i++)
        rf_dtype_to_f32(rows + i * u->width, (const char *)u->embedding->data + (size_t)ids[i] * row_bytes,
                        u->embedding->dtype, u->width);
    rf_upload(u->engine, x, rows);
    return RF_OK;
}

/* A layer that is not on the device passes through `room`: the ops of the one before are queued ahead of its upload. */
static enum rf_code encode_layer(struct rf_umt5 *u, int index, const struct rf_tensor *room, const struct scratch *s,
                                 struct rf_err *err)
{
    struct umt5_layer passing;
    const struct umt5_layer *l = &u->layer[index];
    if (!u->mapped && l->arena == NULL) {
        rf_weights_place(u->weights, RF_PLACE_DEVICE, room->data, (int64_t)rf_tensor_bytes(room));
        enum rf_code rc = read_layer(u, index, &passing, err);
        rf_weights_place(u->weights, RF_PLACE_MAP, NULL, 0);
        if (rc != RF_OK)
            return rc;
        l = &passing;
    }
    run_layer(u->engine, l, s, (int)u->heads);
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
    struct rf_tensor *list[MAX_SCRATCH], room = {0};
    int n = scratch_shapes(u, n_ids, &s, list);
    bool passing = !u->mapped && u->layer[u->n_layers - 1].arena == NULL;
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    /* As large for any prompt: what is planned is what is taken. */
    int64_t bytes = rf_umt5_scratch_bytes(u, RF_TEXT_TOKENS) + (passing ? u->layer_bytes : 0);
    rc = rf_arena_create(u->engine, bytes, &arena, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "text encoder");
    for (int i = 0; i < n; i++)
        *list[i] = rf_arena_tensor(arena, list[i]->dtype, list[i]->n_dims, list[i]->shape);
    if (passing)
        room = rf_arena_tensor(arena, RF_U8, RF_SHAPE(u->layer_bytes));

    RF_AUTO(rf_free) float *bias = rf_new_array(float, (size_t)rf_tensor_elements(&s.bias));
    rc = embed(u, &s.x, ids, n_ids, err);
    for (int i = 0; i < u->n_layers && rc == RF_OK; i++) {
        fill_bias(u, &u->layer[i], n_ids, bias);
        rf_upload(u->engine, &s.bias, bias);
        rc = encode_layer(u, i, &room, &s, err);
    }
    rf_fill(u->engine, hidden, 0);
    struct rf_tensor rows = rf_tensor_slice(hidden, 0, n_ids);
    rf_rms_norm(u->engine, &rows, &s.x, &u->final_norm, EPS);
    enum rf_code done = rf_engine_sync(u->engine, rc == RF_OK ? err : NULL); /* the arena goes when we return */
    return rc == RF_OK ? done : rc;
}
