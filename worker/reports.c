/* The reporter's thread; see reports.h. One lock over the news, never held while anything is sent.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/reports.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "worker/log.h"
#include "worker/media/media.h"

#define MIN_GAP_S 0.2     /* between two heartbeats: a tiny model makes steps faster than anybody reads them */
#define PREVIEW_GAP_S 1.0

struct rf_reporter {
    struct rf_farm *farm;
    struct rf_link *link;
    const struct rf_wire_lease *lease;
    struct rf_nvml *nvml;
    struct rf_stop *stop, *gone;
    struct rf_stop quit; /* ends a call on its way too */
    pthread_t thread;

    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t news;
    bool has_news, closing, concluding;
    struct rf_wire_heartbeat beat;
    struct rf_image preview; /* rgb NULL: none waits */
};

static void sleep_until(struct rf_reporter *r, double due)
{
    struct timespec until = {.tv_sec = (time_t)due, .tv_nsec = (long)((due - (double)(time_t)due) * 1e9)};
    pthread_cond_timedwait(&r->news, &r->lock, &until);
}

/* Waits for news that may be sent by now, for `due`, or for the end (false). */
static bool wait_for_news(struct rf_reporter *r, double earliest, double due, struct rf_wire_heartbeat *ret_beat)
{
    pthread_mutex_lock(&r->lock);
    for (;;) {
        double now = rf_monotonic_seconds();
        if (r->closing || now >= due || (r->has_news && now >= earliest))
            break;
        sleep_until(r, r->has_news ? earliest : due);
    }
    *ret_beat = r->beat;
    r->has_news = false;
    bool go_on = !r->closing;
    pthread_mutex_unlock(&r->lock);
    return go_on;
}

static void send_preview(struct rf_reporter *r, int n)
{
    pthread_mutex_lock(&r->lock);
    struct rf_image image = r->preview;
    r->preview = (struct rf_image){0};
    pthread_mutex_unlock(&r->lock);
    if (image.rgb == NULL)
        return;
    void *bytes = NULL;
    size_t size_bytes = 0;
    struct rf_err err;
    char name[RF_FILE_NAME_SIZE];
    snprintf(name, sizeof name, "preview-%d.webp", n);
    enum rf_code rc = rf_image_encode(&image, RF_IMAGE_WEBP, &bytes, &size_bytes, &err);
    free(image.rgb);
    if (rc == RF_OK)
        rc = rf_farm_offer(r->link, r->lease, name, bytes, size_bytes, &r->quit, &err);
    if (rc != RF_OK && rc != RF_ERR_CANCELLED)
        rf_log(RF_LOG_DEBUG, "preview", rc, "not sent: %s", err.msg);
    free(bytes);
}

static bool has_preview(struct rf_reporter *r)
{
    pthread_mutex_lock(&r->lock);
    bool has = r->preview.rgb != NULL;
    pthread_mutex_unlock(&r->lock);
    return has;
}

static bool is_concluding(struct rf_reporter *r)
{
    pthread_mutex_lock(&r->lock);
    bool concluding = r->concluding;
    pthread_mutex_unlock(&r->lock);
    return concluding;
}

static void give_up(struct rf_reporter *r, enum rf_stop_reason reason)
{
    rf_stop_raise(r->gone, reason);
    rf_stop_raise(r->stop, reason);
}

/* One heartbeat. ret_wait_s: until the next is due. False: nothing more may be said about this task. */
static bool beat_once(struct rf_reporter *r, const struct rf_wire_heartbeat *beat, int *n_failed, double *ret_wait_s)
{
    struct rf_wire_heartbeat_answer answer = {0};
    struct rf_err err;
    enum rf_code rc = rf_farm_heartbeat(r->link, r->lease, beat, &r->quit, &answer, &err);
    double every_s = (double)rf_farm_heartbeat_ms(r->farm) / 1000;
    *ret_wait_s = every_s;
    switch (rc) {
    case RF_OK:
        if (*n_failed > 0)
            rf_log(RF_LOG_INFO, "heartbeat", RF_OK, "the server is back after %d failed tries", *n_failed);
        *n_failed = 0;
        if (!answer.cancel)
            return true;
        give_up(r, RF_STOP_CANCELLED);
        rf_log(RF_LOG_INFO, "heartbeat", RF_OK, "cancelled; stopping within one step");
        return false;
    case RF_ERR_CONFLICT:
    case RF_ERR_NOT_FOUND:
        if (is_concluding(r)) {
            rf_log(RF_LOG_DEBUG, "heartbeat", RF_OK, "the task has ended, by our report or before it");
            return false;
        }
        give_up(r, RF_STOP_LOST);
        rf_log(RF_LOG_WARN, "heartbeat", rc, "the task is not ours any more: %s", err.msg);
        return false;
    case RF_ERR_CANCELLED: return false;
    case RF_ERR_INVALID:
    case RF_ERR_LIMIT:
    case RF_ERR_FORMAT:
    case RF_ERR_IO:
    case RF_ERR_NO_SPACE:
    case RF_ERR_NO_MEMORY:
    case RF_ERR_DEVICE:
    case RF_CODE_COUNT:
        break;
    }
    if (*n_failed == 0)
        rf_log(RF_LOG_WARN, "heartbeat", rc, "%s; rendering goes on", err.msg);
    double pause_s = (double)rf_backoff_ms((*n_failed)++) / 1000;
    *ret_wait_s = pause_s < every_s ? pause_s : every_s;
    return true;
}

