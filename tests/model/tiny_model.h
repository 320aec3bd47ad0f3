/* A complete model of a few kilobytes with random weights, in the public file layouts: what pipeline tests run on.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_TESTS_MODEL_TINY_MODEL_H
#define RF_TESTS_MODEL_TINY_MODEL_H

#include "worker/model/pipeline.h"

/* The pieces after the four special ones (0 pad, 1 EOS, 2 BOS, 3 unknown), whole words first. */
#define TINY_FIRST_PIECE 4
#define TINY_VOCABULARY 64 /* rows of the embedding; the tokenizer has fewer pieces */

struct tiny_model {
    char folder[64];
    char high[96], low[96], text_encoder[96], vae[96];
};

/* Writes the files into a new folder. in_channels 16 or 36. Fails the test on any error. */
void tiny_model_write(struct tiny_model *t, int in_channels);
void tiny_model_remove(struct tiny_model *t);
/* Borrows the paths of `t`. */
struct rf_model_files tiny_model_files(const struct tiny_model *t);

/* A serialised SentencePiece model with the pieces "▁red", "▁circle", "▁", a..z, "(", ")", ":", digits. free() it. */
uint8_t *tiny_spiece(size_t *ret_bytes);

#endif
