/* From a Wan 2.1 VAE file to a list of layers. Widths come from the tensors' shapes, the order of the stages from their
 * names; what does not fit together is an error naming the tensor. Running the layers: vae_stream.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/vae_layers.h"

#include <stdio.h>

const float rf_vae_latent_mean[RF_VAE_LATENT_CHANNELS] = {
    -0.7571f, -0.7089f, -0.9113f, 0.1075f, -0.1745f, 0.9653f, -0.1517f, 1.5508f,
    0.4134f, -0.0715f, 0.5517f, -0.3632f, -0.1922f, -0.9497f, 0.2503f, -0.2921f,
};
const float rf_vae_latent_deviation[RF_VAE_LATENT_CHANNELS] = {
    2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
    3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f,
};

/* ---- reading the layers from a file ---- */

struct reader {
    struct rf_weights *weights;
    struct rf_vae_network *net;
    int64_t channels; /* of the stream so far */
    struct rf_err *err;
};

/* The shape of `<name>.weight`: out and in channels. */
static enum rf_code conv_channels(struct reader *r, const char *name, int64_t *ret_out, int64_t *ret_in)
{
    char key[160];
    snprintf(key, sizeof key, "%s.weight", name);
    const struct rf_st_entry *entry = rf_weights_entry(r->weights, key);
    if (!entry)
        return rf_fail(r->err, RF_ERR_FORMAT, "%.120s: no tensor '%s': not a Wan 2.1 VAE",
                       rf_safetensors_path(rf_weights_file(r->weights)), key);
    if (entry->n_dims < 4)
        return rf_fail(r->err, RF_ERR_FORMAT, "%.120s: '%s' is not a convolution",
                       rf_safetensors_path(rf_weights_file(r->weights)), key);
    *ret_out = entry->shape[0];
    *ret_in = entry->shape[1];
    return RF_OK;
}

/* A convolution that continues the stream. out 0: as many as the file has. */
static enum rf_code read_conv(struct reader *r, const char *name, int64_t in, int64_t *inout_out, int kt, int ks,
                              struct rf_conv *ret_conv)
{
    int64_t out = 0, file_in = 0;
    enum rf_code rc = conv_channels(r, name, &out, &file_in);
    if (rc != RF_OK)
        return rc;
    if (*inout_out == 0)
        *inout_out = out;
    return rf_weights_conv(r->weights, name, *inout_out, in, kt, ks, ks, ret_conv, r->err);
}

static bool has(const struct reader *r, const char *prefix, const char *suffix)
{
    char key[160];
    snprintf(key, sizeof key, "%s.%s", prefix, suffix);
    return rf_weights_entry(r->weights, key) != NULL;
}

static struct rf_vae_layer *add_layer(struct reader *r, enum rf_vae_kind kind)
{
    RF_ASSERT(r->net->n_layers < RF_VAE_MAX_LAYERS);
    struct rf_vae_layer *l = &r->net->layer[r->net->n_layers++];
    *l = (struct rf_vae_layer){.kind = kind, .in = r->channels, .out = r->channels};
    return l;
}

/* conv1, conv2: 1x1x1. Only the first `keep` outputs (0: all): the encoder's log-variance is never used. */
static enum rf_code read_point(struct reader *r, const char *name, int64_t out, int64_t keep)
{
    struct rf_vae_layer *l = add_layer(r, RF_VAE_POINT);
    enum rf_code rc = read_conv(r, name, l->in, &out, 1, 1, &l->conv[0]);
    if (rc != RF_OK)
        return rc;
    if (keep)
        l->conv[0] = rf_vae_conv_slice(&l->conv[0], 0, keep);
    r->channels = l->out = keep ? keep : out;
    return RF_OK;
}

/* A 3x3x3 convolution, after norm and SiLU when `norm` names one. */
static enum rf_code read_causal(struct reader *r, const char *norm, const char *name, int64_t out)
{
    struct rf_vae_layer *l = add_layer(r, RF_VAE_CONV);
    enum rf_code rc = norm ? rf_weights_vector(r->weights, norm, l->in, &l->gamma[0], r->err) : RF_OK;
    if (rc == RF_OK)
        rc = read_conv(r, name, l->in, &out, 3, 3, &l->conv[0]);
    r->channels = l->out = out;
    return rc;
}

