/* Matrix products by cuBLASLt. Asking it which kernel to take costs tens of microseconds: answers are kept per shape.
 *
 * Everything here is column-major, as the library has it: a row-major y [rows, out] = x w^T is d [m = out, n = rows] =
 * a^T b with a = w seen as [k, m] and b = x seen as [k, n]. fp8 products exist in this form only.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

#include <string.h>

static cudaDataType_t lt_type(int type)
{
    switch (type) {
    case RF_KT_F16:
        return CUDA_R_16F;
    case RF_KT_BF16:
        return CUDA_R_16BF;
    case RF_KT_E4M3:
        return CUDA_R_8F_E4M3;
    case RF_KT_E5M2:
        return CUDA_R_8F_E5M2;
    default:
        return CUDA_R_32F;
    }
}

static int32_t alignment(const void *p)
{
    int32_t n = 256;
    while ((uintptr_t)p % (uintptr_t)n != 0)
        n /= 2;
    return n;
}

/* The descriptors of one product; freed with free_plan() whatever was made. */
struct plan {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
};

static void free_plan(struct plan *p)
{
    if (p->preference != NULL)
        cublasLtMatmulPreferenceDestroy(p->preference);
    if (p->d != NULL)
        cublasLtMatrixLayoutDestroy(p->d);
    if (p->b != NULL)
        cublasLtMatrixLayoutDestroy(p->b);
    if (p->a != NULL)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->op != NULL)
        cublasLtMatmulDescDestroy(p->op);
}

