/* y = act(x w^T * scale + b), its gated sum, LoRA branches: the library's product and our epilogue.
 *
 * The product's type is that of x: F32 rows are multiplied in F32 (never TF32), bf16 rows in bf16, or as fp8 with one
 * scale per row when weights and device are fp8. F32 rows by bf16 or fp8 weights in a bf16 engine are two products on tensor
 * cores: x as the sum of two bf16, which leaves 2^-17 of it. Weights of another type are converted, unscaled, into scratch; scales
 * go into the epilogue, so E4M3 weights lose nothing on the way. Rows are taken in chunks that fit the scratch.
 * Few rows, sizes that are not multiples of 16 and misaligned tensors go to our own product, which reads any type.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

#define FEW_ROWS 8      /* up to here reading the weights is all the work, and converting them first would double it */
#define CHUNK_ROWS 256  /* a chunk is a multiple of it, for whole tiles */

struct linear_job {
    struct rf_cuda *c;
    const struct rf_linear *w;
    const struct rf_linear_opts *opts;
    int64_t rows, in, out, max_rank;
    struct rf_tensor x, y;
    bool library, fp8, split, d_is_y;
    int d_type;
    enum rf_dtype product_type; /* of weights that are not fp8 */
    /* In scratch: */
    struct rf_tensor weights;             /* w.w, converted when it had to be */
    struct rf_lora_weight lora[RF_MAX_LORAS];
    void *d, *branch, *inner, *quantised; /* [chunk, out], [chunk, out], [chunk, rank], [chunk, in] */
    void *high, *low;                     /* [chunk, in] bf16: x = high + low */
    float *row_scale;
    float *col_scale;                     /* [out], with the gate in it: the library's fp8 product does the whole layer */
    void *folded_bias;                    /* [out] bf16, likewise */
    int64_t chunk;
};

static bool is_f8(int type)
{
    return type == RF_F8_E4M3 || type == RF_F8_E5M2;
}

/* One product of rows. RF_ERR_NOT_FOUND never leaves here: our own product takes what the library does not. */
static enum rf_code product(struct linear_job *j, void *d, int d_type, const void *x, int x_type, int64_t rows,
                            int64_t in, int64_t out, const struct rf_tensor *w, float alpha, bool accumulate,
                            struct rf_err *err)
{
    struct rf_cuda *c = j->c;
    bool same = (int)w->dtype == x_type || (x_type == RF_KT_E4M3 && is_f8((int)w->dtype));
    bool sizes = in % 16 == 0 && out % 16 == 0 && rf_cuda_aligned(x) && rf_cuda_aligned(w->data) && rf_cuda_aligned(d);
    if (j->library && same && sizes) {
        struct rf_lt_args g = {.d = d, .a = w->data, .b = x, .a_type = (int)w->dtype, .b_type = x_type,
                               .d_type = d_type, .transpose_a = true, .m = out, .n = rows, .k = in, .lda = in,
                               .ldb = in, .ldd = out, .alpha = alpha, .beta = accumulate ? 1.0f : 0.0f};
        enum rf_code rc = rf_cuda_matmul(c, &g, err);
        if (rc != RF_ERR_NOT_FOUND)
            return rc;
    }
    if (x_type == RF_KT_E4M3)
        return rf_fail(err, RF_ERR_DEVICE, "cuda:%d %.60s: no fp8 product %lld x %lld x %lld; use precision bf16",
                       c->index, c->name, (long long)rows, (long long)in, (long long)out);
    return rf_cuda_check(c, rf_launch_linear_plain(c->stream, d, d_type, x, x_type, in, w->data, (int)w->dtype, alpha,
                                                   accumulate, rows, in, out), "linear", err);
}

/* `t` as the type that is multiplied, in scratch when it has another and the library is to multiply it. A weight that does not
 * fit the scratch stays as it is: our own product reads any type. */
static enum rf_code convert_weights(struct linear_job *j, struct rf_cuda_taker *scratch, const struct rf_tensor *t,
                                    struct rf_tensor *ret, struct rf_err *err)
{
    *ret = *t;
    if (!j->library || t->dtype == j->product_type)
        return RF_OK;
    struct rf_tensor converted = *t;
    converted.dtype = j->product_type;
    converted.data = rf_cuda_take(scratch, rf_tensor_bytes(&converted));
    if (converted.data == NULL)
        return RF_OK;
    *ret = converted;
    return rf_cuda_check(j->c, rf_launch_convert(j->c->stream, converted.data, (int)converted.dtype, t->data,
                                                 (int)t->dtype, rf_tensor_elements(t)), "convert weights", err);
}

