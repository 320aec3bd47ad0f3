/* The ops of the transformer and the text encoder; see op_suite.h. Tolerances are for float32, measured values beside
 * them. SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/op_suite.h"

#include "tests/engine/op_helpers.h"
#include "worker/engine/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static double gelu(double z)
{
    return 0.5 * z * (1 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)));
}

static double act_of(double z, enum rf_act act)
{
    return act == RF_ACT_GELU_TANH ? gelu(z) : act == RF_ACT_SILU ? z / (1 + exp(-z)) : z;
}

static double *doubles(int64_t n)
{
    return rf_new_array(double, (size_t)n);
}

/* ---- linear ---- */

struct linear_case {
    const char *name;
    int64_t rows, in, out;
    enum rf_dtype dtype;
    int scales; /* 0 none, 1 one, 2 one per output */
    bool bias, add, gate;
    enum rf_act act;
    int ranks[2]; /* of up to two LoRA branches; 0: none */
};

static void run_linear(struct rf_engine *e, const struct linear_case *c)
{
    struct bench b;
    bench_begin(&b, e);
    float *x, *w, *scale = NULL, *bias = NULL, *gate = NULL, *y0 = NULL, *down[2] = {0}, *up[2] = {0};
    struct rf_tensor tx = bench_random_tensor(&b, RF_F32, &x, RF_SHAPE(c->rows, c->in)), tg = {0};
    struct rf_linear l = {.w = bench_random_tensor(&b, c->dtype, &w, RF_SHAPE(c->out, c->in))};
    if (c->scales)
        l.scale = bench_random_tensor(&b, RF_F32, &scale, RF_SHAPE(c->scales == 1 ? 1 : c->out));
    if (c->bias)
        l.b = bench_random_tensor(&b, RF_F32, &bias, RF_SHAPE(c->out));
    if (c->gate)
        tg = bench_random_tensor(&b, RF_F32, &gate, RF_SHAPE(c->out));
    for (int i = 0; i < 2 && c->ranks[i]; i++, l.n_loras++) {
        l.lora[i].down = bench_random_tensor(&b, i ? RF_F32 : RF_BF16, &down[i], RF_SHAPE(c->ranks[i], c->in));
        l.lora[i].up = bench_random_tensor(&b, i ? RF_F16 : RF_F32, &up[i], RF_SHAPE(c->out, c->ranks[i]));
        l.lora[i].scale = 0.3f - 0.5f * (float)i;
    }
    struct rf_tensor ty = c->add ? bench_random_tensor(&b, RF_F32, &y0, RF_SHAPE(c->rows, c->out))
                                 : bench_tensor(&b, RF_F32, NULL, RF_SHAPE(c->rows, c->out));
    rf_linear(e, &ty, &tx, &l,
              &(struct rf_linear_opts){.act = c->act, .add = c->add, .gate = c->gate ? &tg : NULL});
    double *ref = doubles(c->rows * c->out);
    for (int64_t r = 0; r < c->rows; r++) {
        double inner[2][64] = {0}; /* x down^T */
        for (int k = 0; k < l.n_loras; k++)
            for (int64_t i = 0; i < c->ranks[k] * c->in; i++)
                inner[k][i / c->in] += (double)x[r * c->in + i % c->in] * down[k][i];
        for (int64_t o = 0; o < c->out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < c->in; i++)
                sum += (double)x[r * c->in + i] * w[o * c->in + i];
            sum *= scale ? scale[c->scales == 1 ? 0 : o] : 1;
            for (int k = 0; k < l.n_loras; k++)
                for (int64_t q = 0; q < c->ranks[k]; q++)
                    sum += (double)l.lora[k].scale * inner[k][q] * up[k][o * c->ranks[k] + q];
            sum = act_of(sum + (bias ? bias[o] : 0), c->act);
            ref[r * c->out + o] = c->add ? y0[r * c->out + o] + (gate ? gate[o] : 1) * sum : sum;
        }
    }
    bench_check(&b, c->name, &ty, ref, 1e-6 /* measured 3e-8 to 3.4e-7 */);
    float *all[] = {x, w, scale, bias, gate, y0, down[0], down[1], up[0], up[1]};
    for (size_t i = 0; i < RF_COUNT_OF(all); i++)
        free(all[i]);
    free(ref);
    bench_end(&b);
}

