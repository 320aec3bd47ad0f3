/* Private to the pipeline: the open model (pipeline.c) and one run of it (pipeline_run.c).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_PIPELINE_RUN_H
#define RF_MODEL_PIPELINE_RUN_H

#include "worker/model/dit.h"
#include "worker/model/memory_plan.h"
#include "worker/model/pipeline.h"
#include "worker/model/preview.h"
#include "worker/model/tokenizer.h"
#include "worker/model/umt5.h"
#include "worker/model/vae.h"

enum rf_expert { RF_EXPERT_HIGH, RF_EXPERT_LOW, RF_EXPERT_COUNT };

struct rf_model {
    struct rf_engine *engine;
    struct rf_weights *weights[RF_EXPERT_COUNT];
    struct rf_dit *dit[RF_EXPERT_COUNT];     /* of one configuration */
    struct rf_umt5 *umt5;
    struct rf_tokenizer *tokenizer;
    struct rf_vae *vae;
    struct rf_preview preview;
    int64_t file_bytes;                      /* of all files */
    int64_t vae_bytes;                       /* of the engine's memory, for the VAE's weights */
    bool placed;                             /* the others are where the last plan wanted them: */
    int n_streamed[RF_EXPERT_COUNT];
    bool keeps_text_encoder;
    struct rf_generate_info info;
};

/* Ordinary memory that a run takes, on any device. */
int64_t rf_run_host_bytes(const struct rf_generate_params *params);

/* What the plan is made from. */
void rf_run_facts(const struct rf_model *m, const struct rf_generate_params *params, struct rf_memory_facts *ret_facts,
                  struct rf_memory_request *ret_request);

#endif
