/* 8-bit attention on the CPU: the quantisation of attention8.h with its integers held in F32, which is exact here
 * (sums stay under 2^24). Slower than exact attention; it exists so that the error can be measured without a GPU and
 * a GPU held against it. Takes memory of its own for quantised keys and values, the one op that does.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/attention8.h"
#include "worker/engine/cpu/cpu_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DIM RF_A8_DIM
#define TILE RF_A8_TILE
#define BLOCK_Q 128

struct job {
    const struct rf_cpu *cpu;
    float *o;
    const float *q, *k, *v;
    int64_t n_q, n_keys, width, n_tiles, n_blocks_q;
    float scale;
    /* Per head: */
    float *k8, *v8;              /* [tiles * TILE, DIM] integers; rows beyond the keys are zeros */
    float *k_scale, *v_scale;    /* [tiles, RF_A8_GROUPS] */
    float *v_mean, *v_deviation; /* [DIM] */
};

static void rotate(float x[DIM])
{
    static const uint32_t signs[] = RF_A8_SIGNS;
    for (int i = 0; i < DIM; i++)
        x[i] = signs[i / 32] >> i % 32 & 1 ? -x[i] : x[i];
    for (int step = 1; step < DIM; step *= 2)
        for (int i = 0; i < DIM; i++)
            if ((i & step) == 0) {
                float a = x[i], b = x[i + step];
                x[i] = a + b;
                x[i + step] = a - b;
            }
    for (int i = 0; i < DIM; i++)
        x[i] *= 0.08838834764831845f; /* 1 / sqrt(128) */
}

static float largest(const float x[DIM])
{
    float top = 0;
    for (int i = 0; i < DIM; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top;
}

static void round_row(float *to, const float x[DIM], float scale)
{
    float inverse = 1.0f / scale;
    for (int i = 0; i < DIM; i++)
        to[i] = rintf(x[i] * inverse);
}

static void mean_and_deviation(const float *x, int64_t n, int64_t width, float *mean, float *deviation)
{
    for (int c = 0; c < DIM; c++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < n; i++) {
            sum += x[i * width + c];
            squares += (double)x[i * width + c] * x[i * width + c];
        }
        double m = sum / (double)n, variance = squares / (double)n - m * m;
        mean[c] = (float)m;
        if (deviation != NULL)
            deviation[c] = fmaxf(sqrtf(fmaxf((float)variance, 0)), 1e-6f * fabsf((float)m) + 1e-20f);
    }
}

/* One tile's keys or values, already centred: scales per group, then rounded. */
static void quantise_tile(float (*x)[DIM], int n, bool is_v, float *to, float scale[RF_A8_GROUPS])
{
    float top = 0;
    for (int g = 0; g < RF_A8_GROUPS; g++)
        scale[g] = 0;
    for (int i = 0; i < n; i++)
        scale[RF_A8_GROUP(i)] = fmaxf(scale[RF_A8_GROUP(i)], largest(x[i]) / 127.0f);
    for (int g = 0; g < RF_A8_GROUPS; g++)
        top = fmaxf(top, scale[g]);
    for (int g = 0; g < RF_A8_GROUPS; g++) {
        if (is_v)
            scale[g] = fmaxf(fmaxf(scale[g], RF_A8_LEAST_SHARE * top), RF_A8_LEAST_SCALE);
        else if (scale[g] == 0)
            scale[g] = 1;
    }
    for (int i = 0; i < n; i++)
        round_row(to + i * DIM, x[i], scale[RF_A8_GROUP(i)]);
}

static void quantise_head(void *ctx, int64_t head, int worker)
{
    const struct job *j = ctx;
    const float *k = j->k + head * DIM, *v = j->v + head * DIM;
    float *k8 = j->k8 + head * j->n_tiles * TILE * DIM, *v8 = j->v8 + head * j->n_tiles * TILE * DIM;
    float *v_mean = j->v_mean + head * DIM, *v_deviation = j->v_deviation + head * DIM, k_mean[DIM];
    mean_and_deviation(k, j->n_keys, j->width, k_mean, NULL);
    mean_and_deviation(v, j->n_keys, j->width, v_mean, v_deviation);
    double lost[DIM] = {0};
    for (int64_t t = 0; t < j->n_tiles; t++) {
        int n = (int)(j->n_keys - t * TILE < TILE ? j->n_keys - t * TILE : TILE);
        float x[TILE][DIM];
        for (int i = 0; i < n; i++) {
            for (int c = 0; c < DIM; c++)
                x[i][c] = k[(t * TILE + i) * j->width + c] - k_mean[c];
            rotate(x[i]);
        }
        int64_t scales = (head * j->n_tiles + t) * RF_A8_GROUPS;
        quantise_tile(x, n, false, k8 + t * TILE * DIM, j->k_scale + scales);
        for (int i = 0; i < n; i++)
            for (int c = 0; c < DIM; c++)
                x[i][c] = (v[(t * TILE + i) * j->width + c] - v_mean[c]) / v_deviation[c];
        quantise_tile(x, n, true, v8 + t * TILE * DIM, j->v_scale + scales);
        for (int i = 0; i < n; i++)
            for (int c = 0; c < DIM; c++)
                lost[c] += x[i][c] - v8[(t * TILE + i) * DIM + c] * j->v_scale[scales + RF_A8_GROUP(i)];
    }
    for (int c = 0; c < DIM; c++)
        v_mean[c] += v_deviation[c] * (float)(lost[c] / (double)j->n_keys);
}

