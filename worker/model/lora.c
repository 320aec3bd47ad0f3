/* Key styles of the public LoRA files, brought to one form; see lora.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/lora.h"

#include <stdio.h>
#include <string.h>

struct key {
    char *module; /* normal form */
    enum rf_lora_kind kind;
    const struct rf_st_entry *entry;
    bool used;
};

struct rf_lora {
    struct rf_safetensors *file;
    float strength;
    struct key *keys; /* by module, then kind */
    int n_keys;
};

/* Longest first where one ends another. */
static const struct {
    const char *suffix;
    enum rf_lora_kind kind;
} suffixes[] = {
    {".lora_linear_layer.down.weight", RF_LORA_DOWN},
    {".lora_linear_layer.up.weight", RF_LORA_UP},
    {".lora_down.default.weight", RF_LORA_DOWN},
    {".lora_up.default.weight", RF_LORA_UP},
    {".lora_A.default.weight", RF_LORA_DOWN},
    {".lora_B.default.weight", RF_LORA_UP},
    {".lora_down.weight", RF_LORA_DOWN},
    {".lora_up.weight", RF_LORA_UP},
    {".lora.down.weight", RF_LORA_DOWN},
    {".lora.up.weight", RF_LORA_UP},
    {"_lora.down.weight", RF_LORA_DOWN},
    {"_lora.up.weight", RF_LORA_UP},
    {".lora_A.weight", RF_LORA_DOWN},
    {".lora_B.weight", RF_LORA_UP},
    {".lora_A", RF_LORA_DOWN},
    {".lora_B", RF_LORA_UP},
    {".alpha", RF_LORA_ALPHA},
    {".diff_b", RF_LORA_DIFF_B},
    {".diff_m", RF_LORA_DIFF_M},
    {".diff", RF_LORA_DIFF},
};

static const char *const prefixes[] = {
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "lora_unet__", "lora_unet_",
};

/* Diffusers' names for modules outside the blocks and inside one, in normal form. Its norm2 is norm3 here; a norm2 of
 * the original naming has no parameters, so the two cannot be confused. */
static const struct {
    const char *diffusers, *original;
} top_names[] = {
    {"condition_embedder_text_embedder_linear_1", "text_embedding_0"},
    {"condition_embedder_text_embedder_linear_2", "text_embedding_2"},
    {"condition_embedder_time_embedder_linear_1", "time_embedding_0"},
    {"condition_embedder_time_embedder_linear_2", "time_embedding_2"},
    {"condition_embedder_time_proj", "time_projection_1"},
    {"scale_shift_table", "head_modulation"},
    {"proj_out", "head_head"},
}, block_names[] = {
    {"attn1_to_q", "self_attn_q"},       {"attn1_to_k", "self_attn_k"},       {"attn1_to_v", "self_attn_v"},
    {"attn1_to_out_0", "self_attn_o"},   {"attn1_norm_q", "self_attn_norm_q"}, {"attn1_norm_k", "self_attn_norm_k"},
    {"attn2_to_q", "cross_attn_q"},      {"attn2_to_k", "cross_attn_k"},      {"attn2_to_v", "cross_attn_v"},
    {"attn2_to_out_0", "cross_attn_o"},  {"attn2_norm_q", "cross_attn_norm_q"}, {"attn2_norm_k", "cross_attn_norm_k"},
    {"norm2", "norm3"},                  {"ffn_net_0_proj", "ffn_0"},         {"ffn_net_2", "ffn_2"},
    {"scale_shift_table", "modulation"},
};

/* Module name (n bytes) in normal form; the caller frees. */
static char *normal_form(const char *name, size_t n)
{
    for (size_t i = 0; i < RF_COUNT_OF(prefixes); i++) {
        size_t length = strlen(prefixes[i]);
        if (n > length && strncmp(name, prefixes[i], length) == 0) {
            name += length;
            n -= length;
            i = (size_t)-1; /* prefixes nest: look again from the first */
        }
    }
    RF_AUTO(rf_free) char *flat = rf_strndup(name, n);
    for (char *c = flat; *c != '\0'; c++)
        if (*c == '.')
            *c = '_';
    for (size_t i = 0; i < RF_COUNT_OF(top_names); i++)
        if (strcmp(flat, top_names[i].diffusers) == 0)
            return rf_strdup(top_names[i].original);
    int block, at = 0;
    if (sscanf(flat, "blocks_%6d_%n", &block, &at) == 1 && at > 0)
        for (size_t i = 0; i < RF_COUNT_OF(block_names); i++)
            if (strcmp(flat + at, block_names[i].diffusers) == 0)
                return rf_asprintf("blocks_%d_%s", block, block_names[i].original);
    char *result = flat;
    flat = NULL;
    return result;
}