static void linear_multiplies_every_weight_type_at_odd_sizes(void **state)
{
    static const struct linear_case cases[] = {
        {.name = "linear f32", .rows = 37, .in = 53, .out = 41, .dtype = RF_F32, .bias = true},
        {.name = "linear f32 no bias", .rows = 5, .in = 7, .out = 3, .dtype = RF_F32},
        {.name = "linear one row", .rows = 1, .in = 300, .out = 517, .dtype = RF_BF16, .bias = true},
        {.name = "linear one output", .rows = 19, .in = 33, .out = 1, .dtype = RF_F16, .bias = true},
        {.name = "linear one input", .rows = 19, .in = 1, .out = 9, .dtype = RF_F32, .bias = true},
        {.name = "linear f16", .rows = 33, .in = 65, .out = 31, .dtype = RF_F16, .bias = true},
        {.name = "linear bf16, several tiles", .rows = 523, .in = 129, .out = 301, .dtype = RF_BF16, .bias = true},
        {.name = "linear e4m3", .rows = 35, .in = 67, .out = 29, .dtype = RF_F8_E4M3},
        {.name = "linear e5m2", .rows = 35, .in = 67, .out = 29, .dtype = RF_F8_E5M2, .bias = true},
        {.name = "linear e4m3 one scale", .rows = 40, .in = 300, .out = 50, .dtype = RF_F8_E4M3, .scales = 1,
         .bias = true},
        {.name = "linear e4m3 row scales", .rows = 300, .in = 61, .out = 270, .dtype = RF_F8_E4M3, .scales = 2,
         .bias = true},
        {.name = "linear long rows", .rows = 3, .in = 13824, .out = 160, .dtype = RF_BF16, .bias = true},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        run_linear(*state, &cases[i]);
}

static void linear_applies_activation_gate_and_sum(void **state)
{
    static const struct linear_case cases[] = {
        {.name = "linear gelu", .rows = 21, .in = 77, .out = 45, .dtype = RF_F32, .bias = true,
         .act = RF_ACT_GELU_TANH},
        {.name = "linear silu", .rows = 21, .in = 77, .out = 45, .dtype = RF_BF16, .bias = true, .act = RF_ACT_SILU},
        {.name = "linear add", .rows = 21, .in = 77, .out = 45, .dtype = RF_F32, .bias = true, .add = true},
        {.name = "linear gated add", .rows = 300, .in = 77, .out = 261, .dtype = RF_F8_E4M3, .scales = 1, .bias = true,
         .add = true, .gate = true},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        run_linear(*state, &cases[i]);
}

static void linear_adds_lora_branches(void **state)
{
    static const struct linear_case cases[] = {
        {.name = "lora", .rows = 31, .in = 57, .out = 43, .dtype = RF_F32, .bias = true, .ranks = {5}},
        {.name = "two loras on fp8", .rows = 275, .in = 57, .out = 270, .dtype = RF_F8_E4M3, .scales = 2, .bias = true,
         .add = true, .gate = true, .ranks = {7, 64}},
        {.name = "lora gelu", .rows = 9, .in = 40, .out = 20, .dtype = RF_BF16, .act = RF_ACT_GELU_TANH,
         .ranks = {1, 3}},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        run_linear(*state, &cases[i]);
}

/* ---- norms ---- */

static void layer_norm_scales_and_shifts(void **state)
{
    for (int kind = 0; kind < 3; kind++) { /* plain, affine, 1 + scale in place */
        struct bench b;
        bench_begin(&b, *state);
        int64_t rows = 35, dim = 77 + kind;
        float *x, *scale, *shift;
        struct rf_tensor tx = bench_random_tensor(&b, RF_F32, &x, RF_SHAPE(rows, dim));
        struct rf_tensor ts = bench_random_tensor(&b, RF_F32, &scale, RF_SHAPE(dim));
        struct rf_tensor th = bench_random_tensor(&b, RF_F32, &shift, RF_SHAPE(dim));
        struct rf_tensor ty = kind == 2 ? tx : bench_tensor(&b, RF_F32, NULL, RF_SHAPE(rows, dim));
        rf_layer_norm(b.e, &ty, &tx, kind ? &ts : NULL, kind ? &th : NULL, kind == 2, 1e-6f);
        double *ref = doubles(rows * dim);
        for (int64_t r = 0; r < rows; r++) {
            double mean = 0, var = 0;
            for (int64_t i = 0; i < dim; i++)
                mean += x[r * dim + i] / (double)dim;
            for (int64_t i = 0; i < dim; i++)
                var += pow(x[r * dim + i] - mean, 2) / (double)dim;
            for (int64_t i = 0; i < dim; i++) {
                double n = (x[r * dim + i] - mean) / sqrt(var + 1e-6);
                ref[r * dim + i] = kind ? n * ((kind == 2) + (double)scale[i]) + shift[i] : n;
            }
        }
        bench_check(&b, "layer norm", &ty, ref, 5e-7 /* measured 6e-8 */);
        free(x), free(scale), free(shift), free(ref);
        bench_end(&b);
    }
}

static void rms_norm_and_rope_use_whole_rows_and_neighbouring_pairs(void **state)
{
    for (int kind = 0; kind < 3; kind++) { /* norm, norm in place without angles, with angles */
        struct bench b;
        bench_begin(&b, *state);
        int64_t rows = 37, n_heads = 3, head_dim = 26, dim = n_heads * head_dim;
        float *x, *w, *f;
        struct rf_tensor tx = bench_random_tensor(&b, RF_F32, &x, RF_SHAPE(rows, dim));
        struct rf_tensor tw = bench_random_tensor(&b, RF_F32, &w, RF_SHAPE(dim));
        struct rf_tensor tf = bench_random_tensor(&b, RF_F32, &f, RF_SHAPE(rows, head_dim / 2, 2));
        struct rf_tensor ty = kind ? tx : bench_tensor(&b, RF_F32, NULL, RF_SHAPE(rows, dim));
        if (kind == 0)
            rf_rms_norm(b.e, &ty, &tx, &tw, 1e-6f);
        else
            rf_rms_rope(b.e, &tx, &tw, kind == 2 ? &tf : NULL, (int)n_heads, 1e-6f);
        double *ref = doubles(rows * dim);
        for (int64_t r = 0; r < rows; r++) {
            double mean = 0;
            for (int64_t i = 0; i < dim; i++)
                mean += (double)x[r * dim + i] * x[r * dim + i] / (double)dim;
            for (int64_t i = 0; i < dim; i++)
                ref[r * dim + i] = x[r * dim + i] / sqrt(mean + 1e-6) * w[i];
            for (int64_t i = 0; i < dim && kind == 2; i += 2) {
                const float *angle = f + r * head_dim + i % head_dim;
                double p = ref[r * dim + i], q = ref[r * dim + i + 1];
                ref[r * dim + i] = p * angle[0] - q * angle[1];
                ref[r * dim + i + 1] = p * angle[1] + q * angle[0];
            }
        }
        bench_check(&b, "rms norm", &ty, ref, 5e-7 /* measured 7e-8 */);
        free(x), free(w), free(f), free(ref);
        bench_end(&b);
    }
}

/* ---- attention ---- */

struct attention_case {
    const char *name;
    int64_t n_q, n_k, head_dim, n_valid;
    int n_heads;
    float scale;
    bool bias, masked; /* masked: some biases are -infinity, for the last row the first 512 */
};

static void run_attention(struct rf_engine *e, const struct attention_case *c)
{
    struct bench b;
    bench_begin(&b, e);
    int64_t width = c->n_heads * c->head_dim, n_keys = c->n_valid ? c->n_valid : c->n_k;
    int64_t diagonals = c->n_q + c->n_k - 1;
    float *q, *k, *v, *bias = NULL;
    struct rf_tensor tq = bench_random_tensor(&b, RF_F32, &q, RF_SHAPE(c->n_q, width));
    struct rf_tensor tk = bench_random_tensor(&b, RF_F32, &k, RF_SHAPE(c->n_k, width));
    struct rf_tensor tv = bench_random_tensor(&b, RF_F32, &v, RF_SHAPE(c->n_k, width)), tb = {0};
    if (c->bias) {
        bias = bench_random(&b, c->n_heads * diagonals);
        for (int64_t i = 0; c->masked && i < c->n_heads * diagonals; i++)
            if (i % 7 == 3 || i % diagonals < 512)
                bias[i] = -INFINITY;
        tb = bench_tensor(&b, RF_F32, bias, RF_SHAPE(c->n_heads, diagonals));
    }
    struct rf_tensor to = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(c->n_q, width));
    rf_attention(e, &to, &tq, &tk, &tv,
                 &(struct rf_attention_opts){.n_heads = c->n_heads, .scale = c->scale, .bias = c->bias ? &tb : NULL,
                                             .n_valid_keys = c->n_valid});
    double *ref = doubles(c->n_q * width), *p = doubles(n_keys);
    for (int64_t h = 0; h < c->n_heads; h++)
        for (int64_t i = 0; i < c->n_q; i++) {
            double top = -INFINITY, sum = 0;
            for (int64_t j = 0; j < n_keys; j++) {
                p[j] = 0;
                for (int64_t d = h * c->head_dim; d < (h + 1) * c->head_dim; d++)
                    p[j] += (double)q[i * width + d] * k[j * width + d];
                p[j] = p[j] * (double)c->scale + (bias ? bias[h * diagonals + j - i + c->n_q - 1] : 0);
                top = p[j] > top ? p[j] : top;
            }
            for (int64_t j = 0; j < n_keys; j++)
                sum += p[j] = exp(p[j] - top);
            for (int64_t d = h * c->head_dim; d < (h + 1) * c->head_dim; d++)
                for (int64_t j = 0; j < n_keys; j++)
                    ref[i * width + d] += p[j] / sum * v[j * width + d];
        }
    bench_check(&b, c->name, &to, ref, 5e-6 /* measured 1e-7 to 1.7e-6 (peaked) */);
    free(q), free(k), free(v), free(bias), free(ref), free(p);
    bench_end(&b);
}

static void attention_agrees_at_odd_sizes_and_over_several_blocks(void **state)
{
    static const struct attention_case cases[] = {
        {.name = "attention", .n_q = 33, .n_k = 45, .head_dim = 20, .n_heads = 3, .scale = 0.22f},
        {.name = "one query, one key", .n_q = 1, .n_k = 1, .head_dim = 7, .n_heads = 2, .scale = 1},
        {.name = "heads of 128", .n_q = 70, .n_k = 90, .head_dim = 128, .n_heads = 2, .scale = 0.0884f},
        {.name = "several blocks", .n_q = 801, .n_k = 1301, .head_dim = 17, .n_heads = 2, .scale = 0.25f},
        {.name = "peaked over blocks", .n_q = 201, .n_k = 1100, .head_dim = 64, .n_heads = 1, .scale = 3},
        {.name = "negative scale", .n_q = 9, .n_k = 600, .head_dim = 16, .n_heads = 1, .scale = -0.5f},
        {.name = "valid keys", .n_q = 40, .n_k = 64, .n_valid = 37, .head_dim = 16, .n_heads = 2, .scale = 1},
        {.name = "bias", .n_q = 21, .n_k = 530, .head_dim = 24, .n_heads = 2, .scale = 1, .bias = true},
        {.name = "bias and valid keys", .n_q = 21, .n_k = 64, .n_valid = 5, .head_dim = 24, .n_heads = 2, .scale = 0.3f,
         .bias = true},
        {.name = "masking bias", .n_q = 11, .n_k = 700, .head_dim = 24, .n_heads = 2, .scale = 0.3f, .bias = true,
         .masked = true},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        run_attention(*state, &cases[i]);
}

/* ---- elementwise ---- */

static void activations_agree_over_their_whole_range(void **state)
{
    enum { N = 20011 };
    for (enum rf_act act = RF_ACT_NONE; act < RF_ACT_COUNT; act++) {
        struct bench b;
        bench_begin(&b, *state);
        float *x = rf_new_array(float, N);
        double *ref = doubles(N);
        for (int i = 0; i < N; i++) {
            x[i] = (float)(i - N / 2) * 0.01f; /* -100 to 100 */
            ref[i] = act_of(x[i], act);
        }
        struct rf_tensor tx = bench_tensor(&b, RF_F32, x, RF_SHAPE(N));
        struct rf_tensor ty = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(N));
        rf_activate(b.e, &ty, &tx, act);
        bench_check(&b, "activate", &ty, ref, 2e-7 /* measured 3e-9 */);
        /* Near zero the large values must not hide an error. */
        struct rf_tensor near = rf_tensor_slice(&ty, N / 2 - 300, 601);
        bench_check(&b, "activate near 0", &near, ref + N / 2 - 300, 2e-7 /* measured 4e-8 */);
        free(x), free(ref);
        bench_end(&b);
    }
}

static void gelu_mul_and_axpby_agree_in_place(void **state)
{
    enum { N = 17003 };
    struct bench b;
    bench_begin(&b, *state);
    float *x, *y;
    double *ref = doubles(N);
    struct rf_tensor tx = bench_random_tensor(&b, RF_F32, &x, RF_SHAPE(N));
    struct rf_tensor ty = bench_random_tensor(&b, RF_F32, &y, RF_SHAPE(N));
    struct rf_tensor tz = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(N));
    rf_axpby(b.e, &tz, -0.7f, &tx, 0); /* b 0: the old NaN must not come through */
    for (int i = 0; i < N; i++)
        ref[i] = (double)-0.7f * x[i];
    bench_check(&b, "axpby, b 0", &tz, ref, 2e-7 /* measured 3e-8 */);
    rf_axpby(b.e, &ty, 0.3f, &tx, -1.5f);
    for (int i = 0; i < N; i++)
        ref[i] = (double)0.3f * x[i] - 1.5 * y[i];
    bench_check(&b, "axpby", &ty, ref, 2e-7 /* measured 4e-8 */);
    rf_gelu_mul(b.e, &tx, &tx, &ty);
    for (int i = 0; i < N; i++)
        ref[i] = gelu(x[i]) * ref[i];
    bench_check(&b, "gelu mul", &tx, ref, 5e-7 /* measured 6e-8 */);
    free(x), free(y), free(ref);
    bench_end(&b);
}

static void embed_copies_rows_of_every_table_type(void **state)
{
    static const int32_t ids[] = {4, 0, 10, 4, 7};
    static const enum rf_dtype types[] = {RF_F32, RF_F16, RF_BF16, RF_F8_E4M3};
    for (size_t t = 0; t < RF_COUNT_OF(types); t++) {
        struct bench b;
        bench_begin(&b, *state);
        float *table;
        double ref[5 * 263];
        struct rf_tensor tt = bench_random_tensor(&b, types[t], &table, RF_SHAPE(11, 263));
        struct rf_tensor ty = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(5, 263));
        rf_embed(b.e, &ty, &tt, ids, 5);
        for (int i = 0; i < 5 * 263; i++)
            ref[i] = table[ids[i / 263] * 263 + i % 263];
        bench_check(&b, "embed", &ty, ref, 0);
        free(table);
        bench_end(&b);
    }
}