/* Cuts the rest of the scratch into what each row needs. */
static enum rf_code divide_scratch(struct linear_job *j, struct rf_cuda_taker *scratch, struct rf_err *err)
{
    size_t d_size = rf_dtype_size((enum rf_dtype)j->d_type), x_size = rf_dtype_size(j->x.dtype);
    size_t per_row = 0;
    if (!j->d_is_y)
        per_row += (size_t)j->out * d_size;
    if (j->w->n_loras > 0)
        per_row += (size_t)j->out * d_size + (size_t)j->max_rank * x_size;
    if (j->fp8)
        per_row += (size_t)j->in + sizeof(float);
    if (j->split)
        per_row += (size_t)j->in * 4;
    j->chunk = j->rows;
    if (per_row == 0)
        return RF_OK;
    size_t left = rf_cuda_left(scratch), slack = 5 * 256;
    int64_t fits = left > slack ? (int64_t)((left - slack) / per_row) : 0;
    if (fits < j->rows)
        j->chunk = fits >= CHUNK_ROWS ? fits / CHUNK_ROWS * CHUNK_ROWS : fits;
    if (j->chunk < 1)
        return rf_fail(err, RF_ERR_LIMIT, "a linear layer %lld to %lld does not fit the device's scratch",
                       (long long)j->in, (long long)j->out);
    size_t n = (size_t)j->chunk;
    if (!j->d_is_y)
        j->d = rf_cuda_take(scratch, n * (size_t)j->out * d_size);
    if (j->w->n_loras > 0) {
        j->branch = rf_cuda_take(scratch, n * (size_t)j->out * d_size);
        j->inner = rf_cuda_take(scratch, n * (size_t)j->max_rank * x_size);
    }
    if (j->fp8) {
        j->quantised = rf_cuda_take(scratch, n * (size_t)j->in);
        j->row_scale = rf_cuda_take(scratch, n * sizeof(float));
    }
    if (j->split) {
        j->high = rf_cuda_take(scratch, n * (size_t)j->in * 2);
        j->low = rf_cuda_take(scratch, n * (size_t)j->in * 2);
    }
    return RF_OK;
}

static enum rf_code add_branches(struct linear_job *j, const void *x, int64_t n, struct rf_err *err)
{
    enum rf_code rc = RF_OK;
    for (int i = 0; i < j->w->n_loras && rc == RF_OK; i++) {
        int64_t rank = j->lora[i].down.shape[0];
        rc = product(j, j->inner, (int)j->x.dtype, x, (int)j->x.dtype, n, j->in, rank, &j->lora[i].down, 1, false, err);
        if (rc == RF_OK)
            rc = product(j, j->branch, j->d_type, j->inner, (int)j->x.dtype, n, rank, j->out, &j->lora[i].up,
                         j->w->lora[i].scale, i > 0, err);
    }
    return rc;
}

/* Hopper's fp8 product scales rows and columns itself. The gate goes into the columns' scale, whatever its sign, so that
 * not even a gated sum needs an epilogue of ours: y += (x w^T) * rows * columns + bias. */
static enum rf_code fold_epilogue(struct linear_job *j, struct rf_cuda_taker *scratch, struct rf_err *err)
{
    struct rf_cuda *c = j->c;
    if (!j->fp8 || c->cc != 90 || c->paths.no_fused || j->w->n_loras > 0 || j->opts->act == RF_ACT_SILU ||
        !rf_cuda_aligned(j->y.data))
        return RF_OK;
    float *scale = rf_cuda_take(scratch, (size_t)j->out * sizeof *scale);
    j->folded_bias = rf_cuda_take(scratch, (size_t)j->out * 2);
    if (scale == NULL || j->folded_bias == NULL)
        return RF_OK;
    j->col_scale = scale;
    return rf_cuda_check(c, rf_launch_fold(c->stream, scale, j->folded_bias, j->w->scale.data,
                                           j->w->scale.data && rf_tensor_elements(&j->w->scale) == 1, j->w->b.data,
                                           j->opts->gate ? j->opts->gate->data : NULL, j->out), "fold", err);
}

