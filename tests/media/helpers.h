/* What the media tests share: a folder of their own, pictures that can be computed, and how far two of them are apart.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_TESTS_MEDIA_HELPERS_H
#define RF_TESTS_MEDIA_HELPERS_H

#include "worker/media/media.h"

/* cmocka group fixtures: a fresh folder, removed with what is in it. */
int test_folder_create(void **state);
int test_folder_remove(void **state);
/* "<folder>/<name>"; valid until the test program ends. */
const char *test_path(const char *name);

void test_write_file(const char *path, const void *bytes, size_t n);
uint8_t *test_read_file(const char *path, size_t *ret_n);

/* A scene at time t (in given frames): textured ground panning (dx, dy) pixels per unit, a bright disc going the
 * other way. Smooth enough that fractions of a pixel are meaningful. */
void test_scene(uint8_t *rgb, int width, int height, double t, double dx, double dy);
void test_fill(uint8_t *rgb, int width, int height, int r, int g, int b);

/* Peak signal to noise ratio in dB over n bytes; 99 when equal. */
double test_psnr(const uint8_t *a, const uint8_t *b, size_t n);
/* Mean of a - b over every third byte from `channel`. */
double test_mean_difference(const uint8_t *a, const uint8_t *b, size_t n, int channel);
int test_max_difference(const uint8_t *a, const uint8_t *b, size_t n);

#endif
