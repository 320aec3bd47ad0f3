/* framefarm-net checkpoint: a file that looks like a public one from outside, with random values inside. For trying a
 * farm's paths, memory and speed without the weights; the pictures are noise.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/net/net.h"
#include "worker/net/shapes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VAE_BASE 96
#define LORA_RANK 64
#define I2V_CHANNELS 36
#define SPARSE_HEAD ((size_t)64 << 10) /* bytes of each tensor that a sparse file holds */

static enum rf_code read_types(const char *word, struct rf_shape_types *ret_types, struct rf_err *err)
{
    static const struct {
        const char *word;
        struct rf_shape_types types;
    } known[] = {{"fp8", {RF_F8_E4M3, RF_F16}}, {"bf16", {RF_BF16, RF_BF16}}, {"fp16", {RF_F16, RF_F16}}};
    for (size_t i = 0; i < RF_COUNT_OF(known); i++)
        if (word == NULL || strcmp(known[i].word, word) == 0) {
            *ret_types = known[i].types;
            return RF_OK;
        }
    return rf_fail(err, RF_ERR_INVALID, "--type '%.40s' is unknown; known are fp8, bf16, fp16", word);
}

static enum rf_code add_tokenizer(struct rf_phantom_list *list, const char *path, struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    enum rf_code rc = rf_safetensors_open(path, &file, err);
    if (rc != RF_OK)
        return rc;
    const struct rf_st_entry *entry = rf_safetensors_find(file, "spiece_model");
    if (entry == NULL || entry->dtype != RF_U8)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: no tokenizer inside (tensor 'spiece_model', U8)", path);
    rf_phantom_add_bytes(list, "spiece_model", entry->data, entry->size_bytes);
    return RF_OK;
}

static enum rf_code list_file(const struct rf_net_options *o, struct rf_phantom_list *list, struct rf_err *err)
{
    struct rf_shape_types types;
    enum rf_code rc = read_types(o->type, &types, err);
    if (rc != RF_OK)
        return rc;
    struct rf_dit_shape dit = rf_shape_t2v_14b;
    struct rf_umt5_shape umt5 = rf_shape_umt5_xxl;
    dit.n_layers = o->n_layers ? o->n_layers : dit.n_layers;
    umt5.n_layers = o->n_layers ? o->n_layers : umt5.n_layers;
    if (strncmp(o->what, "i2v", 3) == 0)
        dit.in_channels = I2V_CHANNELS;
    if (o->tokenizer != NULL && strcmp(o->what, "umt5") != 0)
        return rf_fail(err, RF_ERR_INVALID, "--tokenizer goes with umt5 only");
    if (strcmp(o->what, "t2v") == 0 || strcmp(o->what, "i2v") == 0)
        rf_shape_dit(list, &dit, types);
    else if (strcmp(o->what, "t2v-lora") == 0 || strcmp(o->what, "i2v-lora") == 0)
        rf_shape_lora(list, &dit, LORA_RANK);
    else if (strcmp(o->what, "vae") == 0)
        rf_shape_vae(list, VAE_BASE, RF_BF16);
    else if (strcmp(o->what, "umt5") == 0)
        rf_shape_umt5(list, &umt5, types);
    else
        return rf_fail(err, RF_ERR_INVALID,
                       "checkpoint '%.40s' is unknown; known are t2v, i2v, t2v-lora, i2v-lora, umt5, vae", o->what);
    return o->tokenizer != NULL ? add_tokenizer(list, o->tokenizer, err) : RF_OK;
}

static bool write_at(int fd, const char *bytes, size_t from, size_t to)
{
    while (from < to) {
        ssize_t n = pwrite(fd, bytes + from, to - from, (off_t)from);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        from += (size_t)n;
    }
    return true;
}

/* Header, and the head of every tensor: what lies between is never written. Small and given tensors are whole. */
static bool write_sparse(int fd, const struct rf_phantom *p, const struct rf_phantom_list *list)
{
    size_t data = p->size_bytes;
    for (int i = 0; i < list->n; i++)
        data -= list->tensors[i].entry.size_bytes;
    bool ok = write_at(fd, p->bytes, 0, data);
    for (int i = 0; i < list->n && ok; i++) {
        const struct rf_st_entry *e = &list->tensors[i].entry;
        bool whole = e->data != NULL || e->size_bytes < SPARSE_HEAD;
        ok = write_at(fd, p->bytes, data, data + (whole ? e->size_bytes : SPARSE_HEAD));
        data += e->size_bytes;
    }
    return ok && ftruncate(fd, (off_t)p->size_bytes) == 0;
}

enum rf_code rf_net_checkpoint(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    (void)result;
    RF_AUTO(rf_phantom_list_finish) struct rf_phantom_list list = {0};
    RF_AUTO(rf_phantom_finish) struct rf_phantom phantom = {0};
    if (o->output == NULL)
        return rf_fail(err, RF_ERR_INVALID, "--output is missing");
    enum rf_code rc = list_file(o, &list, err);
    if (rc == RF_OK)
        rc = rf_phantom_map(&list, &phantom, err);
    if (rc != RF_OK)
        return rc;
    int fd = open(o->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return rf_fail(err, RF_ERR_IO, "%.150s: cannot create: %s", o->output, strerror(errno));
    bool ok = o->sparse ? write_sparse(fd, &phantom, &list) : write_at(fd, phantom.bytes, 0, phantom.size_bytes);
    int reason = errno;
    ok = close(fd) == 0 && ok;
    if (!ok) {
        unlink(o->output);
        return rf_fail(err, RF_ERR_IO, "%.150s: cannot write: %s", o->output, strerror(reason));
    }
    printf("%s: %zu bytes, %d tensors\n", o->output, phantom.size_bytes, list.n);
    return RF_OK;
}
