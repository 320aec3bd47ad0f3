/* The Wan 2.1 causal video autoencoder, streaming: a few frames in, a few frames out, memory that does not grow with
 * the length of the clip.
 *
 * Latent frame 0 stands for pixel frame 0, every later latent frame for four pixel frames. Frames are channels-last
 * [n, height, width, 3], RGB in [-1, 1]; latents are [n, height / 8, width / 8, 16], the network's own ("raw"): the
 * mean and deviation by which the transformer's latents are normalised are not applied here.
 * Streams are cut anywhere: the same frames in larger or smaller pushes give the same numbers.
 * One thread. Streams borrow the vae.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_VAE_H
#define RF_MODEL_VAE_H

#include "worker/engine/engine.h"

#define RF_VAE_LATENT_CHANNELS 16
#define RF_VAE_SCALE 8          /* pixels per latent, each way */
#define RF_VAE_FRAMES 4         /* pixel frames per latent frame after the first */

/* The transformer's latent is (raw - mean[c]) / deviation[c]. */
extern const float rf_vae_latent_mean[RF_VAE_LATENT_CHANNELS], rf_vae_latent_deviation[RF_VAE_LATENT_CHANNELS];

struct rf_vae;

/* Maps the file and reads the widths from its shapes.
 *   RF_ERR_IO, RF_ERR_FORMAT  no such file, or not a Wan 2.1 VAE; file and tensor are named */
enum rf_code rf_vae_open(struct rf_engine *e, const char *path, struct rf_vae **ret_vae, struct rf_err *err);
void rf_vae_close(struct rf_vae **vae);

/* What the weights take in engine memory, repacked, to the byte: beside the file on a CPU, instead of it elsewhere. */
int64_t rf_vae_weight_bytes(const struct rf_vae *vae);

/* What a stream will take from the engine's memory, to the byte. height, width: of the latent.
 * max_push: the most frames of input per push; the decoder counts latent frames, the encoder pixel frames. RF_VAE_SLICED:
 *   the fewest that there are (1, RF_VAE_FRAMES), and the layers with the largest frames take them one by one: the same
 *   numbers, some time lost in smaller ops, a good part of the memory saved. */
#define RF_VAE_SLICED 0
int64_t rf_vae_decoder_bytes(const struct rf_vae *vae, int height, int width, int max_push);
int64_t rf_vae_encoder_bytes(const struct rf_vae *vae, int height, int width, int max_push);

struct rf_vae_stream;
/*   RF_ERR_NO_MEMORY  the bytes above are not there */
enum rf_code rf_vae_decoder_create(struct rf_vae *vae, int height, int width, int max_push,
                                   struct rf_vae_stream **ret_stream, struct rf_err *err);
enum rf_code rf_vae_encoder_create(struct rf_vae *vae, int height, int width, int max_push,
                                   struct rf_vae_stream **ret_stream, struct rf_err *err);
void rf_vae_stream_destroy(struct rf_vae_stream **stream);

/* latent [n, height, width, 16] F32 -> frames [4n, 8 height, 8 width, 3] F32 (4n - 3 in the first push), not clamped.
 * The result lies in the stream and holds until the next push. Like an op: failures show at the next sync. */
struct rf_tensor rf_vae_decoder_push(struct rf_vae_stream *stream, const struct rf_tensor *latent);

/* frames [n, 8 height, 8 width, 3] F32 -> latent [n / 4, height, width, 16] F32. n is 4k + 1 in the first push, 4k
 * later.
 *   n_still  how many frames at the very end of all that was pushed, this push included, are known to be one and the
 *            same picture; 0: nothing is known. Where a layer can only repeat its last answer it is not computed again;
 *            the result is the same bit for bit. A start image's grey tail costs a third that way. */
struct rf_tensor rf_vae_encoder_push(struct rf_vae_stream *stream, const struct rf_tensor *frames, int64_t n_still);

#endif
