/* Doubling the frame rate with FFmpeg's minterpolate, on all cores.
 *
 * The filter knows one thread, so the clip is cut into chunks of a fixed length, each run through a filter of its
 * own. A chunk starts WARM_UP frames early, because the search for motion starts from the vectors of the frames
 * before; without it the first invented frame of a chunk would differ from what one long run gives (NOTES.md has the
 * measurements). Where the cuts lie depends on the clip alone: the same frames come out whatever the number of threads.
 *
 * Only invented frames are taken from the filter. The caller's own frames never leave RGB, so they stay exact; the
 * filter works on 4:4:4 in full range, where the trip there and back costs half a level and keeps brightness.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavutil/pixfmt.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "worker/media/av.h"
#include "worker/media/colour.h"

enum {
    CHUNK = 10,       /* intervals between given frames: 81 frames are eight chunks, even on 2, 4 or 8 cores */
    WARM_UP = 2,      /* given frames before a chunk, run and thrown away */
    BLOCK = 8,        /* the filter leaves what is beyond the last whole block to chance, so the picture is padded */
    MIN_BLOCKS = 8,
    MAX_THREADS = 64,
    MAX_SIDE = 8192,
};

/* mb_size=8, no vsbmc: measured better than 16 with or without it, at the same speed (NOTES.md has the table).
 * scd=none: its detector of cuts has no history at the start and takes a fast first interval for a cut. */
static const char filter_options[] = "fps=32:mi_mode=mci:mc_mode=aobmc:me_mode=bilat:mb_size=8:scd=none";

struct clip {
    const uint8_t *frames; /* borrowed */
    int n, width, height;
    int padded_width, padded_height;
    size_t frame_bytes;
};

struct chunk {
    int first, n; /* intervals: number k lies between the given frames k and k + 1 */
    uint8_t *rgb; /* [n, height, width, 3], the invented frames */
    bool done;
    struct rf_err err; /* code RF_OK when all went well */
};

struct work {
    struct clip clip;
    struct chunk *chunks;
    int n_chunks, window; /* so many chunks may be begun before the oldest has been emitted: the bound on memory */

    pthread_mutex_t lock; /* guards what follows and each chunk's `done` */
    pthread_cond_t changed;
    int n_claimed, n_emitted, n_invented;
    bool stop;
};

/* ---- one chunk ---- */

struct filter {
    AVFilterGraph *graph;
    AVFilterContext *source, *sink;
};

static void filter_finish(struct filter *f)
{
    avfilter_graph_free(&f->graph);
}

