/* framefarm-net: command line, reading in.*, writing and comparing out.*; the commands are in cmd_*.c.
 *
 * Exit codes: 0 done (and within tolerance), 1 --compare found a larger error, 2 anything else, with one line on
 * stderr. SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/dtype.h"
#include "worker/net/net.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_DONE, EXIT_DIFFERS, EXIT_TROUBLE };

static const struct command {
    const char *name;
    rf_net_command *run;
    bool needs_files; /* --weights and --input */
    const char *what; /* a second word follows: these */
} commands[] = {
    {"dit", rf_net_dit, true, NULL},
    {"vae-encode", rf_net_vae_encode, true, NULL},
    {"vae-decode", rf_net_vae_decode, true, NULL},
    {"umt5", rf_net_umt5, true, NULL},
    {"noise", rf_net_noise, false, NULL},
    {"sigmas", rf_net_sigmas, false, NULL},
    {"checkpoint", rf_net_checkpoint, false, "t2v, i2v, t2v-lora, i2v-lora, umt5, vae"},
    {"bench", rf_net_bench, false, "dit, vae-decode, vae-encode, umt5, job"},
};

static const char usage[] =
    "usage: framefarm-net COMMAND [options]\n"
    "\n"
    "  dit | vae-encode | vae-decode | umt5   run one network on the tensors in.* of a file\n"
    "      --weights FILE             checkpoint (safetensors)\n"
    "      --input FILE               safetensors with in.*\n"
    "      --lora FILE[:STRENGTH]     dit only; may be given several times; strength 1 when left out\n"
    "      --device cpu|cuda[:N]|auto     default cpu\n"
    "      --precision f32|bf16|fp8   default f32 on the CPU, bf16 on CUDA; the CPU always computes in f32\n"
    "      --threads N                CPU threads, default one per core\n"
    "  noise --seed N --shape 1,16,T,H,W      the start noise of a seed\n"
    "  sigmas --steps N --shift S             the noise levels of a schedule, one per line (shift 5 when left out)\n"
    "\n"
    "  bench dit | vae-decode | vae-encode | umt5 | job   on random weights of the public shapes: one JSON line\n"
    "      --size WxH --frames N      832x1216 and 81 when left out\n"
    "      --device, --precision, --threads   as above\n"
    "      --attention exact|8bit     exact when left out\n"
    "      --vram 24G                 device memory it may use, default FRAMEFARM_VRAM or all\n"
    "      --separate-memory          the CPU as a device that must copy weights, to try --vram\n"
    "      --layers N --dim N         a smaller transformer (default 40, 5120), text encoder and VAE with it\n"
    "      --steps N --repeat N       steps of a job (4), measured runs after the warm-up (3)\n"
    "  checkpoint t2v | i2v | t2v-lora | i2v-lora | umt5 | vae --output FILE\n"
    "                                 writes a file of the public names, types and shapes with random values\n"
    "      --type fp8|bf16|fp16       of the matrices, fp8 with scales (default); the VAE is bf16, LoRAs are F32\n"
    "      --layers N                 fewer blocks than the public file\n"
    "      --tokenizer FILE           umt5: a text encoder's file whose tokenizer is put in\n"
    "      --sparse                   values only at each tensor's start, the rest a hole of zeros: takes little disk\n"
    "\n"
    "  --output FILE      write out.* as safetensors\n"
    "  --compare FILE     print ||out - ref|| / ||ref|| for each out.* of FILE\n"
    "  --tolerance T      exit 1 when an error is above T (default 1e-4)\n"
    "  --help, --version\n"
    "\n"
    "Exit codes: 0 done, 1 an error above the tolerance, 2 anything else.\n";

/* ---- helpers for the commands ---- */

float *rf_net_result_add(struct rf_net_result *r, const char *name, int n_dims, const int64_t *shape,
                         struct rf_err *err)
{
    RF_ASSERT(r->n_entries < (int)RF_COUNT_OF(r->entries) && n_dims <= RF_MAX_DIMS);
    struct rf_st_entry entry = {.dtype = RF_F32, .n_dims = n_dims, .size_bytes = sizeof(float)};
    for (int i = 0; i < n_dims; i++) {
        entry.shape[i] = shape[i];
        if (__builtin_mul_overflow(entry.size_bytes, (size_t)shape[i], &entry.size_bytes))
            entry.size_bytes = SIZE_MAX;
    }
    float *values = entry.size_bytes == SIZE_MAX ? NULL : malloc(entry.size_bytes + 1);
    if (values == NULL) {
        rf_fail(err, RF_ERR_NO_MEMORY, "no memory for %s", name);
        return NULL;
    }
    entry.name = rf_strdup(name);
    entry.data = values;
    r->entries[r->n_entries++] = entry;
    return values;
}

