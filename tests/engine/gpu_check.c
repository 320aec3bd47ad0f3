/* The GPU's fast paths against the CPU, at the shapes and types that models use: bf16 and fp8, aligned sizes and odd
 * rows, heads of 128, Wan's channels. The op suite (test_ops_cuda) covers F32 and odd sizes; this covers what it cannot.
 *
 * Both devices get the same values, rounded to the GPU's types first, so what is measured is the GPU's arithmetic.
 * Outputs start as NaN. One line per case: error ||gpu - cpu|| / ||cpu||, its limit. FRAMEFARM_CUDA (see
 * worker/engine/cuda/cuda_private.h) chooses paths. Exit 0 passed, 1 failed, 77 no device. Plain C without a test
 * library: the GPU machine need not have one. ATTENTION=8bit computes long attention so on both devices; with
 * REFERENCE=exact on the GPU alone, so that the error is that of the method. Argument: only cases whose name contains this word.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/attention8.h"
#include "worker/engine/dtype.h"
#include "worker/engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BYTES ((int64_t)1 << 30)

struct bench {
    struct rf_engine *gpu, *cpu;
    struct rf_arena *gpu_arena, *cpu_arena;
    uint64_t random;
    const char *only;
    int n_failed, n_run;
    double least_limit; /* of attention over 1024 keys and more */
};

/* The same values on both: `gpu` in its type, `cpu` in F32. */
struct pair {
    struct rf_tensor gpu, cpu;
};

static float draw(struct bench *b)
{
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        b->random ^= b->random << 13;
        b->random ^= b->random >> 7;
        b->random ^= b->random << 17;
        sum += (double)(b->random >> 11) * 0x1p-53 - 0.5;
    }
    return (float)(sum * 1.7320508);
}

static void stop(const char *what, const struct rf_err *err)
{
    fprintf(stderr, "%s: %s\n", what, err->msg);
    exit(1);
}

/* size 0: NaN everywhere; else about normal with this deviation. */
static struct pair make(struct bench *b, enum rf_dtype dtype, float size, int n_dims, const int64_t *shape)
{
    if (dtype == RF_BF16 && rf_engine_is_host(b->gpu)) /* the program trying itself out with DEVICE=cpu */
        dtype = RF_F32;
    struct pair p = {rf_arena_tensor(b->gpu_arena, dtype, n_dims, shape),
                     rf_arena_tensor(b->cpu_arena, RF_F32, n_dims, shape)};
    int64_t n = rf_tensor_elements(&p.cpu);
    float *values = malloc((size_t)n * sizeof *values);
    char *narrow = malloc((size_t)n * rf_dtype_size(dtype));
    for (int64_t i = 0; i < n; i++)
        values[i] = size != 0 ? draw(b) * size : NAN;
    rf_dtype_from_f32(narrow, dtype, values, n);
    rf_dtype_to_f32(values, narrow, dtype, n);
    rf_upload(b->gpu, &p.gpu, narrow);
    rf_upload(b->cpu, &p.cpu, values);
    free(values);
    free(narrow);
    return p;
}

static bool begin(struct bench *b, const char *name)
{
    if (b->only != NULL && strstr(name, b->only) == NULL)
        return false;
    rf_arena_rewind(b->gpu_arena, 0);
    rf_arena_rewind(b->cpu_arena, 0);
    b->n_run++;
    return true;
}

static void check(struct bench *b, const char *name, const struct pair *p, double limit)
{
    struct rf_err err = {0};
    int64_t n = rf_tensor_elements(&p->cpu);
    float *got = malloc((size_t)n * sizeof *got), *want = malloc((size_t)n * sizeof *want);
    char *narrow = malloc(rf_tensor_bytes(&p->gpu));
    if (rf_download(b->gpu, &p->gpu, narrow, &err) != RF_OK || rf_download(b->cpu, &p->cpu, want, &err) != RF_OK)
        stop(name, &err);
    rf_dtype_to_f32(got, narrow, p->gpu.dtype, n);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    double error = sqrt(difference / norm);
    bool passed = error <= limit; /* false for NaN */
    b->n_failed += !passed;
    printf("%-44s %.2e  limit %.0e  %s\n", name, error, limit, passed ? "ok" : "FAILED");
    free(got);
    free(want);
    free(narrow);
}

