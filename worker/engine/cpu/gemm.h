/* Matrix products of one thread, row-major, float32: OpenBLAS where the build found it, our own loops otherwise.
 *
 * Callers cut their work into tiles and run them on the pool; BLAS's own threads stay off.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CPU_GEMM_H
#define RF_ENGINE_CPU_GEMM_H

#include "schema/err.h"

/* Before the first product; n_threads: how many may be inside products at once.
 *   RF_ERR_NO_MEMORY  no room for what the library keeps per thread */
enum rf_code rf_gemm_init(int n_threads, struct rf_err *err);

/* c [m, n] = a [m, k] b^T with b [n, k], plus c when `add`. ld*: elements from one row to the next. */
void rf_gemm_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, bool add,
                float *c, int64_t ldc);

/* c [m, n] = a [m, k] b with b [k, n], plus c when `add`. */
void rf_gemm_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, bool add,
                float *c, int64_t ldc);

#endif
