/* The two messages that a busy farm sends most, read straight from their text: no tree, one pass, a tenth of the work.
 *
 * Takes the plain form that workers write: known keys, each once, ASCII without escapes, everything in range. What is not
 * plain is not wrong: the caller then reads it through the tree, which takes more and says what is wrong. So whatever is
 * taken here must be taken there with the same outcome; tests/schema/test_wire.c and the fuzz target hold both together.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/wire_private.h"

#include <math.h>
#include <string.h>

/* At `at`, in a text that ends with NUL. Once `plain` is false nothing more is read. */
struct scan {
    const char *at;
    bool plain;
};

static bool not_plain(struct scan *s)
{
    return s->plain = false;
}

static void skip_space(struct scan *s)
{
    while (*s->at == ' ' || *s->at == '\t' || *s->at == '\r' || *s->at == '\n')
        s->at++;
}

static bool take(struct scan *s, char c)
{
    skip_space(s);
    if (!s->plain || *s->at != c)
        return not_plain(s);
    s->at++;
    return true;
}

/* Whether another item of a list or an object follows; its end is taken. *n counts them. */
static bool more(struct scan *s, char end, int *n)
{
    skip_space(s);
    if (!s->plain)
        return false;
    if (*s->at == end) {
        s->at++;
        return false;
    }
    return (*n)++ == 0 || take(s, ',');
}

/* A string of plain letters; borrowed, without its quotes. */
static bool word(struct scan *s, const char **ret_word, size_t *ret_n)
{
    if (!take(s, '"'))
        return false;
    const char *p = s->at;
    while (*p >= 0x20 && *p < 0x7f && *p != '"' && *p != '\\')
        p++;
    *ret_word = s->at;
    *ret_n = (size_t)(p - s->at);
    if (*p != '"')
        return not_plain(s); /* and stay: it may be the end of the text */
    s->at = p + 1;
    return true;
}

static bool word_into(struct scan *s, char *to, size_t size)
{
    const char *text;
    size_t n;
    if (!word(s, &text, &n) || n >= size)
        return not_plain(s);
    memcpy(to, text, n);
    to[n] = '\0';
    return true;
}

/* The next key and its colon: its place among `names`. -1: unknown or seen before. */
static int key(struct scan *s, const char *const *names, int n_names, unsigned *seen)
{
    const char *text;
    size_t n;
    if (!word(s, &text, &n) || !take(s, ':'))
        return -1;
    for (int i = 0; i < n_names; i++)
        if (strncmp(names[i], text, n) == 0 && names[i][n] == '\0') {
            if (*seen & 1u << i)
                break;
            *seen |= 1u << i;
            return i;
        }
    not_plain(s);
    return -1;
}

/* Up to fifteen digits are a whole number below 2^53 over a power of ten below 10^22: both exact, so that one division
 * rounds as strtod does. Longer ones go to strtod. */
