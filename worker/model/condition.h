/* What an image-to-video expert sees beside the noise: 4 mask channels and 16 channels of image latent, the same for
 * every step and both experts.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_CONDITION_H
#define RF_MODEL_CONDITION_H

#include "worker/model/vae.h"

#define RF_CONDITION_MASK 4
#define RF_CONDITION_CHANNELS (RF_CONDITION_MASK + RF_VAE_LATENT_CHANNELS)

/* Engine memory that rf_condition_image() takes while it runs; height, width of the latent; max_push: RF_VAE_FRAMES or
 * RF_VAE_SLICED. */
int64_t rf_condition_bytes(const struct rf_vae *vae, int height, int width, int max_push);

/* A clip of 4T - 3 frames that starts with `image` and is unknown after it.
 *   image     [8 h, 8 w, 3] RGB, 0..255
 *   channels  [20, T, h, w] F32, overwritten: mask (1: known), then normalised latents of the image followed by grey
 *   z         [T, h, w, 16] F32, scratch
 *   tick      told after each of the T latent frames; an error from it ends the work and comes back
 *   RF_ERR_NO_MEMORY, RF_ERR_DEVICE  as ever */
enum rf_code rf_condition_image(struct rf_engine *e, struct rf_vae *vae, int max_push, const uint8_t *image,
                                const struct rf_tensor *channels, const struct rf_tensor *z,
                                enum rf_code (*tick)(void *self, int done), void *self, struct rf_err *err);

#endif
