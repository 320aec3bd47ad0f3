/* See shapes.h. SPDX-License-Identifier: Apache-2.0 */
#include "worker/net/shapes.h"

#include <stdio.h>

#define LATENT 16
#define TIME_WIDTH 256

const struct rf_dit_shape rf_shape_t2v_14b = {5120, 13824, 4096, 40, 16};
const struct rf_umt5_shape rf_shape_umt5_xxl = {4096, 10240, 64, 256384, 24};

struct maker {
    struct rf_phantom_list *list;
    struct rf_shape_types types;
    char prefix[96];
};

static const char *name_of(const struct maker *m, char text[160], const char *name, const char *suffix)
{
    snprintf(text, 160, "%s%s%s", m->prefix, name, suffix);
    return text;
}

static void add(const struct maker *m, const char *name, const char *suffix, enum rf_dtype dtype, enum rf_values values,
                int n_dims, const int64_t *shape)
{
    char text[160];
    rf_phantom_add(m->list, name_of(m, text, name, suffix), dtype, values, n_dims, shape);
}

static void gain(const struct maker *m, const char *name, int n_dims, const int64_t *shape)
{
    add(m, name, "", m->types.rest, RF_VALUES_GAIN, n_dims, shape);
}

static void bias(const struct maker *m, const char *name, int64_t n)
{
    add(m, name, ".bias", m->types.rest, RF_VALUES_MATRIX, 1, &n);
}

/* Scaled FP8 as ComfyUI writes it: a scale for the weight and one for the input, both scalars. */
static void linear(const struct maker *m, const char *name, int64_t out, int64_t in, bool has_bias)
{
    bool fp8 = m->types.matrix == RF_F8_E4M3;
    add(m, name, ".weight", m->types.matrix, RF_VALUES_MATRIX, 2, (int64_t[]){out, in});
    if (fp8)
        add(m, name, ".scale_weight", RF_F32, RF_VALUES_SCALE, 0, NULL);
    if (fp8 && has_bias) /* the transformer's files have it, the text encoder's do not */
        add(m, name, ".scale_input", RF_F32, RF_VALUES_SCALE, 0, NULL);
    if (has_bias)
        bias(m, name, out);
}

/* No element at all: FP8 products are allowed. */
static void marker(const struct maker *m)
{
    if (m->types.matrix == RF_F8_E4M3)
        add(m, "scaled_fp8", "", RF_F8_E4M3, RF_VALUES_MATRIX, 1, (int64_t[]){0});
}

/* ---- transformer ---- */

static const char *const attention_linears[] = {"q", "k", "v", "o"};
static const char *const attentions[] = {"self_attn", "cross_attn"};

static void dit_block(struct maker *m, const struct rf_dit_shape *s, int index)
{
    for (int a = 0; a < 2; a++) {
        snprintf(m->prefix, sizeof m->prefix, "blocks.%d.%s.", index, attentions[a]);
        for (int i = 0; i < 4; i++)
            linear(m, attention_linears[i], s->dim, s->dim, true);
        gain(m, "norm_q.weight", 1, &s->dim);
        gain(m, "norm_k.weight", 1, &s->dim);
    }
    snprintf(m->prefix, sizeof m->prefix, "blocks.%d.", index);
    add(m, "modulation", "", m->types.rest, RF_VALUES_MATRIX, 3, (int64_t[]){1, 6, s->dim});
    gain(m, "norm3.weight", 1, &s->dim);
    bias(m, "norm3", s->dim);
    linear(m, "ffn.0", s->ffn_dim, s->dim, true);
    linear(m, "ffn.2", s->dim, s->ffn_dim, true);
}

void rf_shape_dit(struct rf_phantom_list *list, const struct rf_dit_shape *s, struct rf_shape_types types)
{
    struct maker m = {.list = list, .types = types};
    add(&m, "patch_embedding.weight", "", types.rest, RF_VALUES_MATRIX, 5,
        (int64_t[]){s->dim, s->in_channels, 1, 2, 2});
    bias(&m, "patch_embedding", s->dim);
    linear(&m, "text_embedding.0", s->dim, s->text_dim, true);
    linear(&m, "text_embedding.2", s->dim, s->dim, true);
    linear(&m, "time_embedding.0", s->dim, TIME_WIDTH, true);
    linear(&m, "time_embedding.2", s->dim, s->dim, true);
    linear(&m, "time_projection.1", 6 * s->dim, s->dim, true);
    add(&m, "head.modulation", "", types.rest, RF_VALUES_MATRIX, 3, (int64_t[]){1, 2, s->dim});
    linear(&m, "head.head", 4 * LATENT, s->dim, true);
    marker(&m);
    for (int i = 0; i < s->n_layers; i++)
        dit_block(&m, s, i);
}

static void lora_pair(const struct maker *m, const char *name, int64_t out, int64_t in, int64_t rank)
{
    add(m, name, ".lora_down.weight", RF_F32, RF_VALUES_MATRIX, 2, (int64_t[]){rank, in});
    add(m, name, ".lora_up.weight", RF_F32, RF_VALUES_MATRIX, 2, (int64_t[]){out, rank});
    add(m, name, ".alpha", RF_F32, RF_VALUES_ALPHA, 0, NULL);
}