static bool number(struct scan *s, double min, double max, double *ret_x)
{
    static const double powers[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    skip_space(s);
    const char *start = s->at, *p = start + (*start == '-');
    int64_t digits = 0;
    int n = 0, n_decimals = 0;
    const char *first = p;
    for (; *p >= '0' && *p <= '9' && n < 40; p++, n++)
        digits = n < 15 ? digits * 10 + (*p - '0') : digits;
    if (n == 0 || (*first == '0' && n > 1))
        return not_plain(s);
    if (*p == '.') {
        for (p++; *p >= '0' && *p <= '9' && n < 40; p++, n++, n_decimals++)
            digits = n < 15 ? digits * 10 + (*p - '0') : digits;
        if (n_decimals == 0)
            return not_plain(s);
    }
    if (n >= 40 || *p == 'e' || *p == 'E')
        return not_plain(s);
    double x = n > 15 ? strtod(start, NULL) : (*start == '-' ? -1 : 1) * ((double)digits / powers[n_decimals]);
    s->at = p;
    *ret_x = x;
    return (x >= min && x <= max) || not_plain(s);
}

static bool whole(struct scan *s, int64_t min, int64_t max, int64_t *ret_n)
{
    double x;
    if (!number(s, (double)min, (double)max, &x) || x != floor(x))
        return not_plain(s);
    *ret_n = (int64_t)x;
    return true;
}

static bool whole_int(struct scan *s, int min, int max, int *ret_n)
{
    int64_t n;
    if (!whole(s, min, max, &n))
        return false;
    *ret_n = (int)n;
    return true;
}

/* ---- messages ---- */

static bool worker_id(struct scan *s, char *ret_id)
{
    return word_into(s, ret_id, RF_WORKER_ID_SIZE) && (rf_wire_worker_id_shaped(ret_id) || not_plain(s));
}

static bool at_end(struct scan *s, const char *end)
{
    skip_space(s);
    return s->plain && s->at == end;
}

/* The same ranges as in wire.c. */
static void gauges(struct scan *s, struct rf_wire_gauges *g)
{
    static const char *const keys[] = {"memory_used_bytes", "utilization", "temperature_c", "power_w"};
    unsigned seen = 0;
    int n = 0;
    *g = (struct rf_wire_gauges){true, -1, -1, -1, -1};
    take(s, '{');
    while (more(s, '}', &n))
        switch (key(s, keys, RF_COUNT_OF(keys), &seen)) {
        case 0: whole(s, 0, RF_MAX_SEED, &g->memory_used_bytes); break;
        case 1: number(s, 0, 1, &g->utilization); break;
        case 2: number(s, 0, 1000, &g->temperature_c); break;
        case 3: number(s, 0, 1e6, &g->power_w); break;
        }
}

bool rf_wire_lease_ask_scan(const char *text, size_t n_bytes, struct rf_wire_lease_ask *ret)
{
    static const char *const keys[] = {"worker_id", "wait_ms", "device"};
    struct scan s = {text, true};
    struct rf_wire_lease_ask m = {0};
    unsigned seen = 0;
    int n = 0;
    take(&s, '{');
    while (more(&s, '}', &n))
        switch (key(&s, keys, RF_COUNT_OF(keys), &seen)) {
        case 0: worker_id(&s, m.worker_id); break;
        case 1: whole(&s, 0, 30000, &m.wait_ms); break;
        case 2: gauges(&s, &m.device); break;
        }
    if (n_bytes > RF_WIRE_MAX_BYTES || !at_end(&s, text + n_bytes) || (seen & 1) == 0)
        return false;
    *ret = m;
    return true;
}

static void one_timing(struct scan *s, struct rf_wire_timing *t)
{
    static const char *const keys[] = {"stage", "step", "started_at_ms", "seconds"};
    unsigned seen = 0;
    int n = 0;
    *t = (struct rf_wire_timing){.step = -1};
    take(s, '{');
    while (more(s, '}', &n))
        switch (key(s, keys, RF_COUNT_OF(keys), &seen)) {
        case 0:
            if (!word_into(s, t->stage, sizeof t->stage) || !rf_stage_known(t->stage))
                not_plain(s);
            break;
        case 1:
            skip_space(s);
            if (strncmp(s->at, "null", 4) == 0)
                s->at += 4;
            else
                whole_int(s, 0, 1000, &t->step);
            break;
        case 2: whole(s, 0, RF_MAX_SEED, &t->started_at_ms); break;
        case 3: number(s, 0, 1e7, &t->seconds); break;
        }
    if ((seen & 5) != 5)
        not_plain(s);
}

static void timings(struct scan *s, struct rf_wire_report *r)
{
    int n = 0, room = 0;
    take(s, '[');
    while (more(s, ']', &n) && s->plain) {
        if (r->n_timings == RF_WIRE_MAX_TIMINGS) {
            not_plain(s);
            return;
        }
        if (r->n_timings == room) {
            room = room ? 4 * room : 32;
            r->timings = rf_realloc(r->timings, (size_t)room, sizeof *r->timings);
        }
        one_timing(s, &r->timings[r->n_timings++]);
    }
}

static void notes(struct scan *s, struct rf_wire_report *r)
{
    int n = 0;
    take(s, '[');
    while (more(s, ']', &n)) {
        const char *text;
        size_t n_bytes;
        if (!word(s, &text, &n_bytes) || n_bytes > 2000 || r->n_notes == RF_WIRE_MAX_NOTES) {
            not_plain(s);
            return;
        }
        r->notes = rf_realloc(r->notes, (size_t)r->n_notes + 1, sizeof *r->notes);
        r->notes[r->n_notes++] = rf_strndup(text, n_bytes);
    }
}

static void result(struct scan *s, struct rf_wire_result *m)
{
    static const char *const keys[] = {"num_frames", "width", "height", "fps", "seconds", "colour_shift"};
    unsigned seen = 0;
    int n = 0;
    take(s, '{');
    while (more(s, '}', &n))
        switch (key(s, keys, RF_COUNT_OF(keys), &seen)) {
        case 0: whole_int(s, 0, 1000000, &m->n_frames); break;
        case 1: whole_int(s, 0, 65536, &m->width); break;
        case 2: whole_int(s, 0, 65536, &m->height); break;
        case 3: whole_int(s, 0, 1000, &m->fps); break;
        case 4: number(s, 0, 1e6, &m->seconds); break;
        case 5: number(s, -1e6, 1e6, &m->colour_shift); break;
        }
}

struct rf_wire_report *rf_wire_complete_scan(const char *text, size_t n_bytes)
{
    static const char *const keys[] = {"worker_id", "lease", "timings", "notes", "result"};
    RF_AUTO(rf_wire_report_destroy) struct rf_wire_report *r = rf_new(struct rf_wire_report);
    *r = (struct rf_wire_report){.kind = RF_REPORT_COMPLETE, .result.colour_shift = NAN};
    struct scan s = {text, true};
    unsigned seen = 0;
    int n = 0;
    take(&s, '{');
    while (more(&s, '}', &n))
        switch (key(&s, keys, RF_COUNT_OF(keys), &seen)) {
        case 0: worker_id(&s, r->worker_id); break;
        case 1: whole(&s, 1, RF_MAX_SEED, &r->lease); break;
        case 2: timings(&s, r); break;
        case 3: notes(&s, r); break;
        case 4: result(&s, &r->result); break;
        }
    struct rf_wire_report *plain = NULL;
    if (n_bytes <= RF_WIRE_MAX_BYTES && at_end(&s, text + n_bytes) && (seen & 3) == 3) {
        plain = r;
        r = NULL;
    }
    return plain;
}
