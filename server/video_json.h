/* What users see: the store's records as the JSON objects of schema/openapi.yaml. Every object always has all its keys.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_VIDEO_JSON_H
#define RF_SERVER_VIDEO_JSON_H

#include "server/store.h"
#include "server/out.h"

struct rf_app;

/* A Video: the thirteen keys of the stock API, then ours. `key` as for rf_json_open(). The job was read RF_WITH_ALL; a job
 * with id "" is a plan that was not submitted, its id is null. */
void rf_video_json(struct rf_out *t, const char *key, const struct rf_job *job);

/* When to ask again about an unfinished job: a tenth of what is expected to be left, 0.5 to 10 s; by its place when nothing
 * is expected. Stock helpers read it once and keep it. */
int rf_video_poll_after_ms(const struct rf_job *job, int64_t now_ms);

/* The stock API knows four states; a cancelled job is failed with error.code "cancelled" there. */
const char *rf_video_status(enum rf_job_state state);

void rf_worker_json(struct rf_out *t, const char *key, const struct rf_worker *worker);
/* False when there is no such worker (any more); nothing is written then. */
bool rf_worker_json_by_id(struct rf_out *t, struct rf_app *app, const char *id);

/* The Queue object: counts, paused, workers. */
void rf_queue_json(struct rf_out *t, struct rf_app *app);

#endif
