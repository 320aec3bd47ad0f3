/* framefarm-net dit: in.latent [1, C, T, h, w], in.context [1, text_len, text_dim], in.timestep [1] -> out.velocity.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/dit.h"
#include "worker/net/net.h"

struct dit_input {
    int64_t latent_shape[5], text_shape[3];
    float *latent, *text, *timestep;
};

static void free_input(struct dit_input *in)
{
    free(in->latent);
    free(in->text);
    free(in->timestep);
}

static enum rf_code read_input(const char *path, struct dit_input *in, struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    int64_t one[1];
    enum rf_code rc = rf_safetensors_open(path, &file, err);
    if (rc == RF_OK)
        rc = rf_net_read(file, "in.latent", 5, in->latent_shape, &in->latent, err);
    if (rc == RF_OK)
        rc = rf_net_read(file, "in.context", 3, in->text_shape, &in->text, err);
    if (rc == RF_OK)
        rc = rf_net_read(file, "in.timestep", 1, one, &in->timestep, err);
    if (rc == RF_OK && (in->latent_shape[0] != 1 || in->text_shape[0] != 1 || one[0] != 1))
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: only one sample at a time", path);
    return rc;
}

static enum rf_code check_input(const struct dit_input *in, const struct rf_dit_config *c, struct rf_err *err)
{
    const int64_t *s = in->latent_shape;
    if (s[1] != c->in_channels)
        return rf_fail(err, RF_ERR_INVALID, "in.latent has %lld channels, the model takes %d", (long long)s[1],
                       c->in_channels);
    if (s[3] % 2 != 0 || s[4] % 2 != 0)
        return rf_fail(err, RF_ERR_INVALID, "in.latent is %lld x %lld; height and width must be even", (long long)s[3],
                       (long long)s[4]);
    if (in->text_shape[2] != c->text_dim)
        return rf_fail(err, RF_ERR_INVALID, "in.context is %lld wide, the model takes %lld",
                       (long long)in->text_shape[2], (long long)c->text_dim);
    return RF_OK;
}

static enum rf_code run(struct rf_engine *e, struct rf_dit *d, const struct dit_input *in, struct rf_net_result *result,
                        struct rf_err *err)
{
    const struct rf_dit_config *c = rf_dit_config(d);
    const int64_t *s = in->latent_shape;
    int64_t text_len = in->text_shape[1], out_shape[] = {1, c->out_channels, s[2], s[3], s[4]};
    float *out = rf_net_result_add(result, "out.velocity", 5, out_shape, err);
    if (out == NULL)
        return RF_ERR_NO_MEMORY;
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    int64_t bytes = rf_dit_context_peak_bytes(d, text_len, RF_DIT_FAST) +
                    rf_dit_scratch_bytes(d, s[2], s[3], s[4], RF_DIT_FAST) +
                    rf_arena_cost(RF_F32, 4, s + 1) + rf_arena_cost(RF_F32, 4, out_shape + 1) +
                    rf_arena_cost(RF_F32, 2, in->text_shape + 1);
    enum rf_code rc = rf_arena_create(e, bytes, &arena, err);
    if (rc != RF_OK)
        return rc;
    struct rf_tensor latent = rf_arena_tensor(arena, RF_F32, 4, s + 1);
    struct rf_tensor velocity = rf_arena_tensor(arena, RF_F32, 4, out_shape + 1);
    struct rf_tensor text = rf_arena_tensor(arena, RF_F32, 2, in->text_shape + 1);
    rf_upload(e, &latent, in->latent);
    rf_upload(e, &text, in->text);
    struct rf_dit_context context = rf_dit_context_make(d, arena, &text, RF_DIT_FAST);
    struct rf_dit_scratch scratch;
    rc = rf_dit_scratch_make(d, arena, s[2], s[3], s[4], RF_DIT_FAST, &scratch, err);
    if (rc != RF_OK)
        return rc;
    rf_dit_forward(d, &scratch, &context, &latent, (double)in->timestep[0], &velocity);
    return rf_download(e, &velocity, out, err);
}

enum rf_code rf_net_dit(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    RF_AUTO(free_input) struct dit_input in = {0};
    RF_AUTO(rf_engine_close) struct rf_engine *e = NULL;
    RF_AUTO(rf_weights_close) struct rf_weights *w = NULL;
    RF_AUTO(rf_dit_close) struct rf_dit *d = NULL;
    enum rf_code rc = read_input(o->input, &in, err);
    if (rc == RF_OK)
        rc = rf_net_open_engine(o, &e, err);
    if (rc == RF_OK)
        rc = rf_weights_open(e, o->weights, &w, err);
    for (int i = 0; i < o->n_loras && rc == RF_OK; i++)
        rc = rf_weights_add_lora(w, o->loras[i].path, o->loras[i].strength, err);
    if (rc == RF_OK)
        rc = rf_dit_open(e, w, &d, err);
    if (rc == RF_OK)
        rc = check_input(&in, rf_dit_config(d), err);
    return rc == RF_OK ? run(e, d, &in, result, err) : rc;
}
