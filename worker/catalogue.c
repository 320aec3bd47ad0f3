/* The catalogue itself: adding a model after checking its files, finding one, choosing files for a request. Where
 * models come from stands in catalogue_manifest.c and catalogue_comfy.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/catalogue.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "worker/log.h"
#include "worker/model/safetensors.h"

#define MAX_HEADER_BYTES (100u << 20) /* the public files stay below 1 MiB; a hostile length must not fill memory */
#define IMAGE_CHANNELS 36             /* noisy latent 16 + mask 4 + image latent 16 */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void rf_list_add(char ***list, int *n, const char *text)
{
    *list = rf_realloc(*list, (size_t)*n + 1, sizeof **list);
    (*list)[(*n)++] = rf_strdup(text);
}

static void list_finish(char **list, int n)
{
    for (int i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

static void pair_finish(struct rf_pair *pair)
{
    free(pair->high);
    free(pair->low);
}

struct rf_catalogue_model *rf_catalogue_model_create(void)
{
    struct rf_catalogue_model *m = rf_new(struct rf_catalogue_model);
    m->about.note = rf_strdup("");
    m->about.max_segment_frames = RF_DEFAULT_SEGMENT_FRAMES;
    m->default_lora_text = m->default_lora_image = -1;
    return m;
}

void rf_catalogue_model_destroy(struct rf_catalogue_model **model)
{
    struct rf_catalogue_model *m = *model;
    *model = NULL;
    if (m == NULL)
        return;
    free(m->about.name);
    free(m->about.title);
    free(m->about.hash);
    free(m->about.note);
    list_finish(m->about.sizes, m->about.n_sizes);
    list_finish(m->about.loras, m->about.n_loras);
    list_finish(m->about.examples, m->about.n_examples);
    list_finish(m->about.vocabulary, m->about.n_vocabulary);
    pair_finish(&m->text_experts);
    pair_finish(&m->image_experts);
    free(m->text_encoder);
    free(m->vae);
    for (int i = 0; i < m->n_loras; i++) {
        free(m->loras[i].name);
        pair_finish(&m->loras[i].files);
    }
    free(m->loras);
    free(m);
}

void rf_catalogue_destroy(struct rf_catalogue **catalogue)
{
    struct rf_catalogue *c = *catalogue;
    *catalogue = NULL;
    if (c == NULL)
        return;
    for (int i = 0; i < c->n_models; i++)
        rf_catalogue_model_destroy(&c->models[i]);
    free(c->models);
    free(c);
}

void rf_catalogue_add_lora(struct rf_catalogue_model *m, const char *name, const char *high, const char *low)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    size_t n = strlen(name);
    if (n >= sizeof((struct rf_request_lora *)0)->name || strspn(name, allowed) != n || name[0] == '.') {
        rf_log(RF_LOG_WARN, "catalogue", RF_ERR_INVALID,
               "LoRA '%.100s' is skipped: no request can name it; use letters, digits, '.', '_', '+' and '-'", name);
        return;
    }
    m->loras = rf_realloc(m->loras, (size_t)m->n_loras + 1, sizeof *m->loras);
    m->loras[m->n_loras++] =
        (struct rf_catalogue_lora){.name = rf_strdup(name), .files = {rf_strdup(high), rf_strdup(low)}};
    rf_list_add(&m->about.loras, &m->about.n_loras, name);
}

char *rf_pair_name(const char *path, char *ret_side)
{
    static const struct {
        const char *mark;
        char side;
    } marks[] = {{"_high_noise", 'h'}, {"_low_noise", 'l'}, {"-high-noise", 'h'}, {"-low-noise", 'l'},
                 {"_highnoise", 'h'},  {"_lownoise", 'l'},  {"_high", 'h'},       {"_low", 'l'},
                 {"-high", 'h'},       {"-low", 'l'}};
    char *name = rf_strdup(base_name(path));
    size_t n = strlen(name), n_end = strlen(".safetensors");
    if (n > n_end && strcasecmp(name + n - n_end, ".safetensors") == 0)
        name[n - n_end] = '\0';
    *ret_side = 0;
    for (size_t i = 0; i < RF_COUNT_OF(marks); i++) {
        char *at = strcasestr(name, marks[i].mark);
        if (at == NULL || isalpha((unsigned char)at[strlen(marks[i].mark)]))
            continue; /* "_highres" names no expert */
        const char *rest = at + strlen(marks[i].mark);
        memmove(at, rest, strlen(rest) + 1);
        *ret_side = marks[i].side;
        break;
    }
    return name;
}

/* ---- checking the files ---- */

/* Adds name, size and header of a weight file to `sha`. The gigabytes behind the header are left out: reading them at
 * every start would cost more than the start. */
static enum rf_code hash_header(const char *path, struct rf_sha256 *sha, struct rf_err *err)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return rf_fail(err, RF_ERR_NOT_FOUND, "'%s': %s", path, strerror(errno));
    unsigned char length[8];
    uint64_t n_header = 0;
    int64_t size_bytes = -1;
    if (fseeko(f, 0, SEEK_END) == 0)
        size_bytes = ftello(f);
    rewind(f);
    bool good = size_bytes >= 8 && fread(length, 1, 8, f) == 8;
    for (int i = 7; good && i >= 0; i--)
        n_header = n_header << 8 | length[i];
    good = good && n_header <= MAX_HEADER_BYTES && n_header <= (uint64_t)size_bytes - 8;
    char *header = good ? malloc(n_header + 1) : NULL;
    good = header != NULL && fread(header, 1, n_header, f) == n_header;
    fclose(f);
    if (good) {
        RF_AUTO(rf_free) char *title = rf_asprintf("%s\n%lld\n", base_name(path), (long long)size_bytes);
        rf_sha256_add(sha, title, strlen(title));
        rf_sha256_add(sha, header, n_header);
    }
    free(header);
    return good ? RF_OK : rf_fail(err, RF_ERR_FORMAT, "'%s' is not a safetensors file", path);
}

