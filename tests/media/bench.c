/* How long interpolation and encoding take: media_bench WIDTH HEIGHT FRAMES THREADS [PRESET]
 * Times the moving scene of the tests; prints one line. The numbers in worker/media/NOTES.md come from here.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/media/helpers.h"

struct sink {
    uint8_t *frames;
    size_t n, frame_bytes;
};

static enum rf_code keep(void *self, const uint8_t *rgb, struct rf_err *err)
{
    struct sink *s = self;
    memcpy(s->frames + s->n++ * s->frame_bytes, rgb, s->frame_bytes);
    return RF_OK;
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

static enum rf_code encode(const struct sink *s, const struct rf_video_opts *opts, const char *path, struct rf_err *err)
{
    RF_AUTO(rf_video_writer_destroy) struct rf_video_writer *w = NULL;
    enum rf_code rc = rf_video_writer_open(path, opts, &w, err);
    for (size_t i = 0; rc == RF_OK && i < s->n; i++)
        rc = rf_video_writer_push(w, s->frames + i * s->frame_bytes, err);
    return rc == RF_OK ? rf_video_writer_finish(w, err) : rc;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: %s WIDTH HEIGHT FRAMES THREADS [PRESET]\n", argv[0]);
        return 2;
    }
    int width = atoi(argv[1]), height = atoi(argv[2]), n = atoi(argv[3]), n_threads = atoi(argv[4]);
    size_t frame_bytes = (size_t)(width * height * 3);
    uint8_t *clip = rf_new_array(uint8_t, (size_t)n * frame_bytes);
    for (int i = 0; i < n; i++)
        test_scene(clip + (size_t)i * frame_bytes, width, height, i, 4, 2);
    struct sink s = { .frames = rf_new_array(uint8_t, (size_t)(2 * n - 1) * frame_bytes), .frame_bytes = frame_bytes };
    memset(s.frames, 1, (size_t)(2 * n - 1) * frame_bytes); /* pages touched: not part of what is measured */
    struct rf_err err = { 0 };
    long before = peak_mib();
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    enum rf_code rc = rf_interpolate_double(clip, n, width, height, n_threads, keep, NULL, &s, &err);
    double middle = seconds(CLOCK_MONOTONIC), middle_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    long peak = peak_mib();
    struct rf_video_opts opts = { .width = width, .height = height, .fps = 32, .n_threads = n_threads,
                                  .preset = argc > 5 ? argv[5] : NULL };
    if (rc == RF_OK)
        rc = encode(&s, &opts, "/tmp/framefarm-bench.mp4", &err);
    double end = seconds(CLOCK_MONOTONIC), end_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    struct rf_video_info info = { 0 };
    if (rc == RF_OK)
        rc = rf_video_probe("/tmp/framefarm-bench.mp4", &info, &err);
    remove("/tmp/framefarm-bench.mp4");
    if (rc != RF_OK)
        fprintf(stderr, "%s\n", err.msg);
    else
        printf("%dx%d, %d threads: interpolate %d frames %.2f s (cpu %.2f, +%ld MiB), "
               "encode %d frames %.2f s (cpu %.2f, %lld bytes)\n",
               width, height, n_threads, n, middle - wall, middle_cpu - cpu, peak - before, info.n_frames, end - middle,
               end_cpu - middle_cpu, (long long)info.size_bytes);
    free(clip);
    free(s.frames);
    return rc == RF_OK ? 0 : 1;
}
