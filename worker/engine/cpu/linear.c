/* y = act(x w^T * scale + b) and its gated, accumulating form, with LoRA branches.
 *
 * Work is cut into tiles of rows x outputs. Each tile widens its own weight rows to F32 in the thread's scratch (F32
 * weights are used where they lie), multiplies, then adds branches, bias, activation, gate while the tile is in cache.
 * The branch's first product (x down^T) is shared by all tiles of a row, so it runs before them, for as many rows as
 * the shared scratch holds.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/cpu_ops.h"

#define TILE_ROWS 384
#define TILE_OUT 256
#define MAX_RANKS (1 << 16) /* so that a few rows of any branch fit into the scratch */

struct linear_job {
    const struct rf_cpu *cpu;
    const struct rf_linear *w;
    const struct rf_linear_opts *opts;
    float *y;
    const float *x;
    int64_t rows, in, out;
    int64_t tile_rows, tile_out, n_out_tiles;
    float *branch;         /* [rows, ranks] of this chunk: x down^T of all branches side by side */
    int64_t ranks;
};

static int64_t at_most(int64_t x, int64_t limit)
{
    return x < limit ? x : limit;
}

/* Rows [first, first + n) of a weight matrix as F32: in place when it is F32 already, else widened into `scratch`. */
static const float *weight_rows(const struct rf_cpu *cpu, const struct rf_tensor *w, int64_t first, int64_t n,
                                float *scratch)
{
    struct rf_tensor rows = rf_tensor_slice(w, first, n);
    if (rows.dtype == RF_F32)
        return rows.data;
    cpu->kernels->to_f32(scratch, rows.data, rows.dtype, rf_tensor_elements(&rows));
    return scratch;
}

/* Item: a block of tile_rows rows. branch = x down^T for each LoRA. */
static void branch_down(void *ctx, int64_t item, int worker)
{
    struct linear_job *j = ctx;
    int64_t first = item * j->tile_rows, n = at_most(j->rows - first, j->tile_rows), at = 0;
    float *scratch = rf_cpu_scratch(j->cpu, worker);
    int64_t step = (int64_t)(RF_CPU_SCRATCH_BYTES / sizeof(float)) / j->in;
    for (int i = 0; i < j->w->n_loras; i++) {
        const struct rf_tensor *down = &j->w->lora[i].down;
        for (int64_t r = 0; r < down->shape[0]; r += step) {
            int64_t nr = at_most(down->shape[0] - r, step);
            rf_gemm_nt(n, nr, j->in, j->x + first * j->in, j->in, weight_rows(j->cpu, down, r, nr, scratch), j->in,
                       false, j->branch + first * j->ranks + at + r, j->ranks);
        }
        float *block = j->branch + first * j->ranks + at;
        for (int64_t row = 0; row < n; row++)
            j->cpu->kernels->scale(block + row * j->ranks, j->w->lora[i].scale, down->shape[0]);
        at += down->shape[0];
    }
}

/* Adds the branches' second product to the tile. `weights` is scratch for tile_out rows of in elements at least. */
static void branch_up(const struct linear_job *j, int64_t row, int64_t n_rows, int64_t o, int64_t n_out, float *weights,
                      float *tile, int64_t ld)
{
    int64_t at = 0;
    for (int i = 0; i < j->w->n_loras; i++) {
        const struct rf_tensor *up = &j->w->lora[i].up;
        int64_t rank = up->shape[1];
        /* A rank may exceed what the scratch was cut for: then fewer outputs at a time. */
        int64_t step = (int64_t)(RF_CPU_SCRATCH_BYTES / sizeof(float) / 2) / rank;
        for (int64_t c = 0; c < n_out; c += step) {
            int64_t nc = at_most(n_out - c, step);
            rf_gemm_nt(n_rows, nc, rank, j->branch + row * j->ranks + at, j->ranks,
                       weight_rows(j->cpu, up, o + c, nc, weights), rank, true, tile + c, ld);
        }
        at += rank;
    }
}

