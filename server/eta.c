/* See eta.h. A handful of kinds and models: tables are searched from end to end.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/eta.h"

#include <math.h>
#include <string.h>

/* Tokens at which attention costs as much as the linear layers, for the 14 B transformer of Wan2.2: per token and layer
 * 2 (6 d^2 + 2 d d_ffn) against 4 n d operations with d = 5120, d_ffn = 13824 make 29,200. Measured on one H200 at
 * 832x1216: 13.6 s for 83 k tokens, 45.1 s for 162 k; that ratio asks for 30,100. Smaller models bend earlier; the pull
 * is weak, so two lengths of theirs say so. */
#define SQUARE_AT 30000
#define N_LOADS 15

struct known {
    int kind;
    char *model;
    struct rf_fit pass, image, smoothing, rest;
    double load[N_LOADS];
    int n_loads, next_load;
};

struct kind {
    char *text;
    struct rf_fit assemble;
};

struct rf_eta {
    struct kind *kinds;
    int n_kinds;
    struct known **known;
    int n_known;
};

struct rf_eta *rf_eta_create(void)
{
    return rf_new(struct rf_eta);
}

void rf_eta_destroy(struct rf_eta **eta)
{
    struct rf_eta *e = *eta;
    if (e == NULL)
        return;
    for (int i = 0; i < e->n_kinds; i++)
        free(e->kinds[i].text);
    for (int i = 0; i < e->n_known; i++) {
        free(e->known[i]->model);
        free(e->known[i]);
    }
    free(e->kinds);
    free(e->known);
    rf_free(eta);
}

int rf_eta_kind(struct rf_eta *e, const char *device_kind, const char *device_name, const char *precision)
{
    RF_AUTO(rf_free) char *text = rf_asprintf("%s\n%s\n%s", device_kind, device_name, precision);
    for (int i = 0; i < e->n_kinds; i++)
        if (strcmp(e->kinds[i].text, text) == 0)
            return i;
    e->kinds = rf_realloc(e->kinds, (size_t)e->n_kinds + 1, sizeof *e->kinds);
    e->kinds[e->n_kinds] = (struct kind){.text = text};
    text = NULL;
    return e->n_kinds++;
}

static struct known *find(struct rf_eta *e, int kind, const char *model)
{
    for (int i = 0; i < e->n_known; i++)
        if (e->known[i]->kind == kind && strcmp(e->known[i]->model, model) == 0)
            return e->known[i];
    return NULL;
}

static struct known *find_or_add(struct rf_eta *e, int kind, const char *model)
{
    struct known *k = find(e, kind, model);
    if (k != NULL)
        return k;
    k = rf_new(struct known);
    k->kind = kind;
    k->model = rf_strdup(model);
    k->pass.square_at = SQUARE_AT;
    e->known = rf_realloc(e->known, (size_t)e->n_known + 1, sizeof(struct known *));
    e->known[e->n_known++] = k;
    return k;
}

int rf_eta_passes(int n_steps, int switch_step, double guidance_low, double guidance_high)
{
    int n_high = switch_step < n_steps ? switch_step : n_steps;
    int per_high = fabs(guidance_high - 1) > 1e-6 ? 2 : 1, per_low = fabs(guidance_low - 1) > 1e-6 ? 2 : 1;
    return n_high * per_high + (n_steps - n_high) * per_low;
}

double rf_eta_tokens(const struct rf_eta_work *w)
{
    return ((w->n_frames - 1) / 4 + 1) * (w->width / 16.0) * (w->height / 16.0);
}

void rf_eta_learn(struct rf_eta *e, int kind, const char *model, const struct rf_eta_work *w,
                  const struct rf_eta_taken *t)
{
    double n = rf_eta_tokens(w);
    if (kind < 0 || kind >= e->n_kinds || !(t->all > 0))
        return;
    if (w->assemble) {
        rf_fit_add(&e->kinds[kind].assemble, n, t->all);
        return;
    }
    if (w->n_passes <= 0 || !(t->passes > 0)) /* no steps were reported: nothing to divide by */
        return;
    struct known *k = find_or_add(e, kind, model);
    rf_fit_add(&k->pass, n, t->passes / w->n_passes);
    rf_fit_add(&k->rest, n, fmax(t->all - t->passes - t->load - t->image - t->smoothing, 0));
    if (t->image > 0)
        rf_fit_add(&k->image, n, t->image);
    if (t->smoothing > 0)
        rf_fit_add(&k->smoothing, n, t->smoothing);
    k->load[k->next_load] = t->load;
    k->next_load = (k->next_load + 1) % N_LOADS;
    k->n_loads += k->n_loads < N_LOADS;
}

/* The lower median: one segment that had to load and one that had not are taken for a worker that loads once. */
static double usual_load(const struct known *k)
{
    double sorted[N_LOADS];
    for (int i = 0; i < k->n_loads; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > k->load[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = k->load[i];
    }
    return k->n_loads > 0 ? sorted[(k->n_loads - 1) / 2] : 0;
}

static void guess_assemble(struct rf_eta *e, int kind, double n, struct rf_guess *ret)
{
    *ret = (struct rf_guess){1, 1}; /* joining copies streams: a second or so until one was seen */
    if (!rf_fit_at(&e->kinds[kind].assemble, n, ret))
        for (int i = 0; i < e->n_kinds; i++)
            if (rf_fit_at(&e->kinds[i].assemble, n, ret))
                return;
}

bool rf_eta_guess(struct rf_eta *e, int kind, const char *model, const struct rf_eta_work *w, struct rf_guess *ret)
{
    double n = rf_eta_tokens(w);
    if (kind < 0 || kind >= e->n_kinds)
        return false;
    if (w->assemble) {
        guess_assemble(e, kind, n, ret);
        return true;
    }
    struct known *k = find(e, kind, model);
    struct rf_guess pass, rest, image = {0}, smoothing = {0};
    if (k == NULL || !rf_fit_at(&k->pass, n, &pass) || !rf_fit_at(&k->rest, n, &rest))
        return false;
    double load = usual_load(k);
    if (w->image)
        rf_fit_at(&k->image, n, &image);
    if (w->fps > 16)
        rf_fit_at(&k->smoothing, n, &smoothing);
    ret->seconds = load + w->n_passes * pass.seconds + rest.seconds + image.seconds + smoothing.seconds;
    ret->error = w->n_passes * pass.error + rest.error + image.error + smoothing.error;
    return true;
}
