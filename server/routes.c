/* Every call the server answers. schema/openapi.yaml lists the same ones; a test holds the two against each other, through
 * `framefarm-server --routes`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/app.h"
#include "server/auth.h"
#include "server/batch.h"
#include "server/events.h"
#include "server/farm.h"
#include "server/metrics.h"
#include "server/operate.h"
#include "server/page.h"
#include "server/submit.h"
#include "server/videos.h"

#define SMALL (64 << 10)
#define MESSAGE (1 << 20)

/* Literal patterns stand before those with a {…} in the same place. */
const struct rf_route rf_routes[] = {
    {RF_POST, RF_ROLE_USER, "/v1/videos", rf_submit_handle, RF_BODY_STREAM, RF_SUBMIT_MAX_BYTES, rf_submit_begin, false},
    {RF_GET, RF_ROLE_USER, "/v1/videos", rf_videos_list, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_USER, "/v1/videos/batch", rf_batch_handle, RF_BODY_WHOLE, RF_BATCH_MAX_BYTES, NULL, false},
    {RF_GET, RF_ROLE_USER, "/v1/videos/{id}", rf_videos_get, RF_BODY_NONE, 0, NULL, false},
    {RF_DELETE, RF_ROLE_USER, "/v1/videos/{id}", rf_videos_delete, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_USER, "/v1/videos/{id}/content", rf_content_handle, RF_BODY_NONE, 0, NULL, true},
    {RF_GET, RF_ROLE_USER, "/v1/videos/{id}/timings", rf_videos_timings, RF_BODY_NONE, 0, NULL, true},
    {RF_POST, RF_ROLE_USER, "/v1/videos/{id}/cancel", rf_videos_cancel, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_USER, "/v1/videos/retry", rf_videos_retry_all, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_USER, "/v1/videos/{id}/retry", rf_videos_retry, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_USER, "/v1/videos/{id}/priority", rf_videos_priority, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_POST, RF_ROLE_USER, "/v1/videos/{id}/move", rf_videos_move, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_POST, RF_ROLE_USER, "/v1/videos/{id}/remix", rf_remix_handle, RF_BODY_WHOLE, 256 << 10, NULL, false},
    {RF_GET, RF_ROLE_USER, "/v1/models", rf_models_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_USER, "/v1/workers", rf_workers_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_OPERATOR, "/v1/workers/{id}/drain", rf_worker_drain, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_GET, RF_ROLE_USER, "/v1/queue", rf_queue_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_OPERATOR, "/v1/queue/pause", rf_queue_pause, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_OPERATOR, "/v1/queue/resume", rf_queue_resume, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_USER, "/v1/throughput", rf_throughput_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_OPERATOR, "/v1/timings", rf_timings_all, RF_BODY_NONE, 0, NULL, true},
    {RF_GET, RF_ROLE_USER, "/v1/events", rf_events_handle, RF_BODY_NONE, 0, NULL, true},
    {RF_POST, RF_ROLE_USER, "/v1/tickets", rf_auth_ticket_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/register", rf_farm_register, RF_BODY_WHOLE, MESSAGE, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/lease", rf_farm_lease, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/leave", rf_farm_leave, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/tasks/{task_id}/heartbeat", rf_farm_heartbeat, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/tasks/{task_id}/complete", rf_farm_complete, RF_BODY_WHOLE, MESSAGE, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/tasks/{task_id}/fail", rf_farm_fail, RF_BODY_WHOLE, MESSAGE, NULL, false},
    {RF_POST, RF_ROLE_WORKER, "/farm/v1/tasks/{task_id}/release", rf_farm_release, RF_BODY_WHOLE, SMALL, NULL, false},
    {RF_GET, RF_ROLE_WORKER, "/farm/v1/tasks/{task_id}/files/{name}", rf_farm_get_file, RF_BODY_NONE, 0, NULL, false},
    {RF_PUT, RF_ROLE_WORKER, "/farm/v1/tasks/{task_id}/files/{name}", rf_farm_put_file, RF_BODY_STREAM,
     RF_FARM_MAX_FILE_BYTES, rf_farm_put_begin, false},
    {RF_GET, RF_ROLE_ANYONE, "/healthz", rf_healthz_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_ANYONE, "/readyz", rf_readyz_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_OPERATOR, "/metrics", rf_metrics_handle, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_ANYONE, "/openapi.yaml", rf_page_openapi, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_ANYONE, "/", rf_page_index, RF_BODY_NONE, 0, NULL, false},
    {RF_GET, RF_ROLE_ANYONE, "/{*}", rf_page_file, RF_BODY_NONE, 0, NULL, false},
};
const size_t rf_n_routes = RF_COUNT_OF(rf_routes);
