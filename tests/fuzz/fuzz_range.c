/* Range and etag headers: a part lies inside the file, whatever the header says.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/range.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    RF_AUTO(rf_free) char *text = rf_strndup((const char *)data, n);
    static const int64_t sizes[] = {0, 1, 10, 1000, INT64_MAX};
    for (size_t i = 0; i < RF_COUNT_OF(sizes); i++) {
        int64_t first = -1, length = -1;
        if (rf_range_parse(text, sizes[i], &first, &length) == RF_RANGE_PART)
            RF_ASSERT(first >= 0 && length > 0 && first <= sizes[i] - length);
    }
    rf_etag_listed(text, "\"abc\"");
    rf_if_range_holds(text, "\"abc\"");
    return 0;
}