static enum rf_code hash_model(struct rf_catalogue_model *m, struct rf_err *err)
{
    const char *paths[10] = {m->text_experts.high, m->text_experts.low, m->image_experts.high, m->image_experts.low,
                             m->text_encoder, m->vae};
    if (m->default_lora_text >= 0) {
        paths[6] = m->loras[m->default_lora_text].files.high;
        paths[7] = m->loras[m->default_lora_text].files.low;
    }
    if (m->default_lora_image >= 0) {
        paths[8] = m->loras[m->default_lora_image].files.high;
        paths[9] = m->loras[m->default_lora_image].files.low;
    }
    struct rf_sha256 sha;
    rf_sha256_init(&sha);
    for (size_t i = 0; i < RF_COUNT_OF(paths); i++) {
        enum rf_code rc = paths[i] ? hash_header(paths[i], &sha, err) : RF_OK;
        if (rc != RF_OK) {
            rf_sha256_abandon(&sha);
            return rc;
        }
    }
    char hex[RF_SHA256_HEX];
    rf_sha256_finish(&sha, hex);
    m->about.hash = rf_strdup(hex);
    return RF_OK;
}

/* How many channels an expert reads: 16 (prompt only) or 36 (start image too). */
static enum rf_code count_channels(const char *path, int64_t *ret_channels, struct rf_err *err)
{
    static const char *const names[] = {"patch_embedding.weight", "model.diffusion_model.patch_embedding.weight",
                                        "diffusion_model.patch_embedding.weight"};
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    enum rf_code rc = rf_safetensors_open(path, &file, err);
    if (rc != RF_OK)
        return rc;
    const struct rf_st_entry *entry = NULL;
    for (size_t i = 0; i < RF_COUNT_OF(names) && entry == NULL; i++)
        entry = rf_safetensors_find(file, names[i]);
    if (entry == NULL || entry->n_dims < 2)
        return rf_fail(err, RF_ERR_FORMAT, "'%s' has no tensor patch_embedding.weight: not a Wan expert", path);
    *ret_channels = entry->shape[1];
    return RF_OK;
}

