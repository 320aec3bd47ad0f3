/* See nvml.h. The library's types are written out here: five calls and two structs that its ABI has kept for ten
 * years, so that a build needs none of NVIDIA's headers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/nvml.h"

#include <dlfcn.h>

#define LIBRARY "libnvidia-ml.so.1"
#define TEMPERATURE_GPU 0
#define NVML_SUCCESS 0

struct nvml_memory {
    unsigned long long total, free, used;
};
struct nvml_utilization {
    unsigned gpu, memory; /* percent */
};

struct rf_nvml {
    void *library, *device;
    int (*shutdown)(void);
    int (*memory_info)(void *device, struct nvml_memory *ret_memory);
    int (*utilization)(void *device, struct nvml_utilization *ret_utilization);
    int (*temperature)(void *device, unsigned sensor, unsigned *ret_celsius);
    int (*power)(void *device, unsigned *ret_milliwatts);
};

/* A function of the library; POSIX lets a data pointer hold it, C does not. */
static bool find(void *library, const char *name, void *ret_function)
{
    void *at = dlsym(library, name);
    *(void **)ret_function = at;
    return at != NULL;
}

struct rf_nvml *rf_nvml_open(const char *pci_address)
{
    const char *name = getenv("FRAMEFARM_NVML");
    struct rf_nvml *n = rf_new(struct rf_nvml);
    int (*init)(void), (*by_address)(const char *address, void **ret_device);
    n->library = dlopen(name != NULL ? name : LIBRARY, RTLD_NOW | RTLD_LOCAL);
    bool complete = n->library != NULL && find(n->library, "nvmlInit_v2", &init) &&
                    find(n->library, "nvmlShutdown", &n->shutdown) &&
                    find(n->library, "nvmlDeviceGetHandleByPciBusId_v2", &by_address);
    if (!complete || init() != NVML_SUCCESS) {
        if (n->library != NULL)
            dlclose(n->library);
        free(n);
        return NULL;
    }
    /* Each of these may be missing, or refuse: some cards have no power meter. */
    find(n->library, "nvmlDeviceGetMemoryInfo", &n->memory_info);
    find(n->library, "nvmlDeviceGetUtilizationRates", &n->utilization);
    find(n->library, "nvmlDeviceGetTemperature", &n->temperature);
    find(n->library, "nvmlDeviceGetPowerUsage", &n->power);
    if (pci_address == NULL || by_address(pci_address, &n->device) != NVML_SUCCESS)
        rf_nvml_close(&n);
    return n;
}

void rf_nvml_close(struct rf_nvml **nvml)
{
    if (*nvml == NULL)
        return;
    (*nvml)->shutdown();
    dlclose((*nvml)->library);
    rf_free(nvml);
}

bool rf_nvml_read(struct rf_nvml *n, struct rf_wire_gauges *ret_gauges)
{
    struct rf_wire_gauges g = {false, -1, -1, -1, -1};
    struct nvml_memory memory;
    struct nvml_utilization load;
    unsigned value;
    if (n != NULL && n->memory_info != NULL && n->memory_info(n->device, &memory) == NVML_SUCCESS)
        g.memory_used_bytes = (int64_t)memory.used;
    if (n != NULL && n->utilization != NULL && n->utilization(n->device, &load) == NVML_SUCCESS)
        g.utilization = load.gpu > 100 ? 1 : load.gpu / 100.0;
    if (n != NULL && n->temperature != NULL && n->temperature(n->device, TEMPERATURE_GPU, &value) == NVML_SUCCESS)
        g.temperature_c = value;
    if (n != NULL && n->power != NULL && n->power(n->device, &value) == NVML_SUCCESS)
        g.power_w = value / 1000.0;
    g.told = g.memory_used_bytes >= 0 || g.utilization >= 0 || g.temperature_c >= 0 || g.power_w >= 0;
    *ret_gauges = g;
    return g.told;
}

int64_t rf_nvml_memory_bytes(struct rf_nvml *n)
{
    struct nvml_memory memory;
    bool told = n != NULL && n->memory_info != NULL && n->memory_info(n->device, &memory) == NVML_SUCCESS;
    return told ? (int64_t)memory.total : 0;
}
