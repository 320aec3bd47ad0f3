/* What a start image claims to be, told from its first bytes. The server knows no pixels: workers decode, and refuse what
 * is damaged inside.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_IMAGE_H
#define RF_SERVER_IMAGE_H

#include "schema/base.h"

#define RF_IMAGE_MAX_BYTES (20 << 20)
#define RF_IMAGE_SNIFF_BYTES 12

/* "image/png", "image/jpeg", "image/webp"; NULL for anything else. */
const char *rf_image_type(const uint8_t *bytes, size_t n);

#endif