static void copy_converts_and_fill_fills(void **state)
{
    static const enum rf_dtype types[] = {RF_F32, RF_F16, RF_BF16, RF_F8_E4M3, RF_F8_E5M2};
    enum { N = 16500 };
    for (size_t i = 0; i < RF_COUNT_OF(types) * RF_COUNT_OF(types); i++) {
        enum rf_dtype from = types[i / RF_COUNT_OF(types)], to = types[i % RF_COUNT_OF(types)];
        struct bench b;
        bench_begin(&b, *state);
        float *x;
        struct rf_tensor tx = bench_random_tensor(&b, from, &x, RF_SHAPE(N));
        struct rf_tensor ty = bench_tensor(&b, to, NULL, RF_SHAPE(N));
        rf_copy(b.e, &ty, &tx);
        char bytes[4 * N]; /* the loader's conversions, which have a test of their own, are the reference */
        double *ref = doubles(N);
        rf_dtype_from_f32(bytes, to, x, N);
        rf_dtype_to_f32(x, bytes, to, N);
        for (int k = 0; k < N; k++)
            ref[k] = x[k];
        bench_check(&b, "copy", &ty, ref, 0);
        rf_fill(b.e, &ty, -1.5f); /* exact in all types */
        for (int k = 0; k < N; k++)
            ref[k] = -1.5;
        bench_check(&b, "fill", &ty, ref, 0);
        free(x), free(ref);
        bench_end(&b);
    }
}