/* ---- linear ---- */

struct linear_case {
    const char *name;
    int64_t rows, in, out;
    enum rf_dtype x, w, y;
    int scales; /* 0 none, 1 one, 2 per output */
    bool bias, add, gate;
    enum rf_act act;
    int64_t rank; /* of a LoRA branch; 0 none */
    double limit;
};

static void run_linear(struct bench *b, const struct linear_case *c)
{
    if (!begin(b, c->name))
        return;
    struct pair x = make(b, c->x, 1, RF_SHAPE(c->rows, c->in)), w = make(b, c->w, 0.3f, RF_SHAPE(c->out, c->in));
    struct pair y = make(b, c->y, c->add ? 1 : 0, RF_SHAPE(c->rows, c->out)), scale = {0}, bias = {0}, gate = {0};
    struct rf_linear gpu = {.w = w.gpu}, cpu = {.w = w.cpu};
    if (c->scales) {
        scale = make(b, RF_F32, 1, RF_SHAPE(c->scales == 1 ? 1 : c->out));
        gpu.scale = scale.gpu, cpu.scale = scale.cpu;
    }
    if (c->bias) {
        bias = make(b, RF_F32, 1, RF_SHAPE(c->out));
        gpu.b = bias.gpu, cpu.b = bias.cpu;
    }
    if (c->gate)
        gate = make(b, RF_F32, 1, RF_SHAPE(c->out));
    if (c->rank) {
        struct pair down = make(b, RF_BF16, 0.1f, RF_SHAPE(c->rank, c->in));
        struct pair up = make(b, RF_F16, 0.3f, RF_SHAPE(c->out, c->rank));
        gpu.n_loras = cpu.n_loras = 1;
        gpu.lora[0] = (struct rf_lora_weight){down.gpu, up.gpu, 0.5f};
        cpu.lora[0] = (struct rf_lora_weight){down.cpu, up.cpu, 0.5f};
    }
    rf_linear(b->gpu, &y.gpu, &x.gpu, &gpu,
              &(struct rf_linear_opts){.act = c->act, .add = c->add, .gate = c->gate ? &gate.gpu : NULL});
    rf_linear(b->cpu, &y.cpu, &x.cpu, &cpu,
              &(struct rf_linear_opts){.act = c->act, .add = c->add, .gate = c->gate ? &gate.cpu : NULL});
    check(b, c->name, &y, c->limit);
}

