/* framefarm-net bench: seconds, operations per second, memory and error of one network on random weights of the public
 * shapes, as one line of JSON. scripts/torch-oracle prints the same line for PyTorch.
 *
 * The error is that of a small run (two blocks, a few frames, full width) against the CPU in F32 with the same weights:
 * full-size references take hours there, and the full-width check of long sequences is scripts/torch-oracle's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/net/bench.h"

#include "worker/net/net.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MAX_REPEAT 1000
#define SAMPLE_LAYERS 2 /* of the small run that the error is taken from */

static const struct rf_bench_subject *const subjects[] = {&rf_bench_dit, &rf_bench_vae_decode, &rf_bench_vae_encode,
                                                          &rf_bench_umt5, &rf_bench_job};

double rf_bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- weights ---- */

struct rf_shape_types rf_bench_types(const struct rf_bench_size *size)
{
    if (strcmp(size->precision, "f32") == 0)
        return (struct rf_shape_types){RF_F32, RF_F32};
    return (struct rf_shape_types){strcmp(size->precision, "fp8") == 0 ? RF_F8_E4M3 : RF_BF16, RF_BF16};
}

struct rf_dit_shape rf_bench_dit_shape(const struct rf_bench_size *size)
{
    struct rf_dit_shape s = rf_shape_t2v_14b;
    int64_t full = s.dim;
    s.dim = size->dim;
    s.ffn_dim = s.ffn_dim * s.dim / full / 8 * 8;
    s.text_dim = rf_bench_umt5_shape(size).width;
    s.n_layers = size->n_layers;
    return s;
}

struct rf_umt5_shape rf_bench_umt5_shape(const struct rf_bench_size *size)
{
    struct rf_umt5_shape s = rf_shape_umt5_xxl;
    int64_t full = rf_shape_t2v_14b.dim;
    if (size->dim != full) {
        s.heads = s.heads * size->dim / full > 0 ? s.heads * size->dim / full : 1;
        s.width = 64 * s.heads;
        s.hidden = s.width * 5 / 2;
        s.vocabulary = 1024;
    }
    s.n_layers = size->n_layers < s.n_layers ? size->n_layers : s.n_layers;
    return s;
}

int64_t rf_bench_vae_base(const struct rf_bench_size *size)
{
    int64_t base = 96 * size->dim / rf_shape_t2v_14b.dim / 8 * 8;
    return base > 8 ? base : 8;
}

enum rf_code rf_bench_file_map(struct rf_phantom_list *list, const char *name, struct rf_bench_file *ret_file,
                               struct rf_err *err)
{
    *ret_file = (struct rf_bench_file){.name = name};
    enum rf_code rc = rf_phantom_map(list, &ret_file->phantom, err);
    rf_phantom_list_finish(list);
    if (rc == RF_OK)
        rf_safetensors_lend(name, ret_file->phantom.bytes, ret_file->phantom.size_bytes);
    return rc;
}

void rf_bench_file_finish(struct rf_bench_file *file)
{
    if (file->phantom.bytes != NULL)
        rf_safetensors_lend(file->name, NULL, 0);
    rf_phantom_finish(&file->phantom);
}

/* ---- the error of a small run ---- */