/* One row's scores over a tile become weights 0 … 255. Returns what the row's sums so far must be scaled by. */
static float weigh_row(float *s, int n, float q_scale, const float *k_scale, const float *v_scale, float *top,
                       float *sum, float *ret_gain)
{
    float factor[RF_A8_GROUPS], log_v[RF_A8_GROUPS], local = -INFINITY, total = 0;
    for (int g = 0; g < RF_A8_GROUPS; g++) {
        factor[g] = q_scale * k_scale[g];
        log_v[g] = log2f(v_scale[g]);
    }
    for (int i = 0; i < n; i++)
        local = fmaxf(local, s[i] * factor[RF_A8_GROUP(i)] + log_v[RF_A8_GROUP(i)]);
    for (int i = 0; i < n; i++) {
        int g = RF_A8_GROUP(i);
        s[i] = rintf(exp2f(s[i] * factor[g] + (log_v[g] - local + RF_A8_LOG2_LEVELS)));
        total += s[i] / v_scale[g];
    }
    float next = fmaxf(*top, local), keep = exp2f(*top - next);
    *ret_gain = exp2f(local - next);
    *top = next;
    *sum = *sum * keep + total * *ret_gain;
    return keep;
}

static void query_block(void *ctx, int64_t item, int worker)
{
    const struct job *j = ctx;
    int64_t head = item / j->n_blocks_q, first = item % j->n_blocks_q * BLOCK_Q;
    int64_t n_q = j->n_q - first < BLOCK_Q ? j->n_q - first : BLOCK_Q;
    float *q8 = rf_cpu_scratch(j->cpu, worker);
    float *s = q8 + BLOCK_Q * DIM, *part = s + BLOCK_Q * TILE, *acc = part + BLOCK_Q * DIM;
    float q_scale[BLOCK_Q], top[BLOCK_Q], sum[BLOCK_Q], keep[BLOCK_Q], gain[BLOCK_Q];
    memset(acc, 0, sizeof *acc * BLOCK_Q * DIM);
    for (int64_t r = 0; r < n_q; r++) {
        float x[DIM];
        memcpy(x, j->q + (first + r) * j->width + head * DIM, sizeof x);
        rotate(x);
        float scale = largest(x) / 127.0f;
        scale = scale > 0 ? scale : 1;
        round_row(q8 + r * DIM, x, scale);
        q_scale[r] = scale * j->scale * 1.4426950408889634f;
        top[r] = -INFINITY;
        sum[r] = 0;
    }
    for (int64_t t = 0; t < j->n_tiles; t++) {
        int n = (int)(j->n_keys - t * TILE < TILE ? j->n_keys - t * TILE : TILE);
        int64_t tile = head * j->n_tiles + t;
        rf_gemm_nt(n_q, n, DIM, q8, DIM, j->k8 + tile * TILE * DIM, DIM, false, s, TILE);
        for (int64_t r = 0; r < n_q; r++)
            keep[r] = weigh_row(s + r * TILE, n, q_scale[r], j->k_scale + tile * RF_A8_GROUPS,
                                j->v_scale + tile * RF_A8_GROUPS, &top[r], &sum[r], &gain[r]);
        rf_gemm_nn(n_q, DIM, n, s, TILE, j->v8 + tile * TILE * DIM, DIM, false, part, DIM);
        for (int64_t i = 0; i < n_q * DIM; i++)
            acc[i] = acc[i] * keep[i / DIM] + part[i] * gain[i / DIM];
    }
    for (int64_t i = 0; i < n_q * DIM; i++) {
        int64_t r = i / DIM, c = i % DIM;
        j->o[(first + r) * j->width + head * DIM + c] =
            acc[i] / sum[r] * j->v_deviation[head * DIM + c] + j->v_mean[head * DIM + c];
    }
}

enum rf_code rf_cpu_attention8(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                               const struct rf_tensor *k, const struct rf_tensor *v,
                               const struct rf_attention_opts *opts, struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    int64_t width = q->shape[q->n_dims - 1], heads = opts->n_heads;
    struct job j = {.cpu = cpu, .o = o->data, .q = q->data, .k = k->data, .v = v->data, .width = width,
                    .n_q = rf_tensor_elements(q) / width, .scale = opts->scale,
                    .n_keys = opts->n_valid_keys ? opts->n_valid_keys : rf_tensor_elements(k) / width};
    j.n_tiles = (j.n_keys + TILE - 1) / TILE;
    j.n_blocks_q = (j.n_q + BLOCK_Q - 1) / BLOCK_Q;
    size_t values = (size_t)(heads * j.n_tiles * TILE * DIM), scales = (size_t)(heads * j.n_tiles * RF_A8_GROUPS);
    size_t channels = (size_t)(heads * DIM);
    RF_AUTO(rf_free) float *memory = calloc(2 * (values + scales + channels), sizeof *memory);
    if (memory == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for 8-bit attention over %lld keys", (long long)j.n_keys);
    j.k8 = memory, j.v8 = j.k8 + values;
    j.k_scale = j.v8 + values, j.v_scale = j.k_scale + scales;
    j.v_mean = j.v_scale + scales, j.v_deviation = j.v_mean + channels;
    rf_pool_run(cpu->pool, heads, quantise_head, &j);
    rf_pool_run(cpu->pool, heads * j.n_blocks_q, query_block, &j);
    return RF_OK;
}