/* A pair that reads 36 channels serves start images; given as text experts alone it serves both. */
static enum rf_code check_experts(struct rf_catalogue_model *m, struct rf_err *err)
{
    const struct rf_pair *pairs[] = {&m->text_experts, &m->image_experts};
    for (size_t i = 0; i < RF_COUNT_OF(pairs); i++) {
        if (pairs[i]->high == NULL)
            continue;
        int64_t high = 0, low = 0;
        enum rf_code rc = count_channels(pairs[i]->high, &high, err);
        if (rc == RF_OK)
            rc = count_channels(pairs[i]->low, &low, err);
        if (rc != RF_OK)
            return rc;
        if (high != low)
            return rf_fail(err, RF_ERR_FORMAT, "'%s' reads %lld channels, '%s' %lld: not a pair",
                           base_name(pairs[i]->high), (long long)high, base_name(pairs[i]->low), (long long)low);
        if (i == 0 && high == IMAGE_CHANNELS && m->image_experts.high == NULL) {
            m->image_experts = (struct rf_pair){rf_strdup(pairs[0]->high), rf_strdup(pairs[0]->low)};
            m->default_lora_image = m->default_lora_text;
            return RF_OK;
        }
        if (i == 1 && high != IMAGE_CHANNELS)
            return rf_fail(err, RF_ERR_FORMAT, "'%s' reads %lld channels; a start image needs %d",
                           base_name(pairs[i]->high), (long long)high, IMAGE_CHANNELS);
    }
    return RF_OK;
}

/* Fills in what follows from the files. */
static void describe(struct rf_catalogue_model *m)
{
    struct rf_wire_model *about = &m->about;
    about->takes_text = m->text_experts.high != NULL;
    about->takes_image = m->image_experts.high != NULL;
    about->defaults.name = about->name;
    about->defaults.max_segment_frames = about->max_segment_frames;
}

/* Reads the model's description as the server will: one bad title must not get the whole worker refused. */
static enum rf_code check_wire(struct rf_catalogue_model *m, struct rf_err *err)
{
    char word[] = "check";
    struct rf_wire_register about = {.protocol = RF_PROTOCOL, .name = word, .build = word, .host = word,
                                     .device_kind = "cpu", .device_name = word, .precision = "f32",
                                     .models = &m->about, .n_models = 1};
    RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_register_build(&about);
    RF_AUTO(rf_wire_register_destroy) struct rf_wire_register *read = NULL;
    return rf_wire_register_read(json, &read, err);
}

void rf_catalogue_add(struct rf_catalogue *c, struct rf_catalogue_model *model, const char *origin)
{
    struct rf_err err;
    enum rf_code rc = check_experts(model, &err);
    if (rc == RF_OK)
        rc = hash_model(model, &err);
    if (rc == RF_OK && rf_catalogue_find(c, model->about.name) != NULL)
        rc = rf_fail(&err, RF_ERR_CONFLICT, "another model is already called '%s'", model->about.name);
    if (rc == RF_OK) {
        describe(model);
        rc = check_wire(model, &err);
    }
    if (rc != RF_OK) {
        rf_log(RF_LOG_WARN, "catalogue", rc, "%s is skipped: %s", origin, err.msg);
        c->n_warnings++;
        rf_catalogue_model_destroy(&model);
        return;
    }
    c->models = rf_realloc(c->models, (size_t)c->n_models + 1, sizeof *c->models);
    c->models[c->n_models++] = model;
}

/* ---- asking it ---- */

const struct rf_catalogue_model *rf_catalogue_find(const struct rf_catalogue *c, const char *name)
{
    if (name == NULL || name[0] == '\0')
        return c->n_models > 0 ? c->models[0] : NULL;
    for (int i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i]->about.name, name) == 0)
            return c->models[i];
    return NULL;
}