/* RF_ERR_NOT_FOUND: the library does not do it; the epilogue of our own does. */
static enum rf_code run_folded(struct linear_job *j, void *y, int64_t n, struct rf_err *err)
{
    if (j->col_scale == NULL)
        return RF_ERR_NOT_FOUND;
    struct rf_lt_args g = {.d = y, .a = j->weights.data, .b = j->quantised, .a_type = (int)j->weights.dtype,
                           .b_type = RF_KT_E4M3, .d_type = (int)j->y.dtype, .transpose_a = true, .m = j->out, .n = n,
                           .k = j->in, .lda = j->in, .ldb = j->in, .ldd = j->out, .alpha = 1,
                           .beta = j->opts->add ? 1.0f : 0.0f, .a_scale = j->col_scale, .b_scale = j->row_scale,
                           .bias = j->folded_bias, .gelu = j->opts->act == RF_ACT_GELU_TANH};
    return rf_cuda_matmul(j->c, &g, err);
}

static enum rf_code run_chunk(struct linear_job *j, int64_t first, int64_t n, struct rf_err *err)
{
    struct rf_cuda *c = j->c;
    const char *x = (const char *)j->x.data + (size_t)(first * j->in) * rf_dtype_size(j->x.dtype);
    char *y = (char *)j->y.data + (size_t)(first * j->out) * rf_dtype_size(j->y.dtype);
    void *d = j->d_is_y ? y : j->d;
    enum rf_code rc;
    if (j->fp8) {
        rc = rf_cuda_check(c, rf_launch_quantise_rows(c->stream, j->quantised, j->row_scale, x, (int)j->x.dtype, n,
                                                      j->in), "quantise", err);
        if (rc == RF_OK) {
            rc = run_folded(j, y, n, err);
            if (rc != RF_ERR_NOT_FOUND)
                return rc;
            rc = RF_OK;
        }
        if (rc == RF_OK)
            rc = product(j, d, j->d_type, j->quantised, RF_KT_E4M3, n, j->in, j->out, &j->weights, 1, false, err);
    } else if (j->split) {
        rc = rf_cuda_check(c, rf_launch_split(c->stream, j->high, j->low, (const float *)x, n * j->in), "split", err);
        if (rc == RF_OK)
            rc = product(j, d, RF_KT_F32, j->high, RF_KT_BF16, n, j->in, j->out, &j->weights, 1, false, err);
        if (rc == RF_OK)
            rc = product(j, d, RF_KT_F32, j->low, RF_KT_BF16, n, j->in, j->out, &j->weights, 1, true, err);
    } else {
        rc = product(j, d, j->d_type, x, (int)j->x.dtype, n, j->in, j->out, &j->weights, 1, false, err);
    }
    if (rc == RF_OK)
        rc = add_branches(j, x, n, err);
    if (rc != RF_OK)
        return rc;
    struct rf_epilogue e = {
        .y = y, .y_type = (int)j->y.dtype, .d = d, .d_type = j->d_type, .row_scale = j->row_scale,
        .col_scale = j->w->scale.data, .branch = j->branch, .bias = j->w->b.data,
        .gate = j->opts->gate ? j->opts->gate->data : NULL, .act = (int)j->opts->act, .add = j->opts->add, .rows = n,
        .out = j->out,
    };
    e.col_scale_is_one = e.col_scale != NULL && rf_tensor_elements(&j->w->scale) == 1;
    bool nothing = j->d_is_y && !e.row_scale && !e.col_scale && !e.branch && !e.bias && e.act == RF_KA_NONE;
    return nothing ? RF_OK : rf_cuda_check(c, rf_launch_epilogue(c->stream, &e), "epilogue", err);
}

