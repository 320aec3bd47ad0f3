/* A management library with one card, at 00000000:18:00.0: what it tells is in FAKE_NVML, "used
 * MiB,load,celsius,milliwatts", a field that is empty is refused. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOT_SUPPORTED 3
#define NOT_FOUND 6

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **ret_device);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret_memory[3]);
int nvmlDeviceGetUtilizationRates(void *device, unsigned ret_rates[2]);
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *ret_celsius);
int nvmlDeviceGetPowerUsage(void *device, unsigned *ret_milliwatts);

static char card;

static int field(int index, unsigned *ret_value)
{
    const char *at = getenv("FAKE_NVML");
    for (int i = 0; i < index && at != NULL; i++)
        at = strchr(at, ',') != NULL ? strchr(at, ',') + 1 : NULL;
    return at != NULL && sscanf(at, "%u", ret_value) == 1 ? 0 : NOT_SUPPORTED;
}

int nvmlInit_v2(void)
{
    return getenv("FAKE_NVML") != NULL ? 0 : NOT_FOUND;
}

int nvmlShutdown(void)
{
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **ret_device)
{
    *ret_device = &card;
    return strcmp(address, "00000000:18:00.0") == 0 ? 0 : NOT_FOUND;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret_memory[3])
{
    unsigned used = 0;
    int status = field(0, &used);
    ret_memory[0] = 140ull << 30;
    ret_memory[2] = (unsigned long long)used << 20;
    ret_memory[1] = ret_memory[0] - ret_memory[2];
    return device == &card ? status : NOT_FOUND;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned ret_rates[2])
{
    ret_rates[1] = 99;
    return field(1, &ret_rates[0]);
}

int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *ret_celsius)
{
    return sensor == 0 ? field(2, ret_celsius) : NOT_SUPPORTED;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *ret_milliwatts)
{
    return field(3, ret_milliwatts);
}