static void finish_result(struct rf_net_result *r)
{
    for (int i = 0; i < r->n_entries; i++) {
        free((char *)r->entries[i].name);
        free((void *)r->entries[i].data);
    }
}

enum rf_code rf_net_read(const struct rf_safetensors *file, const char *name, int n_dims, int64_t *ret_shape,
                         float **ret_values, struct rf_err *err)
{
    const char *path = rf_safetensors_path(file);
    const struct rf_st_entry *entry = rf_safetensors_find(file, name);
    if (entry == NULL)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s' is missing", path, name);
    if (!rf_dtype_is_float(entry->dtype))
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s' is %s, not a float", path, name,
                       rf_dtype_name(entry->dtype));
    int missing = n_dims - entry->n_dims; /* the batch dimension may be left out, and [] is as good as [1] */
    if (missing != 0 && missing != 1)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s' has %d dimensions, wanted %d", path, name,
                       entry->n_dims, n_dims);
    if (entry->size_bytes == 0)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s' is empty", path, name);
    ret_shape[0] = 1;
    for (int i = 0; i < entry->n_dims; i++)
        ret_shape[i + missing] = entry->shape[i];
    int64_t n = (int64_t)(entry->size_bytes / rf_dtype_size(entry->dtype));
    float *values = malloc((size_t)n * sizeof *values);
    if (values == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for tensor '%s'", name);
    rf_dtype_to_f32(values, entry->data, entry->dtype, n);
    *ret_values = values;
    return RF_OK;
}

enum rf_code rf_net_open_engine(const struct rf_net_options *o, struct rf_engine **ret_engine, struct rf_err *err)
{
    struct rf_engine_config config = {.device = o->device, .precision = o->precision, .n_threads = o->n_threads,
                                      .attention = o->attention, .budget_bytes = o->vram_bytes,
                                      .separate_memory = o->separate_memory};
    return rf_engine_open(&config, ret_engine, err);
}

/* ---- comparing ---- */

static double relative_error(const float *out, const float *ref, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)out[i] - (double)ref[i];
        difference += d * d;
        norm += (double)ref[i] * (double)ref[i];
    }
    return norm > 0 ? sqrt(difference / norm) : difference > 0 ? INFINITY : 0;
}

/* Every out.* of the file must have been computed. */
static enum rf_code compare(const struct rf_net_options *o, const struct rf_net_result *result, bool *ret_within,
                            struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    enum rf_code rc = rf_safetensors_open(o->compare, &file, err);
    if (rc != RF_OK)
        return rc;
    int n_compared = 0;
    *ret_within = true;
    for (int i = 0; i < rf_safetensors_count(file); i++) {
        const struct rf_st_entry *ref = rf_safetensors_at(file, i), *out = NULL;
        if (strncmp(ref->name, "out.", 4) != 0)
            continue;
        for (int k = 0; k < result->n_entries; k++)
            if (strcmp(result->entries[k].name, ref->name) == 0)
                out = &result->entries[k];
        if (out == NULL)
            return rf_fail(err, RF_ERR_FORMAT, "%.120s: '%.80s' is not computed by this command", o->compare,
                           ref->name);
        int64_t n = (int64_t)(out->size_bytes / sizeof(float));
        if (!rf_dtype_is_float(ref->dtype) || (int64_t)(ref->size_bytes / rf_dtype_size(ref->dtype)) != n)
            return rf_fail(err, RF_ERR_FORMAT, "%.120s: '%.80s' has another type or size than the result", o->compare,
                           ref->name);
        RF_AUTO(rf_free) float *values = malloc((size_t)n * sizeof *values + 1);
        if (values == NULL)
            return rf_fail(err, RF_ERR_NO_MEMORY, "no memory to compare '%.80s'", ref->name);
        rf_dtype_to_f32(values, ref->data, ref->dtype, n);
        double error = relative_error(out->data, values, n);
        bool within = error <= o->tolerance; /* false for NaN */
        printf("%s %.3e %s %.3e\n", ref->name, error, within ? "<=" : ">", o->tolerance);
        *ret_within = *ret_within && within;
        n_compared++;
    }
    if (n_compared == 0)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: no tensor out.* to compare with", o->compare);
    return RF_OK;
}