static void scale_columns(const struct linear_job *j, float *tile, int64_t ld, int64_t n_rows, int64_t o, int64_t n_out)
{
    const struct rf_tensor *scale = &j->w->scale;
    if (scale->data == NULL)
        return;
    const float *s = scale->data;
    bool one = rf_tensor_elements(scale) == 1;
    for (int64_t r = 0; r < n_rows; r++) {
        if (one)
            j->cpu->kernels->scale(tile + r * ld, s[0], n_out);
        else
            for (int64_t c = 0; c < n_out; c++)
                tile[r * ld + c] *= s[o + c];
    }
}

/* Item: one tile of rows x outputs. */
static void tile_product(void *ctx, int64_t item, int worker)
{
    struct linear_job *j = ctx;
    int64_t row = item / j->n_out_tiles * j->tile_rows, o = item % j->n_out_tiles * j->tile_out;
    int64_t n_rows = at_most(j->rows - row, j->tile_rows), n_out = at_most(j->out - o, j->tile_out);
    /* First half of the scratch: widened weights. Second half: the tile, when y must be added to. */
    float *weights = rf_cpu_scratch(j->cpu, worker);
    float *y = j->y + row * j->out + o;
    float *tile = j->opts->add ? weights + RF_CPU_SCRATCH_BYTES / sizeof(float) / 2 : y;
    int64_t ld = j->opts->add ? n_out : j->out;

    rf_gemm_nt(n_rows, n_out, j->in, j->x + row * j->in, j->in, weight_rows(j->cpu, &j->w->w, o, n_out, weights), j->in,
               false, tile, ld);
    scale_columns(j, tile, ld, n_rows, o, n_out);
    branch_up(j, row, n_rows, o, n_out, weights, tile, ld);
    const float *bias = j->w->b.data ? (const float *)j->w->b.data + o : NULL;
    const float *gate = j->opts->gate ? (const float *)j->opts->gate->data + o : NULL;
    for (int64_t r = 0; r < n_rows; r++) {
        if (j->opts->add)
            j->cpu->kernels->add_gated(y + r * j->out, tile + r * ld, bias, gate, n_out);
        else if (bias != NULL || j->opts->act != RF_ACT_NONE)
            j->cpu->kernels->bias_act(y + r * j->out, tile + r * ld, bias, j->opts->act, n_out);
    }
}

enum rf_code rf_cpu_linear(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
                           const struct rf_linear_opts *opts, struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    int64_t out = w->w.shape[0], in = w->w.shape[1], rows = rf_tensor_elements(y) / out;
    int64_t half = (int64_t)(RF_CPU_SCRATCH_BYTES / sizeof(float) / 2);
    if (in > half || in == 0)
        return rf_fail(err, RF_ERR_LIMIT, "a linear layer with %lld inputs; the CPU takes 1 to %lld", (long long)in,
                       (long long)half);
    struct linear_job job = {.cpu = cpu, .w = w, .opts = opts, .in = in, .out = out, .branch = cpu->shared};
    for (int i = 0; i < w->n_loras; i++)
        job.ranks += w->lora[i].down.shape[0];
    int64_t chunk = rows;
    if (job.ranks > 0) {
        if (job.ranks > MAX_RANKS)
            return rf_fail(err, RF_ERR_LIMIT, "LoRA branches with a total rank of %lld; the CPU takes %d",
                           (long long)job.ranks, MAX_RANKS);
        chunk = at_most(rows, (int64_t)(RF_CPU_SHARED_BYTES / sizeof(float)) / job.ranks);
    }
    job.tile_rows = TILE_ROWS;
    job.tile_out = at_most(TILE_OUT, half / in);
    job.n_out_tiles = (out + job.tile_out - 1) / job.tile_out;
    for (int64_t first = 0; first < rows; first += chunk) {
        job.rows = at_most(rows - first, chunk);
        job.x = (const float *)x->data + first * in;
        job.y = (float *)y->data + first * out;
        int64_t n_row_tiles = (job.rows + job.tile_rows - 1) / job.tile_rows;
        if (job.ranks > 0)
            rf_pool_run(cpu->pool, n_row_tiles, branch_down, &job);
        rf_pool_run(cpu->pool, n_row_tiles * job.n_out_tiles, tile_product, &job);
    }
    return RF_OK;
}
