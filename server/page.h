/* The web page and the description of the interface, compiled in from web/ and schema/openapi.yaml.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_PAGE_H
#define RF_SERVER_PAGE_H

#include "server/http.h"

/* One file as server/embed.py wrote it. The packed form is there when it is smaller. */
struct rf_page_asset {
    const char *path;          /* "index.html", "js/app.js" */
    const char *type;
    const char *etag;          /* quoted */
    const uint8_t *bytes;
    size_t n_bytes;
    const uint8_t *gzip;       /* NULL: none */
    size_t n_gzip;
};
extern const struct rf_page_asset rf_page_assets[];
extern const size_t rf_n_page_assets;

void rf_page_index(struct rf_call *c);
/* Any other file of the page; 404 when there is none of that name. */
void rf_page_file(struct rf_call *c);
void rf_page_openapi(struct rf_call *c);

#endif
