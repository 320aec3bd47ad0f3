/* Private to the pipeline: the open model (pipeline.c) and one run of it (pipeline_run.c).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_PIPELINE_RUN_H
#define RF_MODEL_PIPELINE_RUN_H

#include "worker/model/dit.h"
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
    int64_t file_bytes;                      /* of all files: what the weights take */
    struct rf_generate_info info;
};

/* Bytes that a run takes beside the weights: `base` and `host` (ordinary memory, on any device) throughout, the other
 * parts one after the other. */
struct rf_run_memory {
    int64_t host, base, text, encode_image, sample, decode;
};
struct rf_run_memory rf_run_memory(const struct rf_model *m, const struct rf_generate_params *params);
/* Of the engine's memory. */
int64_t rf_run_memory_peak(const struct rf_run_memory *memory);

#endif
