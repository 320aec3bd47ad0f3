/* A preview of a latent: a linear map from its 16 channels to RGB, one pixel per latent pixel.
 *
 * The map is fitted to the VAE at hand when a model is opened: a small patchwork of known colours is encoded, and the
 * colours are expressed in its latents by least squares. So every VAE gets its own factors, the shipped small one as
 * well as the public one, and no table needs to be carried. Fitting takes the work of encoding nine frames of 96 x 96.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_PREVIEW_H
#define RF_MODEL_PREVIEW_H

#include "worker/model/vae.h"

struct rf_preview {
    float factor[RF_VAE_LATENT_CHANNELS][3], offset[3]; /* of normalised latents, to [-1, 1] */
};

/*   RF_ERR_NO_MEMORY, RF_ERR_DEVICE  as from the encoder */
enum rf_code rf_preview_fit(struct rf_engine *e, struct rf_vae *vae, struct rf_preview *ret_preview,
                            struct rf_err *err);

/* rgb [n_pixels, 3] from a normalised latent frame [16, n_pixels]. */
void rf_preview_draw(const struct rf_preview *p, const float *latent, int64_t n_pixels, uint8_t *rgb);

#endif