static enum rf_code filter_init(struct filter *f, const struct clip *clip, struct rf_err *err)
{
    char source_options[128];
    snprintf(source_options, sizeof source_options, "video_size=%dx%d:pix_fmt=%d:time_base=1/16:pixel_aspect=1/1",
             clip->padded_width, clip->padded_height, AV_PIX_FMT_YUV444P);
    f->graph = avfilter_graph_alloc();
    if (f->graph == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a filter");
    f->graph->nb_threads = 1;
    AVFilterContext *doubler = NULL;
    int ret = avfilter_graph_create_filter(&f->source, avfilter_get_by_name("buffer"), "in", source_options, NULL,
                                           f->graph);
    if (ret >= 0)
        ret = avfilter_graph_create_filter(&doubler, avfilter_get_by_name("minterpolate"), "double", filter_options,
                                           NULL, f->graph);
    if (ret >= 0)
        ret = avfilter_graph_create_filter(&f->sink, avfilter_get_by_name("buffersink"), "out", NULL, NULL, f->graph);
    if (ret >= 0)
        ret = avfilter_link(f->source, 0, doubler, 0);
    if (ret >= 0)
        ret = avfilter_link(doubler, 0, f->sink, 0);
    if (ret >= 0)
        ret = avfilter_graph_config(f->graph, NULL);
    return ret < 0 ? rf_av_fail(err, ret, "start FFmpeg's minterpolate") : RF_OK;
}

static struct rf_yuv planes_of(const AVFrame *f)
{
    return (struct rf_yuv){
        .plane = { f->data[0], f->data[1], f->data[2] },
        .stride = { f->linesize[0], f->linesize[1], f->linesize[2] },
        .site = RF_CHROMA_LEFT, .matrix = RF_MATRIX_BT709, .full_range = true,
    };
}

/* Repeats the last column and row out to the padded size. */
static void pad_plane(const struct clip *clip, uint8_t *plane, ptrdiff_t stride)
{
    for (int y = 0; y < clip->height; y++) {
        uint8_t *row = plane + y * stride;
        memset(row + clip->width, row[clip->width - 1], (size_t)(clip->padded_width - clip->width));
    }
    const uint8_t *last = plane + (clip->height - 1) * stride;
    for (int y = clip->height; y < clip->padded_height; y++)
        memcpy(plane + y * stride, last, (size_t)clip->padded_width);
}

/* Given frame `number`; past the end the last one again, since the filter wants to see one frame ahead. */
static enum rf_code feed(struct filter *f, const struct clip *clip, int number, struct rf_err *err)
{
    RF_AUTO(av_frame_free) AVFrame *frame = av_frame_alloc();
    if (frame == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a frame");
    frame->format = AV_PIX_FMT_YUV444P;
    frame->width = clip->padded_width;
    frame->height = clip->padded_height;
    frame->pts = number;
    int ret = av_frame_get_buffer(frame, 0);
    if (ret >= 0) {
        struct rf_yuv planes = planes_of(frame);
        int given = number < clip->n ? number : clip->n - 1;
        rf_yuv_from_rgb(clip->frames + (size_t)given * clip->frame_bytes, clip->width, clip->height, &planes);
        for (int p = 0; p < 3; p++)
            pad_plane(clip, planes.plane[p], planes.stride[p]);
        ret = av_buffersrc_add_frame(f->source, frame);
    }
    return ret < 0 ? rf_av_fail(err, ret, "give minterpolate frame %d", number) : RF_OK;
}

static bool note_invented(struct work *w)
{
    pthread_mutex_lock(&w->lock);
    w->n_invented++;
    bool go_on = !w->stop;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

/* Takes what the filter has ready; keeps the invented frames of this chunk. Its clock runs at 32 a second: odd
 * numbers are invented. */
static enum rf_code drain(struct work *w, struct filter *f, struct chunk *c, int *n_kept, struct rf_err *err)
{
    RF_AUTO(av_frame_free) AVFrame *frame = av_frame_alloc();
    if (frame == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a frame");
    int ret;
    for (; (ret = av_buffersink_get_frame(f->sink, frame)) >= 0; av_frame_unref(frame)) {
        int64_t interval = frame->pts / 2;
        if (frame->pts % 2 == 0 || interval < c->first || interval >= c->first + c->n)
            continue;
        if (interval != c->first + *n_kept)
            return rf_fail(err, RF_ERR_DEVICE, "minterpolate skipped a frame");
        struct rf_yuv planes = planes_of(frame);
        uint8_t *rgb = c->rgb + (size_t)(interval - c->first) * w->clip.frame_bytes;
        if (!rf_yuv_to_rgb(&planes, w->clip.width, w->clip.height, rgb))
            return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a line");
        ++*n_kept;
        if (!note_invented(w))
            return rf_fail(err, RF_ERR_CANCELLED, "stopped");
    }
    return ret == AVERROR(EAGAIN) || ret == AVERROR_EOF ? RF_OK : rf_av_fail(err, ret, "minterpolate");
}

static enum rf_code run_chunk(struct work *w, struct chunk *c, struct rf_err *err)
{
    RF_AUTO(filter_finish) struct filter f = { 0 };
    c->rgb = malloc((size_t)c->n * w->clip.frame_bytes);
    if (c->rgb == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for %d frames of %dx%d", c->n, w->clip.width, w->clip.height);
    enum rf_code rc = filter_init(&f, &w->clip, err);
    int n_kept = 0, begin = c->first > WARM_UP ? c->first - WARM_UP : 0;
    for (int i = begin; rc == RF_OK && i <= c->first + c->n + 1; i++) {
        rc = feed(&f, &w->clip, i, err);
        if (rc == RF_OK)
            rc = drain(w, &f, c, &n_kept, err);
    }
    if (rc == RF_OK && n_kept != c->n)
        rc = rf_fail(err, RF_ERR_DEVICE, "minterpolate gave %d frames of %d", n_kept, c->n);
    return rc;
}

/* ---- many chunks ---- */

/* The next chunk to run, NULL when there is none or the work was stopped. */
static struct chunk *claim(struct work *w)
{
    struct chunk *c = NULL;
    pthread_mutex_lock(&w->lock);
    while (!w->stop && w->n_claimed < w->n_chunks && w->n_claimed >= w->n_emitted + w->window)
        pthread_cond_wait(&w->changed, &w->lock);
    if (!w->stop && w->n_claimed < w->n_chunks)
        c = &w->chunks[w->n_claimed++];
    pthread_mutex_unlock(&w->lock);
    return c;
}

static void *run_thread(void *self)
{
    struct work *w = self;
    rf_av_begin();
    for (struct chunk *c; (c = claim(w)) != NULL;) {
        struct rf_err err = { RF_OK, "" };
        run_chunk(w, c, &err);
        pthread_mutex_lock(&w->lock);
        c->err = err;
        c->done = true;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

struct listener {
    enum rf_code (*emit)(void *self, const uint8_t *rgb, struct rf_err *err);
    bool (*progress)(void *self, int done, int total);
    void *self;
    int total, told; /* invented frames: how many there will be, how many `progress` has heard of */
};

/* Waits for the chunk, passing news to the listener as it comes. */
static enum rf_code await_chunk(struct work *w, struct chunk *c, struct listener *l, struct rf_err *err)
{
    enum rf_code rc = RF_OK;
    pthread_mutex_lock(&w->lock);
    for (bool done = false; !done && rc == RF_OK;) {
        while (!c->done && w->n_invented == l->told)
            pthread_cond_wait(&w->changed, &w->lock);
        done = c->done;
        bool news = w->n_invented != l->told;
        l->told = w->n_invented;
        pthread_mutex_unlock(&w->lock);
        if (news && l->progress != NULL && !l->progress(l->self, l->told, l->total))
            rc = rf_fail(err, RF_ERR_CANCELLED, "interpolation was cancelled");
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    if (rc == RF_OK && c->err.code != RF_OK)
        rc = rf_fail(err, c->err.code, "%s", c->err.msg);
    return rc;
}

static enum rf_code emit_chunk(struct work *w, struct chunk *c, const struct listener *l, struct rf_err *err)
{
    size_t bytes = w->clip.frame_bytes;
    enum rf_code rc = RF_OK;
    for (int i = 0; rc == RF_OK && i < c->n; i++) {
        rc = l->emit(l->self, c->rgb + (size_t)i * bytes, err);
        if (rc == RF_OK)
            rc = l->emit(l->self, w->clip.frames + (size_t)(c->first + i + 1) * bytes, err);
    }
    rf_free(&c->rgb);
    pthread_mutex_lock(&w->lock);
    w->n_emitted++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

static enum rf_code collect(struct work *w, struct listener *l, struct rf_err *err)
{
    enum rf_code rc = l->emit(l->self, w->clip.frames, err);
    for (int i = 0; rc == RF_OK && i < w->n_chunks; i++) {
        rc = await_chunk(w, &w->chunks[i], l, err);
        if (rc == RF_OK)
            rc = emit_chunk(w, &w->chunks[i], l, err);
    }
    return rc;
}

static int padded(int side)
{
    int blocks = (side + BLOCK - 1) / BLOCK;
    return BLOCK * (blocks > MIN_BLOCKS ? blocks : MIN_BLOCKS);
}

static void plan_chunks(struct work *w, int n_threads)
{
    int n_intervals = w->clip.n - 1;
    w->n_chunks = (n_intervals + CHUNK - 1) / CHUNK;
    w->chunks = rf_new_array(struct chunk, (size_t)w->n_chunks);
    for (int i = 0; i < w->n_chunks; i++) {
        int first = i * CHUNK, rest = n_intervals - first;
        w->chunks[i] = (struct chunk){ .first = first, .n = rest < CHUNK ? rest : CHUNK };
    }
    w->window = 2 * n_threads;
}

static int count_threads(int wanted)
{
    long n = wanted > 0 ? wanted : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (int)n;
}

static void work_finish(struct work *w)
{
    for (int i = 0; i < w->n_chunks; i++)
        free(w->chunks[i].rgb);
    free(w->chunks);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
}

enum rf_code rf_interpolate_double(const uint8_t *frames, int n, int width, int height, int n_threads,
                                   enum rf_code (*emit)(void *self, const uint8_t *rgb, struct rf_err *err),
                                   bool (*progress)(void *self, int done, int total), void *self, struct rf_err *err)
{
    rf_av_begin();
    if (n < 1 || width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return rf_fail(err, RF_ERR_INVALID, "interpolate %d frames of %dx%d", n, width, height);
    n_threads = count_threads(n_threads);
    RF_AUTO(work_finish) struct work w = {
        .clip = { frames, n, width, height, padded(width), padded(height), (size_t)width * (size_t)height * 3 },
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER,
    };
    plan_chunks(&w, n_threads);
    struct listener l = { emit, progress, self, .total = n - 1 };
    pthread_t threads[MAX_THREADS];
    int n_started = 0;
    while (n_started < n_threads && n_started < w.n_chunks &&
           pthread_create(&threads[n_started], NULL, run_thread, &w) == 0)
        n_started++;
    enum rf_code rc = n_started > 0 || w.n_chunks == 0
                          ? collect(&w, &l, err)
                          : rf_fail(err, RF_ERR_NO_MEMORY, "cannot start a thread to interpolate");
    pthread_mutex_lock(&w.lock);
    w.stop = true;
    pthread_cond_broadcast(&w.changed);
    pthread_mutex_unlock(&w.lock);
    for (int i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
    return rc;
}