static enum rf_code sample_on(const struct rf_bench_subject *s, struct rf_engine *e, const struct rf_bench_size *size,
                              float **ret_values, int64_t *ret_n, struct rf_err *err)
{
    void *self = NULL;
    enum rf_code rc = s->open(e, size, &self, err);
    if (rc == RF_OK)
        rc = s->run(self, 0, err);
    if (rc == RF_OK)
        rc = s->result(self, ret_values, ret_n, err);
    s->close(self);
    return rc;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* *ret_error stays NAN where the CPU would be held against itself. */
static enum rf_code sample_error(const struct rf_bench_subject *s, struct rf_engine *e, const struct rf_net_options *o,
                                 const struct rf_bench_size *full, double *ret_error, struct rf_err *err)
{
    RF_AUTO(rf_engine_close) struct rf_engine *cpu = NULL;
    RF_AUTO(rf_free) float *values = NULL, *reference = NULL;
    int64_t n = 0, n_reference = 0;
    struct rf_bench_size size = *full;
    *ret_error = (double)NAN;
    bool exact = o->attention == NULL || strcmp(o->attention, "exact") == 0;
    if (strcmp(rf_engine_device_kind(e), "cpu") == 0 && exact)
        return RF_OK;
    size.width = least(size.width, s->sample_side);
    size.height = least(size.height, s->sample_side);
    size.n_frames = least(size.n_frames, s->sample_frames);
    size.n_layers = least(size.n_layers, SAMPLE_LAYERS);
    const struct rf_engine_config config = {.device = "cpu", .precision = "f32", .n_threads = o->n_threads};
    enum rf_code rc = rf_engine_open(&config, &cpu, err);
    if (rc == RF_OK)
        rc = sample_on(s, e, &size, &values, &n, err);
    if (rc == RF_OK)
        rc = sample_on(s, cpu, &size, &reference, &n_reference, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "the sample for the error");
    RF_ASSERT(n == n_reference);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)values[i] - (double)reference[i];
        difference += d * d;
        norm += (double)reference[i] * (double)reference[i];
    }
    *ret_error = sqrt(difference / norm);
    return RF_OK;
}

/* A network that has lost its numbers runs as fast as a sound one. */
static enum rf_code check_values(const struct rf_bench_subject *s, void *self, struct rf_err *err)
{
    RF_AUTO(rf_free) float *values = NULL;
    int64_t n = 0, n_bad = 0;
    double sum = 0;
    enum rf_code rc = s->result(self, &values, &n, err);
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        n_bad += !isfinite(values[i]);
        sum += fabs((double)values[i]);
    }
    if (rc == RF_OK && (n_bad > 0 || !(sum > 0)))
        rc = rf_fail(err, RF_ERR_DEVICE, "%s: %lld of %lld results are not numbers%s", s->name, (long long)n_bad,
                     (long long)n, n_bad == 0 ? ", and the others are all 0" : "");
    return rc;
}

/* ---- measuring ---- */

struct measured {
    double seconds[MAX_REPEAT], load_seconds, error;
    int64_t peak_bytes;
    struct rf_bench_facts facts;
    struct rf_bench_stage stages[RF_BENCH_STAGES];
    int n_stages;
};

static enum rf_code measure(const struct rf_bench_subject *s, struct rf_engine *e, const struct rf_bench_size *size,
                            int repeat, struct measured *m, struct rf_err *err)
{
    void *self = NULL;
    rf_engine_reset_peak(e);
    double start = rf_bench_now();
    enum rf_code rc = s->open(e, size, &self, err);
    m->load_seconds = rf_bench_now() - start;
    if (rc == RF_OK)
        rc = s->run(self, -1, err);
    for (int i = 0; i < repeat && rc == RF_OK; i++) {
        start = rf_bench_now();
        rc = s->run(self, i, err);
        m->seconds[i] = rf_bench_now() - start;
    }
    if (rc == RF_OK && s->stages != NULL)
        m->n_stages = s->stages(self, m->stages);
    m->peak_bytes = rf_engine_peak_bytes(e);
    if (rc == RF_OK)
        s->describe(self, &m->facts);
    if (rc == RF_OK)
        rc = check_values(s, self, err);
    s->close(self);
    return rc;
}

static int ascending(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

/* A JSON string: device names come from drivers. Bytes that are not ASCII pass as they are. */
static void print_string(const char *text)
{
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c < 0x20)
            printf("\\u%04x", *c);
        else
            printf(*c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    }
    putchar('"');
}

