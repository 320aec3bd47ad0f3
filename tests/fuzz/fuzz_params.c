/* Query strings: what is accepted is UTF-8, found by its name, and within its range.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/json.h"
#include "server/params.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    RF_AUTO(rf_free) char *text = rf_strndup((const char *)data, n);
    struct rf_params p;
    if (rf_params_parse(text, &p, NULL) != RF_OK) {
        RF_ASSERT(p.n == 0 && p.text == NULL);
        return 0;
    }
    for (int i = 0; i < p.n; i++) {
        int64_t value = 5;
        RF_ASSERT(rf_utf8_valid(p.item[i].value, strlen(p.item[i].value), NULL));
        RF_ASSERT(rf_params_get(&p, p.item[i].name) == p.item[i].value);
        if (rf_params_int(&p, p.item[i].name, -3, 3, 0, &value, NULL) == RF_OK)
            RF_ASSERT(value >= -3 && value <= 3);
    }
    rf_params_finish(&p);
    return 0;
}
