/* The ring, the streams that walk it, and the words they send; see events.h.
 * One lock covers ring and list of streams. Answers are built outside of it: they read the store.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/events.h"

#include "server/app.h"
#include "server/auth.h"
#include "server/out.h"
#include "server/video_json.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define N_RING 4096
#define N_INDEX 16384             /* power of two, several times the ring, so chains stay short */
#define PING_MS 15000

struct entry {
    enum rf_event_kind kind;
    bool superseded;
    char id[RF_WORKER_ID_SIZE];
};

struct stream {
    struct stream *next, **link;
    struct rf_events *events;
    struct rf_call *call;
    uint64_t cursor;              /* number of the next entry to look at */
    struct rf_out out;
    size_t sent;
    bool asleep, ping;
};

struct rf_events {
    pthread_mutex_t lock;
    uint64_t epoch;
    uint64_t n;                   /* entries ever pushed; entry i sits at i % N_RING */
    struct entry ring[N_RING];
    uint64_t newest[N_INDEX];     /* hash of an id -> number of its newest entry + 1; a clash only costs a repeat */
    struct stream *streams;
    int n_streams;
    bool stopping;
    uint64_t flushed;
    int64_t pinged_ms;
};

struct rf_events *rf_events_create(void)
{
    struct rf_events *e = rf_new(struct rf_events);
    pthread_mutex_init(&e->lock, NULL);
    e->epoch = (uint64_t)rf_now_ms();
    return e;
}

void rf_events_destroy(struct rf_events **events)
{
    if (*events != NULL) {
        RF_ASSERT((*events)->streams == NULL);
        pthread_mutex_destroy(&(*events)->lock);
    }
    rf_free(events);
}

static uint64_t hash_id(const char *id)
{
    uint64_t h = 1469598103934665603ULL; /* FNV-1a */
    for (; *id; id++)
        h = (h ^ (unsigned char)*id) * 1099511628211ULL;
    return h;
}

void rf_events_push(void *ctx, const struct rf_event *event)
{
    struct rf_events *e = ctx;
    pthread_mutex_lock(&e->lock);
    uint64_t *newest = &e->newest[hash_id(event->id) % N_INDEX];
    if (*newest > 0 && e->n < *newest - 1 + N_RING) {
        struct entry *old = &e->ring[(*newest - 1) % N_RING];
        if (strcmp(old->id, event->id) == 0)
            old->superseded = true;
    }
    struct entry *entry = &e->ring[e->n % N_RING];
    entry->kind = event->kind;
    entry->superseded = false;
    memcpy(entry->id, event->id, sizeof entry->id);
    *newest = ++e->n;
    pthread_mutex_unlock(&e->lock);
}

static void wake(struct stream *s)
{
    if (s->asleep) {
        s->asleep = false;
        rf_stream_wake(s->call);
    }
}

void rf_events_flush(struct rf_events *e, int64_t now_ms)
{
    pthread_mutex_lock(&e->lock);
    bool ping = now_ms - e->pinged_ms >= PING_MS || now_ms < e->pinged_ms;
    if (ping)
        e->pinged_ms = now_ms;
    if (ping || e->flushed != e->n)
        for (struct stream *s = e->streams; s != NULL; s = s->next) {
            s->ping |= ping;
            wake(s);
        }
    e->flushed = e->n;
    pthread_mutex_unlock(&e->lock);
}

void rf_events_stop(struct rf_events *e)
{
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    for (struct stream *s = e->streams; s != NULL; s = s->next)
        wake(s);
    pthread_mutex_unlock(&e->lock);
}

int rf_events_n_streams(struct rf_events *e)
{
    pthread_mutex_lock(&e->lock);
    int n = e->n_streams;
    pthread_mutex_unlock(&e->lock);
    return n;
}

/* ---- one stream ---- */

static void add_event(struct stream *s, const struct entry *entry, uint64_t number)
{
    struct rf_app *app = s->call->app;
    struct rf_out json = {0};
    const char *name = "video";
    switch (entry->kind) {
    case RF_EVENT_JOB_CREATED:
    case RF_EVENT_JOB_CHANGED:
    case RF_EVENT_JOB_PROGRESS:
    case RF_EVENT_JOB_FINISHED: {
        RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
        if (rf_store_get(app->store, entry->id, RF_WITH_ALL, &job, NULL) != RF_OK)
            return; /* deleted meanwhile: that event is on its way */
        const char *owner = rf_auth_owner(s->call);
        if (owner != NULL && strcmp(owner, job->request->user) != 0)
            return;
        rf_video_json(&json, NULL, job);
        break;
    }
    case RF_EVENT_JOB_DELETED:
        name = "video.deleted";
        rf_json_open(&json, NULL, '{');
        rf_json_str(&json, "id", entry->id);
        rf_json_close(&json, '}');
        break;
    case RF_EVENT_WORKER:
        name = "worker";
        if (!rf_worker_json_by_id(&json, app, entry->id))
            return;
        break;
    case RF_EVENT_QUEUE:
        name = "queue";
        rf_queue_json(&json, app);
        break;
    case RF_EVENT_KIND_COUNT:
        return;
    }
    rf_out_printf(&s->out, "id: %" PRIu64 "-%" PRIu64 "\nevent: %s\ndata: ", s->events->epoch, number + 1, name);
    size_t n;
    RF_AUTO(rf_free) char *text = rf_out_take(&json, &n);
    rf_out_add(&s->out, text, n);
    rf_out_add(&s->out, "\n\n", 2);
}

