/* The lines of a batch: each within the body, in order, none lost.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/batch.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    size_t at = 0, line_n, total = 0;
    const char *line;
    while (rf_batch_next_line((const char *)data, n, &at, &line, &line_n)) {
        RF_ASSERT(at <= n && line >= (const char *)data && line + line_n <= (const char *)data + at);
        RF_ASSERT(line_n == 0 || memchr(line, '\n', line_n) == NULL);
        total += line_n;
    }
    RF_ASSERT(at == n && total <= n);
    return 0;
}
