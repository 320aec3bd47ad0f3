/* Times single ops at the shapes of one 14 B block for 832x1216x81 (82,992 tokens) and of the VAE's largest layers.
 * One line each: milliseconds (median), TFLOP/s or TB/s, and the floor that the op's bytes or operations set on an H200.
 * The clock is the host's around a synchronised batch of calls: every case runs for milliseconds, launches for
 * microseconds. Environment: TOKENS, PRECISION, ATTENTION (8bit), FRAMEFARM_CUDA. Argument: only cases whose name contains this word.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DIM 5120
#define FFN 13824
#define HEADS 40
#define CHUNK_ROWS 20768 /* of the FFN, a quarter of the tokens: its hidden rows would be 2.3 GB otherwise */
#define REPEATS 5
#define COPY_TB_S 4.2    /* measured on an H200: bytes read and written */
#define BF16_TFLOP_S 800.0
#define FP8_TFLOP_S 1500.0

struct timing {
    struct rf_engine *e;
    struct rf_arena *arena;
    enum rf_dtype act;
    const char *only;
    bool fp8;
};

static void stop(const char *what, const struct rf_err *err)
{
    fprintf(stderr, "%s: %s\n", what, err->msg);
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Random bits that are normal numbers in every type: zeros would let the chip clock higher than real data does. */
static struct rf_tensor noise(struct timing *t, enum rf_dtype dtype, int n_dims, const int64_t *shape)
{
    struct rf_tensor x = rf_arena_tensor(t->arena, dtype, n_dims, shape);
    int64_t n = 1 << 16, all = rf_tensor_elements(&x);
    static float values[1 << 16];
    uint32_t random = 12345;
    for (int64_t i = 0; i < n; i++) {
        random = random * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)random * 0x1p-31f;
    }
    struct rf_tensor piece = rf_arena_tensor(t->arena, RF_F32, RF_SHAPE(n));
    rf_upload(t->e, &piece, values);
    struct rf_tensor flat = rf_tensor_reshape(&x, RF_SHAPE(all));
    for (int64_t at = 0; at < all; at += n) {
        int64_t m = all - at < n ? all - at : n;
        struct rf_tensor to = rf_tensor_slice(&flat, at, m), from = rf_tensor_slice(&piece, 0, m);
        rf_copy(t->e, &to, &from);
    }
    return x;
}

