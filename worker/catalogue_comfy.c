/* Models of a ComfyUI models/ folder, read by the public file names:
 *
 *   diffusion_models/ or unet/  *t2v*high_noise*  *t2v*low_noise*, the same with i2v
 *   text_encoders/ or clip/     umt5*
 *   vae/                        wan_2.1_vae* (also written wan2.1 or wan2_1)
 *   loras/                      *high_noise* *low_noise*; a pair with "4step" in its name is its task's default
 *
 * A text pair becomes the model "wan2.2-t2v-a14b"; the image pair serves its start images and continued segments.
 * Several precisions of one pair become several models, the others with their precision behind the name. Nothing in a
 * file tells a high-noise from a low-noise expert; only its name does.
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "worker/catalogue.h"
#include "worker/log.h"

#define MAX_DEPTH 3 /* people sort their files into subfolders */

struct list {
    char **path;
    int n;
};

/* Pairs of one kind. name: what both files are called without their side. */
struct pairs {
    struct rf_catalogue_lora *pair;
    int n;
};

/* Relatives of other tasks, whose experts read other inputs; "ti2v" would pass for "i2v" otherwise. */
static const char *const foreign[] = {"ti2v", "fun", "s2v", "vace", "animate", "camera"};
/* Best first: fp8 is half the size and what the stock workflows load. */
static const char *const precisions[] = {"fp8_scaled", "fp8", "bf16", "fp16", ""};

static bool contains(const char *path, const char *word)
{
    const char *slash = strrchr(path, '/');
    return strcasestr(slash ? slash + 1 : path, word) != NULL;
}

static void list_finish(struct list *list)
{
    for (int i = 0; i < list->n; i++)
        free(list->path[i]);
    free(list->path);
}

static void pairs_finish(struct pairs *pairs)
{
    for (int i = 0; i < pairs->n; i++) {
        free(pairs->pair[i].name);
        free(pairs->pair[i].files.high);
        free(pairs->pair[i].files.low);
    }
    free(pairs->pair);
}

static void gather(const char *folder, int depth, struct list *list)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return;
    static const char ending[] = ".safetensors";
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        size_t n = strlen(entry->d_name);
        struct stat info;
        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &info, 0) != 0)
            continue;
        RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s", folder, entry->d_name);
        if (S_ISDIR(info.st_mode) && depth > 1)
            gather(path, depth - 1, list);
        else if (S_ISREG(info.st_mode) && n > strlen(ending) &&
                 strcasecmp(entry->d_name + n - strlen(ending), ending) == 0)
            rf_list_add(&list->path, &list->n, path);
    }
    closedir(dir);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All weight files below folder/one and folder/other, in name order: readdir's order differs from disk to disk. */
static struct list gather_both(const char *folder, const char *one, const char *other)
{
    struct list list = {0};
    const char *const names[] = {one, other};
    for (size_t i = 0; i < RF_COUNT_OF(names); i++) {
        if (names[i] == NULL)
            continue;
        RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s", folder, names[i]);
        gather(path, MAX_DEPTH, &list);
    }
    if (list.n > 0)
        qsort(list.path, (size_t)list.n, sizeof *list.path, by_path);
    return list;
}

/* Puts files that differ only in their side together. singles: a file without a side serves both experts. */
static struct pairs pair_up(const struct list *list, bool singles)
{
    struct pairs pairs = {0};
    for (int i = 0; i < list->n; i++) {
        char side;
        RF_AUTO(rf_free) char *name = rf_pair_name(list->path[i], &side);
        if (side == 0 && !singles)
            continue;
        int at = 0;
        while (at < pairs.n && strcmp(pairs.pair[at].name, name) != 0)
            at++;
        if (at == pairs.n) {
            pairs.pair = rf_realloc(pairs.pair, (size_t)pairs.n + 1, sizeof *pairs.pair);
            pairs.pair[pairs.n++] = (struct rf_catalogue_lora){.name = rf_strdup(name)};
        }
        struct rf_pair *files = &pairs.pair[at].files;
        if (side != 'l' && files->high == NULL)
            files->high = rf_strdup(list->path[i]);
        if (side != 'h' && files->low == NULL)
            files->low = rf_strdup(list->path[i]);
    }
    return pairs;
}

static const char *precision_of(const char *name)
{
    size_t i = 0;
    while (precisions[i][0] != '\0' && strcasestr(name, precisions[i]) == NULL)
        i++;
    return precisions[i];
}

static bool is_expert(const struct rf_catalogue_lora *pair, const char *task)
{
    for (size_t i = 0; i < RF_COUNT_OF(foreign); i++)
        if (strcasestr(pair->name, foreign[i]) != NULL)
            return false;
    return strcasestr(pair->name, task) != NULL;
}

/* The pair for `task` in `precision` ("": a name that says none); NULL: there is none. */
static const struct rf_catalogue_lora *find_experts(const struct pairs *pairs, const char *task, const char *precision)
{
    for (int i = 0; i < pairs->n; i++)
        if (is_expert(&pairs->pair[i], task) && precision_of(pairs->pair[i].name) == precision &&
            pairs->pair[i].files.high != NULL && pairs->pair[i].files.low != NULL)
            return &pairs->pair[i];
    return NULL;
}

static const struct rf_catalogue_lora *find_any_experts(const struct pairs *pairs, const char *task)
{
    const struct rf_catalogue_lora *found = NULL;
    for (size_t i = 0; i < RF_COUNT_OF(precisions) && found == NULL; i++)
        found = find_experts(pairs, task, precisions[i]);
    return found;
}