/* ---- patches ---- */

static void patches_go_in_channel_first_and_come_out_channel_last(void **state)
{
    enum { C = 3, T = 2, HP = 3, WP = 5, H = 2 * HP, W = 2 * WP, N = C * T * H * W };
    struct bench b;
    bench_begin(&b, *state);
    float *x;
    double ref[N];
    struct rf_tensor tl = bench_random_tensor(&b, RF_F32, &x, RF_SHAPE(C, T, H, W));
    struct rf_tensor tt = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(T * HP * WP, 4 * C));
    struct rf_tensor back = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(C, T, H, W));
    rf_patchify(b.e, &tt, &tl);
    for (int i = 0; i < N; i++) {
        int n = i / (4 * C), f = i % (4 * C), t = n / (HP * WP), y = n / WP % HP, px = n % WP;
        ref[i] = x[((f / 4 * T + t) * H + 2 * y + f / 2 % 2) * W + 2 * px + f % 2];
    }
    bench_check(&b, "patchify", &tt, ref, 0);
    /* The same tokens read in the other nesting. */
    float tokens[N];
    assert_int_equal(rf_download(b.e, &tt, tokens, NULL), RF_OK);
    rf_unpatchify(b.e, &back, &tt);
    for (int i = 0; i < N; i++) {
        int c = i / (T * H * W), t = i / (H * W) % T, y = i / W % H, px = i % W;
        ref[i] = tokens[((t * HP + y / 2) * WP + px / 2) * 4 * C + (y % 2 * 2 + px % 2) * C + c];
    }
    bench_check(&b, "unpatchify", &back, ref, 0);
    free(x);
    bench_end(&b);
}