/* The decoder's last convolution, to red, green and blue. */
static enum rf_code read_head(struct reader *r, const char *norm, const char *name)
{
    struct rf_vae_layer *l = add_layer(r, RF_VAE_HEAD);
    enum rf_code rc = rf_weights_vector(r->weights, norm, l->in, &l->gamma[0], r->err);
    if (rc == RF_OK)
        rc = rf_weights_conv_by_frame(r->weights, name, RF_VAE_COLOURS, l->in, 3, 3, 3, l->time_conv, r->err);
    r->channels = l->out = RF_VAE_COLOURS;
    return rc;
}

static enum rf_code read_res(struct reader *r, const char *prefix)
{
    struct rf_vae_layer *l = add_layer(r, RF_VAE_RES);
    char name[6][128];
    static const char *const suffix[6] = {"residual.0.gamma", "residual.2", "residual.3.gamma", "residual.6",
                                          "shortcut", "shortcut.weight"};
    for (int i = 0; i < 6; i++)
        snprintf(name[i], sizeof name[i], "%s.%s", prefix, suffix[i]);
    l->out = 0;
    enum rf_code rc = rf_weights_vector(r->weights, name[0], l->in, &l->gamma[0], r->err);
    if (rc == RF_OK)
        rc = read_conv(r, name[1], l->in, &l->out, 3, 3, &l->conv[0]);
    if (rc == RF_OK)
        rc = rf_weights_vector(r->weights, name[2], l->out, &l->gamma[1], r->err);
    if (rc == RF_OK)
        rc = read_conv(r, name[3], l->out, &l->out, 3, 3, &l->conv[1]);
    if (rc == RF_OK && l->in != l->out)
        rc = read_conv(r, name[4], l->in, &l->out, 1, 1, &l->shortcut);
    r->channels = l->out;
    return rc;
}

static enum rf_code read_attention(struct reader *r, const char *prefix)
{
    struct rf_vae_layer *l = add_layer(r, RF_VAE_ATTENTION);
    char norm[128], qkv[128], proj[128];
    snprintf(norm, sizeof norm, "%s.norm.gamma", prefix);
    snprintf(qkv, sizeof qkv, "%s.to_qkv", prefix);
    snprintf(proj, sizeof proj, "%s.proj", prefix);
    int64_t three = 3 * l->in;
    enum rf_code rc = rf_weights_vector(r->weights, norm, l->in, &l->gamma[0], r->err);
    if (rc == RF_OK)
        rc = read_conv(r, qkv, l->in, &three, 1, 1, &l->conv[0]);
    if (rc == RF_OK)
        rc = read_conv(r, proj, l->in, &l->out, 1, 1, &l->conv[1]);
    return rc;
}

static enum rf_code read_down(struct reader *r, const char *prefix)
{
    struct rf_vae_layer *l = add_layer(r, RF_VAE_DOWN);
    char spatial[128], temporal[128];
    snprintf(spatial, sizeof spatial, "%s.resample.1", prefix);
    snprintf(temporal, sizeof temporal, "%s.time_conv", prefix);
    l->time = has(r, prefix, "time_conv.weight");
    enum rf_code rc = read_conv(r, spatial, l->in, &l->out, 1, 3, &l->conv[0]);
    if (rc == RF_OK && l->time)
        rc = rf_weights_conv(r->weights, temporal, l->in, l->in, 3, 1, 1, &l->time_conv[0], r->err);
    return rc;
}

static enum rf_code read_up(struct reader *r, const char *prefix)
{
    char spatial[128], temporal[128];
    snprintf(spatial, sizeof spatial, "%s.resample.1", prefix);
    snprintf(temporal, sizeof temporal, "%s.time_conv", prefix);
    if (has(r, prefix, "time_conv.weight")) {
        struct rf_vae_layer *l = add_layer(r, RF_VAE_UP_TIME);
        struct rf_conv both;
        l->time = true;
        enum rf_code rc = rf_weights_conv(r->weights, temporal, 2 * l->in, l->in, 3, 1, 1, &both, r->err);
        if (rc != RF_OK)
            return rc;
        l->time_conv[0] = rf_vae_conv_slice(&both, 0, l->in); /* first half of the channels: the earlier frame */
        l->time_conv[1] = rf_vae_conv_slice(&both, l->in, l->in);
    }
    struct rf_vae_layer *l = add_layer(r, RF_VAE_UP);
    l->out = 0;
    enum rf_code rc = read_conv(r, spatial, l->in, &l->out, 1, 3, &l->conv[0]);
    r->channels = l->out;
    return rc;
}

