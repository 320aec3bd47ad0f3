/* Matrix products of one thread. With OpenBLAS: a call. Without: the usual three loops of packed panels around a
 * register tile (kernels.c), with thread-local panels sized for the second-level cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/gemm.h"

#include "worker/engine/cpu/kernels.h"

#if RF_HAVE_BLAS
#include <cblas.h>
#include <sys/mman.h>

#define BLAS_BUFFER_BYTES ((size_t)128 << 20) /* of address space, per thread inside a product; OpenBLAS 0.3 on x86-64 */

/* OpenBLAS exports them, no header of its declares them. */
void *blas_memory_alloc(int position);
void blas_memory_free(void *buffer);

/* A product that finds no buffer asks for one and, when memory is short, asks again forever: the worker would hang and
 * say that it is well. So all buffers are taken here, after a look whether they are to be had; they are kept for good. */
enum rf_code rf_gemm_init(int n_threads, struct rf_err *err)
{
    openblas_set_num_threads(1); /* the pool cuts the work; BLAS threads inside pool threads would fight over cores */
    size_t bytes = (size_t)n_threads * BLAS_BUFFER_BYTES;
    void *trial = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (trial == MAP_FAILED)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no %zu MiB of address space for OpenBLAS on %d threads", bytes >> 20,
                       n_threads);
    munmap(trial, bytes);
    void **buffers = rf_new_array(void *, (size_t)n_threads);
    for (int i = 0; i < n_threads; i++)
        buffers[i] = blas_memory_alloc(0);
    for (int i = 0; i < n_threads; i++)
        blas_memory_free(buffers[i]);
    free(buffers);
    return RF_OK;
}

static void gemm(bool transposed, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, bool add, float *c, int64_t ldc)
{
    if (m == 0 || n == 0)
        return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k,
                1.0f, a, (blasint)lda, b, (blasint)ldb, add ? 1.0f : 0.0f, c, (blasint)ldc);
}

#else

#define PANEL_M 96  /* a multiple of every gemm_mr (4, 6, 12) */
#define PANEL_N 512 /* of every gemm_nr (8, 16, 32) */
#define PANEL_K 256

static _Thread_local float panel_a[PANEL_M * PANEL_K] __attribute__((aligned(64)));
static _Thread_local float panel_b[PANEL_N * PANEL_K] __attribute__((aligned(64)));

enum rf_code rf_gemm_init(int n_threads, struct rf_err *err)
{
    return RF_OK;
}

/* Columns [0, k) of `rows` rows, in strips of `strip` rows: out[strip index][p][row in strip], zeros beyond. */
static void pack_rows(float *out, const float *x, int64_t ld, int64_t rows, int64_t k, int strip)
{
    for (int64_t first = 0; first < rows; first += strip, out += strip * k)
        for (int r = 0; r < strip; r++) {
            const float *row = x + (first + r) * ld;
            bool inside = first + r < rows;
            for (int64_t p = 0; p < k; p++)
                out[p * strip + r] = inside ? row[p] : 0.0f;
        }
}

/* Rows [0, k) of `cols` columns, in strips of `strip` columns. */
static void pack_cols(float *out, const float *x, int64_t ld, int64_t cols, int64_t k, int strip)
{
    for (int64_t first = 0; first < cols; first += strip)
        for (int64_t p = 0; p < k; p++)
            for (int c = 0; c < strip; c++)
                *out++ = first + c < cols ? x[p * ld + first + c] : 0.0f;
}

static int64_t at_most(int64_t x, int64_t limit)
{
    return x < limit ? x : limit;
}

static void gemm(bool transposed, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, bool add, float *c, int64_t ldc)
{
    const struct rf_kernels *kernels = rf_kernels_best();
    int mr = kernels->gemm_mr, nr = kernels->gemm_nr;
    for (int64_t j0 = 0; j0 < n; j0 += PANEL_N) {
        int64_t nb = at_most(n - j0, PANEL_N);
        for (int64_t p0 = 0; p0 < k || p0 == 0; p0 += PANEL_K) {
            int64_t kb = at_most(k - p0, PANEL_K);
            if (transposed)
                pack_rows(panel_b, b + j0 * ldb + p0, ldb, nb, kb, nr);
            else
                pack_cols(panel_b, b + p0 * ldb + j0, ldb, nb, kb, nr);
            for (int64_t i0 = 0; i0 < m; i0 += PANEL_M) {
                int64_t mb = at_most(m - i0, PANEL_M);
                pack_rows(panel_a, a + i0 * lda + p0, lda, mb, kb, mr);
                for (int64_t j = 0; j < nb; j += nr)
                    for (int64_t i = 0; i < mb; i += mr)
                        kernels->gemm_tile(kb, panel_a + i * kb, panel_b + j * kb, add || p0 > 0,
                                           c + (i0 + i) * ldc + j0 + j, ldc, (int)at_most(mb - i, mr),
                                           (int)at_most(nb - j, nr));
            }
        }
    }
}

#endif

void rf_gemm_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, bool add,
                float *c, int64_t ldc)
{
    gemm(true, m, n, k, a, lda, b, ldb, add, c, ldc);
}

void rf_gemm_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, bool add,
                float *c, int64_t ldc)
{
    gemm(false, m, n, k, a, lda, b, ldb, add, c, ldc);
}
