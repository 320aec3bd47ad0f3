/* The CUDA device: opening, memory, transfers, and how its failures are told.
 *
 * All work goes through one stream, in order. What outlives an op is allocated here once: the library's workspace, the
 * ops' scratch, and pinned pieces through which uploads pass (a copy from pageable memory would run at half speed).
 * A failure while running is sticky in CUDA: every later call reports it, so the message says to start anew.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_CC 80
#define SCRATCH_BYTES ((size_t)256 << 20)     /* converted weights of one layer (141 MB), rows of its product */
#define SCRATCH_BYTES_F32 ((size_t)512 << 20) /* the same in F32 */

static bool is_sticky(cudaError_t status)
{
    return status == cudaErrorIllegalAddress || status == cudaErrorLaunchFailure ||
           status == cudaErrorECCUncorrectable || status == cudaErrorHardwareStackError || status == cudaErrorIllegalInstruction ||
           status == cudaErrorMisalignedAddress || status == cudaErrorAssert || status == cudaErrorLaunchTimeout ||
           status == cudaErrorDevicesUnavailable;
}

enum rf_code rf_cuda_check(const struct rf_cuda *c, cudaError_t status, const char *doing, struct rf_err *err)
{
    if (status == cudaSuccess)
        return RF_OK;
    cudaGetLastError(); /* a failure that is not sticky is told once */
    if (status == cudaErrorMemoryAllocation)
        return rf_fail(err, RF_ERR_NO_MEMORY, "cuda:%d %.60s: %s: out of device memory", c->index, c->name, doing);
    return rf_fail(err, RF_ERR_DEVICE, "cuda:%d %.60s: %s: %.80s%s", c->index, c->name, doing,
                   cudaGetErrorString(status), is_sticky(status) ? "; the device must be opened by a new process" : "");
}

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; at != NULL && *at != '\0'; at += strspn(at, " ,")) {
        size_t length = strcspn(at, " ,");
        if (length == n && memcmp(at, word, n) == 0)
            return true;
        at += length;
    }
    return false;
}

static struct rf_cuda_paths read_paths(void)
{
    const char *words = getenv("FRAMEFARM_CUDA");
    return (struct rf_cuda_paths){.plain = has_word(words, "plain"), .no_hopper = has_word(words, "no-hopper"),
                                  .no_flash = has_word(words, "no-flash"), .no_fused = has_word(words, "no-fused"),
                                  .full_accum = has_word(words, "full-accum")};
}

int rf_cuda_count(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

static enum rf_code identify(struct rf_cuda *c, struct rf_err *err)
{
    int n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status != cudaSuccess)
        return rf_fail(err, RF_ERR_DEVICE, "no device cuda:%d: %s", c->index, cudaGetErrorString(status));
    if (c->index >= n)
        return rf_fail(err, RF_ERR_DEVICE, "no device cuda:%d: this machine has %d", c->index, n);
    struct cudaDeviceProp prop;
    status = cudaGetDeviceProperties(&prop, c->index);
    if (status != cudaSuccess)
        return rf_fail(err, RF_ERR_DEVICE, "device cuda:%d: %s", c->index, cudaGetErrorString(status));
    if (cudaDeviceGetPCIBusId(c->pci_address, (int)sizeof c->pci_address, c->index) != cudaSuccess)
        c->pci_address[0] = '\0'; /* nothing needs it but the gauges */
    c->cc = prop.major * 10 + prop.minor;
    snprintf(c->name, sizeof c->name, "%.60s, %zu GiB, sm_%d", prop.name, prop.totalGlobalMem >> 30, c->cc);
    if (c->cc < LEAST_CC)
        return rf_fail(err, RF_ERR_DEVICE, "cuda:%d is %s: compute capability 8.0 (RTX 30, A100) or later is needed",
                       c->index, c->name);
    return RF_OK;
}

static enum rf_code take_resources(struct rf_cuda *c, struct rf_err *err)
{
    static const float constants[] = {0, 1};
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "open", err);
    if (rc == RF_OK)
        rc = rf_cuda_check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "stream", err);
    if (rc == RF_OK)
        rc = rf_cuda_check(c, cudaMalloc(&c->workspace, RF_CUDA_WORKSPACE_BYTES), "workspace", err);
    c->scratch_bytes = c->act == RF_F32 ? SCRATCH_BYTES_F32 : SCRATCH_BYTES;
    if (rc == RF_OK)
        rc = rf_cuda_check(c, cudaMalloc((void **)&c->scratch, c->scratch_bytes), "scratch", err);
    if (rc == RF_OK)
        rc = rf_cuda_check(c, cudaMalloc((void **)&c->constants, sizeof constants), "constants", err);
    if (rc == RF_OK)
        rc = rf_cuda_check(c, cudaMemcpy(c->constants, constants, sizeof constants, cudaMemcpyHostToDevice),
                           "constants", err);
    for (int i = 0; i < RF_CUDA_STAGES && rc == RF_OK; i++) {
        rc = rf_cuda_check(c, cudaMallocHost((void **)&c->stage[i], RF_CUDA_STAGE_BYTES), "pinned memory", err);
        if (rc == RF_OK)
            rc = rf_cuda_check(c, cudaEventCreateWithFlags(&c->staged[i], cudaEventDisableTiming), "event", err);
    }
    if (rc == RF_OK)
        rc = rf_cuda_slots_open(c, err);
    if (rc == RF_OK && cublasLtCreate(&c->lt) != CUBLAS_STATUS_SUCCESS)
        rc = rf_fail(err, RF_ERR_DEVICE, "cuda:%d %s: cuBLASLt does not start", c->index, c->name);
    return rc;
}