static cublasStatus_t make_layout(cublasLtMatrixLayout_t *ret, int type, int64_t rows, int64_t cols, int64_t ld,
                                  int64_t batch, int64_t stride)
{
    cublasStatus_t st = cublasLtMatrixLayoutCreate(ret, lt_type(type), (uint64_t)rows, (uint64_t)cols, ld);
    if (st == CUBLAS_STATUS_SUCCESS && batch > 1) {
        int32_t count = (int32_t)batch;
        st = cublasLtMatrixLayoutSetAttribute(*ret, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
        if (st == CUBLAS_STATUS_SUCCESS)
            st = cublasLtMatrixLayoutSetAttribute(*ret, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                                  sizeof stride);
    }
    return st;
}

#define SET(plan, attribute, value) \
    do { \
        if (st == CUBLAS_STATUS_SUCCESS) \
            st = cublasLtMatmulDescSetAttribute((plan)->op, (attribute), &(value), sizeof(value)); \
    } while (0)

static cublasStatus_t make_plan(const struct rf_cuda *c, const struct rf_lt_args *g, struct plan *p)
{
    /* CUBLAS_COMPUTE_32F with F32 inputs multiplies in F32: TF32 must be asked for, and is not. */
    cublasStatus_t st = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasOperation_t op_a = g->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    SET(p, CUBLASLT_MATMUL_DESC_TRANSA, op_a);
    if (g->alpha_on_device != NULL) {
        cublasLtPointerMode_t mode = CUBLASLT_POINTER_MODE_DEVICE;
        SET(p, CUBLASLT_MATMUL_DESC_POINTER_MODE, mode);
    }
    if (g->bias != NULL || g->gelu) {
        cublasLtEpilogue_t epilogue = g->bias != NULL ? (g->gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
                                                      : CUBLASLT_EPILOGUE_GELU;
        SET(p, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    }
    if (g->bias != NULL)
        SET(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g->bias);
    if (g->bias != NULL && g->a_type >= RF_KT_E4M3) {
        cudaDataType_t type = CUDA_R_16BF;
        SET(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
    }
    if (g->a_scale != NULL) {
        cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        SET(p, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
        SET(p, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
        SET(p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, g->a_scale);
        SET(p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, g->b_scale);
    }
    if (g->a_type >= RF_KT_E4M3 && !c->paths.full_accum) { /* 14 bits: 4.66e-2 becomes 4.67e-2 */
        int8_t fast = 1;
        SET(p, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    }
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layout(&p->a, g->a_type, g->transpose_a ? g->k : g->m, g->transpose_a ? g->m : g->k, g->lda, g->batch,
                         g->stride_a);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layout(&p->b, g->b_type, g->k, g->n, g->ldb, g->batch, g->stride_b);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layout(&p->d, g->d_type, g->m, g->n, g->ldd, g->batch, g->stride_d);
    return st;
}

static cublasStatus_t choose(const struct rf_cuda *c, const struct rf_lt_key *key, struct plan *p,
                           struct rf_lt_algo *ret)
{
    size_t workspace = RF_CUDA_WORKSPACE_BYTES;
    uint32_t aligns[] = {(uint32_t)key->align_a, (uint32_t)key->align_b, (uint32_t)key->align_d};
    cublasLtMatmulHeuristicResult_t result;
    int n = 0;
    cublasStatus_t st = cublasLtMatmulPreferenceCreate(&p->preference);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulPreferenceSetAttribute(p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                  sizeof workspace);
    /* The library assumes 256 bytes unless told. */
    static const cublasLtMatmulPreferenceAttributes_t names[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 3 && st == CUBLAS_STATUS_SUCCESS; i++)
        st = cublasLtMatmulPreferenceSetAttribute(p->preference, names[i], &aligns[i], sizeof aligns[i]);
    if (st == CUBLAS_STATUS_SUCCESS) /* C is D */
        st = cublasLtMatmulPreferenceSetAttribute(p->preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &aligns[2],
                                                  sizeof aligns[2]);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulAlgoGetHeuristic(c->lt, p->op, p->a, p->b, p->d, p->d, p->preference, 1, &result, &n);
    *ret = (struct rf_lt_algo){.key = *key};
    if (st == CUBLAS_STATUS_SUCCESS && n == 1 && result.state == CUBLAS_STATUS_SUCCESS) {
        ret->usable = true;
        ret->algo = result.algo;
    }
    return st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_INVALID_VALUE ? CUBLAS_STATUS_SUCCESS : st;
}

/* The kept answer for this key, or the place for a new one (usable false and key.m 0). */
static struct rf_lt_algo *find(struct rf_cuda *c, const struct rf_lt_key *key, bool *ret_known)
{
    for (int i = 0; i < c->n_algos; i++)
        if (memcmp(&c->algos[i].key, key, sizeof *key) == 0) {
            *ret_known = true;
            return &c->algos[i];
        }
    *ret_known = false;
    if (c->n_algos < RF_CUDA_ALGOS)
        return &c->algos[c->n_algos++];
    c->next_algo = (c->next_algo + 1) % RF_CUDA_ALGOS; /* the oldest goes */
    return &c->algos[c->next_algo];
}

enum rf_code rf_cuda_matmul(struct rf_cuda *c, const struct rf_lt_args *g, struct rf_err *err)
{
    struct rf_lt_key key;
    memset(&key, 0, sizeof key); /* compared as bytes */
    key.m = g->m, key.n = g->n, key.k = g->k, key.lda = g->lda, key.ldb = g->ldb, key.ldd = g->ldd;
    key.batch = g->batch, key.stride_a = g->stride_a, key.stride_b = g->stride_b, key.stride_d = g->stride_d;
    key.a_type = g->a_type, key.b_type = g->b_type, key.d_type = g->d_type;
    key.flags = g->transpose_a | (g->bias != NULL) << 1 | g->gelu << 2 | (g->alpha_on_device != NULL) << 3 |
                (g->beta != 0) << 4 | (g->a_scale != NULL) << 5;
    key.align_a = alignment(g->a), key.align_b = alignment(g->b), key.align_d = alignment(g->d);

    struct plan plan = {0};
    cublasStatus_t st = make_plan(c, g, &plan);
    bool known = false;
    struct rf_lt_algo *algo = NULL;
    if (st == CUBLAS_STATUS_SUCCESS) {
        algo = find(c, &key, &known);
        if (!known)
            st = choose(c, &key, &plan, algo);
    }
    enum rf_code rc = RF_OK;
    if (st == CUBLAS_STATUS_SUCCESS && !algo->usable) {
        rc = RF_ERR_NOT_FOUND;
    } else if (st == CUBLAS_STATUS_SUCCESS) {
        const void *alpha = g->alpha_on_device ? (const void *)g->alpha_on_device : &g->alpha;
        const void *beta = g->alpha_on_device ? (const void *)c->constants : &g->beta;
        st = cublasLtMatmul(c->lt, plan.op, alpha, g->a, plan.a, g->b, plan.b, beta, g->d, plan.d, g->d, plan.d,
                            &algo->algo, c->workspace, RF_CUDA_WORKSPACE_BYTES, c->stream);
    }
    free_plan(&plan);
    if (g->a_scale != NULL && (st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_INVALID_VALUE)) {
        if (algo != NULL) /* a library that knows the words but not this combination: not asked again */
            algo->usable = false;
        return RF_ERR_NOT_FOUND;
    }
    if (st != CUBLAS_STATUS_SUCCESS)
        rc = rf_fail(err, st == CUBLAS_STATUS_ALLOC_FAILED ? RF_ERR_NO_MEMORY : RF_ERR_DEVICE,
                     "cuda:%d %.60s: product %lld x %lld x %lld: %s", c->index, c->name, (long long)g->m,
                     (long long)g->n, (long long)g->k, cublasLtGetStatusString(st));
    return rc;
}
