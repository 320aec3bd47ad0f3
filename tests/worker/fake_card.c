/* Gives the CPU the address of the card in fake_nvml.c, so that a worker without a GPU has one that tells how it is. Joined by
 * the linker's --wrap. SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "worker/engine/engine.h"

const char *__real_rf_engine_pci_address(const struct rf_engine *e);
const char *__wrap_rf_engine_pci_address(const struct rf_engine *e);

const char *__wrap_rf_engine_pci_address(const struct rf_engine *e)
{
    const char *address = getenv("FAKE_PCI_ADDRESS");
    return address != NULL ? address : __real_rf_engine_pci_address(e);
}
