/* The op suite on the GPU, in F32: the library's products and the kernels of other sizes. Exit 77 without a device.
 * FRAMEFARM_CUDA=plain chooses the kernels that follow the definitions. SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/op_suite.h"

int main(void)
{
    return op_suite_run("cuda", "f32");
}