/* ---- convolution ---- */

static void convolution_finds_the_frames_before_x_wherever_they_lie(void **state)
{
    enum { T = 3, H = 5, W = 7, IN = 8, OUT = 6, FRAME = H * W * IN };
    for (int kind = 0; kind < 3; kind++) { /* plain, every second frame, doubled */
        struct bench b;
        bench_begin(&b, *state);
        int stride_t = kind == 1 ? 2 : 1, up = kind == 2 ? 2 : 1;
        int64_t n = (T + 2 - 3) / stride_t + 1, size = n * H * up * W * up * OUT;
        float *x, *w;
        struct rf_tensor whole = bench_random_tensor(&b, RF_F32, &x, RF_SHAPE(T + 2, H, W, IN));
        struct rf_tensor tw = bench_random_tensor(&b, RF_F32, &w, RF_SHAPE(OUT, 3, 3, 3, IN));
        struct rf_tensor front = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(n, H * up, W * up, OUT));
        struct rf_tensor ty = bench_tensor(&b, RF_F32, NULL, RF_SHAPE(n, H * up, W * up, OUT));
        struct rf_conv conv = {.w = tw};
        struct rf_conv_opts opts = {.stride_t = stride_t, .upsample = kind == 2};
        rf_conv(b.e, &front, &whole, &conv, &opts);

        /* In memory: the younger one, x, the older one. */
        struct rf_tensor younger = bench_tensor(&b, RF_F32, x + FRAME, RF_SHAPE(1, H, W, IN));
        struct rf_tensor tx = bench_tensor(&b, RF_F32, x + 2 * FRAME, RF_SHAPE(T, H, W, IN));
        struct rf_tensor older = bench_tensor(&b, RF_F32, x, RF_SHAPE(1, H, W, IN));
        opts.before = (struct rf_tensor[]){older, younger};
        rf_conv(b.e, &ty, &tx, &conv, &opts);
        float *want = rf_new_array(float, (size_t)size);
        assert_int_equal(rf_download(b.e, &front, want, NULL), RF_OK);
        double *ref = doubles(size);
        for (int64_t i = 0; i < size; i++)
            ref[i] = want[i];
        bench_check(&b, "convolution, frames before x", &ty, ref, 0);
        free(x), free(w), free(want), free(ref);
        bench_end(&b);
    }
}

