/* See memory_plan.h. Every combination of what can be traded is tried (some ten thousand, in well under a millisecond
 * each hundred), so that the choice needs no cleverness and cannot miss a plan that fits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/memory_plan.h"

#include <math.h>

#include "worker/model/umt5.h"
#include "worker/model/vae.h"

/* Rows of chunks: multiples of what the CPU's tiles (384) and the GPU's (128) take, so that a chunk's rows are computed
 * as they would be in the whole. */
static const int64_t ffn_choices[] = {6144, 3072, 1536, 768, 384};
static const int64_t query_choices[] = {INT64_MAX, 24576, 12288, 6144, 3072, 1536, 768};

/* A notional device, for the proportions between computing and copying: a large GPU, for which copies are hardest to
 * hide. What is chosen depends on the proportions only. */
#define FLOPS 6e14
#define READ_BYTES_S 4e12
#define COPY_BYTES_S 4e10
#define LAUNCH_S 2e-5
#define N_STEPS 4             /* of a run, to weigh what happens once against what happens per step */

struct search {
    const struct rf_memory_facts *f;
    const struct rf_memory_request *r;
    int64_t t, h, w, n_tokens;
    int n_texts;
    int64_t base;
    double step_s;            /* one step with everything resident, in the notional device's seconds */
    int64_t budget;
    bool found;
    struct rf_memory_plan best;
};

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- bytes ---- */

static int64_t base_bytes(const struct search *s)
{
    const struct rf_dit_config *c = &s->f->dit;
    const int64_t input[] = {c->in_channels, s->t, s->h, s->w}, latent[] = {c->out_channels, s->t, s->h, s->w};
    const int64_t text[] = {RF_TEXT_TOKENS, c->text_dim};
    return rf_arena_cost(RF_F32, 4, input) + rf_arena_cost(RF_F32, 4, latent) * s->n_texts +
           rf_arena_cost(RF_F32, 2, text) * s->n_texts;
}

static int64_t block_bytes(const struct rf_memory_facts *f)
{
    return largest(f->expert_block[0], f->expert_block[1]);
}

/* What follows from the choices in `p`. */
static void add_up(const struct search *s, struct rf_memory_plan *p)
{
    const struct rf_memory_facts *f = s->f;
    const struct rf_dit_layout layout = {p->ffn_rows, p->query_rows, p->keep_text};
    p->fixed = f->fixed;
    p->base = s->base;
    p->weights = f->vae_weights + f->text_globals + (p->keep_text_encoder ? f->n_text_layers * f->text_layer : 0);
    p->host = 0;
    for (int i = 0; i < RF_N_EXPERTS; i++) {
        p->weights += f->expert_globals[i] + (f->dit.n_layers - p->n_streamed[i]) * f->expert_block[i];
        p->host += p->n_streamed[i] * f->expert_block[i];
    }
    p->text = f->text_scratch + (p->keep_text_encoder ? 0 : f->text_layer);
    p->encode_image = s->r->start_image ? f->encode_image[p->slice_vae] : 0;
    p->decode = f->decode[p->slice_vae];
    p->sample = rf_dit_scratch_bytes_for(&f->dit, f->act, &layout, s->t, s->h, s->w) +
                rf_dit_context_peak_bytes_for(&f->dit, f->act, &layout, RF_TEXT_TOKENS) +
                rf_dit_context_bytes_for(&f->dit, f->act, &layout, RF_TEXT_TOKENS) * (s->n_texts - 1);
    p->slot = p->n_streamed[0] > 0 ? block_bytes(f) : 0;
    p->sample += RF_COPY_SLOTS * p->slot;
    p->peak = p->fixed + p->weights + p->base +
              largest(largest(p->text, p->encode_image), largest(p->sample, p->decode));
}

/* ---- time ---- */

static double step_seconds(const struct search *s)
{
    const struct rf_dit_config *c = &s->f->dit;
    double n = (double)s->n_tokens, d = (double)c->dim, f = (double)c->ffn_dim;
    return c->n_layers * (2 * n * (6 * d * d + 2 * d * f) + 4 * n * d * (n + RF_TEXT_TOKENS)) / FLOPS * s->n_texts;
}

/* What chunks add: each reads its weights again and starts its kernels. */
static double chunk_seconds(const struct search *s, const struct rf_memory_plan *p)
{
    const struct rf_dit_config *c = &s->f->dit;
    double d = (double)c->dim, value = (double)rf_dtype_size(s->f->act);
    double n_ffn = ceil((double)s->n_tokens / (double)p->ffn_rows) - 1;
    double n_query = ceil((double)s->n_tokens / (double)p->query_rows) - 1;
    double seconds = n_ffn * (2 * d * (double)c->ffn_dim * value / READ_BYTES_S + 2 * LAUNCH_S);
    if (n_query > 0) /* and the norm runs once more */
        seconds += n_query * (2 * d * d * value / READ_BYTES_S + 4 * LAUNCH_S) +
                   (double)s->n_tokens * d * (4 + value) / READ_BYTES_S;
    return seconds * c->n_layers * s->n_texts;
}

