/* See tiny_model.h. Shapes follow the public layouts; widths are the smallest that keep every code path.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/model/safetensors.h"

#define MAX_ENTRIES 256

struct file {
    struct rf_st_entry entry[MAX_ENTRIES];
    int n;
    uint32_t random;
};

static float draw(struct file *f)
{
    f->random = f->random * 1664525u + 1013904223u;
    return (float)(f->random >> 8) / (float)(1 << 23) - 1.0f;
}

/* `offset + scale * random` for each element. */
static void add(struct file *f, const char *name, float offset, float scale, int n_dims, const int64_t *shape)
{
    assert_true(f->n < MAX_ENTRIES);
    struct rf_st_entry *e = &f->entry[f->n++];
    *e = (struct rf_st_entry){.name = rf_strdup(name), .dtype = RF_F32, .n_dims = n_dims};
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= e->shape[i] = shape[i];
    float *data = rf_new_array(float, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        data[i] = offset + scale * draw(f);
    e->data = data;
    e->size_bytes = (size_t)n * sizeof(float);
}

static void add_bytes(struct file *f, const char *name, uint8_t *bytes, size_t size)
{
    f->entry[f->n++] = (struct rf_st_entry){.name = rf_strdup(name), .dtype = RF_U8, .n_dims = 1,
                                            .shape = {(int64_t)size}, .data = bytes, .size_bytes = size};
}

/* `<name>.weight` of any shape with a variance that keeps signals at their size, and `<name>.bias`. */
static void add_layer(struct file *f, const char *name, bool bias, int n_dims, const int64_t *shape)
{
    RF_AUTO(rf_free) char *weight_key = rf_asprintf("%s.weight", name);
    RF_AUTO(rf_free) char *bias_key = rf_asprintf("%s.bias", name);
    int64_t fan_in = 1;
    for (int i = 1; i < n_dims; i++)
        fan_in *= shape[i];
    add(f, weight_key, 0, sqrtf(3.0f / (float)fan_in), n_dims, shape);
    if (bias)
        add(f, bias_key, 0, 0.1f, 1, shape);
}

static void write_and_free(struct file *f, const char *path)
{
    struct rf_err err;
    if (rf_safetensors_write(path, f->entry, f->n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    for (int i = 0; i < f->n; i++) {
        free((void *)f->entry[i].name);
        free((void *)f->entry[i].data);
    }
}

/* ---- the experts ---- */

static void write_expert(const char *path, int64_t in_channels, uint32_t seed)
{
    enum { DIM = 128, FFN = 64, TEXT = 32, FREQ = 256 };
    struct file f = {.random = seed};
    char name[96];
    add_layer(&f, "patch_embedding", true, RF_SHAPE(DIM, in_channels, 1, 2, 2));
    add_layer(&f, "text_embedding.0", true, RF_SHAPE(DIM, TEXT));
    add_layer(&f, "text_embedding.2", true, RF_SHAPE(DIM, DIM));
    add_layer(&f, "time_embedding.0", true, RF_SHAPE(DIM, FREQ));
    add_layer(&f, "time_embedding.2", true, RF_SHAPE(DIM, DIM));
    add_layer(&f, "time_projection.1", true, RF_SHAPE(6 * DIM, DIM));
    add(&f, "blocks.0.modulation", 0, 0.1f, RF_SHAPE(1, 6, DIM));
    static const char *const attention[] = {"self_attn", "cross_attn"}, *const part[] = {"q", "k", "v", "o"};
    for (int a = 0; a < 2; a++) {
        for (int p = 0; p < 4; p++) {
            snprintf(name, sizeof name, "blocks.0.%s.%s", attention[a], part[p]);
            add_layer(&f, name, true, RF_SHAPE(DIM, DIM));
        }
        for (int p = 0; p < 2; p++) {
            snprintf(name, sizeof name, "blocks.0.%s.norm_%s.weight", attention[a], part[p]);
            add(&f, name, 1, 0.1f, RF_SHAPE(DIM));
        }
    }
    add(&f, "blocks.0.norm3.weight", 1, 0.1f, RF_SHAPE(DIM));
    add(&f, "blocks.0.norm3.bias", 0, 0.1f, RF_SHAPE(DIM));
    add_layer(&f, "blocks.0.ffn.0", true, RF_SHAPE(FFN, DIM));
    add_layer(&f, "blocks.0.ffn.2", true, RF_SHAPE(DIM, FFN));
    add(&f, "head.modulation", 0, 0.1f, RF_SHAPE(1, 2, DIM));
    add_layer(&f, "head.head", true, RF_SHAPE(64, DIM));
    write_and_free(&f, path);
}

/* ---- the text encoder ---- */

struct bytes {
    uint8_t *data;
    size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    b->data = rf_realloc(b->data, b->n + n, 1);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

/* Protobuf: a field's key and a small number. */
static void put_number(struct bytes *b, int field, uint8_t value)
{
    uint8_t key[3] = {(uint8_t)((field << 3 & 0x7F) | (field > 15 ? 0x80 : 0)), (uint8_t)(field >> 4), value};
    put(b, key, 1);
    put(b, key + (field > 15 ? 1 : 2), field > 15 ? 2 : 1);
}

static void put_block(struct bytes *b, int field, const void *data, size_t n)
{
    uint8_t head[2] = {(uint8_t)(field << 3 | 2), (uint8_t)n};
    assert_true(n < 128);
    put(b, head, 2);
    put(b, data, n);
}

static void put_piece(struct bytes *b, const char *piece, float score, uint8_t type)
{
    struct bytes m = {0};
    put_block(&m, 1, piece, strlen(piece));
    put(&m, "\x15", 1);
    put(&m, &score, sizeof score);
    put_number(&m, 3, type);
    put_block(b, 1, m.data, m.n);
    free(m.data);
}

uint8_t *tiny_spiece(size_t *ret_bytes)
{
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3 };
    struct bytes b = {0}, trainer = {0}, normalizer = {0};
    put_piece(&b, "<pad>", 0, CONTROL);
    put_piece(&b, "</s>", 0, CONTROL);
    put_piece(&b, "<s>", 0, CONTROL);
    put_piece(&b, "<unk>", 0, UNKNOWN);
    put_piece(&b, "\u2581red", -1, NORMAL);
    put_piece(&b, "\u2581circle", -1, NORMAL);
    put_piece(&b, "\u2581", -2, NORMAL);
    for (const char *c = "abcdefghijklmnopqrstuvwxyz():0123456789"; *c; c++)
        put_piece(&b, (char[]){*c, 0}, -4, NORMAL);
    put_number(&trainer, 3, 1);
    put_number(&trainer, 40, 3);
    put_number(&trainer, 41, 2);
    put_number(&trainer, 42, 1);
    put_number(&trainer, 43, 0);
    put_block(&b, 2, trainer.data, trainer.n);
    put_block(&normalizer, 1, "identity", 8);
    put_block(&b, 3, normalizer.data, normalizer.n);
    free(trainer.data);
    free(normalizer.data);
    *ret_bytes = b.n;
    return b.data;
}

static void write_text_encoder(const char *path)
{
    enum { WIDTH = 32, INNER = 64, HIDDEN = 48 };
    struct file f = {.random = 77};
    add(&f, "shared.weight", 0, 1, RF_SHAPE(TINY_VOCABULARY, WIDTH));
    static const char *const part[] = {"q", "k", "v"};
    char name[96];
    for (int p = 0; p < 3; p++) {
        snprintf(name, sizeof name, "encoder.block.0.layer.0.SelfAttention.%s", part[p]);
        add_layer(&f, name, false, RF_SHAPE(INNER, WIDTH));
    }
    add_layer(&f, "encoder.block.0.layer.0.SelfAttention.o", false, RF_SHAPE(WIDTH, INNER));
    add(&f, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 0, 1, RF_SHAPE(32, 1));
    add(&f, "encoder.block.0.layer.0.layer_norm.weight", 1, 0.1f, RF_SHAPE(WIDTH));
    add(&f, "encoder.block.0.layer.1.layer_norm.weight", 1, 0.1f, RF_SHAPE(WIDTH));
    add_layer(&f, "encoder.block.0.layer.1.DenseReluDense.wi_0", false, RF_SHAPE(HIDDEN, WIDTH));
    add_layer(&f, "encoder.block.0.layer.1.DenseReluDense.wi_1", false, RF_SHAPE(HIDDEN, WIDTH));
    add_layer(&f, "encoder.block.0.layer.1.DenseReluDense.wo", false, RF_SHAPE(WIDTH, HIDDEN));
    add(&f, "encoder.final_layer_norm.weight", 1, 0.1f, RF_SHAPE(WIDTH));
    size_t size;
    uint8_t *model = tiny_spiece(&size);
    add_bytes(&f, "spiece_model", model, size);
    write_and_free(&f, path);
}

/* ---- the VAE ---- */

static void add_norm(struct file *f, const char *prefix, const char *suffix, int64_t channels)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", prefix, suffix);
    add(f, name, 1, 0.1f, RF_SHAPE(channels, 1, 1, 1));
}

static void add_conv(struct file *f, const char *prefix, const char *suffix, int64_t out, int64_t in, int kt, int ks)
{
    char name[128];
    snprintf(name, sizeof name, "%s%s%s", prefix, suffix[0] ? "." : "", suffix);
    add_layer(f, name, true, RF_SHAPE(out, in, kt, ks, ks));
}

static void add_res(struct file *f, const char *prefix, int64_t in, int64_t out)
{
    add_norm(f, prefix, "residual.0.gamma", in);
    add_conv(f, prefix, "residual.2", out, in, 3, 3);
    add_norm(f, prefix, "residual.3.gamma", out);
    add_conv(f, prefix, "residual.6", out, out, 3, 3);
    if (in != out)
        add_conv(f, prefix, "shortcut", out, in, 1, 1);
}

static void add_middle(struct file *f, const char *prefix, int64_t c)
{
    char name[96];
    snprintf(name, sizeof name, "%s.0", prefix);
    add_res(f, name, c, c);
    snprintf(name, sizeof name, "%s.2", prefix);
    add_res(f, name, c, c);
    snprintf(name, sizeof name, "%s.1.norm.gamma", prefix);
    add(f, name, 1, 0.1f, RF_SHAPE(c, 1, 1));
    snprintf(name, sizeof name, "%s.1.to_qkv", prefix);
    add_layer(f, name, true, RF_SHAPE(3 * c, c, 1, 1));
    snprintf(name, sizeof name, "%s.1.proj", prefix);
    add_layer(f, name, true, RF_SHAPE(c, c, 1, 1));
}

static void write_vae(const char *path)
{
    enum { BASE = 4, STAGES = 4 };
    static const int64_t down[] = {BASE, BASE, 2 * BASE, 4 * BASE, 4 * BASE};
    static const int64_t up[] = {4 * BASE, 4 * BASE, 4 * BASE, 2 * BASE, BASE};
    struct file f = {.random = 99};
    char name[96];
    add_conv(&f, "encoder.conv1", "", BASE, 3, 3, 3);
    for (int s = 0, i = 0; s < STAGES; s++) {
        for (int r = 0; r < 2; r++, i++) {
            snprintf(name, sizeof name, "encoder.downsamples.%d", i);
            add_res(&f, name, r == 0 ? down[s] : down[s + 1], down[s + 1]);
        }
        snprintf(name, sizeof name, "encoder.downsamples.%d", i);
        i += s < STAGES - 1;
        if (s < STAGES - 1)
            add_conv(&f, name, "resample.1", down[s + 1], down[s + 1], 1, 3);
        if (s == 1 || s == 2) {
            snprintf(name, sizeof name, "encoder.downsamples.%d.time_conv", i - 1);
            add_layer(&f, name, true, RF_SHAPE(down[s + 1], down[s + 1], 3, 1, 1));
        }
    }
    add_middle(&f, "encoder.middle", 4 * BASE);
    add_norm(&f, "encoder", "head.0.gamma", 4 * BASE);
    add_conv(&f, "encoder.head.2", "", 32, 4 * BASE, 3, 3);
    add_conv(&f, "conv1", "", 32, 32, 1, 1);
    add_conv(&f, "conv2", "", 16, 16, 1, 1);
    add_conv(&f, "decoder.conv1", "", 4 * BASE, 16, 3, 3);
    add_middle(&f, "decoder.middle", 4 * BASE);
    for (int s = 0, i = 0; s < STAGES; s++) {
        for (int r = 0; r < 3; r++, i++) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", i);
            add_res(&f, name, r > 0 ? up[s + 1] : s > 0 ? up[s] / 2 : up[s], up[s + 1]);
        }
        snprintf(name, sizeof name, "decoder.upsamples.%d", i);
        i += s < STAGES - 1;
        if (s < STAGES - 1)
            add_conv(&f, name, "resample.1", up[s + 1] / 2, up[s + 1], 1, 3);
        if (s < 2) {
            snprintf(name, sizeof name, "decoder.upsamples.%d.time_conv", i - 1);
            add_layer(&f, name, true, RF_SHAPE(2 * up[s + 1], up[s + 1], 3, 1, 1));
        }
    }
    add_norm(&f, "decoder", "head.0.gamma", BASE);
    add_conv(&f, "decoder.head.2", "", 3, BASE, 3, 3);
    write_and_free(&f, path);
}

/* ---- all of it ---- */

void tiny_model_write(struct tiny_model *t, int in_channels)
{
    *t = (struct tiny_model){0};
    const char *base = getenv("TMPDIR");
    snprintf(t->folder, sizeof t->folder, "%.40s/rf-tiny-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(t->folder));
    snprintf(t->high, sizeof t->high, "%s/high.safetensors", t->folder);
    snprintf(t->low, sizeof t->low, "%s/low.safetensors", t->folder);
    snprintf(t->text_encoder, sizeof t->text_encoder, "%s/text.safetensors", t->folder);
    snprintf(t->vae, sizeof t->vae, "%s/vae.safetensors", t->folder);
    write_expert(t->high, in_channels, 1);
    write_expert(t->low, in_channels, 2);
    write_text_encoder(t->text_encoder);
    write_vae(t->vae);
}

struct rf_model_files tiny_model_files(const struct tiny_model *t)
{
    return (struct rf_model_files){.high = t->high, .low = t->low, .text_encoder = t->text_encoder, .vae = t->vae};
}

void tiny_model_remove(struct tiny_model *t)
{
    const char *const all[] = {t->high, t->low, t->text_encoder, t->vae};
    for (size_t i = 0; i < RF_COUNT_OF(all); i++)
        unlink(all[i]);
    rmdir(t->folder);
}
