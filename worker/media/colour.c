/* RGB to YUV and back in integers; see colour.h.
 *
 *   Y = 16 + 219/255 (Kr R + Kg G + Kb B)      Cb = 128 + 224/255 (B - Y') / (2 (1 - Kb))     and Cr likewise
 * for limited range; full range has offset 0 and factor 1. Coefficients are rounded so that their sums stay exact: grey
 * stays grey and white is 235 (or 255), whatever the rounding does elsewhere.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/colour.h"

#include <math.h>

enum { SHIFT = 16 }; /* of the forward coefficients; 255 * 8 weights * 2^16 fits 32 bits */

static double luma_red(enum rf_matrix m)
{
    return m == RF_MATRIX_BT709 ? 0.2126 : 0.299;
}

static double luma_blue(enum rf_matrix m)
{
    return m == RF_MATRIX_BT709 ? 0.0722 : 0.114;
}

static int clamp_u8(int v)
{
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

/* ---- RGB to YUV ---- */

struct forward {
    int y[3], u[3], v[3]; /* times 2^SHIFT, in the order R G B */
    int y_offset;
};

static struct forward forward_of(const struct rf_yuv *f)
{
    double one = 1 << SHIFT, kr = luma_red(f->matrix), kb = luma_blue(f->matrix);
    double luma = (f->full_range ? 1.0 : 219.0 / 255.0) * one;
    double chroma = (f->full_range ? 1.0 : 224.0 / 255.0) * one;
    struct forward c = { .y_offset = f->full_range ? 0 : 16 };
    c.y[0] = (int)lrint(luma * kr);
    c.y[2] = (int)lrint(luma * kb);
    c.y[1] = (int)lrint(luma) - c.y[0] - c.y[2];
    c.u[0] = (int)lrint(-chroma * kr / (2 * (1 - kb)));
    c.u[2] = (int)lrint(chroma / 2);
    c.u[1] = -c.u[0] - c.u[2];
    c.v[0] = (int)lrint(chroma / 2);
    c.v[2] = (int)lrint(-chroma * kb / (2 * (1 - kr)));
    c.v[1] = -c.v[0] - c.v[2];
    return c;
}

/* `scale_log2`: the sums are that many times too large, from adding neighbours. */
static uint8_t weigh(const int k[3], int r, int g, int b, int offset, int scale_log2)
{
    int shift = SHIFT + scale_log2;
    int sum = k[0] * r + k[1] * g + k[2] * b + (1 << (shift - 1));
    return (uint8_t)clamp_u8((sum >> shift) + offset);
}

static void luma_row(const struct forward *c, const uint8_t *rgb, int width, uint8_t *y)
{
    for (int x = 0; x < width; x++)
        y[x] = weigh(c->y, rgb[3 * x], rgb[3 * x + 1], rgb[3 * x + 2], c->y_offset, 0);
}

static void chroma_row_444(const struct forward *c, const uint8_t *rgb, int width, uint8_t *u, uint8_t *v)
{
    for (int x = 0; x < width; x++) {
        const uint8_t *p = rgb + 3 * x;
        u[x] = weigh(c->u, p[0], p[1], p[2], 128, 0);
        v[x] = weigh(c->v, p[0], p[1], p[2], 128, 0);
    }
}

/* Sited left: a sample covers columns 2x-1, 2x, 2x+1 with weights 1 2 1 and both rows alike. A plain 2x2 mean would
 * move all colour a quarter pixel to the right. */
static void chroma_row_420(const struct forward *c, const uint8_t *top, const uint8_t *bottom, int width, uint8_t *u,
                           uint8_t *v)
{
    for (int x = 0; x < width; x += 2) {
        int at = 3 * x, left = x > 0 ? at - 3 : at, sum[3];
        for (int k = 0; k < 3; k++)
            sum[k] = top[left + k] + bottom[left + k] + 2 * (top[at + k] + bottom[at + k]) + top[at + 3 + k] +
                     bottom[at + 3 + k];
        u[x / 2] = weigh(c->u, sum[0], sum[1], sum[2], 128, 3);
        v[x / 2] = weigh(c->v, sum[0], sum[1], sum[2], 128, 3);
    }
}

void rf_yuv_from_rgb(const uint8_t *rgb, int width, int height, const struct rf_yuv *dst)
{
    bool full_chroma = dst->shift_x == 0 && dst->shift_y == 0;
    bool quarter_chroma = dst->shift_x == 1 && dst->shift_y == 1 && dst->site == RF_CHROMA_LEFT;
    RF_ASSERT(full_chroma || (quarter_chroma && width % 2 == 0 && height % 2 == 0));
    struct forward c = forward_of(dst);
    ptrdiff_t row_bytes = 3 * (ptrdiff_t)width;
    for (int y = 0; y < height; y++) {
        const uint8_t *row = rgb + y * row_bytes;
        luma_row(&c, row, width, dst->plane[0] + y * dst->stride[0]);
        if (full_chroma)
            chroma_row_444(&c, row, width, dst->plane[1] + y * dst->stride[1], dst->plane[2] + y * dst->stride[2]);
        else if (y % 2 == 0)
            chroma_row_420(&c, row, row + row_bytes, width, dst->plane[1] + y / 2 * dst->stride[1],
                           dst->plane[2] + y / 2 * dst->stride[2]);
    }
}

/* ---- YUV to RGB ---- */

enum { BACK_SHIFT = 20, CHROMA_SCALE = 64 }; /* chroma arrives times 64: eighths of a sample in each direction */

struct backward {
    int y, y_offset;    /* y times 2^20 */
    int r_v, g_u, g_v, b_u; /* times 2^14, for chroma times 64 */
};

static struct backward backward_of(const struct rf_yuv *f)
{
    double kr = luma_red(f->matrix), kb = luma_blue(f->matrix), kg = 1 - kr - kb;
    double luma = (f->full_range ? 1.0 : 255.0 / 219.0) * (1 << BACK_SHIFT);
    double chroma = (f->full_range ? 1.0 : 255.0 / 224.0) * (1 << BACK_SHIFT) / CHROMA_SCALE;
    return (struct backward){
        .y = (int)lrint(luma),
        .y_offset = f->full_range ? 0 : 16,
        .r_v = (int)lrint(chroma * 2 * (1 - kr)),
        .g_u = (int)lrint(-chroma * 2 * (1 - kb) * kb / kg),
        .g_v = (int)lrint(-chroma * 2 * (1 - kr) * kr / kg),
        .b_u = (int)lrint(chroma * 2 * (1 - kb)),
    };
}

/* The position of pixel `i` on the chroma grid, in eighths of a chroma sample. */
static int position(int i, int shift, enum rf_chroma_site site)
{
    return site == RF_CHROMA_LEFT ? (8 * i) >> shift : (((2 * i + 1) * 8) >> (shift + 1)) - 4;
}

static int clamp_index(int i, int n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* One full-width line of chroma for picture row `y`, as (C - 128) * 64. */
static void chroma_line(const struct rf_yuv *src, int p, int width, int height, int y, int *line)
{
    int n_x = (width + (1 << src->shift_x) - 1) >> src->shift_x;
    int n_y = (height + (1 << src->shift_y) - 1) >> src->shift_y;
    /* Only the columns of H.264's chroma are sited left; its rows lie between the picture's rows like everyone's. */
    int at_y = position(y, src->shift_y, RF_CHROMA_CENTRE), part_y = at_y & 7;
    const uint8_t *a = src->plane[p] + clamp_index(at_y >> 3, n_y) * src->stride[p];
    const uint8_t *b = src->plane[p] + clamp_index((at_y >> 3) + 1, n_y) * src->stride[p];
    for (int x = 0; x < width; x++) {
        int at_x = position(x, src->shift_x, src->site), part_x = at_x & 7;
        int left = clamp_index(at_x >> 3, n_x), right = clamp_index((at_x >> 3) + 1, n_x);
        int upper = a[left] * (8 - part_x) + a[right] * part_x;
        int lower = b[left] * (8 - part_x) + b[right] * part_x;
        line[x] = upper * (8 - part_y) + lower * part_y - 128 * CHROMA_SCALE;
    }
}

bool rf_yuv_to_rgb(const struct rf_yuv *src, int width, int height, uint8_t *rgb)
{
    int *u = malloc(2 * sizeof *u * (size_t)width);
    if (u == NULL)
        return false;
    int *v = u + width;
    struct backward c = backward_of(src);
    const int half = 1 << (BACK_SHIFT - 1);
    for (int row = 0; row < height; row++) {
        const uint8_t *y = src->plane[0] + row * src->stride[0];
        chroma_line(src, 1, width, height, row, u);
        chroma_line(src, 2, width, height, row, v);
        uint8_t *out = rgb + (size_t)row * width * 3;
        for (int x = 0; x < width; x++) {
            int luma = (y[x] - c.y_offset) * c.y + half;
            out[3 * x] = (uint8_t)clamp_u8((luma + c.r_v * v[x]) >> BACK_SHIFT);
            out[3 * x + 1] = (uint8_t)clamp_u8((luma + c.g_u * u[x] + c.g_v * v[x]) >> BACK_SHIFT);
            out[3 * x + 2] = (uint8_t)clamp_u8((luma + c.b_u * u[x]) >> BACK_SHIFT);
        }
    }
    free(u);
    return true;
}
