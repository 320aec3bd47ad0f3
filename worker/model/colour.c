/* See colour.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/colour.h"

#include <math.h>

#define N_BINS 2048       /* of differences -2..2: finer than half a step of 8 bits */
#define NEAR 0.06f        /* pixels whose difference is this close to the median count: 7.6 of 255 */

static float clamped(float x, float limit)
{
    return fmaxf(-limit, fminf(limit, x));
}

static float difference(const float *frame, const uint8_t *image, int64_t i)
{
    return (float)image[i] / 127.5f - 1 - clamped(frame[i], 1);
}

void rf_colour_measure(const float *frame, const uint8_t *image, int64_t n_pixels, float ret_shift[3])
{
    for (int c = 0; c < 3; c++) {
        int64_t bins[N_BINS] = {0}, below = 0;
        for (int64_t i = c; i < 3 * n_pixels; i += 3)
            bins[(int)((difference(frame, image, i) + 2) * (N_BINS - 1) / 4)]++;
        int bin = 0;
        while (bin < N_BINS - 1 && 2 * (below + bins[bin]) < n_pixels)
            below += bins[bin++];
        float median = ((float)bin + 0.5f) * 4 / (N_BINS - 1) - 2;

        double sum = 0;
        int64_t n = 0;
        for (int64_t i = c; i < 3 * n_pixels; i += 3) {
            float d = difference(frame, image, i);
            if (fabsf(d - median) <= NEAR) {
                sum += d;
                n++;
            }
        }
        ret_shift[c] = clamped(n > 0 ? (float)(sum / (double)n) : median, RF_COLOUR_MAX_SHIFT);
    }
}

void rf_colour_to_bytes(uint8_t *rgb, const float *frame, int64_t n_pixels, const float shift[3])
{
    for (int64_t i = 0; i < n_pixels; i++)
        for (int c = 0; c < 3; c++) {
            float v = (frame[3 * i + c] + shift[c] + 1) * 127.5f + 0.5f;
            rgb[3 * i + c] = v >= 255 ? 255 : v > 0 ? (uint8_t)v : 0;
        }
}