static void report(const struct rf_bench_subject *s, struct rf_engine *e, const struct rf_net_options *o,
                   const struct rf_bench_size *size, struct measured *m, int repeat)
{
    qsort(m->seconds, (size_t)repeat, sizeof *m->seconds, ascending);
    double seconds = repeat % 2 ? m->seconds[repeat / 2] : (m->seconds[repeat / 2 - 1] + m->seconds[repeat / 2]) / 2;
    printf("{\"bench\": \"%s\", \"by\": \"framefarm\", \"device\": ", s->name);
    print_string(rf_engine_device_name(e));
    printf(", \"size\": \"%dx%d\", \"frames\": %d, \"precision\": \"%s\", \"attention\": \"%s\", \"layers\": %d, "
           "\"dim\": %" PRId64 ", ", size->width, size->height, size->n_frames, size->precision,
           o->attention ? o->attention : "exact", size->n_layers, size->dim);
    printf("\"seconds\": %.6g, \"seconds_min\": %.6g, \"repeat\": %d, \"tokens\": %" PRId64 ", \"tflop\": %.6g, "
           "\"tflop_s\": %.6g, ", seconds, m->seconds[0], repeat, m->facts.tokens, m->facts.flop * 1e-12,
           m->facts.flop / seconds * 1e-12);
    printf("\"vram_bytes\": %" PRId64 ", \"peak_predicted_bytes\": %" PRId64 ", \"peak_bytes\": %" PRId64
           ", \"load_seconds\": %.6g, ", o->vram_bytes, m->facts.predicted_bytes, m->peak_bytes, m->load_seconds);
    if (m->n_stages > 0) {
        printf("\"stages\": {");
        for (int i = 0; i < m->n_stages; i++)
            printf("%s\"%s\": %.6g", i ? ", " : "", m->stages[i].name, m->stages[i].seconds);
        printf("}, ");
    }
    printf(isfinite(m->error) ? "\"error\": %.3e}\n" : "\"error\": null}\n", m->error);
}

/* ---- the command ---- */

static enum rf_code read_size(const struct rf_net_options *o, struct rf_bench_size *size, struct rf_err *err)
{
    bool cpu = strcmp(o->device, "cpu") == 0;
    *size = (struct rf_bench_size){
        .width = o->width ? o->width : 832,
        .height = o->height ? o->height : 1216,
        .n_frames = o->n_frames ? o->n_frames : 81,
        .n_layers = o->n_layers ? o->n_layers : rf_shape_t2v_14b.n_layers,
        .n_steps = o->steps ? o->steps : 4,
        .dim = o->dim ? o->dim : rf_shape_t2v_14b.dim,
        .precision = o->precision ? o->precision : cpu ? "f32" : "bf16",
    };
    if (size->width % 16 != 0 || size->height % 16 != 0 || size->width > 16384 || size->height > 16384)
        return rf_fail(err, RF_ERR_INVALID, "--size %dx%d: both sides must be multiples of 16, at most 16384",
                       size->width, size->height);
    if (size->n_frames % 4 != 1 || size->n_frames > 4001)
        return rf_fail(err, RF_ERR_INVALID, "--frames %d: must be 4k + 1, at most 4001", size->n_frames);
    if (size->dim % 128 != 0)
        return rf_fail(err, RF_ERR_INVALID, "--dim %lld: must be a multiple of 128", (long long)size->dim);
    return RF_OK;
}

enum rf_code rf_net_bench(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    (void)result;
    RF_AUTO(rf_engine_close) struct rf_engine *e = NULL;
    const struct rf_bench_subject *subject = NULL;
    for (size_t i = 0; i < RF_COUNT_OF(subjects); i++)
        if (strcmp(subjects[i]->name, o->what) == 0)
            subject = subjects[i];
    if (subject == NULL)
        return rf_fail(err, RF_ERR_INVALID,
                       "bench '%.40s' is unknown; known are dit, vae-decode, vae-encode, umt5, job", o->what);
    struct rf_bench_size size;
    RF_AUTO(rf_free) struct measured *m = rf_new(struct measured);
    int repeat = o->repeat ? o->repeat : 3;
    enum rf_code rc = read_size(o, &size, err);
    if (rc == RF_OK)
        rc = rf_net_open_engine(o, &e, err);
    if (rc == RF_OK)
        rc = measure(subject, e, &size, repeat, m, err);
    if (rc == RF_OK)
        rc = sample_error(subject, e, o, &size, &m->error, err);
    if (rc == RF_OK)
        report(subject, e, o, &size, m, repeat);
    return rc;
}