int op_suite_run(const char *device, const char *precision)
{
    struct rf_engine *e = NULL;
    struct rf_err err = {0};
    struct rf_engine_config config = {.device = device, .precision = precision, .n_threads = 3};
    enum rf_code rc = rf_engine_open(&config, &e, &err);
    if (rc != RF_OK) {
        print_message("%s\n", err.msg);
        return rc == RF_ERR_DEVICE ? 77 : 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(linear_multiplies_every_weight_type_at_odd_sizes, e),
        cmocka_unit_test_prestate(linear_applies_activation_gate_and_sum, e),
        cmocka_unit_test_prestate(linear_adds_lora_branches, e),
        cmocka_unit_test_prestate(layer_norm_scales_and_shifts, e),
        cmocka_unit_test_prestate(rms_norm_and_rope_use_whole_rows_and_neighbouring_pairs, e),
        cmocka_unit_test_prestate(attention_agrees_at_odd_sizes_and_over_several_blocks, e),
        cmocka_unit_test_prestate(activations_agree_over_their_whole_range, e),
        cmocka_unit_test_prestate(gelu_mul_and_axpby_agree_in_place, e),
        cmocka_unit_test_prestate(embed_copies_rows_of_every_table_type, e),
        cmocka_unit_test_prestate(copy_converts_and_fill_fills, e),
        cmocka_unit_test_prestate(patches_go_in_channel_first_and_come_out_channel_last, e),
        cmocka_unit_test_prestate(convolution_finds_the_frames_before_x_wherever_they_lie, e),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_engine_close(&e);
    return failed;
}