static void *run(void *arg)
{
    struct rf_reporter *r = arg;
    double earliest = 0, due = 0, preview_due = 0;
    int n_failed = 0, segment = r->lease->index;
    struct rf_wire_heartbeat beat;
    while (wait_for_news(r, earliest, due, &beat)) {
        double wait_s;
        rf_nvml_read(r->nvml, &beat.device);
        if (!beat_once(r, &beat, &n_failed, &wait_s))
            break;
        double now = rf_monotonic_seconds();
        if (n_failed == 0 && now >= preview_due && has_preview(r)) {
            send_preview(r, segment);
            now = rf_monotonic_seconds();
            preview_due = now + PREVIEW_GAP_S;
        }
        due = now + wait_s;
        /* While the server is away, news do not hasten the next try. */
        earliest = n_failed > 0 ? due : now + MIN_GAP_S;
    }
    return NULL;
}

struct rf_reporter *rf_reporter_start(struct rf_farm *farm, const struct rf_wire_lease *lease, struct rf_nvml *nvml,
                                      struct rf_stop *stop, struct rf_stop *gone)
{
    struct rf_reporter *r = rf_new(struct rf_reporter);
    r->farm = farm;
    r->link = rf_link_create(farm);
    r->lease = lease;
    r->nvml = nvml;
    r->stop = stop;
    r->gone = gone;
    rf_stop_init(&r->quit);
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->news, &attr);
    pthread_condattr_destroy(&attr);
    RF_ASSERT(pthread_create(&r->thread, NULL, run, r) == 0);
    return r;
}

void rf_reporter_conclude(struct rf_reporter *r)
{
    pthread_mutex_lock(&r->lock);
    r->concluding = true;
    pthread_mutex_unlock(&r->lock);
}

void rf_reporter_finish(struct rf_reporter **reporter)
{
    struct rf_reporter *r = *reporter;
    *reporter = NULL;
    if (r == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    pthread_cond_signal(&r->news);
    pthread_mutex_unlock(&r->lock);
    rf_stop_raise(&r->quit, RF_STOP_DRAIN);
    pthread_join(r->thread, NULL);
    rf_link_destroy(&r->link);
    rf_stop_finish(&r->quit);
    pthread_cond_destroy(&r->news);
    pthread_mutex_destroy(&r->lock);
    free(r->preview.rgb);
    free(r);
}

void rf_reporter_tell(struct rf_reporter *r, enum rf_part part, int step, int steps, double fraction)
{
    pthread_mutex_lock(&r->lock);
    snprintf(r->beat.stage, sizeof r->beat.stage, "%s", rf_part_name(part));
    r->beat.step = step;
    r->beat.steps = steps;
    if (fraction > r->beat.fraction)
        r->beat.fraction = fraction < 1 ? fraction : 1;
    r->has_news = true;
    pthread_cond_signal(&r->news);
    pthread_mutex_unlock(&r->lock);
}

void rf_reporter_preview(struct rf_reporter *r, const uint8_t *rgb, int width, int height)
{
    size_t size_bytes = (size_t)width * (size_t)height * 3;
    uint8_t *copy = malloc(size_bytes);
    if (copy == NULL)
        return; /* a preview is worth no failure */
    memcpy(copy, rgb, size_bytes);
    pthread_mutex_lock(&r->lock);
    free(r->preview.rgb);
    r->preview = (struct rf_image){.width = width, .height = height, .rgb = copy};
    pthread_mutex_unlock(&r->lock);
}
