/* The UMT5 text encoder: token ids in, one feature row per token out.
 *
 * Width, heads, layers come from the file's shapes (HF names, as in the ComfyUI files). The same file carries the
 * tokenizer's model as tensor `spiece_model`; see tokenizer.h. One thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_UMT5_H
#define RF_MODEL_UMT5_H

#include "worker/engine/engine.h"
#include "worker/model/safetensors.h"

#define RF_TEXT_TOKENS 512 /* rows that the transformer expects, whatever the prompt's length */

struct rf_umt5;

/*   RF_ERR_IO, RF_ERR_FORMAT  no such file, or not a UMT5 encoder; file and tensor are named */
enum rf_code rf_umt5_open(struct rf_engine *e, const char *path, struct rf_umt5 **ret_umt5, struct rf_err *err);
/* The same, but no weight is on the device yet: rf_umt5_place() must come before anything is encoded. */
enum rf_code rf_umt5_open_unplaced(struct rf_engine *e, const char *path, struct rf_umt5 **ret_umt5,
                                   struct rf_err *err);
void rf_umt5_close(struct rf_umt5 **umt5);

/* Weights in the engine's memory: outside the layers, and the largest layer. 0 where the mapped file is read in place.
 * The embedding is never there: the few rows that a prompt needs come from the file. */
int64_t rf_umt5_globals_bytes(const struct rf_umt5 *u);
int64_t rf_umt5_layer_bytes(const struct rf_umt5 *u);
int rf_umt5_n_layers(const struct rf_umt5 *u);

/* keep: all layers are on the device from here on. Otherwise they leave it, and encoding brings them in one by one:
 * slower, rf_umt5_layer_bytes() more while it runs. `vacate` gives back what the layers have and takes nothing.
 *   RF_ERR_NO_MEMORY  the device is short; placing again goes on from here */
void rf_umt5_vacate(struct rf_umt5 *u);
enum rf_code rf_umt5_place(struct rf_umt5 *u, bool keep, struct rf_err *err);

int64_t rf_umt5_width(const struct rf_umt5 *u);
int64_t rf_umt5_vocabulary(const struct rf_umt5 *u);
/* The file, for what else is in it. Lives as long as the encoder. */
const struct rf_safetensors *rf_umt5_file(const struct rf_umt5 *u);

/* Engine memory that encoding n_ids tokens takes while it runs. */
int64_t rf_umt5_scratch_bytes(const struct rf_umt5 *u, int64_t n_ids);

/* hidden [RF_TEXT_TOKENS, width] F32 or the engine's activation type: the rows of the n_ids tokens (the closing EOS
 * among them), then zeros. The zeros belong to the model's input: the transformer attends to them.
 *   ids    1..RF_TEXT_TOKENS of them, no padding
 *   RF_ERR_INVALID    an id is outside the vocabulary, or the number of ids
 *   RF_ERR_NO_MEMORY  the scratch is not there */
enum rf_code rf_umt5_encode(struct rf_umt5 *u, const int32_t *ids, int64_t n_ids, const struct rf_tensor *hidden,
                            struct rf_err *err);

#endif