/* Copies the next entry worth sending under the lock; false when the stream has seen all. */
static bool next_entry(struct stream *s, struct entry *ret_entry, uint64_t *ret_number, bool *ret_lost)
{
    struct rf_events *e = s->events;
    *ret_lost = e->n > N_RING && s->cursor < e->n - N_RING;
    if (*ret_lost)
        s->cursor = e->n;
    while (s->cursor < e->n && e->ring[s->cursor % N_RING].superseded)
        s->cursor++;
    if (s->cursor >= e->n)
        return false;
    *ret_entry = e->ring[s->cursor % N_RING];
    *ret_number = s->cursor++;
    return true;
}

static void add_reset(struct stream *s)
{
    rf_out_printf(&s->out, "id: %" PRIu64 "-%" PRIu64 "\nevent: reset\ndata: {}\n\n", s->events->epoch, s->cursor);
}

static long read_events(struct rf_call *c, char *to, size_t n)
{
    struct stream *s = c->state;
    struct rf_events *e = s->events;
    while (s->sent == s->out.text.n_bytes) {
        rf_out_finish(&s->out);
        s->sent = 0;
        struct entry entry = {0};
        uint64_t number = 0;
        bool lost = false;
        pthread_mutex_lock(&e->lock);
        bool more = next_entry(s, &entry, &number, &lost);
        bool ping = s->ping;
        s->ping = false;
        if (e->stopping || (ping && !rf_auth_is_good(c->app->auth, c))) {
            pthread_mutex_unlock(&e->lock);
            return RF_STREAM_END;
        }
        if (!more && !lost && !ping) {
            s->asleep = true;
            rf_stream_sleep(c);
            pthread_mutex_unlock(&e->lock);
            return 0;
        }
        pthread_mutex_unlock(&e->lock);
        if (lost)
            add_reset(s);
        if (more)
            add_event(s, &entry, number);
        else if (ping)
            rf_out_puts(&s->out, ": still here\n\n");
    }
    size_t left = s->out.text.n_bytes - s->sent, take = left < n ? left : n;
    memcpy(to, s->out.text.text + s->sent, take);
    s->sent += take;
    return (long)take;
}

static void free_stream(void **state)
{
    struct stream *s = *state;
    pthread_mutex_lock(&s->events->lock);
    *s->link = s->next;
    if (s->next != NULL)
        s->next->link = s->link;
    s->events->n_streams--;
    pthread_mutex_unlock(&s->events->lock);
    rf_out_finish(&s->out);
    free(s);
    *state = NULL;
}

/* "<epoch>-<number>" of this server's life, number = entries seen; false for anything else. */
static bool read_event_id(const struct rf_events *e, const char *text, uint64_t *ret_number)
{
    char epoch[24];
    int64_t number = 0;
    const char *dash = strchr(text, '-');
    snprintf(epoch, sizeof epoch, "%" PRIu64, e->epoch);
    if (dash == NULL || strlen(epoch) != (size_t)(dash - text) || strncmp(text, epoch, (size_t)(dash - text)) != 0 ||
        !rf_parse_int(dash + 1, 0, INT64_MAX - 1, &number))
        return false;
    *ret_number = (uint64_t)number;
    return true;
}

void rf_events_handle(struct rf_call *c)
{
    struct rf_events *e = c->app->events;
    const char *last = rf_call_header(c, "Last-Event-ID");
    struct stream *s = rf_new(struct stream);
    s->events = e;
    s->call = c;
    pthread_mutex_lock(&e->lock);
    if (e->stopping || e->n_streams >= RF_EVENTS_MAX_STREAMS) {
        pthread_mutex_unlock(&e->lock);
        free(s);
        rf_answer_error(c, 503, NULL, "too_many_streams", "at most %d event streams are open at a time",
                        RF_EVENTS_MAX_STREAMS);
        return;
    }
    uint64_t seen = 0;
    bool resumes = last != NULL && read_event_id(e, last, &seen) && seen <= e->n;
    s->cursor = resumes ? seen : e->n;
    s->next = e->streams;
    s->link = &e->streams;
    if (s->next != NULL)
        s->next->link = &s->next;
    e->streams = s;
    e->n_streams++;
    pthread_mutex_unlock(&e->lock);
    c->state = s;
    c->free_state = free_stream;
    /* An id at once: a client that loses us before the first event then still resumes where it began. */
    rf_out_printf(&s->out, "retry: 2000\nid: %" PRIu64 "-%" PRIu64 "\n\n", e->epoch, s->cursor);
    if (last != NULL && !resumes)
        add_reset(s);
    rf_answer_header(c, "Cache-Control", "no-store");
    rf_answer_header(c, "X-Accel-Buffering", "no");
    rf_answer_stream(c, "text/event-stream", read_events);
}
