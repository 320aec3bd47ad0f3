/* Private to the C side of the CUDA backend: the device, its scratch, how a failure gets the device's name.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CUDA_PRIVATE_H
#define RF_ENGINE_CUDA_PRIVATE_H

#include "worker/engine/backend.h"
#include "worker/engine/cuda/kernels.h"

#include <cublasLt.h>

#define RF_CUDA_STAGES 4                          /* pinned pieces that an upload fills in turn */
#define RF_CUDA_STAGE_BYTES ((size_t)8 << 20)
#define RF_CUDA_WORKSPACE_BYTES ((size_t)32 << 20) /* the library's own, as much as its makers advise for Hopper */
#define RF_CUDA_ALGOS 128

/* Which paths may be taken. FRAMEFARM_CUDA holds words that change the default, for tests and comparisons:
 *   plain       kernels that follow the definition and nothing else
 *   no-hopper   the generic tensor-core attention and convolution on Hopper too
 *   no-flash    attention through two library products and a softmax
 *   no-fused    bias and activation in a kernel of their own, not in the library's epilogue
 *   full-accum  fp8 products accumulate in F32, 6 % slower; else in the 14 bits of Hopper's tensor cores */
struct rf_cuda_paths {
    bool plain, no_hopper, no_flash, no_fused, full_accum;
};

/* One library product, column-major as the library thinks: d [m, n] = alpha * op(a) b + beta * d, per batch.
 * a is [k, m] when transposed (rows of weights), else [m, k]; b is [k, n]. */
struct rf_lt_args {
    void *d;
    const void *a, *b;
    int a_type, b_type, d_type; /* enum rf_kt */
    bool transpose_a;
    int64_t m, n, k, lda, ldb, ldd;
    int64_t batch, stride_a, stride_b, stride_d; /* batch 0 means 1 */
    float alpha, beta;
    const float *alpha_on_device; /* used instead of alpha when not NULL; beta must then be 0 */
    const float *a_scale, *b_scale; /* [m] and [n], both or neither; fp8 products on Hopper only */
    const void *bias;             /* [m] of d's type (bf16 in fp8 products), or NULL; with gelu: after the bias */
    bool gelu;
};

struct rf_lt_key {
    int64_t m, n, k, lda, ldb, ldd, batch, stride_a, stride_b, stride_d;
    int32_t a_type, b_type, d_type, flags, align_a, align_b, align_d, pad;
};

struct rf_lt_algo {
    struct rf_lt_key key;
    bool usable; /* false: the library has nothing for this product */
    cublasLtMatmulAlgo_t algo;
};

struct rf_cuda {
    int index, cc; /* cc: 90 for 9.0 */
    char name[96], pci_address[32];
    enum rf_dtype act;
    bool fp8; /* fp8 weights are multiplied as fp8 */
    struct rf_cuda_paths paths;
    cudaStream_t stream;
    cudaStream_t copies;                            /* streamed weights, beside the compute */
    cudaEvent_t filled[RF_COPY_SLOTS], released[RF_COPY_SLOTS];
    cublasLtHandle_t lt;
    void *workspace;
    float *constants; /* on the device: 0, 1 */
    char *scratch;
    size_t scratch_bytes;
    char *stage[RF_CUDA_STAGES];
    cudaEvent_t staged[RF_CUDA_STAGES];
    int next_stage;
    struct rf_lt_algo algos[RF_CUDA_ALGOS];
    int n_algos, next_algo;
};

/* RF_OK, or the failure with the device's name and what was being done. */
enum rf_code rf_cuda_check(const struct rf_cuda *c, cudaError_t status, const char *doing, struct rf_err *err);

/* Scratch of one op, handed out from the front; NULL when it does not fit. */
struct rf_cuda_taker {
    char *at, *end;
};
struct rf_cuda_taker rf_cuda_scratch(struct rf_cuda *c);
void *rf_cuda_take(struct rf_cuda_taker *t, size_t bytes);
size_t rf_cuda_left(const struct rf_cuda_taker *t);

bool rf_cuda_aligned(const void *p); /* to 16 bytes */

/* Runs the product. RF_ERR_NOT_FOUND, without a message: the library has no way to do it; take another path. */
enum rf_code rf_cuda_matmul(struct rf_cuda *c, const struct rf_lt_args *args, struct rf_err *err);

/* The ops with a file of their own; the others are static in ops_cuda.c, which owns the table. */
enum rf_code rf_cuda_linear(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
                            const struct rf_linear_opts *opts, struct rf_err *err);
enum rf_code rf_cuda_attention(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                               const struct rf_tensor *k, const struct rf_tensor *v,
                               const struct rf_attention_opts *opts, struct rf_err *err);
enum rf_code rf_cuda_attention8(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                                const struct rf_tensor *k, const struct rf_tensor *v,
                                const struct rf_attention_opts *opts, struct rf_err *err);

enum rf_code rf_cuda_conv(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                          const struct rf_conv_opts *opts, struct rf_err *err);

/* device_cuda.c */
int rf_cuda_count(void);
enum rf_code rf_cuda_open(const struct rf_engine_config *config, int index, void **ret_self, const char **ret_name,
                          enum rf_dtype *ret_act_dtype, struct rf_err *err);
void rf_cuda_close(void *self);
enum rf_code rf_cuda_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err);
void rf_cuda_release(void *self, void *data);
enum rf_code rf_cuda_upload(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err);
enum rf_code rf_cuda_download(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err);
enum rf_code rf_cuda_sync(void *self, struct rf_err *err);
const char *rf_cuda_pci_address(void *self);
void rf_cuda_memory(void *self, int64_t *ret_fixed, int64_t *ret_free);

/* slots_cuda.c */
enum rf_code rf_cuda_slots_open(struct rf_cuda *c, struct rf_err *err);
void rf_cuda_slots_close(struct rf_cuda *c);
enum rf_code rf_cuda_host_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err);
void rf_cuda_host_release(void *self, void *data);
enum rf_code rf_cuda_slot_fill(void *self, int slot, void *dst, const void *src, size_t size_bytes, struct rf_err *err);
enum rf_code rf_cuda_slot_wait(void *self, int slot, struct rf_err *err);
enum rf_code rf_cuda_slot_release(void *self, int slot, struct rf_err *err);

#endif