/* ---- command line ---- */

static bool read_number(const char *text, double *ret_value)
{
    char *end;
    errno = 0;
    *ret_value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*ret_value);
}

static bool read_shape(const char *text, struct rf_net_options *o)
{
    o->n_shape = 0;
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long long size = strtoll(at, &end, 10);
        if (end == at || errno != 0 || size < 1 || o->n_shape == RF_MAX_DIMS)
            return false;
        o->shape[o->n_shape++] = size;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        at = end;
    }
}

/* FILE or FILE:STRENGTH. A colon that no number follows belongs to the file's name. Writes into `text`. */
static bool read_lora(char *text, struct rf_net_options *o)
{
    if (o->n_loras == RF_MAX_LORAS)
        return false;
    double strength = 1;
    char *colon = strrchr(text, ':');
    if (colon != NULL && read_number(colon + 1, &strength))
        *colon = '\0';
    else
        strength = 1;
    o->loras[o->n_loras].path = text;
    o->loras[o->n_loras++].strength = (float)strength;
    return true;
}

static bool read_seed(const char *text, uint64_t *ret_seed)
{
    char *end;
    errno = 0;
    *ret_seed = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0;
}

/* A whole number from 1 to `max`. */
static bool read_count(const char *text, int max, int *ret_value)
{
    double value;
    bool ok = read_number(text, &value) && value >= 1 && value <= max && value == floor(value);
    *ret_value = ok ? (int)value : 0;
    return ok;
}

static bool read_size(const char *text, struct rf_net_options *o)
{
    int used = 0;
    return sscanf(text, "%5dx%5d%n", &o->width, &o->height, &used) == 2 && text[used] == '\0' && o->width > 0 &&
           o->height > 0;
}

/* A number with K, M, G or T (powers of 1024) behind it, or none. */
static bool read_bytes(const char *text, int64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL)
        value *= (double)((int64_t)1 << (10 * (unit - units + 1)));
    if (end == text || end[unit != NULL] != '\0' || !(value >= 1) || value > 1e15)
        return false;
    *ret_bytes = (int64_t)value;
    return true;
}

static bool read_option(int option, char *value, struct rf_net_options *o)
{
    double number = 0;
    switch (option) {
    case 'w': o->weights = value; return true;
    case 'i': o->input = value; return true;
    case 'o': o->output = value; return true;
    case 'c': o->compare = value; return true;
    case 'd': o->device = value; return true;
    case 'p': o->precision = value; return true;
    case 'l': return read_lora(value, o);
    case 's': return read_seed(value, &o->seed);
    case 'S': return read_shape(value, o);
    case 'n': return read_count(value, 1000, &o->steps);
    case 'T': return read_count(value, 256, &o->n_threads);
    case 'a': o->attention = value; return true;
    case 'y': o->type = value; return true;
    case 'k': o->tokenizer = value; return true;
    case 'z': return read_size(value, o);
    case 'F': return read_count(value, 100000, &o->n_frames);
    case 'L': return read_count(value, 1000, &o->n_layers);
    case 'D': return read_count(value, 1 << 16, &o->dim);
    case 'r': return read_count(value, 1000, &o->repeat);
    case 'V': return read_bytes(value, &o->vram_bytes);
    case 'x': o->sparse = true; return true;
    case 'e': o->separate_memory = true; return true;
    case 't': return read_number(value, &o->tolerance) && o->tolerance >= 0;
    case 'f': {
        bool ok = read_number(value, &number);
        o->shift = (float)number;
        return ok;
    }
    default: return false;
    }
}

