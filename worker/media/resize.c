/* Separable bicubic scaling (a = -1/2: sharp, little overshoot on flat shapes); see resize.h.
 *
 * Columns are summed first, one output row at a time, so the only scratch is one line and the weights: memory stays
 * small whatever the size of the picture.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/resize.h"

#include <math.h>

/* For each output position: its first input position, how many, and their weights, which add up to 1. */
struct weights {
    int *first, *count;
    float *w; /* [n_out, max_count] */
    int max_count;
};

static void weights_finish(struct weights *ws)
{
    free(ws->first);
    free(ws->count);
    free(ws->w);
}

static double cubic(double x)
{
    x = fabs(x);
    if (x < 1)
        return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/* Near an edge the weights outside the picture are dropped and the rest made to add up to 1 again. */
static bool weights_init(struct weights *ws, int n_in, double start, double length, int n_out)
{
    double scale = length / n_out, stretch = scale > 1 ? scale : 1, radius = 2 * stretch;
    ws->max_count = (int)ceil(2 * radius) + 1;
    ws->first = calloc((size_t)n_out, sizeof *ws->first);
    ws->count = calloc((size_t)n_out, sizeof *ws->count);
    ws->w = calloc((size_t)n_out * (size_t)ws->max_count, sizeof *ws->w);
    if (ws->first == NULL || ws->count == NULL || ws->w == NULL)
        return false;
    for (int i = 0; i < n_out; i++) {
        double centre = start + (i + 0.5) * scale - 0.5, sum = 0;
        int lo = (int)fmax(0, ceil(centre - radius)), hi = (int)fmin(n_in - 1, floor(centre + radius));
        float *w = ws->w + (size_t)i * (size_t)ws->max_count;
        for (int k = lo; k <= hi; k++)
            sum += cubic((k - centre) / stretch);
        for (int k = lo; k <= hi; k++)
            w[k - lo] = (float)(cubic((k - centre) / stretch) / sum);
        ws->first[i] = lo;
        ws->count[i] = hi - lo + 1;
    }
    return true;
}

static uint8_t to_u8(float v)
{
    return (uint8_t)(v <= 0 ? 0 : v >= 255 ? 255 : (int)(v + 0.5f));
}

/* line[k] = weighted sum of `n` rows, for the bytes from `from` to `to` of a row. */
static void sum_rows(const uint8_t *src, size_t row_bytes, const float *w, int n, int from, int to, float *line)
{
    for (int k = from; k < to; k++)
        line[k] = 0;
    for (int r = 0; r < n; r++) {
        const uint8_t *row = src + (size_t)r * row_bytes;
        for (int k = from; k < to; k++)
            line[k] += w[r] * row[k];
    }
}

static void sum_columns(const struct weights *ws, const float *line, int width, uint8_t *out)
{
    for (int x = 0; x < width; x++) {
        const float *w = ws->w + (size_t)x * (size_t)ws->max_count, *p = line + 3 * ws->first[x];
        float r = 0, g = 0, b = 0;
        for (int k = 0; k < ws->count[x]; k++, p += 3) {
            r += w[k] * p[0];
            g += w[k] * p[1];
            b += w[k] * p[2];
        }
        out[3 * x] = to_u8(r);
        out[3 * x + 1] = to_u8(g);
        out[3 * x + 2] = to_u8(b);
    }
}

struct rf_crop rf_crop_centre(int width, int height, int like_width, int like_height)
{
    double w = width, h = height;
    if (w * like_height > h * like_width)
        w = h * like_width / like_height;
    else
        h = w * like_height / like_width;
    return (struct rf_crop){ (width - w) / 2, (height - h) / 2, w, h };
}

bool rf_resize(const uint8_t *src, int src_width, int src_height, const struct rf_crop *crop, uint8_t *dst,
               ptrdiff_t dst_stride, int width, int height)
{
    RF_AUTO(weights_finish) struct weights horizontal = { 0 };
    RF_AUTO(weights_finish) struct weights vertical = { 0 };
    RF_AUTO(rf_free) float *line = calloc((size_t)src_width * 3, sizeof *line);
    if (line == NULL || !weights_init(&horizontal, src_width, crop->x, crop->width, width) ||
        !weights_init(&vertical, src_height, crop->y, crop->height, height))
        return false;
    size_t row_bytes = (size_t)src_width * 3;
    int from = 3 * horizontal.first[0], to = 3 * (horizontal.first[width - 1] + horizontal.count[width - 1]);
    for (int y = 0; y < height; y++) {
        const float *w = vertical.w + (size_t)y * (size_t)vertical.max_count;
        sum_rows(src + (size_t)vertical.first[y] * row_bytes, row_bytes, w, vertical.count[y], from, to, line);
        sum_columns(&horizontal, line, width, dst + y * dst_stride);
    }
    return true;
}