/* Limits are expectations (bf16 results carry 2^-9 per rounding); put the measured value beside each. */
static void linears(struct bench *b, bool fp8)
{
    const enum rf_dtype F = RF_F32, H = RF_BF16, Q = RF_F8_E4M3;
    double f8 = fp8 ? 6e-2 : 6e-3; /* fp8 rows carry 2^-4 per element */
    const struct linear_case cases[] = {
        {"linear f32", 301, 256, 384, F, F, F, .bias = true, .limit = 1e-6},
        {"linear f32 by bf16 weights, split", 33, 128, 256, F, H, F, .bias = true, .limit = 1e-5},
        {"linear f32 by e4m3 weights, split", 301, 256, 384, F, Q, F, .scales = 1, .bias = true, .add = true, .limit = 1e-5},
        {"linear one row, modulation", 1, 512, 3072, F, H, F, .bias = true, .act = RF_ACT_SILU, .limit = 1e-6},
        {"linear bf16", 301, 256, 384, H, H, H, .bias = true, .limit = 6e-3},
        {"linear bf16 no bias", 301, 256, 384, H, H, H, .limit = 4e-3},
        {"linear bf16 gelu", 301, 256, 768, H, H, H, .bias = true, .act = RF_ACT_GELU_TANH, .limit = 8e-3},
        {"linear bf16 to f32", 301, 64, 256, H, H, F, .bias = true, .limit = 1e-5},
        {"linear bf16 add", 301, 256, 384, H, H, F, .bias = true, .add = true, .limit = 6e-3},
        {"linear bf16 gated add", 301, 256, 384, H, H, F, .bias = true, .add = true, .gate = true, .limit = 6e-3},
        {"linear bf16 odd sizes", 77, 53, 41, H, H, H, .bias = true, .limit = 6e-3},
        {"linear bf16 lora", 301, 256, 384, H, H, H, .bias = true, .rank = 32, .limit = 8e-3},
        {"linear bf16 lora of odd rank", 301, 256, 384, H, H, H, .bias = true, .rank = 5, .limit = 8e-3},
        {"linear e4m3", 301, 256, 384, H, Q, H, .scales = 1, .bias = true, .limit = f8},
        {"linear e4m3 row scales", 301, 256, 384, H, Q, H, .scales = 2, .bias = true, .limit = f8},
        {"linear e4m3 gelu lora", 301, 256, 768, H, Q, H, .scales = 1, .bias = true, .act = RF_ACT_GELU_TANH,
         .rank = 32, .limit = 1.5 * f8},
        {"linear e4m3 gated add lora", 301, 768, 256, H, Q, F, .scales = 1, .bias = true, .add = true, .gate = true,
         .rank = 64, .limit = f8},
        {"linear e5m2", 301, 256, 384, H, RF_F8_E5M2, H, .scales = 1, .bias = true, .limit = f8},
        {"linear wan width", 1031, 5120, 5120, H, H, H, .bias = true, .limit = 6e-3},
        {"linear wan width e4m3, gated", 1031, 5120, 5120, H, Q, F, .scales = 1, .bias = true, .add = true,
         .gate = true, .limit = f8},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        run_linear(b, &cases[i]);
}

/* ---- attention ---- */

struct attention_case {
    const char *name;
    int64_t n_q, n_k, head_dim;
    int n_heads;
    float scale, size; /* of q and k */
    int64_t n_valid;
    bool bias;
    double limit;
};

static void run_attention(struct bench *b, const struct attention_case *c)
{
    if (!begin(b, c->name))
        return;
    int64_t width = c->head_dim * c->n_heads;
    struct pair q = make(b, RF_BF16, c->size, RF_SHAPE(c->n_q, width));
    struct pair k = make(b, RF_BF16, c->size, RF_SHAPE(c->n_k, width));
    struct pair v = make(b, RF_BF16, 1, RF_SHAPE(c->n_k, width));
    struct pair o = make(b, RF_BF16, 0, RF_SHAPE(c->n_q, width)), bias = {0};
    if (c->bias)
        bias = make(b, RF_F32, 1, RF_SHAPE(c->n_heads, c->n_q + c->n_k - 1));
    struct rf_attention_opts opts = {.n_heads = c->n_heads, .scale = c->scale, .n_valid_keys = c->n_valid};
    opts.bias = c->bias ? &bias.gpu : NULL;
    rf_attention(b->gpu, &o.gpu, &q.gpu, &k.gpu, &v.gpu, &opts);
    opts.bias = c->bias ? &bias.cpu : NULL;
    rf_attention(b->cpu, &o.cpu, &q.cpu, &k.cpu, &v.cpu, &opts);
    bool is_long = (c->n_valid ? c->n_valid : c->n_k) >= RF_A8_LEAST_KEYS;
    check(b, c->name, &o, is_long && c->limit < b->least_limit ? b->least_limit : c->limit);
}

static void attentions(struct bench *b)
{
    static const struct attention_case cases[] = {
        {"attention 128, one tile exactly", 128, 128, 128, 1, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, one key", 3, 1, 128, 2, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, two tiles", 128, 256, 128, 2, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, three tiles and one key", 257, 385, 128, 3, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, odd", 201, 1337, 128, 3, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, peaked", 201, 1337, 128, 2, 0.0884f, 3, .limit = 8e-3},
        {"attention 128, valid keys", 130, 512, 128, 2, 0.0884f, 1, .n_valid = 77, .limit = 5e-3},
        {"attention 128, long", 1000, 9001, 128, 2, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, eight tiles", 128, 1024, 128, 1, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, eight tiles and one key", 1, 1025, 128, 3, 0.0884f, 1, .limit = 5e-3},
        {"attention 128, many valid keys", 130, 2048, 128, 2, 0.0884f, 1, .n_valid = 1151, .limit = 5e-3},
        {"attention 128, 40 heads", 300, 20001, 128, 40, 0.0884f, 1, .limit = 5e-3},
        {"attention 64 with bias (umt5)", 512, 512, 64, 4, 1, 0.4f, .bias = true, .limit = 8e-3},
        {"attention 64, bias, valid keys", 37, 64, 64, 4, 1, 0.4f, .n_valid = 19, .bias = true, .limit = 8e-3},
        {"attention 384 (vae)", 1100, 1100, 384, 1, 0.051f, 1, .limit = 8e-3},
        {"attention 20, odd", 33, 45, 20, 3, 0.22f, 1, .limit = 5e-3},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        run_attention(b, &cases[i]);
}

/* ---- norms ---- */

static void norms(struct bench *b)
{
    static const int64_t dims[] = {5120, 1536, 256, 6144, 6152, 78};
    char name[80];
    for (size_t i = 0; i < RF_COUNT_OF(dims); i++) {
        int64_t dim = dims[i], rows = 37;
        snprintf(name, sizeof name, "layer norm %lld, f32 to bf16", (long long)dim);
        if (begin(b, name)) {
            struct pair x = make(b, RF_F32, 1, RF_SHAPE(rows, dim)), y = make(b, RF_BF16, 0, RF_SHAPE(rows, dim));
            struct pair s = make(b, RF_F32, 1, RF_SHAPE(dim)), h = make(b, RF_F32, 1, RF_SHAPE(dim));
            rf_layer_norm(b->gpu, &y.gpu, &x.gpu, &s.gpu, &h.gpu, true, 1e-6f);
            rf_layer_norm(b->cpu, &y.cpu, &x.cpu, &s.cpu, &h.cpu, true, 1e-6f);
            check(b, name, &y, 3e-3);
        }
        int64_t head_dim = dim % 128 == 0 ? 128 : 2;
        snprintf(name, sizeof name, "rms rope %lld, bf16 in place", (long long)dim);
        if (begin(b, name)) {
            struct pair x = make(b, RF_BF16, 1, RF_SHAPE(rows, dim)), w = make(b, RF_F32, 1, RF_SHAPE(dim));
            struct pair f = make(b, RF_F32, 1, RF_SHAPE(rows, head_dim / 2, 2));
            rf_rms_rope(b->gpu, &x.gpu, &w.gpu, &f.gpu, (int)(dim / head_dim), 1e-6f);
            rf_rms_rope(b->cpu, &x.cpu, &w.cpu, &f.cpu, (int)(dim / head_dim), 1e-6f);
            check(b, name, &x, 3e-3);
        }
    }
    static const int64_t channels[] = {96, 192, 384, 16, 3};
    for (size_t i = 0; i < RF_COUNT_OF(channels); i++) {
        snprintf(name, sizeof name, "channel norm %lld, silu", (long long)channels[i]);
        if (begin(b, name)) {
            struct pair x = make(b, RF_BF16, 1, RF_SHAPE(2, 7, 11, channels[i]));
            struct pair g = make(b, RF_F32, 1, RF_SHAPE(channels[i]));
            struct pair y = make(b, RF_BF16, 0, RF_SHAPE(2, 7, 11, channels[i]));
            rf_channel_norm(b->gpu, &y.gpu, &x.gpu, &g.gpu, RF_ACT_SILU);
            rf_channel_norm(b->cpu, &y.cpu, &x.cpu, &g.cpu, RF_ACT_SILU);
            check(b, name, &y, 3e-3);
        }
    }
}

/* ---- convolution, layouts ---- */

struct conv_case {
    const char *name;
    int64_t t, h, w, in, out;
    int kt, ks, stride_t, stride_s;
    bool upsample, residual;
    bool before, wide; /* the first two frames lie elsewhere; the result is F32 */
};

static void convolutions(struct bench *b)
{
    static const struct conv_case cases[] = {
        {"conv 96 to 96", 4, 13, 29, 96, 96, 3, 3, 1, .stride_s = 1, .residual = true},
        {"conv 384 to 384", 3, 9, 11, 384, 384, 3, 3, 1, .stride_s = 1},
        {"conv 192 to 100", 3, 5, 7, 192, 100, 3, 3, 1, .stride_s = 1},
        {"conv 96 to 3, the head", 4, 17, 31, 96, 3, 3, 3, 1, .stride_s = 1},
        {"conv 16 to 384", 3, 9, 11, 16, 384, 3, 3, 1, .stride_s = 1},
        {"conv 8 to 24", 3, 9, 11, 8, 24, 3, 3, 1, .stride_s = 1, .residual = true},
        {"conv 3 to 96, widened", 3, 9, 49, 3, 96, 3, 3, 1, .stride_s = 1},
        {"conv upsampling 192 to 96", 2, 9, 13, 192, 96, 1, 3, 1, .stride_s = 1, .upsample = true},
        {"conv stride 2, 96 to 96", 2, 14, 26, 96, 96, 1, 3, 1, .stride_s = 2},
        {"conv time stride 2", 7, 6, 10, 96, 96, 3, 1, 2, .stride_s = 1},
        {"conv 384 to 768 in time", 4, 5, 7, 384, 768, 3, 1, 1, .stride_s = 1},
        {"conv 1x1", 1, 9, 13, 384, 384, 1, 1, 1, .stride_s = 1, .residual = true},
        {"conv 96, whole tiles, frames before", 4, 64, 32, 96, 96, 3, 3, 1, .stride_s = 1, .before = true},
        {"conv 96, one frame, before", 3, 37, 18, 96, 96, 3, 3, 1, .stride_s = 1, .residual = true, .before = true},
        {"conv 96, tiny", 5, 3, 3, 96, 96, 3, 3, 1, .stride_s = 1, .residual = true, .before = true, .wide = true},
        {"conv 192, odd, before", 6, 19, 23, 192, 192, 3, 3, 1, .stride_s = 1, .residual = true, .before = true},
        {"conv 192 to 384, f32", 3, 17, 16, 192, 384, 3, 3, 1, .stride_s = 1, .wide = true},
        {"conv 384, before", 6, 16, 33, 384, 384, 3, 3, 1, .stride_s = 1, .before = true},
        {"conv 96 over one frame", 2, 33, 17, 96, 96, 1, 3, 1, .stride_s = 1, .residual = true},
        {"conv 96 to 3, before, f32", 6, 33, 17, 96, 3, 3, 3, 1, .stride_s = 1, .before = true, .wide = true},
        {"conv 96 to 3, one frame, f32 sum", 1, 33, 17, 96, 3, 1, 3, 1, .stride_s = 1, .residual = true, .wide = true},
        {"conv upsampling 384 to 192", 3, 17, 19, 384, 192, 1, 3, 1, .stride_s = 1, .upsample = true, .residual = true},
        {"conv upsampling 192 to 96, f32", 2, 35, 18, 192, 96, 1, 3, 1, .stride_s = 1, .upsample = true, .wide = true},
        {"conv 3 to 96, before", 6, 9, 49, 3, 96, 3, 3, 1, .stride_s = 1, .before = true},
        {"conv time stride 2, before", 7, 6, 10, 96, 96, 3, 1, 2, .stride_s = 1, .before = true},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        const struct conv_case *c = &cases[i];
        if (!begin(b, c->name))
            continue;
        int64_t up = c->upsample ? 2 : 1, to = (c->t - c->kt) / c->stride_t + 1;
        int64_t ho = c->h * up / c->stride_s, wo = c->w * up / c->stride_s;
        struct pair x = make(b, RF_BF16, 1, RF_SHAPE(c->t, c->h, c->w, c->in));
        struct pair w = make(b, RF_BF16, 0.2f, RF_SHAPE(c->out, c->kt, c->ks, c->ks, c->in));
        struct pair bias = make(b, RF_F32, 1, RF_SHAPE(c->out));
        struct pair y = make(b, c->wide ? RF_F32 : RF_BF16, c->residual ? 1 : 0, RF_SHAPE(to, ho, wo, c->out));
        struct rf_conv gpu = {w.gpu, bias.gpu}, cpu = {w.cpu, bias.cpu};
        struct rf_conv_opts opts = {.stride_t = c->stride_t, .stride_s = c->stride_s, .upsample = c->upsample};
        opts.add = c->residual ? &y.cpu : NULL; /* the sum in place */
        rf_conv(b->cpu, &y.cpu, &x.cpu, &cpu, &opts);
        struct rf_tensor before[2], from = x.gpu;
        if (c->before) {
            struct pair apart = make(b, RF_BF16, 1, RF_SHAPE(2, c->h, c->w, c->in));
            for (int k = 0; k < 2; k++) { /* the younger one first in memory, and NaN where they were */
                struct rf_tensor old = rf_tensor_slice(&x.gpu, k, 1);
                before[k] = rf_tensor_slice(&apart.gpu, 1 - k, 1);
                rf_copy(b->gpu, &before[k], &old);
                rf_fill(b->gpu, &old, NAN);
            }
            from = rf_tensor_slice(&x.gpu, 2, c->t - 2);
            opts.before = before;
        }
        opts.add = c->residual ? &y.gpu : NULL;
        rf_conv(b->gpu, &y.gpu, &from, &gpu, &opts);
        check(b, c->name, &y, 4e-3);
    }
    if (begin(b, "layouts")) {
        static const float mul[5] = {2, 1, -1, 0.5f, 4}, add[5] = {0, 1, 2, 3, -4};
        struct pair x = make(b, RF_F32, 1, RF_SHAPE(5, 3, 4, 7)), y = make(b, RF_BF16, 0, RF_SHAPE(3, 4, 7, 5));
        struct pair back = make(b, RF_F32, 0, RF_SHAPE(5, 3, 4, 7));
        rf_to_channels_last(b->gpu, &y.gpu, &x.gpu, mul, add);
        rf_to_channels_last(b->cpu, &y.cpu, &x.cpu, mul, add);
        rf_from_channels_last(b->gpu, &back.gpu, &y.gpu, add, mul);
        rf_from_channels_last(b->cpu, &back.cpu, &y.cpu, add, mul);
        check(b, "layouts, to last", &y, 3e-3);
        check(b, "layouts, back", &back, 3e-3);
    }
}

int main(int argc, char **argv)
{
    struct bench b = {.random = 88172645463325252u, .only = argc > 1 ? argv[1] : NULL};
    struct rf_err err = {0};
    const char *precision = getenv("PRECISION"); /* bf16 (default) or fp8 */
    const char *device = getenv("DEVICE");       /* cuda (default), cuda:N; cpu tries the program itself out */
    const char *attention = getenv("ATTENTION"), *reference = getenv("REFERENCE");
    struct rf_engine_config gpu = {.device = device ? device : "cuda", .precision = precision ? precision : "bf16",
                                   .attention = attention};
    struct rf_engine_config cpu = {.device = "cpu", .attention = reference ? reference : attention};
    b.least_limit = reference && attention ? 3.8e-2 : 0;
    enum rf_code rc = rf_engine_open(&gpu, &b.gpu, &err);
    if (rc != RF_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return rc == RF_ERR_DEVICE ? 77 : 1;
    }
    if (rf_engine_open(&cpu, &b.cpu, &err) != RF_OK ||
        rf_arena_create(b.gpu, ARENA_BYTES, &b.gpu_arena, &err) != RF_OK ||
        rf_arena_create(b.cpu, ARENA_BYTES, &b.cpu_arena, &err) != RF_OK)
        stop("open", &err);
    printf("%s, %s\n", rf_engine_device_name(b.gpu), gpu.precision);
    linears(&b, strcmp(gpu.precision, "fp8") == 0);
    attentions(&b);
    norms(&b);
    convolutions(&b);
    printf("%d cases, %d failed\n", b.n_run, b.n_failed);
    rf_arena_destroy(&b.gpu_arena);
    rf_arena_destroy(&b.cpu_arena);
    rf_engine_close(&b.gpu);
    rf_engine_close(&b.cpu);
    return b.n_failed != 0;
}