static const struct option long_options[] = {
    {"weights", required_argument, NULL, 'w'},   {"input", required_argument, NULL, 'i'},
    {"output", required_argument, NULL, 'o'},    {"compare", required_argument, NULL, 'c'},
    {"tolerance", required_argument, NULL, 't'}, {"device", required_argument, NULL, 'd'},
    {"precision", required_argument, NULL, 'p'}, {"lora", required_argument, NULL, 'l'},
    {"threads", required_argument, NULL, 'T'},   {"seed", required_argument, NULL, 's'},
    {"shape", required_argument, NULL, 'S'},     {"steps", required_argument, NULL, 'n'},
    {"shift", required_argument, NULL, 'f'},     {"attention", required_argument, NULL, 'a'},
    {"type", required_argument, NULL, 'y'},      {"tokenizer", required_argument, NULL, 'k'},
    {"size", required_argument, NULL, 'z'},      {"frames", required_argument, NULL, 'F'},
    {"layers", required_argument, NULL, 'L'},    {"dim", required_argument, NULL, 'D'},
    {"repeat", required_argument, NULL, 'r'},    {"vram", required_argument, NULL, 'V'},
    {"sparse", no_argument, NULL, 'x'},          {"separate-memory", no_argument, NULL, 'e'},
    {"help", no_argument, NULL, 'h'},            {"version", no_argument, NULL, 'v'},
    {0},
};

static int complain(const char *what, const char *which)
{
    fprintf(stderr, "framefarm-net: %s%s%s%s; see --help\n", what, which ? " '" : "", which ? which : "",
            which ? "'" : "");
    return EXIT_TROUBLE;
}

/* 0 with *ret_command set: go on. Otherwise the exit code is *ret_exit. */
static bool read_command_line(int argc, char **argv, struct rf_net_options *o, const struct command **ret_command,
                              int *ret_exit)
{
    *ret_exit = EXIT_TROUBLE;
    for (;;) {
        int index = 0, option = getopt_long(argc, argv, "", long_options, &index);
        if (option == -1)
            break;
        if (option == 'h' || option == 'v') {
            fputs(option == 'h' ? usage : "framefarm-net " FRAMEFARM_VERSION "\n", stdout);
            *ret_exit = EXIT_DONE;
            return false;
        }
        if (option == '?' || !read_option(option, optarg, o)) {
            if (option != '?')
                fprintf(stderr, "framefarm-net: --%s cannot be '%s'; see --help\n", long_options[index].name, optarg);
            return false;
        }
    }
    if (optind == argc) {
        complain("no command given", NULL);
        return false;
    }
    for (size_t i = 0; i < RF_COUNT_OF(commands); i++)
        if (strcmp(commands[i].name, argv[optind]) == 0)
            *ret_command = &commands[i];
    bool has_what = *ret_command != NULL && (*ret_command)->what != NULL && optind + 1 < argc;
    if (has_what)
        o->what = argv[optind + 1];
    if (*ret_command == NULL)
        complain("unknown command", argv[optind]);
    else if (optind + 1 + has_what != argc)
        complain("one command at a time, not", argv[optind + 1 + has_what]);
    else if ((*ret_command)->what != NULL && !has_what)
        complain("which one? known are", (*ret_command)->what);
    else if ((*ret_command)->needs_files && (o->weights == NULL || o->input == NULL))
        complain(o->weights == NULL ? "--weights is missing" : "--input is missing", NULL);
    else if (o->n_loras > 0 && (*ret_command)->run != rf_net_dit)
        complain("--lora goes with dit only", NULL);
    else
        return true;
    return false;
}

int main(int argc, char **argv)
{
    struct rf_net_options o = {.tolerance = 1e-4, .device = "cpu", .shift = 5};
    const struct command *command = NULL;
    int code;
    const char *vram = getenv("FRAMEFARM_VRAM"); /* as for the worker; --vram wins */
    if (vram != NULL && vram[0] != '\0' && !read_bytes(vram, &o.vram_bytes)) {
        complain("not a size in FRAMEFARM_VRAM:", vram);
        return EXIT_TROUBLE;
    }
    if (!read_command_line(argc, argv, &o, &command, &code))
        return code;
    RF_AUTO(finish_result) struct rf_net_result result = {0};
    struct rf_err err = {0};
    bool within = true;
    enum rf_code rc = command->run(&o, &result, &err);
    if (rc == RF_OK && o.output != NULL && result.n_entries > 0)
        rc = rf_safetensors_write(o.output, result.entries, result.n_entries, &err);
    if (rc == RF_OK && o.compare != NULL)
        rc = compare(&o, &result, &within, &err);
    if (rc == RF_OK && fflush(stdout) != 0)
        rc = rf_fail(&err, RF_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    if (rc != RF_OK) {
        fprintf(stderr, "framefarm-net: %s\n", err.msg);
        return EXIT_TROUBLE;
    }
    return within ? EXIT_DONE : EXIT_DIFFERS;
}