/* The stages `<prefix>.0`, `.1` …: whatever is there, checked to be 3 changes of size, 2 of them in time. */
static enum rf_code read_stages(struct reader *r, const char *prefix, enum rf_vae_kind kind)
{
    int first = r->net->n_layers, n_space = 0, n_time = 0;
    for (int i = 0; r->net->n_layers <= RF_VAE_MAX_LAYERS - 8; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.%d", prefix, i);
        enum rf_code rc;
        if (has(r, name, "residual.2.weight"))
            rc = read_res(r, name);
        else if (has(r, name, "resample.1.weight"))
            rc = kind == RF_VAE_DOWN ? read_down(r, name) : read_up(r, name);
        else
            break;
        if (rc != RF_OK)
            return rc;
    }
    for (int i = first; i < r->net->n_layers; i++) {
        n_space += r->net->layer[i].kind == kind;
        n_time += r->net->layer[i].time;
    }
    if (n_space != 3 || n_time != 2)
        return rf_fail(r->err, RF_ERR_FORMAT, "%.120s: '%s' changes size %d times, %d in time; a Wan 2.1 VAE 3 and 2",
                       rf_safetensors_path(rf_weights_file(r->weights)), prefix, n_space, n_time);
    return RF_OK;
}

static enum rf_code read_middle(struct reader *r, const char *prefix)
{
    char name[96];
    snprintf(name, sizeof name, "%s.0", prefix);
    enum rf_code rc = read_res(r, name);
    snprintf(name, sizeof name, "%s.1", prefix);
    if (rc == RF_OK)
        rc = read_attention(r, name);
    snprintf(name, sizeof name, "%s.2", prefix);
    return rc == RF_OK ? read_res(r, name) : rc;
}

static enum rf_code read_networks(struct rf_vae *v, struct rf_err *err)
{
    struct reader enc = {v->weights, &v->encoder, 3, err}, dec = {v->weights, &v->decoder, RF_VAE_LATENT_CHANNELS, err};
    enum rf_code rc = read_causal(&enc, NULL, "encoder.conv1", 0);
    if (rc == RF_OK)
        rc = read_stages(&enc, "encoder.downsamples", RF_VAE_DOWN);
    if (rc == RF_OK)
        rc = read_middle(&enc, "encoder.middle");
    if (rc == RF_OK)
        rc = read_causal(&enc, "encoder.head.0.gamma", "encoder.head.2", 2 * RF_VAE_LATENT_CHANNELS);
    if (rc == RF_OK)
        rc = read_point(&enc, "conv1", 2 * RF_VAE_LATENT_CHANNELS, RF_VAE_LATENT_CHANNELS);
    if (rc == RF_OK)
        rc = read_point(&dec, "conv2", RF_VAE_LATENT_CHANNELS, 0);
    if (rc == RF_OK)
        rc = read_causal(&dec, NULL, "decoder.conv1", 0);
    if (rc == RF_OK)
        rc = read_middle(&dec, "decoder.middle");
    if (rc == RF_OK)
        rc = read_stages(&dec, "decoder.upsamples", RF_VAE_UP);
    if (rc == RF_OK)
        rc = read_head(&dec, "decoder.head.0.gamma", "decoder.head.2");
    return rc;
}

enum rf_code rf_vae_open(struct rf_engine *e, const char *path, struct rf_vae **ret_vae, struct rf_err *err)
{
    RF_AUTO(rf_vae_close) struct rf_vae *v = rf_new(struct rf_vae);
    v->engine = e;
    enum rf_code rc = rf_weights_open(e, path, &v->weights, err);
    if (rc == RF_OK)
        rc = read_networks(v, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "VAE");
    *ret_vae = v;
    v = NULL;
    return RF_OK;
}

void rf_vae_close(struct rf_vae **vae)
{
    if (!*vae)
        return;
    rf_weights_close(&(*vae)->weights);
    rf_free(vae);
}

int64_t rf_vae_weight_bytes(const struct rf_vae *vae)
{
    return rf_weights_held_bytes(vae->weights);
}
