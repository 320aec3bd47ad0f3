/* See helpers.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/media/helpers.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/framefarm-media-XXXXXX";

int test_folder_create(void **state)
{
    return mkdtemp(folder) != NULL ? 0 : -1;
}

int test_folder_remove(void **state)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            unlink(test_path(e->d_name));
    closedir(d);
    return rmdir(folder);
}

const char *test_path(const char *name)
{
    static char *paths[64];
    static size_t n;
    char **slot = &paths[n++ % RF_COUNT_OF(paths)];
    free(*slot);
    return *slot = rf_asprintf("%s/%s", folder, name);
}

void test_write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    RF_ASSERT(f != NULL && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

uint8_t *test_read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    RF_ASSERT(f != NULL && fseek(f, 0, SEEK_END) == 0);
    *ret_n = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = rf_new_array(uint8_t, *ret_n);
    RF_ASSERT(fread(bytes, 1, *ret_n, f) == *ret_n && fclose(f) == 0);
    return bytes;
}

/* Smooth noise on a lattice: it never repeats, as a regular pattern would to the delight of no block matcher. */
static double lattice(int x, int y, int c)
{
    uint32_t h = (uint32_t)x * 2654435761u ^ (uint32_t)y * 2246822519u ^ (uint32_t)c * 3266489917u;
    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    return (h ^ h >> 16) / 4294967296.0 - 0.5;
}

static double noise(double x, double y, int c)
{
    double x0 = floor(x), y0 = floor(y), u = x - x0, v = y - y0;
    int i = (int)x0, j = (int)y0;
    u = u * u * (3 - 2 * u);
    v = v * v * (3 - 2 * v);
    return (1 - v) * ((1 - u) * lattice(i, j, c) + u * lattice(i + 1, j, c)) +
           v * ((1 - u) * lattice(i, j + 1, c) + u * lattice(i + 1, j + 1, c));
}

static double ground(double x, double y, int c)
{
    return 125 + 110 * noise(x / 25, y / 25, c) + 80 * noise(x / 6, y / 6, 3) + 30 * noise(x / 6, y / 6, 4 + c);
}

void test_scene(uint8_t *rgb, int width, int height, double t, double dx, double dy)
{
    static const double disc[3] = { 240, 60, 30 };
    double radius = height / 5.0, centre_x = width / 2.0 - dx * t / 2, centre_y = height / 2.0 - dy * t / 2;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            double inside = radius - hypot(x - centre_x, y - centre_y) + 0.5;
            inside = inside < 0 ? 0 : inside > 1 ? 1 : inside;
            for (int c = 0; c < 3; c++) {
                double texture = 12 * sin(0.5 * (x - centre_x)) * sin(0.4 * (y - centre_y));
                double v = inside * (disc[c] + texture) + (1 - inside) * ground(x - dx * t, y - dy * t, c);
                *rgb++ = (uint8_t)lrint(v < 0 ? 0 : v > 255 ? 255 : v);
            }
        }
}

void test_fill(uint8_t *rgb, int width, int height, int r, int g, int b)
{
    for (int i = 0; i < width * height; i++, rgb += 3) {
        rgb[0] = (uint8_t)r;
        rgb[1] = (uint8_t)g;
        rgb[2] = (uint8_t)b;
    }
}

double test_psnr(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n / sum) : 99;
}

double test_mean_difference(const uint8_t *a, const uint8_t *b, size_t n, int channel)
{
    double sum = 0;
    for (size_t i = (size_t)channel; i < n; i += 3)
        sum += (double)a[i] - b[i];
    return sum * 3 / (double)n;
}

int test_max_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        most = abs(a[i] - b[i]) > most ? abs(a[i] - b[i]) : most;
    return most;
}
