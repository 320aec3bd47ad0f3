/* The tokenizer: a prompt to token ids, by SentencePiece behind this small C face.
 *
 * The model comes as bytes from the text encoder's own file (tensor `spiece_model`). Built without SentencePiece, open
 * says so and everything else never happens. One thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_TOKENIZER_H
#define RF_MODEL_TOKENIZER_H

#include "schema/err.h"

#define RF_TOKEN_EOS 1

/* In a model's place: a token per byte of the prompt, numbered from 3. For checkpoints without a vocabulary (random ones,
 * tests); it works in builds without SentencePiece too. */
#define RF_TOKENIZER_BYTES "framefarm: one token per byte"

struct rf_tokenizer;

/*   RF_ERR_FORMAT   the bytes are no SentencePiece model
 *   RF_ERR_INVALID  this build has no tokenizer */
enum rf_code rf_tokenizer_open(const void *model, size_t size_bytes, struct rf_tokenizer **ret_tokenizer,
                               struct rf_err *err);
void rf_tokenizer_close(struct rf_tokenizer **tokenizer);

int32_t rf_tokenizer_vocabulary(const struct rf_tokenizer *t);

/* Ids of the cleaned prompt (prompt.h), closed by RF_TOKEN_EOS, at most max_ids of them in all (>= 1).
 *   ret_ids        [max_ids]
 *   ret_truncated  true when pieces were left out; may be NULL
 *   RF_ERR_INVALID the prompt is not UTF-8 */
enum rf_code rf_tokenizer_encode(struct rf_tokenizer *t, const char *prompt, int64_t max_ids, int32_t *ret_ids,
                                 int64_t *ret_n_ids, bool *ret_truncated, struct rf_err *err);

#endif
