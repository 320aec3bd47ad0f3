/* How long tasks take: what was measured on each kind of worker with each model, and guesses from it.
 *
 * A kind is a device with its precision; two of one kind are the same to us. A segment's time is the sum of
 *     passes      forward passes of the transformer times the seconds of one, a + b n + c n^2 over n tokens
 *     the image   reading the one it starts from, if any; linear
 *     smoothing   interpolation to 32 fps, when asked for; linear
 *     the rest    text, decoding, encoding, files, and all that nobody timed: the lease's time less the above; linear
 *     loading     the usual one: nothing once a worker keeps its weights, much where every segment swaps experts
 * Steps are fitted per pass and not per segment, so that a job of 4 steps tells what one of 40 will take.
 * Assembling has a line of its own per kind.
 *
 * Pure: no clock, no lock, no database. One thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_ETA_H
#define RF_SERVER_ETA_H

#include "server/eta_fit.h"

struct rf_eta;

struct rf_eta *rf_eta_create(void);
void rf_eta_destroy(struct rf_eta **eta);

/* The number of this kind, from 0; a new one for a new kind. */
int rf_eta_kind(struct rf_eta *e, const char *device_kind, const char *device_name, const char *precision);

/* Passes through the transformer in one segment. A guidance other than 1 doubles those of its expert. */
int rf_eta_passes(int n_steps, int switch_step, double guidance_low, double guidance_high);

/* What a task is, as far as its time depends on it. n_frames: of the segment; of the whole clip when assembling. */
struct rf_eta_work {
    bool assemble, image;        /* image: starts from one, as every segment but the first does */
    int width, height, n_frames, fps, n_passes;
};
double rf_eta_tokens(const struct rf_eta_work *work);

/* What it took. Seconds; 0 where nothing was reported. */
struct rf_eta_taken {
    double all;                  /* from lease to report */
    double load, image, passes, smoothing;
};
void rf_eta_learn(struct rf_eta *e, int kind, const char *model, const struct rf_eta_work *work,
                  const struct rf_eta_taken *taken);

/* False: this kind has not finished any segment of this model. */
bool rf_eta_guess(struct rf_eta *e, int kind, const char *model, const struct rf_eta_work *work, struct rf_guess *ret);

#endif
