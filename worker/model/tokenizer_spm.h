/* Private to the tokenizer: the seam between C and the C++ library. Plain types only; results are numbers because the
 * project's headers are C. tokenizer_none.c implements it where the build has no SentencePiece.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_TOKENIZER_SPM_H
#define RF_MODEL_TOKENIZER_SPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rf_spm;

enum rf_spm_result { RF_SPM_OK, RF_SPM_DAMAGED, RF_SPM_NO_MEMORY, RF_SPM_NOT_BUILT };

/* msg: what the library says about a damaged model. */
enum rf_spm_result rf_spm_open(const void *model, size_t size_bytes, struct rf_spm **ret_spm, char *msg,
                               size_t msg_bytes);
void rf_spm_close(struct rf_spm *spm);
int32_t rf_spm_vocabulary(const struct rf_spm *spm);

/* The first max_ids ids of `text` go to ids; ret_total is how many there are. */
enum rf_spm_result rf_spm_encode(const struct rf_spm *spm, const char *text, size_t n_bytes, int32_t *ids,
                                 int64_t max_ids, int64_t *ret_total);

#ifdef __cplusplus
}
#endif

#endif