/* The last 4-step pair of a task in name order, that is its newest version; -1: none. */
static int find_default_lora(const struct rf_catalogue_model *m, const char *task)
{
    for (int i = m->n_loras - 1; i >= 0; i--)
        if (strcasestr(m->loras[i].name, task) != NULL && strcasestr(m->loras[i].name, "4step") != NULL &&
            m->loras[i].files.high != NULL && m->loras[i].files.low != NULL)
            return i;
    return -1;
}

static struct rf_pair copy_pair(const struct rf_catalogue_lora *pair)
{
    return pair ? (struct rf_pair){rf_strdup(pair->files.high), rf_strdup(pair->files.low)} : (struct rf_pair){0};
}

/* What the stock workflows set: 4 steps with a 4-step LoRA, else 20 with guidance. */
static void set_defaults(struct rf_catalogue_model *m)
{
    static const char *const sizes[] = {"832x480", "480x832", "1280x720", "720x1280", "832x1216", "1216x832"};
    for (size_t i = 0; i < RF_COUNT_OF(sizes); i++)
        rf_list_add(&m->about.sizes, &m->about.n_sizes, sizes[i]);
    bool fast = m->text_experts.high ? m->default_lora_text >= 0 : m->default_lora_image >= 0;
    m->about.defaults = (struct rf_model_defaults){
        .width = 832, .height = 480, .n_frames = RF_DEFAULT_SEGMENT_FRAMES,
        .n_steps = fast ? 4 : 20, .switch_step = fast ? 2 : 10, .flow_shift = fast ? 5 : 8,
        .guidance_scale = fast ? 1 : 3.5, .guidance_scale_2 = fast ? 1 : 3.5};
}

static void add_model(struct rf_catalogue *c, const char *folder, const struct rf_catalogue_lora *text,
                      const struct rf_catalogue_lora *image, const char *suffix, const struct pairs *loras,
                      const char *encoder, const char *vae)
{
    struct rf_catalogue_model *m = rf_catalogue_model_create();
    m->about.name = rf_asprintf("wan2.2-%s-a14b%s%s", text ? "t2v" : "i2v", suffix[0] ? "-" : "", suffix);
    m->about.title = rf_asprintf("Wan2.2 A14B, %s%s%s%s",
                                 text ? image ? "text or image to video" : "text to video" : "image to video",
                                 suffix[0] ? " (" : "", suffix, suffix[0] ? ")" : "");
    m->text_experts = copy_pair(text);
    m->image_experts = copy_pair(image);
    m->text_encoder = rf_strdup(encoder);
    m->vae = rf_strdup(vae);
    for (int i = 0; i < loras->n; i++)
        rf_catalogue_add_lora(m, loras->pair[i].name, loras->pair[i].files.high, loras->pair[i].files.low);
    if (text != NULL)
        m->default_lora_text = find_default_lora(m, "t2v");
    if (image != NULL)
        m->default_lora_image = find_default_lora(m, "i2v");
    set_defaults(m);
    RF_AUTO(rf_free) char *origin = rf_asprintf("%s in %s", m->about.name, folder);
    rf_catalogue_add(c, m, origin);
}

static const char *find_file(const struct list *list, const char *const *marks, size_t n_marks)
{
    for (size_t k = 0; k < n_marks; k++)
        for (int i = 0; i < list->n; i++)
            if (contains(list->path[i], marks[k]))
                return list->path[i];
    return NULL;
}

static void add_models(struct rf_catalogue *c, const char *folder, const struct pairs *experts,
                       const struct pairs *loras, const char *encoder, const char *vae)
{
    bool any_text = false;
    for (size_t i = 0; i < RF_COUNT_OF(precisions); i++) {
        const struct rf_catalogue_lora *text = find_experts(experts, "t2v", precisions[i]);
        if (text == NULL)
            continue;
        const struct rf_catalogue_lora *image = find_experts(experts, "i2v", precisions[i]);
        add_model(c, folder, text, image ? image : find_any_experts(experts, "i2v"), any_text ? precisions[i] : "",
                  loras, encoder, vae);
        any_text = true;
    }
    const struct rf_catalogue_lora *image = find_any_experts(experts, "i2v");
    if (!any_text && image != NULL)
        add_model(c, folder, NULL, image, "", loras, encoder, vae);
}

void rf_catalogue_read_comfy(struct rf_catalogue *c, const char *folder)
{
    static const char *const encoder_marks[] = {"umt5_xxl_fp8", "umt5"};
    static const char *const vae_marks[] = {"wan_2.1_vae", "wan2.1_vae", "wan2_1_vae"};
    struct list expert_files = gather_both(folder, "diffusion_models", "unet");
    struct list lora_files = gather_both(folder, "loras", NULL);
    struct list encoders = gather_both(folder, "text_encoders", "clip");
    struct list vaes = gather_both(folder, "vae", NULL);
    struct pairs experts = pair_up(&expert_files, false), loras = pair_up(&lora_files, true);
    const char *encoder = find_file(&encoders, encoder_marks, RF_COUNT_OF(encoder_marks));
    const char *vae = find_file(&vaes, vae_marks, RF_COUNT_OF(vae_marks));
    bool any = find_any_experts(&experts, "t2v") != NULL || find_any_experts(&experts, "i2v") != NULL;
    if (any && (encoder == NULL || vae == NULL)) {
        rf_log(RF_LOG_WARN, "catalogue", RF_ERR_NOT_FOUND, "the experts in %s are skipped: there is no %s", folder,
               encoder == NULL ? "text_encoders/umt5*.safetensors" : "vae/wan_2.1_vae*.safetensors");
        c->n_warnings++;
    } else if (any) {
        add_models(c, folder, &experts, &loras, encoder, vae);
    }
    pairs_finish(&experts);
    pairs_finish(&loras);
    list_finish(&expert_files);
    list_finish(&lora_files);
    list_finish(&encoders);
    list_finish(&vaes);
}