enum rf_code rf_cuda_open(const struct rf_engine_config *config, int index, void **ret_self, const char **ret_name,
                          enum rf_dtype *ret_act_dtype, struct rf_err *err)
{
    struct rf_cuda *c = rf_new(struct rf_cuda);
    c->index = index;
    const char *precision = config->precision ? config->precision : "bf16";
    c->act = strcmp(precision, "f32") == 0 ? RF_F32 : RF_BF16;
    c->paths = read_paths();
    enum rf_code rc = identify(c, err);
    if (rc == RF_OK) {
        c->fp8 = strcmp(precision, "fp8") == 0 && c->cc >= 89; /* older chips convert fp8 weights to bf16 */
        rc = take_resources(c, err);
    }
    if (rc != RF_OK) {
        rf_cuda_close(c);
        return rc;
    }
    *ret_self = c;
    *ret_name = c->name;
    *ret_act_dtype = c->act;
    return RF_OK;
}

void rf_cuda_close(void *self)
{
    struct rf_cuda *c = self;
    if (c->stream != NULL) {
        cudaSetDevice(c->index);
        cudaStreamSynchronize(c->stream);
    }
    if (c->lt != NULL)
        cublasLtDestroy(c->lt);
    for (int i = 0; i < RF_CUDA_STAGES; i++) {
        if (c->staged[i] != NULL)
            cudaEventDestroy(c->staged[i]);
        cudaFreeHost(c->stage[i]);
    }
    rf_cuda_slots_close(c);
    cudaFree(c->constants);
    cudaFree(c->scratch);
    cudaFree(c->workspace);
    if (c->stream != NULL)
        cudaStreamDestroy(c->stream);
    free(c);
}

/* ---- memory ---- */

enum rf_code rf_cuda_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    cudaError_t status = cudaMalloc(ret_data, size_bytes);
    if (status == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        cudaGetLastError();
        cudaMemGetInfo(&free_bytes, &total);
        return rf_fail(err, RF_ERR_NO_MEMORY, "cuda:%d %.60s: a block of %zu MiB; %zu MiB of %zu are free", c->index,
                       c->name, size_bytes >> 20, free_bytes >> 20, total >> 20);
    }
    return rf_cuda_check(c, status, "allocate", err);
}

void rf_cuda_release(void *self, void *data)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    cudaStreamSynchronize(c->stream);
    cudaStreamSynchronize(c->copies); /* a fill that nobody waited for, after a stop or a failure */
    cudaFree(data);
}

const char *rf_cuda_pci_address(void *self)
{
    struct rf_cuda *c = self;
    return c->pci_address[0] != '\0' ? c->pci_address : NULL;
}

void rf_cuda_memory(void *self, int64_t *ret_fixed, int64_t *ret_free)
{
    struct rf_cuda *c = self;
    size_t free_bytes = 0, total = 0;
    cudaSetDevice(c->index);
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        cudaGetLastError(); /* whatever is wrong shows in the next op */
    *ret_fixed = (int64_t)(RF_CUDA_WORKSPACE_BYTES + c->scratch_bytes);
    *ret_free = (int64_t)free_bytes;
}

/* Through pinned pieces: `src` may go away when this returns, and the copy overlaps with filling the next piece. */
enum rf_code rf_cuda_upload(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    struct rf_cuda *c = self;
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "upload", err);
    for (size_t at = 0; at < size_bytes && rc == RF_OK;) {
        int i = c->next_stage;
        size_t n = size_bytes - at < RF_CUDA_STAGE_BYTES ? size_bytes - at : RF_CUDA_STAGE_BYTES;
        rc = rf_cuda_check(c, cudaEventSynchronize(c->staged[i]), "upload", err);
        if (rc != RF_OK)
            break;
        memcpy(c->stage[i], (const char *)src + at, n);
        rc = rf_cuda_check(c, cudaMemcpyAsync((char *)dst + at, c->stage[i], n, cudaMemcpyHostToDevice, c->stream),
                           "upload", err);
        if (rc == RF_OK)
            rc = rf_cuda_check(c, cudaEventRecord(c->staged[i], c->stream), "upload", err);
        c->next_stage = (i + 1) % RF_CUDA_STAGES;
        at += n;
    }
    return rc;
}

enum rf_code rf_cuda_download(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    enum rf_code rc = rf_cuda_check(c, cudaMemcpyAsync(dst, src, size_bytes, cudaMemcpyDeviceToHost, c->stream),
                                    "download", err);
    return rc == RF_OK ? rf_cuda_check(c, cudaStreamSynchronize(c->stream), "download", err) : rc;
}

enum rf_code rf_cuda_sync(void *self, struct rf_err *err)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    return rf_cuda_check(c, cudaStreamSynchronize(c->stream), "work", err);
}

/* ---- scratch ---- */

struct rf_cuda_taker rf_cuda_scratch(struct rf_cuda *c)
{
    return (struct rf_cuda_taker){c->scratch, c->scratch + c->scratch_bytes};
}

void *rf_cuda_take(struct rf_cuda_taker *t, size_t bytes)
{
    size_t cost = (bytes + 255) / 256 * 256;
    if (cost > rf_cuda_left(t))
        return NULL;
    void *p = t->at;
    t->at += cost;
    return p;
}

size_t rf_cuda_left(const struct rf_cuda_taker *t)
{
    return (size_t)(t->end - t->at);
}

bool rf_cuda_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}