void rf_shape_lora(struct rf_phantom_list *list, const struct rf_dit_shape *s, int64_t rank)
{
    struct maker m = {.list = list};
    for (int i = 0; i < s->n_layers; i++) {
        for (int a = 0; a < 2; a++) {
            snprintf(m.prefix, sizeof m.prefix, "diffusion_model.blocks.%d.%s.", i, attentions[a]);
            for (int k = 0; k < 4; k++)
                lora_pair(&m, attention_linears[k], s->dim, s->dim, rank);
        }
        snprintf(m.prefix, sizeof m.prefix, "diffusion_model.blocks.%d.", i);
        lora_pair(&m, "ffn.0", s->ffn_dim, s->dim, rank);
        lora_pair(&m, "ffn.2", s->dim, s->ffn_dim, rank);
    }
}

double rf_shape_dit_flop(const struct rf_dit_shape *s, int64_t n_tokens, int64_t text_len)
{
    double n = (double)n_tokens, d = (double)s->dim, f = (double)s->ffn_dim, text = (double)text_len;
    double block = 2 * n * (6 * d * d + 2 * d * f) + 4 * n * n * d + 4 * n * text * d;
    return s->n_layers * block + 2 * n * d * (4 * s->in_channels + 4 * LATENT);
}

/* ---- text encoder ---- */

void rf_shape_umt5(struct rf_phantom_list *list, const struct rf_umt5_shape *s, struct rf_shape_types types)
{
    struct maker m = {.list = list, .types = types};
    int64_t inner = 64 * s->heads;
    add(&m, "shared.weight", "", types.rest, RF_VALUES_MATRIX, 2, (int64_t[]){s->vocabulary, s->width});
    gain(&m, "encoder.final_layer_norm.weight", 1, &s->width);
    marker(&m);
    for (int i = 0; i < s->n_layers; i++) {
        snprintf(m.prefix, sizeof m.prefix, "encoder.block.%d.layer.0.", i);
        gain(&m, "layer_norm.weight", 1, &s->width);
        linear(&m, "SelfAttention.q", inner, s->width, false);
        linear(&m, "SelfAttention.k", inner, s->width, false);
        linear(&m, "SelfAttention.v", inner, s->width, false);
        linear(&m, "SelfAttention.o", s->width, inner, false);
        add(&m, "SelfAttention.relative_attention_bias.weight", "", types.rest, RF_VALUES_MATRIX, 2,
            (int64_t[]){32, s->heads});
        snprintf(m.prefix, sizeof m.prefix, "encoder.block.%d.layer.1.", i);
        gain(&m, "layer_norm.weight", 1, &s->width);
        linear(&m, "DenseReluDense.wi_0", s->hidden, s->width, false);
        linear(&m, "DenseReluDense.wi_1", s->hidden, s->width, false);
        linear(&m, "DenseReluDense.wo", s->width, s->hidden, false);
    }
}

double rf_shape_umt5_flop(const struct rf_umt5_shape *s, int64_t n_ids)
{
    double n = (double)n_ids, inner = 64.0 * (double)s->heads, w = (double)s->width;
    return s->n_layers * (2 * n * w * (4 * inner + 3 * (double)s->hidden) + 4 * n * n * inner);
}

/* ---- VAE ---- */

static void conv(const struct maker *m, const char *name, int64_t out, int n_dims, const int64_t *shape)
{
    add(m, name, ".weight", m->types.rest, RF_VALUES_MATRIX, n_dims, shape);
    bias(m, name, out);
}

static void cube(const struct maker *m, const char *name, int64_t out, int64_t in, int64_t k)
{
    conv(m, name, out, 5, (int64_t[]){out, in, k, k, k});
}

static void res(struct maker *m, int64_t in, int64_t out)
{
    gain(m, "residual.0.gamma", 4, (int64_t[]){in, 1, 1, 1});
    cube(m, "residual.2", out, in, 3);
    gain(m, "residual.3.gamma", 4, (int64_t[]){out, 1, 1, 1});
    cube(m, "residual.6", out, out, 3);
    if (in != out)
        cube(m, "shortcut", out, in, 1);
}

static void middle(struct maker *m, const char *side, int64_t c)
{
    for (int i = 0; i < 3; i++) {
        snprintf(m->prefix, sizeof m->prefix, "%s.middle.%d.", side, i);
        if (i != 1) {
            res(m, c, c);
            continue;
        }
        gain(m, "norm.gamma", 3, (int64_t[]){c, 1, 1});
        conv(m, "to_qkv", 3 * c, 4, (int64_t[]){3 * c, c, 1, 1});
        conv(m, "proj", c, 4, (int64_t[]){c, c, 1, 1});
    }
}

/* conv1, the head's norm and convolution of one side. */
static void ends(struct maker *m, const char *side, int64_t in, int64_t first, int64_t last, int64_t out)
{
    snprintf(m->prefix, sizeof m->prefix, "%s.", side);
    cube(m, "conv1", first, in, 3);
    gain(m, "head.0.gamma", 4, (int64_t[]){last, 1, 1, 1});
    cube(m, "head.2", out, last, 3);
}

