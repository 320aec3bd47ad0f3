/* The calls about one job or a list of them, its bytes aside (content.h).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_VIDEOS_H
#define RF_SERVER_VIDEOS_H

#include "server/http.h"

void rf_videos_list(struct rf_call *c);
void rf_videos_get(struct rf_call *c);
void rf_videos_delete(struct rf_call *c);
void rf_videos_cancel(struct rf_call *c);
void rf_videos_retry(struct rf_call *c);
void rf_videos_retry_all(struct rf_call *c);
void rf_videos_priority(struct rf_call *c);
void rf_videos_move(struct rf_call *c);
void rf_videos_timings(struct rf_call *c);
/* GET /v1/timings: the timings of all finished jobs, CSV. */
void rf_timings_all(struct rf_call *c);
/* GET /v1/videos/{id}/content */
void rf_content_handle(struct rf_call *c);

#endif