static int find_lora(const struct rf_catalogue_model *m, const char *name)
{
    for (int i = 0; i < m->n_loras; i++)
        if (strcmp(m->loras[i].name, name) == 0)
            return i;
    return -1;
}

static enum rf_code unknown_lora(const struct rf_catalogue_model *m, const char *name, struct rf_err *err)
{
    char known[160] = "";
    size_t n = 0;
    for (int i = 0; i < m->n_loras && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", m->loras[i].name);
    return rf_fail(err, RF_ERR_INVALID, "loras: '%.60s' is unknown; %s has %s", name, m->about.name,
                   m->n_loras ? known : "none");
}

static void put_lora(struct rf_model_files *files, const struct rf_pair *lora, double strength)
{
    if (strength == 0)
        return; /* how a request says: not even the default one */
    if (lora->high != NULL)
        files->lora_high[files->n_lora_high++] = (struct rf_lora_file){lora->high, (float)strength};
    if (lora->low != NULL)
        files->lora_low[files->n_lora_low++] = (struct rf_lora_file){lora->low, (float)strength};
}

enum rf_code rf_catalogue_files(const struct rf_catalogue_model *m, bool from_image,
                                const struct rf_request_lora *loras, int n_loras, struct rf_model_files *ret_files,
                                struct rf_err *err)
{
    const struct rf_pair *experts = from_image ? &m->image_experts : &m->text_experts;
    if (experts->high == NULL)
        return rf_fail(err, RF_ERR_INVALID, "model '%s' cannot start from %s", m->about.name,
                       from_image ? "an image (its experts read 16 channels)" : "a prompt alone: give a start image");
    if (n_loras > RF_MAX_LORAS)
        return rf_fail(err, RF_ERR_INVALID, "loras: %d are listed; at most %d", n_loras, RF_MAX_LORAS);
    struct rf_model_files files = {
        .high = experts->high, .low = experts->low, .text_encoder = m->text_encoder, .vae = m->vae};
    int by_default = from_image ? m->default_lora_image : m->default_lora_text;
    if (loras == NULL && by_default >= 0)
        put_lora(&files, &m->loras[by_default].files, 1);
    for (int i = 0; i < n_loras; i++) {
        int at = find_lora(m, loras[i].name);
        if (at < 0)
            return unknown_lora(m, loras[i].name, err);
        /* A clip begun with the text experts' default goes on with the image experts' own. */
        if (from_image && at == m->default_lora_text && m->default_lora_image >= 0)
            at = m->default_lora_image;
        put_lora(&files, &m->loras[at].files, loras[i].strength);
    }
    *ret_files = files;
    return RF_OK;
}

/* ---- reading a folder ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The direct subfolders that hold a manifest, in name order: the first model is the default one, on every machine. */
static void read_subfolders(struct rf_catalogue *c, const char *folder)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return;
    char **names = NULL;
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.')
            rf_list_add(&names, &n, entry->d_name);
    closedir(dir);
    if (n > 0)
        qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) {
        RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s", folder, names[i]);
        rf_catalogue_read_manifest(c, path);
    }
    list_finish(names, n);
}

enum rf_code rf_catalogue_read(const char *folder, struct rf_catalogue **ret_catalogue, struct rf_err *err)
{
    struct stat info;
    if (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode))
        return rf_fail(err, RF_ERR_NOT_FOUND, "no folder '%s'", folder);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = rf_new(struct rf_catalogue);
    if (!rf_catalogue_read_manifest(c, folder)) {
        rf_catalogue_read_comfy(c, folder);
        read_subfolders(c, folder);
    }
    if (c->n_models == 0)
        return rf_fail(err, RF_ERR_NOT_FOUND,
                       "no model in '%s'%s: it needs a model.json (or subfolders with one), or the files of a ComfyUI "
                       "models folder", folder, c->n_warnings ? " can be used (see the warnings)" : "");
    *ret_catalogue = c;
    c = NULL;
    return RF_OK;
}
