/* Weights by name and shape: from a checkpoint file into what the ops take.
 *
 * Finds the key prefix (`model.diffusion_model.`, `diffusion_model.`, none), decides each tensor's format on its own
 * (F32, F16, BF16, scaled FP8 by a `scale_weight` or `weight_scale` key, plain FP8), repacks convolutions, attaches
 * LoRA branches. On an engine that reads host memory, linear weights stay in the mapped file.
 * Every failure is RF_ERR_FORMAT naming file and tensor, with the shape found and the shape wanted.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_WEIGHTS_H
#define RF_MODEL_WEIGHTS_H

#include "worker/model/safetensors.h"

struct rf_weights;

/* Opens `path`. All tensors it hands out live as long as it does.
 *   RF_ERR_FORMAT   not a checkpoint, or in a quantised layout that is not supported (named) */
enum rf_code rf_weights_open(struct rf_engine *e, const char *path, struct rf_weights **ret_weights,
                             struct rf_err *err);
void rf_weights_close(struct rf_weights **w);

/* Where that goes which is fetched from here on, until told otherwise: so that a network's block can be measured
 * first, then put in one piece, and put elsewhere later by fetching it again.
 *   MAP      the default: pieces of the engine's memory as needed, none where the engine reads the mapped file
 *   MEASURE  nowhere: tensors have a shape and count as present, their data is not to be used. No data is read
 *   DEVICE   `memory`, a piece of the engine's of size_bytes: uploads begin, the next sync reports failures
 *   HOST     `memory`, ordinary or from rf_host_alloc(): for rf_slot_fill()
 * In one piece every tensor takes its rf_arena_cost(). Convolutions are for MAP only. */
enum rf_weights_place { RF_PLACE_MAP, RF_PLACE_MEASURE, RF_PLACE_DEVICE, RF_PLACE_HOST };
void rf_weights_place(struct rf_weights *w, enum rf_weights_place place, void *memory, int64_t size_bytes);
int64_t rf_weights_placed_bytes(const struct rf_weights *w); /* since rf_weights_place(); 0 for MAP */
int64_t rf_weights_held_bytes(const struct rf_weights *w);   /* what MAP has taken, whole chunks */

const struct rf_safetensors *rf_weights_file(const struct rf_weights *w);

/* The entry of `name` below the detected prefix, NULL when absent: for reading a configuration from shapes. */
const struct rf_st_entry *rf_weights_entry(const struct rf_weights *w, const char *name);

/* `<name>.weight` [out, in] (dimensions after the first are taken together: 1x1 convolutions and the patch embedding
 * [dim, C, 1, 2, 2] are linears too), its scale, `<name>.bias` [out] when has_bias. out or in 0: take what the file
 * says. LoRA branches of open LoRA files attach. */
enum rf_code rf_weights_linear(struct rf_weights *w, const char *name, int64_t out, int64_t in, bool has_bias,
                               struct rf_linear *ret_linear, struct rf_err *err);

/* Any small tensor (norm weights, modulation, biases, gamma) as F32, with exactly `n_elements`. */
enum rf_code rf_weights_vector(struct rf_weights *w, const char *name, int64_t n_elements, struct rf_tensor *ret_vector,
                               struct rf_err *err);

/* A table [rows, cols] in the file's own type (embedding). */
enum rf_code rf_weights_table(struct rf_weights *w, const char *name, int64_t rows, int64_t cols,
                              struct rf_tensor *ret_table, struct rf_err *err);

/* `<name>.weight` [out, in, kt, kh, kw] or [out, in, kh, kw] repacked to [out, kt, kh, kw, in], `<name>.bias` [out]. */
enum rf_code rf_weights_conv(struct rf_weights *w, const char *name, int64_t out, int64_t in, int kt, int kh, int kw,
                             struct rf_conv *ret_conv, struct rf_err *err);

/* The same as kt convolutions over one frame each, ret_conv[0 .. kt - 1], whose sum it is; the bias is the last one's. */
enum rf_code rf_weights_conv_by_frame(struct rf_weights *w, const char *name, int64_t out, int64_t in, int kt, int kh,
                                      int kw, struct rf_conv *ret_conv, struct rf_err *err);

/* Makes the branches of a LoRA file part of every linear fetched afterwards, at `strength`; several files add up.
 * Alpha is respected (factor strength * alpha / rank, 1 when there is none), as are .diff and .diff_b. Key styles as in
 * the public files (kohya, PEFT, diffusers). rf_weights_loras_check() after loading names keys that matched nothing. */
enum rf_code rf_weights_add_lora(struct rf_weights *w, const char *path, float strength, struct rf_err *err);
enum rf_code rf_weights_loras_check(const struct rf_weights *w, struct rf_err *err);

#endif
