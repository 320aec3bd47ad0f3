/* The op suite on the CPU. FRAMEFARM_CPU_ISA chooses the inner loops. SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/op_suite.h"

#include <stddef.h>

int main(void)
{
    return op_suite_run("cpu", NULL);
}