static int ascending(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

typedef void op_fn(struct timing *t, void *ctx);

/* flop and bytes of one call. */
static void measure(struct timing *t, const char *name, op_fn *op, void *ctx, double flop, double bytes)
{
    double ms[REPEATS];
    struct rf_err err = {0};
    op(t, ctx);
    if (rf_engine_sync(t->e, &err) != RF_OK)
        stop(name, &err);
    for (int i = 0; i < REPEATS; i++) {
        double start = now_ms();
        op(t, ctx);
        if (rf_engine_sync(t->e, &err) != RF_OK)
            stop(name, &err);
        ms[i] = now_ms() - start;
    }
    qsort(ms, REPEATS, sizeof *ms, ascending);
    double middle = ms[REPEATS / 2];
    if (flop > 0)
        printf("%-34s %9.3f ms  %7.0f TFLOP/s  floor %8.3f ms\n", name, middle, flop / middle * 1e-9,
               flop / ((t->fp8 ? FP8_TFLOP_S : BF16_TFLOP_S) * 1e9));
    else
        printf("%-34s %9.3f ms  %7.2f TB/s     floor %8.3f ms\n", name, middle, bytes / middle * 1e-9,
               bytes / (COPY_TB_S * 1e9));
    fflush(stdout);
}

struct op_args {
    struct rf_tensor y, x, a, b, c;
    struct rf_linear linear;
    struct rf_conv conv;
    struct rf_linear_opts linear_opts;
    struct rf_conv_opts conv_opts;
    struct rf_attention_opts attention_opts;
};

static void do_linear(struct timing *t, void *ctx)
{
    struct op_args *o = ctx;
    rf_linear(t->e, &o->y, &o->x, &o->linear, &o->linear_opts);
}

static void do_attention(struct timing *t, void *ctx)
{
    struct op_args *o = ctx;
    rf_attention(t->e, &o->y, &o->x, &o->a, &o->b, &o->attention_opts);
}

static void do_layer_norm(struct timing *t, void *ctx)
{
    struct op_args *o = ctx;
    rf_layer_norm(t->e, &o->y, &o->x, &o->a, &o->b, true, 1e-6f);
}

static void do_rms_rope(struct timing *t, void *ctx)
{
    struct op_args *o = ctx;
    rf_rms_rope(t->e, &o->x, &o->a, &o->b, HEADS, 1e-6f);
}

static void do_conv(struct timing *t, void *ctx)
{
    struct op_args *o = ctx;
    rf_conv(t->e, &o->y, &o->x, &o->conv, &o->conv_opts);
}

static void do_channel_norm(struct timing *t, void *ctx)
{
    struct op_args *o = ctx;
    rf_channel_norm(t->e, &o->y, &o->x, &o->a, RF_ACT_SILU);
}

static bool begin(struct timing *t, const char *name)
{
    rf_arena_rewind(t->arena, 0);
    return t->only == NULL || strstr(name, t->only) != NULL;
}

static void time_linear(struct timing *t, const char *name, int64_t rows, int64_t in, int64_t out, bool add, bool gate,
                        enum rf_act act)
{
    if (!begin(t, name))
        return;
    struct rf_tensor g = noise(t, RF_F32, RF_SHAPE(out));
    struct op_args o = {.x = noise(t, t->act, RF_SHAPE(rows, in)),
                        .y = noise(t, add ? RF_F32 : t->act, RF_SHAPE(rows, out)),
                        .linear_opts = {act, add, gate ? &g : NULL}};
    o.linear.w = noise(t, t->fp8 ? RF_F8_E4M3 : RF_BF16, RF_SHAPE(out, in));
    o.linear.b = noise(t, RF_F32, RF_SHAPE(out));
    if (t->fp8)
        o.linear.scale = noise(t, RF_F32, RF_SHAPE(1));
    measure(t, name, do_linear, &o, 2.0 * (double)rows * (double)in * (double)out, 0);
}

static void time_attention(struct timing *t, const char *name, int64_t n_q, int64_t n_k)
{
    if (!begin(t, name))
        return;
    struct op_args o = {.x = noise(t, t->act, RF_SHAPE(n_q, DIM)), .a = noise(t, t->act, RF_SHAPE(n_k, DIM)),
                        .b = noise(t, t->act, RF_SHAPE(n_k, DIM)), .y = noise(t, t->act, RF_SHAPE(n_q, DIM)),
                        .attention_opts = {.n_heads = HEADS, .scale = 0.08838835f}};
    bool fp8 = t->fp8;
    t->fp8 = false; /* attention is bf16 here */
    measure(t, name, do_attention, &o, 4.0 * (double)n_q * (double)n_k * DIM, 0);
    t->fp8 = fp8;
}

static void time_norms(struct timing *t, int64_t rows)
{
    if (begin(t, "layer norm")) {
        struct op_args o = {.x = noise(t, RF_F32, RF_SHAPE(rows, DIM)), .y = noise(t, t->act, RF_SHAPE(rows, DIM)),
                            .a = noise(t, RF_F32, RF_SHAPE(DIM)), .b = noise(t, RF_F32, RF_SHAPE(DIM))};
        measure(t, "layer norm", do_layer_norm, &o, 0, 6.0 * (double)rows * DIM);
    }
    if (begin(t, "rms rope")) {
        struct op_args o = {.x = noise(t, t->act, RF_SHAPE(rows, DIM)), .a = noise(t, RF_F32, RF_SHAPE(DIM)),
                            .b = noise(t, RF_F32, RF_SHAPE(rows, 64, 2))};
        measure(t, "rms rope", do_rms_rope, &o, 0, 4.0 * (double)rows * DIM + 512.0 * (double)rows);
    }
}

static void time_conv(struct timing *t, const char *name, int64_t frames, int64_t h, int64_t w, int64_t in, int64_t out,
                      int kt, bool upsample)
{
    if (!begin(t, name))
        return;
    int64_t up = upsample ? 2 : 1, to = frames - kt + 1;
    struct op_args o = {.x = noise(t, t->act, RF_SHAPE(frames, h, w, in)),
                        .y = noise(t, t->act, RF_SHAPE(to, up * h, up * w, out)), .conv_opts = {.upsample = upsample}};
    o.conv.w = noise(t, t->act, RF_SHAPE(out, kt, 3, 3, in));
    o.conv.b = noise(t, RF_F32, RF_SHAPE(out));
    bool fp8 = t->fp8;
    t->fp8 = false;
    measure(t, name, do_conv, &o, 2.0 * (double)(to * up * h * up * w * out * in * kt * 9), 0);
    t->fp8 = fp8;
}

int main(int argc, char **argv)
{
    const char *precision = getenv("PRECISION"), *tokens = getenv("TOKENS"), *device = getenv("DEVICE");
    struct rf_engine_config config = {.device = device ? device : "cuda", .precision = precision ? precision : "bf16",
                                      .attention = getenv("ATTENTION")};
    struct timing t = {.only = argc > 1 ? argv[1] : NULL};
    struct rf_err err = {0};
    int64_t n = tokens ? atoll(tokens) : 82992, chunk = n < CHUNK_ROWS ? n : CHUNK_ROWS;
    enum rf_code rc = rf_engine_open(&config, &t.e, &err);
    if (rc != RF_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return rc == RF_ERR_DEVICE ? 77 : 1;
    }
    t.act = rf_engine_act_dtype(t.e);
    t.fp8 = strcmp(config.precision, "fp8") == 0;
    int64_t room = 4 * rf_arena_cost(RF_F32, RF_SHAPE(n, DIM)) + ((int64_t)1 << 30);
    if (rf_arena_create(t.e, room, &t.arena, &err) != RF_OK)
        stop("memory", &err);
    printf("%s, %s, %lld tokens\n", rf_engine_device_name(t.e), config.precision, (long long)n);
    time_attention(&t, "attention, self", n, n);
    time_attention(&t, "attention, cross", n, 512);
    time_linear(&t, "linear q", n, DIM, DIM, false, false, RF_ACT_NONE);
    time_linear(&t, "linear o, gated add", n, DIM, DIM, true, true, RF_ACT_NONE);
    time_linear(&t, "linear o, add", n, DIM, DIM, true, false, RF_ACT_NONE);
    time_linear(&t, "linear ffn up, quarter", chunk, DIM, FFN, false, false, RF_ACT_GELU_TANH);
    time_linear(&t, "linear ffn down, quarter", chunk, FFN, DIM, true, true, RF_ACT_NONE);
    time_norms(&t, n);
    if (n >= 20000) {
        time_conv(&t, "conv 96, 832x1216, 4 frames", 6, 832, 1216, 96, 96, 3, false);
        time_conv(&t, "conv 192, 416x608, 8 frames", 10, 416, 608, 192, 192, 3, false);
        time_conv(&t, "conv 384, 208x304, 8 frames", 10, 208, 304, 384, 384, 3, false);
        time_conv(&t, "conv head 96 to 3, 4 frames", 6, 832, 1216, 96, 3, 3, false);
        time_conv(&t, "conv up 192 to 96, 4 frames", 4, 416, 608, 192, 96, 1, true);
        time_conv(&t, "conv 3 to 96, 4 frames", 6, 832, 1216, 3, 96, 3, false);
        time_conv(&t, "conv 384, 104x152, 1 frame", 3, 104, 152, 384, 384, 3, false);
        if (begin(&t, "channel norm 96, 4 frames")) {
            struct op_args o = {.x = noise(&t, t.act, RF_SHAPE(4, 832, 1216, 96)), .a = noise(&t, RF_F32, RF_SHAPE(96)),
                                .y = noise(&t, t.act, RF_SHAPE(4, 832, 1216, 96))};
            measure(&t, "channel norm 96, 4 frames", do_channel_norm, &o, 0, 4.0 * 4 * 832 * 1216 * 96);
        }
    }
    rf_arena_destroy(&t.arena);
    rf_engine_close(&t.e);
    return 0;
}