static int by_module(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    int order = strcmp(x->module, y->module);
    return order != 0 ? order : (int)x->kind - (int)y->kind;
}

static enum rf_code read_key(const struct rf_st_entry *entry, struct key *ret_key, struct rf_err *err)
{
    size_t n = strlen(entry->name);
    for (size_t i = 0; i < RF_COUNT_OF(suffixes); i++) {
        size_t length = strlen(suffixes[i].suffix);
        if (n <= length || strcmp(entry->name + n - length, suffixes[i].suffix) != 0)
            continue;
        *ret_key = (struct key){normal_form(entry->name, n - length), suffixes[i].kind, entry, false};
        return RF_OK;
    }
    return rf_fail(err, RF_ERR_FORMAT, "key '%.100s' is of no LoRA style known here (low-rank pairs, .diff, .diff_b, "
                   ".diff_m are)", entry->name);
}

static enum rf_code read_keys(struct rf_lora *l, struct rf_err *err)
{
    int n = rf_safetensors_count(l->file);
    if (n == 0)
        return rf_fail(err, RF_ERR_FORMAT, "the file has no tensors");
    l->keys = rf_new_array(struct key, (size_t)n);
    for (int i = 0; i < n; i++, l->n_keys++) {
        enum rf_code rc = read_key(rf_safetensors_at(l->file, i), &l->keys[i], err);
        if (rc != RF_OK)
            return rc;
    }
    qsort(l->keys, (size_t)n, sizeof *l->keys, by_module);
    for (int i = 1; i < n; i++)
        if (by_module(&l->keys[i - 1], &l->keys[i]) == 0)
            return rf_fail(err, RF_ERR_FORMAT, "keys '%.80s' and '%.80s' mean the same", l->keys[i - 1].entry->name,
                           l->keys[i].entry->name);
    return RF_OK;
}

enum rf_code rf_lora_open(const char *path, float strength, struct rf_lora **ret_lora, struct rf_err *err)
{
    RF_AUTO(rf_lora_close) struct rf_lora *l = rf_new(struct rf_lora);
    l->strength = strength;
    enum rf_code rc = rf_safetensors_open(path, &l->file, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "LoRA");
    rc = read_keys(l, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "LoRA %.100s", path);
    *ret_lora = l;
    l = NULL;
    return RF_OK;
}

void rf_lora_close(struct rf_lora **lora)
{
    struct rf_lora *l = *lora;
    if (l == NULL)
        return;
    for (int i = 0; i < l->n_keys; i++)
        free(l->keys[i].module);
    free(l->keys);
    rf_safetensors_close(&l->file);
    free(l);
    *lora = NULL;
}

const char *rf_lora_path(const struct rf_lora *l)
{
    return rf_safetensors_path(l->file);
}

float rf_lora_strength(const struct rf_lora *l)
{
    return l->strength;
}

const struct rf_st_entry *rf_lora_take(struct rf_lora *l, const char *module, enum rf_lora_kind kind)
{
    RF_AUTO(rf_free) char *flat = rf_strdup(module);
    for (char *c = flat; *c != '\0'; c++)
        if (*c == '.')
            *c = '_';
    struct key wanted = {.module = flat, .kind = kind};
    struct key *key = bsearch(&wanted, l->keys, (size_t)l->n_keys, sizeof wanted, by_module);
    if (key == NULL)
        return NULL;
    key->used = true;
    return key->entry;
}

const char *rf_lora_first_unused(const struct rf_lora *l)
{
    for (int i = 0; i < rf_safetensors_count(l->file); i++) { /* in the file's order, not ours: people search for it */
        const struct rf_st_entry *entry = rf_safetensors_at(l->file, i);
        for (int k = 0; k < l->n_keys; k++)
            if (l->keys[k].entry == entry && !l->keys[k].used)
                return entry->name;
    }
    return NULL;
}
