/* Opening a model: maps its files and checks that they fit each other, so that a run cannot fail for a wrong file.
 * The run itself is in pipeline_run.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/pipeline_run.h"

#include <sys/stat.h>

static enum rf_code open_expert(struct rf_model *m, enum rf_expert which, const char *path,
                                const struct rf_lora_file *loras, int n_loras, struct rf_err *err)
{
    enum rf_code rc = rf_weights_open(m->engine, path, &m->weights[which], err);
    for (int i = 0; i < n_loras && rc == RF_OK; i++)
        rc = rf_weights_add_lora(m->weights[which], loras[i].path, loras[i].strength, err);
    if (rc == RF_OK)
        rc = rf_dit_open_unplaced(m->engine, m->weights[which], &m->dit[which], err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "%s-noise expert", which == RF_EXPERT_HIGH ? "high" : "low");
}

static enum rf_code open_tokenizer(struct rf_model *m, struct rf_err *err)
{
    const struct rf_safetensors *file = rf_umt5_file(m->umt5);
    const struct rf_st_entry *entry = rf_safetensors_find(file, "spiece_model");
    if (!entry || entry->dtype != RF_U8 || entry->size_bytes == 0)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: no tokenizer inside (tensor 'spiece_model', U8)",
                       rf_safetensors_path(file));
    enum rf_code rc = rf_tokenizer_open(entry->data, entry->size_bytes, &m->tokenizer, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "%.120s", rf_safetensors_path(file));
    if (rf_tokenizer_vocabulary(m->tokenizer) > rf_umt5_vocabulary(m->umt5))
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: the tokenizer has %d pieces, the encoder knows %lld",
                       rf_safetensors_path(file), rf_tokenizer_vocabulary(m->tokenizer),
                       (long long)rf_umt5_vocabulary(m->umt5));
    return RF_OK;
}

/* The experts hand the latent to each other, the text encoder feeds both, the VAE takes what they make. */
static enum rf_code check_fit(const struct rf_model *m, const struct rf_model_files *files, struct rf_err *err)
{
    const struct rf_dit_config *high = rf_dit_config(m->dit[RF_EXPERT_HIGH]);
    const struct rf_dit_config *low = rf_dit_config(m->dit[RF_EXPERT_LOW]);
    if (high->dim != low->dim || high->ffn_dim != low->ffn_dim || high->text_dim != low->text_dim ||
        high->freq_dim != low->freq_dim || high->n_layers != low->n_layers || high->in_channels != low->in_channels ||
        high->out_channels != low->out_channels)
        return rf_fail(err, RF_ERR_FORMAT, "%.90s and %.90s are not a pair: their shapes differ", files->high,
                       files->low);
    if (high->out_channels != RF_VAE_LATENT_CHANNELS || (high->in_channels != 16 && high->in_channels != 36))
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: %d channels in and %d out; 16 or 36 in and 16 out can be run",
                       files->high, high->in_channels, high->out_channels);
    if (high->text_dim != rf_umt5_width(m->umt5))
        return rf_fail(err, RF_ERR_FORMAT, "%.90s makes text features of width %lld, %.90s takes %lld",
                       files->text_encoder, (long long)rf_umt5_width(m->umt5), files->high,
                       (long long)high->text_dim);
    return RF_OK;
}

static int64_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : 0;
}

static int64_t size_of_all(const struct rf_model_files *files)
{
    int64_t bytes = size_of(files->high) + size_of(files->low) + size_of(files->text_encoder) + size_of(files->vae);
    for (int i = 0; i < files->n_lora_high; i++)
        bytes += size_of(files->lora_high[i].path);
    for (int i = 0; i < files->n_lora_low; i++)
        bytes += size_of(files->lora_low[i].path);
    return bytes;
}

enum rf_code rf_model_open(struct rf_engine *e, const struct rf_model_files *files, struct rf_model **ret_model,
                           struct rf_err *err)
{
    RF_AUTO(rf_model_close) struct rf_model *m = rf_new(struct rf_model);
    m->engine = e;
    m->file_bytes = size_of_all(files);
    enum rf_code rc = open_expert(m, RF_EXPERT_HIGH, files->high, files->lora_high, files->n_lora_high, err);
    if (rc == RF_OK)
        rc = open_expert(m, RF_EXPERT_LOW, files->low, files->lora_low, files->n_lora_low, err);
    if (rc == RF_OK)
        rc = rf_umt5_open_unplaced(e, files->text_encoder, &m->umt5, err);
    if (rc == RF_OK)
        rc = open_tokenizer(m, err);
    int64_t before = rf_engine_held_bytes(e);
    if (rc == RF_OK)
        rc = rf_vae_open(e, files->vae, &m->vae, err);
    m->vae_bytes = rf_engine_held_bytes(e) - before;
    if (rc == RF_OK)
        rc = check_fit(m, files, err);
    if (rc == RF_OK)
        rc = rf_preview_fit(e, m->vae, &m->preview, err);
    if (rc != RF_OK)
        return rc;
    *ret_model = m;
    m = NULL;
    return RF_OK;
}

void rf_model_close(struct rf_model **model)
{
    struct rf_model *m = *model;
    if (!m)
        return;
    for (int i = 0; i < RF_EXPERT_COUNT; i++) {
        rf_dit_close(&m->dit[i]);
        rf_weights_close(&m->weights[i]);
    }
    rf_tokenizer_close(&m->tokenizer);
    rf_umt5_close(&m->umt5);
    rf_vae_close(&m->vae);
    rf_free(model);
}

bool rf_model_takes_image(const struct rf_model *m)
{
    return rf_dit_config(m->dit[RF_EXPERT_HIGH])->in_channels == 36;
}

enum rf_code rf_model_plan(const struct rf_model *m, const struct rf_generate_params *params,
                           struct rf_memory_plan *ret_plan, struct rf_err *err)
{
    struct rf_memory_facts facts;
    struct rf_memory_request request;
    rf_run_facts(m, params, &facts, &request);
    return rf_memory_plan_make(&facts, &request, rf_engine_limit_bytes(m->engine), ret_plan, err);
}

int64_t rf_model_peak_bytes(const struct rf_model *m, const struct rf_generate_params *params)
{
    struct rf_memory_facts facts;
    struct rf_memory_request request;
    struct rf_memory_plan plan;
    rf_run_facts(m, params, &facts, &request);
    rf_memory_plan_make(&facts, &request, 0, &plan, NULL); /* without a limit there is always one */
    return m->file_bytes + rf_run_host_bytes(params) + plan.peak;
}

void rf_model_last_info(const struct rf_model *m, struct rf_generate_info *ret_info)
{
    *ret_info = m->info;
}
