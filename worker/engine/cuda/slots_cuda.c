/* Weights on their way: pinned host memory, a stream for copies beside the compute, and two events per slot that keep
 * the two in order. `filled`: the copy is done, compute may read. `released`: compute is done, the next copy may
 * overwrite.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

enum rf_code rf_cuda_slots_open(struct rf_cuda *c, struct rf_err *err)
{
    enum rf_code rc = rf_cuda_check(c, cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking), "stream", err);
    for (int i = 0; i < RF_COPY_SLOTS && rc == RF_OK; i++) {
        rc = rf_cuda_check(c, cudaEventCreateWithFlags(&c->filled[i], cudaEventDisableTiming), "event", err);
        if (rc == RF_OK)
            rc = rf_cuda_check(c, cudaEventCreateWithFlags(&c->released[i], cudaEventDisableTiming), "event", err);
    }
    return rc;
}

void rf_cuda_slots_close(struct rf_cuda *c)
{
    for (int i = 0; i < RF_COPY_SLOTS; i++) {
        if (c->filled[i] != NULL)
            cudaEventDestroy(c->filled[i]);
        if (c->released[i] != NULL)
            cudaEventDestroy(c->released[i]);
    }
    if (c->copies != NULL)
        cudaStreamDestroy(c->copies);
}

enum rf_code rf_cuda_host_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    cudaError_t status = cudaMallocHost(ret_data, size_bytes);
    if (status != cudaErrorMemoryAllocation)
        return rf_cuda_check(c, status, "pinned memory", err);
    cudaGetLastError();
    return rf_fail(err, RF_ERR_NO_MEMORY, "cuda:%d %.60s: %zu MiB of pinned host memory for streamed weights", c->index,
                   c->name, size_bytes >> 20);
}

void rf_cuda_host_release(void *self, void *data)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    cudaStreamSynchronize(c->copies); /* a copy on its way reads it */
    cudaFreeHost(data);
}

enum rf_code rf_cuda_slot_fill(void *self, int slot, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    struct rf_cuda *c = self;
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "copy weights", err);
    if (rc == RF_OK) /* of an event never recorded: no wait */
        rc = rf_cuda_check(c, cudaStreamWaitEvent(c->copies, c->released[slot], 0), "copy weights", err);
    if (rc == RF_OK)
        rc = rf_cuda_check(c, cudaMemcpyAsync(dst, src, size_bytes, cudaMemcpyHostToDevice, c->copies), "copy weights",
                           err);
    return rc == RF_OK ? rf_cuda_check(c, cudaEventRecord(c->filled[slot], c->copies), "copy weights", err) : rc;
}

enum rf_code rf_cuda_slot_wait(void *self, int slot, struct rf_err *err)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    return rf_cuda_check(c, cudaStreamWaitEvent(c->stream, c->filled[slot], 0), "wait for weights", err);
}

enum rf_code rf_cuda_slot_release(void *self, int slot, struct rf_err *err)
{
    struct rf_cuda *c = self;
    cudaSetDevice(c->index);
    return rf_cuda_check(c, cudaEventRecord(c->released[slot], c->stream), "release weights", err);
}