static void encoder(struct maker *m, int64_t base)
{
    const int64_t width[] = {base, base, 2 * base, 4 * base, 4 * base};
    int at = 0;
    ends(m, "encoder", 3, base, width[4], 2 * LATENT);
    for (int i = 0; i < 4; i++) {
        int64_t c = width[i + 1];
        for (int k = 0; k < 2; k++) {
            snprintf(m->prefix, sizeof m->prefix, "encoder.downsamples.%d.", at++);
            res(m, k == 0 ? width[i] : c, c);
        }
        if (i == 3)
            break;
        snprintf(m->prefix, sizeof m->prefix, "encoder.downsamples.%d.", at++);
        conv(m, "resample.1", c, 4, (int64_t[]){c, c, 3, 3});
        if (i > 0)
            conv(m, "time_conv", c, 5, (int64_t[]){c, c, 3, 1, 1});
    }
    middle(m, "encoder", width[4]);
}

static void decoder(struct maker *m, int64_t base)
{
    const int64_t width[] = {4 * base, 4 * base, 4 * base, 2 * base, base};
    int at = 0;
    ends(m, "decoder", LATENT, width[0], width[4], 3);
    middle(m, "decoder", width[0]);
    for (int i = 0; i < 4; i++) {
        int64_t c = width[i + 1], in = i > 0 ? width[i] / 2 : width[0]; /* growing halves the channels */
        for (int k = 0; k < 3; k++) {
            snprintf(m->prefix, sizeof m->prefix, "decoder.upsamples.%d.", at++);
            res(m, k == 0 ? in : c, c);
        }
        if (i == 3)
            break;
        snprintf(m->prefix, sizeof m->prefix, "decoder.upsamples.%d.", at++);
        conv(m, "resample.1", c / 2, 4, (int64_t[]){c / 2, c, 3, 3});
        if (i < 2)
            conv(m, "time_conv", 2 * c, 5, (int64_t[]){2 * c, c, 3, 1, 1});
    }
}

void rf_shape_vae(struct rf_phantom_list *list, int64_t base, enum rf_dtype dtype)
{
    struct maker m = {.list = list, .types = {dtype, dtype}};
    cube(&m, "conv1", 2 * LATENT, 2 * LATENT, 1);
    cube(&m, "conv2", LATENT, LATENT, 1);
    encoder(&m, base);
    decoder(&m, base);
}

/* Of a convolution with `taps` taps over n positions. */
static double conv_flop(double n, double taps, int64_t in, int64_t out)
{
    return 2 * n * taps * (double)in * (double)out;
}

static double res_flop(double n, int64_t in, int64_t out)
{
    return conv_flop(n, 27, in, out) + conv_flop(n, 27, out, out) + (in != out ? conv_flop(n, 1, in, out) : 0);
}

/* Two residual blocks and the attention of each frame. */
static double middle_flop(double frames, double positions, int64_t c)
{
    double n = frames * positions;
    return 2 * res_flop(n, c, c) + conv_flop(n, 4, c, c) + 4 * n * positions * (double)c;
}

double rf_shape_vae_decode_flop(int64_t base, int64_t t, int64_t h, int64_t w)
{
    const int64_t width[] = {4 * base, 4 * base, 4 * base, 2 * base, base};
    double frames = (double)t, positions = (double)h * (double)w;
    double flop = conv_flop(frames * positions, 27, LATENT, width[0]) + middle_flop(frames, positions, width[0]);
    for (int i = 0; i < 4; i++) {
        int64_t c = width[i + 1], in = i > 0 ? width[i] / 2 : width[0];
        flop += res_flop(frames * positions, in, c) + 2 * res_flop(frames * positions, c, c);
        if (i < 2) { /* every frame but the first makes two */
            flop += conv_flop((frames - 1) * positions, 3, c, 2 * c);
            frames = 2 * frames - 1;
        }
        if (i < 3) {
            positions *= 4;
            flop += conv_flop(frames * positions, 9, c, c / 2);
        }
    }
    return flop + conv_flop(frames * positions, 27, base, 3);
}

double rf_shape_vae_encode_flop(int64_t base, int64_t t, int64_t h, int64_t w)
{
    const int64_t width[] = {base, base, 2 * base, 4 * base, 4 * base};
    double frames = 4 * (double)t - 3, positions = 64 * (double)h * (double)w;
    double flop = conv_flop(frames * positions, 27, 3, base);
    for (int i = 0; i < 4; i++) {
        int64_t c = width[i + 1];
        flop += res_flop(frames * positions, width[i], c) + res_flop(frames * positions, c, c);
        if (i < 3) {
            positions /= 4;
            flop += conv_flop(frames * positions, 9, c, c);
        }
        if (i == 1 || i == 2) {
            frames = (frames + 1) / 2;
            flop += conv_flop((frames - 1) * positions, 3, c, c);
        }
    }
    return flop + middle_flop(frames, positions, width[4]) +
           conv_flop(frames * positions, 27, width[4], 2 * LATENT);
}
