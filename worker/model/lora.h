/* One LoRA file: which of its tensors belong to which module of the checkpoint, whatever the training tool called them.
 *
 * All key styles are brought to one form: prefix and suffix off, diffusers names translated, dots as underscores
 * (`blocks.3.self_attn.q` -> `blocks_3_self_attn_q`), which is also what kohya's flattened keys are.
 * Private to weights.c. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_LORA_H
#define RF_MODEL_LORA_H

#include "worker/model/safetensors.h"

enum rf_lora_kind {
    RF_LORA_DOWN,   /* [rank, in …] */
    RF_LORA_UP,     /* [out, rank …] */
    RF_LORA_ALPHA,  /* one number */
    RF_LORA_DIFF,   /* added to the weight, same shape */
    RF_LORA_DIFF_B, /* added to the bias */
    RF_LORA_DIFF_M, /* added to the modulation of a block */
    RF_LORA_KIND_COUNT
};

struct rf_lora;

/*   RF_ERR_FORMAT  not safetensors, no LoRA keys, a key of no known style or of an unsupported method; named */
enum rf_code rf_lora_open(const char *path, float strength, struct rf_lora **ret_lora, struct rf_err *err);
void rf_lora_close(struct rf_lora **lora);

const char *rf_lora_path(const struct rf_lora *l);
float rf_lora_strength(const struct rf_lora *l);

/* The tensor of this kind for module `module` (dots or underscores), marked as used; NULL when the file has none. */
const struct rf_st_entry *rf_lora_take(struct rf_lora *l, const char *module, enum rf_lora_kind kind);

/* The name of the first tensor never taken, NULL when all were. */
const char *rf_lora_first_unused(const struct rf_lora *l);

#endif