static double slowdown_of(const struct search *s, const struct rf_memory_plan *p)
{
    const struct rf_dit_config *c = &s->f->dit;
    double d = (double)c->dim, extra = chunk_seconds(s, p);
    if (!p->keep_text)
        extra += c->n_layers * s->n_texts * (4.0 * RF_TEXT_TOKENS * d * d / FLOPS + 3 * LAUNCH_S);
    if (p->n_streamed[0] > 0) {
        double copy = (double)block_bytes(s->f) / COPY_BYTES_S, n = p->n_streamed[0];
        double exposed = n * copy * s->n_texts - s->step_s;
        extra += (exposed > 0 ? exposed : 0) + 0.02 * n * copy * s->n_texts; /* copies take some of the bandwidth */
    }
    double once = p->keep_text_encoder ? 0 : s->n_texts * s->f->n_text_layers * (double)s->f->text_layer / 1e10;
    return s->step_s > 0 ? (extra * N_STEPS + once) / (s->step_s * N_STEPS) : extra;
}

/* ---- search ---- */

static bool better(const struct search *s, const struct rf_memory_plan *p)
{
    if (!s->found)
        return true;
    if (s->r->small)
        return p->peak < s->best.peak || (p->peak == s->best.peak && p->slowdown < s->best.slowdown);
    return p->slowdown < s->best.slowdown || (p->slowdown <= s->best.slowdown && p->peak < s->best.peak);
}

/* The fewest streamed blocks with which `p` fits; with `small` the fewest bytes. */
static void try_streaming(struct search *s, struct rf_memory_plan p)
{
    int most = s->f->pinned || p.keep_text || block_bytes(s->f) == 0 ? 0 : s->f->dit.n_layers;
    for (int n = 0; n <= most; n++) {
        for (int i = 0; i < RF_N_EXPERTS; i++)
            p.n_streamed[i] = n;
        add_up(s, &p);
        if (s->budget > 0 && p.peak > s->budget)
            continue;
        p.slowdown = slowdown_of(s, &p);
        if (better(s, &p)) {
            s->best = p;
            s->found = true;
        }
        if (!s->r->small)
            return;
    }
}

static void try_vae_and_text(struct search *s, struct rf_memory_plan p)
{
    for (int choice = 0; choice < 4; choice++) {
        p.slice_vae = !(choice & 1); /* costs nothing where frames keep a device busy one by one */
        p.keep_text_encoder = !(choice & 2);
        if (p.keep_text_encoder || (!s->f->pinned && s->f->text_layer > 0))
            try_streaming(s, p);
    }
}

static void search(struct search *s)
{
    for (size_t q = 0; q < RF_COUNT_OF(query_choices); q++)
        for (size_t f = 0; f < RF_COUNT_OF(ffn_choices); f++)
            for (int keep = 0; keep < 2; keep++) {
                bool in_one = query_choices[q] >= s->n_tokens;
                struct rf_memory_plan p = {.query_rows = in_one ? s->n_tokens : query_choices[q],
                                           .ffn_rows = ffn_choices[f] < s->n_tokens ? ffn_choices[f] : s->n_tokens,
                                           .keep_text = keep};
                if (!in_one || q == 0)
                    try_vae_and_text(s, p);
            }
}

static struct search begin(const struct rf_memory_facts *f, const struct rf_memory_request *r)
{
    RF_ASSERT(r->n_frames >= 1 && r->width >= 16 && r->height >= 16);
    struct search s = {.f = f, .r = r, .n_texts = r->guided ? 2 : 1};
    s.t = (r->n_frames - 1) / RF_VAE_FRAMES + 1;
    s.h = r->height / RF_VAE_SCALE;
    s.w = r->width / RF_VAE_SCALE;
    s.n_tokens = s.t * (s.h / 2) * (s.w / 2);
    s.base = base_bytes(&s);
    s.step_s = step_seconds(&s);
    return s;
}

int64_t rf_memory_plan_least(const struct rf_memory_facts *facts, const struct rf_memory_request *request)
{
    struct rf_memory_request small = *request;
    small.small = true;
    struct search s = begin(facts, &small);
    search(&s);
    return s.best.peak;
}

enum rf_code rf_memory_plan_make(const struct rf_memory_facts *facts, const struct rf_memory_request *request,
                                 int64_t budget, struct rf_memory_plan *ret_plan, struct rf_err *err)
{
    struct search s = begin(facts, request);
    s.budget = budget;
    search(&s);
    if (!s.found) { /* rounded up, so that the number that is read is one that works */
        int64_t least = rf_memory_plan_least(facts, request);
        bool large = least >= (int64_t)1 << 30;
        double unit = large ? 0x1p30 : 0x1p20;
        return rf_fail(err, RF_ERR_NO_MEMORY, "%dx%d, %d frames need at least %.2f %s of device memory; %.2f are there",
                       request->width, request->height, request->n_frames, ceil((double)least / unit * 100) / 100,
                       large ? "GiB" : "MiB", floor((double)budget / unit * 100) / 100);
    }
    *ret_plan = s.best;
    return RF_OK;
}

/* The blocks in the order in which the multiples of the golden ratio fall into the unit interval: any beginning of that
 * order is spread evenly, and begins all longer ones. */
static double place_of(int index)
{
    return fmod((index + 1) * 0.6180339887498949, 1);
}

bool rf_memory_plan_streams(int n_streamed, int n_blocks, int index)
{
    int rank = 0;
    for (int i = 0; i < n_blocks; i++)
        rank += place_of(i) < place_of(index);
    return rank < n_streamed;
}
