/* The CPU device: its threads, scratch, vector width, and the table of its ops. The reference that other devices are
 * held against, and the default where there is no GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/cpu_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64

static void cpu_close(void *self)
{
    struct rf_cpu *cpu = self;
    rf_pool_destroy(&cpu->pool);
    free(cpu->scratch);
    free(cpu->shared);
    free(cpu);
}

/* "AMD EPYC, 2 threads, avx512" */
static void name_device(struct rf_cpu *cpu)
{
    char model[80] = "CPU", line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(model, sizeof model, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f != NULL)
        fclose(f);
    int n = rf_pool_n_threads(cpu->pool);
    snprintf(cpu->name, sizeof cpu->name, "%s, %d thread%s, %s", model, n, n == 1 ? "" : "s", cpu->kernels->name);
}

static enum rf_code cpu_open(const struct rf_engine_config *config, int index, void **ret_self, const char **ret_name,
                             enum rf_dtype *ret_act_dtype, struct rf_err *err)
{
    struct rf_cpu *cpu = rf_new(struct rf_cpu);
    enum rf_code rc = rf_pool_create(config->n_threads, &cpu->pool, err);
    if (rc == RF_OK) {
        cpu->scratch = aligned_alloc(ALIGN, (size_t)rf_pool_n_threads(cpu->pool) * RF_CPU_SCRATCH_BYTES);
        cpu->shared = aligned_alloc(ALIGN, RF_CPU_SHARED_BYTES);
        if (cpu->scratch == NULL || cpu->shared == NULL)
            rc = rf_fail(err, RF_ERR_NO_MEMORY, "no memory for the scratch of %d threads",
                         rf_pool_n_threads(cpu->pool));
    }
    if (rc == RF_OK)
        rc = rf_gemm_init(rf_pool_n_threads(cpu->pool), err);
    if (rc != RF_OK) {
        cpu_close(cpu);
        return rc;
    }
    cpu->kernels = rf_kernels_best();
    name_device(cpu);
    *ret_self = cpu;
    *ret_name = cpu->name;
    *ret_act_dtype = RF_F32;
    return RF_OK;
}

static enum rf_code cpu_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err)
{
    if (posix_memalign(ret_data, 4096, size_bytes) != 0)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a block of %zu MiB", size_bytes >> 20);
    return RF_OK;
}

static void cpu_release(void *self, void *data)
{
    free(data);
}

static enum rf_code cpu_transfer(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    memcpy(dst, src, size_bytes);
    return RF_OK;
}

static enum rf_code cpu_sync(void *self, struct rf_err *err)
{
    return RF_OK; /* ops return when they are done */
}

const struct rf_kernels *rf_kernels_best(void)
{
#if RF_HAVE_X86_KERNELS
    const char *limit = getenv("FRAMEFARM_CPU_ISA"); /* for tests and comparisons: "plain", "avx2" */
    bool plain_only = limit != NULL && strcmp(limit, "plain") == 0;
    bool no_avx512 = plain_only || (limit != NULL && strcmp(limit, "avx2") == 0);
    if (!no_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &rf_kernels_avx512;
    if (!plain_only && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &rf_kernels_avx2;
#endif
    return &rf_kernels_plain;
}

const struct rf_backend rf_backend_cpu = {
    .kind = "cpu",
    .is_host = true,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_transfer,
    .download = cpu_transfer,
    .sync = cpu_sync,
    .linear = rf_cpu_linear,
    .layer_norm = rf_cpu_layer_norm,
    .rms_norm = rf_cpu_rms_norm,
    .rms_rope = rf_cpu_rms_rope,
    .attention = rf_cpu_attention,
    .attention8 = rf_cpu_attention8,
    .gelu_mul = rf_cpu_gelu_mul,
    .embed = rf_cpu_embed,
    .axpby = rf_cpu_axpby,
    .activate = rf_cpu_activate,
    .copy = rf_cpu_copy,
    .fill = rf_cpu_fill,
    .patchify = rf_cpu_patchify,
    .unpatchify = rf_cpu_unpatchify,
    .conv = rf_cpu_conv,
    .channel_norm = rf_cpu_channel_norm,
    .to_channels_last = rf_cpu_to_channels_last,
    .from_channels_last = rf_cpu_from_channels_last,
};