/* The whole layer as one call of the library, where its epilogue can do what is asked. RF_ERR_NOT_FOUND: it cannot. */
static enum rf_code run_fused(struct linear_job *j, struct rf_cuda_taker scratch, struct rf_err *err)
{
    struct rf_cuda *c = j->c;
    const struct rf_tensor *scale = &j->w->scale, *b = &j->w->b;
    bool sizes = j->in % 16 == 0 && j->out % 16 == 0 && rf_cuda_aligned(j->x.data) && rf_cuda_aligned(j->y.data) &&
                 rf_cuda_aligned(j->weights.data);
    if (c->paths.no_fused || !j->library || !sizes || j->fp8 || j->w->n_loras > 0 || j->x.dtype != RF_BF16 ||
        j->weights.dtype != RF_BF16 || j->opts->gate != NULL || j->opts->act == RF_ACT_SILU)
        return RF_ERR_NOT_FOUND;
    if (scale->data != NULL && (rf_tensor_elements(scale) != 1 || j->opts->add))
        return RF_ERR_NOT_FOUND;
    struct rf_lt_args g = {.d = j->y.data, .a = j->weights.data, .b = j->x.data, .a_type = RF_KT_BF16,
                           .b_type = RF_KT_BF16, .d_type = (int)j->y.dtype, .transpose_a = true, .m = j->out,
                           .n = j->rows, .k = j->in, .lda = j->in, .ldb = j->in, .ldd = j->out, .alpha = 1,
                           .beta = j->opts->add ? 1.0f : 0.0f, .alpha_on_device = scale->data,
                           .gelu = j->opts->act == RF_ACT_GELU_TANH, .bias = b->data};
    if (b->data != NULL && j->y.dtype != RF_F32) { /* the library wants the bias in the result's type */
        void *narrow = rf_cuda_take(&scratch, (size_t)j->out * rf_dtype_size(j->y.dtype));
        if (narrow == NULL)
            return RF_ERR_NOT_FOUND;
        enum rf_code rc = rf_cuda_check(c, rf_launch_convert(c->stream, narrow, (int)j->y.dtype, b->data, RF_KT_F32,
                                                             j->out), "bias", err);
        if (rc != RF_OK)
            return rc;
        g.bias = narrow;
    }
    return rf_cuda_matmul(c, &g, err);
}

enum rf_code rf_cuda_linear(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
                            const struct rf_linear_opts *opts, struct rf_err *err)
{
    struct rf_cuda *c = self;
    struct linear_job j = {.c = c, .w = w, .opts = opts, .x = *x, .y = *y, .in = w->w.shape[1], .out = w->w.shape[0]};
    j.rows = rf_tensor_elements(y) / j.out;
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "linear", err);
    for (int i = 0; i < w->n_loras; i++)
        j.max_rank = w->lora[i].down.shape[0] > j.max_rank ? w->lora[i].down.shape[0] : j.max_rank;
    j.library = !c->paths.plain && j.rows > FEW_ROWS && j.in % 16 == 0 && j.out % 16 == 0;
    j.fp8 = c->fp8 && !opts->wide && j.library && x->dtype == RF_BF16 && is_f8((int)w->w.dtype) && rf_cuda_aligned(x->data) &&
            rf_cuda_aligned(w->w.data);
    j.split = c->act == RF_BF16 && j.library && x->dtype == RF_F32 && (w->w.dtype == RF_BF16 || is_f8((int)w->w.dtype)) &&
              w->n_loras == 0 && rf_cuda_aligned(x->data);
    j.product_type = j.split ? RF_BF16 : x->dtype;
    /* The product of a sum is as wide as the rows; F32 rows are never narrowed to one bf16. */
    j.d_type = opts->add ? (int)x->dtype : (x->dtype == RF_F32 ? RF_KT_F32 : (int)y->dtype);
    j.d_is_y = !opts->add && j.d_type == (int)y->dtype;

    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    j.weights = w->w;
    if (rc == RF_OK && !j.fp8)
        rc = convert_weights(&j, &scratch, &w->w, &j.weights, err);
    if (rc == RF_OK) {
        rc = run_fused(&j, scratch, err);
        if (rc != RF_ERR_NOT_FOUND)
            return rc;
        rc = RF_OK;
    }
    for (int i = 0; i < w->n_loras && rc == RF_OK; i++) {
        rc = convert_weights(&j, &scratch, &w->lora[i].down, &j.lora[i].down, err);
        if (rc == RF_OK)
            rc = convert_weights(&j, &scratch, &w->lora[i].up, &j.lora[i].up, err);
    }
    if (rc == RF_OK)
        rc = fold_epilogue(&j, &scratch, err);
    if (rc == RF_OK)
        rc = divide_scratch(&j, &scratch, err);
    for (int64_t first = 0; first < j.rows && rc == RF_OK; first += j.chunk)
        rc = run_chunk(&j, first, j.rows - first < j.chunk ? j.rows - first : j.chunk, err);
    return rc;
}
