/* What a GPU says of itself: memory, load, temperature, power. Through NVIDIA's management library, which is loaded
 * when it is there and missed by nobody when it is not. One thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_NVML_H
#define RF_WORKER_NVML_H

#include "schema/wire.h"

struct rf_nvml;

/* The device at this PCI address ("00000000:18:00.0"); NULL, and no error, when library or device are not there.
 * FRAMEFARM_NVML names another library, for tests. */
struct rf_nvml *rf_nvml_open(const char *pci_address);
void rf_nvml_close(struct rf_nvml **nvml);

/* False, and nothing is told, for NULL or when the device does not answer. */
bool rf_nvml_read(struct rf_nvml *nvml, struct rf_wire_gauges *ret_gauges);
/* Memory of the whole device; 0: unknown. */
int64_t rf_nvml_memory_bytes(struct rf_nvml *nvml);

#endif
