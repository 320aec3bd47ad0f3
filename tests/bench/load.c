/* epoll, level-triggered; see load.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOT_S 0.005
#define N_SLOTS 16384               /* of a timer wheel: 80 s */

struct rf_load {
    int epoll, port;
    struct rf_peer *peers;
    int64_t slot;                   /* the next one to look at */
    struct rf_timer *slots[N_SLOTS];
};

static void die(const char *doing)
{
    fprintf(stderr, "bench: %s: %s\n", doing, strerror(errno));
    exit(1);
}

/* ---- histogram ---- */

void rf_hist_add(struct rf_hist *h, double seconds)
{
    double us = seconds < 1e-6 ? 1 : seconds * 1e6;
    int octave = ilogb(us), i = octave * 128 + (int)((us / ldexp(1, octave) - 1) * 128);
    h->count[i < (int)RF_COUNT_OF(h->count) ? i : (int)RF_COUNT_OF(h->count) - 1]++;
    h->n++;
    h->max_s = seconds > h->max_s ? seconds : h->max_s;
}

double rf_hist_at(const struct rf_hist *h, double share)
{
    int64_t below = 0, wanted = (int64_t)ceil(share * (double)h->n);
    for (int i = 0; i < (int)RF_COUNT_OF(h->count); i++) {
        below += h->count[i];
        if (below >= wanted && below > 0)
            return ldexp(1 + (i % 128 + 0.5) / 128, i / 128) * 1e-6;
    }
    return 0;
}

double rf_bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- connections ---- */

struct rf_peer *rf_peer_create(struct rf_load *load, void (*answered)(struct rf_peer *p), void *ctx)
{
    struct rf_peer *p = rf_new(struct rf_peer);
    *p = (struct rf_peer){.ctx = ctx, .answered = answered, .load = load, .next = load->peers};
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)load->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect");
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, p->fd, &e) != 0)
        die("epoll_ctl");
    load->peers = p;
    return p;
}

static void watch(struct rf_peer *p, bool wants_write)
{
    if (p->wants_write == wants_write)
        return;
    p->wants_write = wants_write;
    struct epoll_event e = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = p};
    if (epoll_ctl(p->load->epoll, EPOLL_CTL_MOD, p->fd, &e) != 0)
        die("epoll_ctl");
}

static void push(struct rf_peer *p)
{
    while (p->out_sent < p->out_n) {
        ssize_t n = send(p->fd, p->out + p->out_sent, p->out_n - p->out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            die("send");
        p->out_sent += (size_t)n;
    }
    watch(p, p->out_sent < p->out_n);
}

void rf_peer_send(struct rf_peer *p, const char *method, const char *path, const char *type, const char *body, size_t n)
{
    RF_ASSERT(!p->busy);
    if (p->out_room < n + 1024) {
        p->out_room = n + 1024;
        p->out = rf_realloc(p->out, p->out_room, 1);
    }
    int head = snprintf(p->out, 1024, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path);
    if (body != NULL)
        head += snprintf(p->out + head, 512, "Content-Type: %s\r\nContent-Length: %zu\r\n", type, n);
    head += snprintf(p->out + head, 16, "\r\n");
    if (body != NULL)
        memcpy(p->out + head, body, n);
    p->out_n = (size_t)head + (body != NULL ? n : 0);
    p->out_sent = p->in_n = p->head_n = 0;
    p->busy = true;
    p->sent_s = rf_bench_now();
    push(p);
}

/* Reads the head once it is whole. */
static void read_head(struct rf_peer *p)
{
    char *end = strstr(p->in, "\r\n\r\n");
    if (end == NULL)
        return;
    p->head_n = (size_t)(end - p->in) + 4;
    p->answer_n = p->head_n;
    p->status = atoi(p->in + 9);
    for (char *line = p->in; line < end; line = strstr(line, "\r\n") + 2)
        if (strncasecmp(line, "Content-Length:", 15) == 0)
            p->answer_n += (size_t)atoll(line + 15);
}

static void pull(struct rf_peer *p)
{
    if (p->in_room - p->in_n < 16384) {
        p->in_room = 2 * p->in_room + 16384;
        p->in = rf_realloc(p->in, p->in_room + 1, 1);
    }
    ssize_t n = recv(p->fd, p->in + p->in_n, p->in_room - p->in_n, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || !p->busy)
        die(n == 0 ? "the server closed a connection" : "recv");
    if (p->in_n == 0)
        p->first_byte_s = rf_bench_now();
    p->in_n += (size_t)n;
    p->in[p->in_n] = '\0';
    if (p->head_n == 0)
        read_head(p);
    if (p->head_n == 0 || p->in_n < p->answer_n)
        return;
    p->whole_s = rf_bench_now();
    p->body = p->in + p->head_n;
    p->body_n = p->in_n - p->head_n;
    p->busy = false;
    p->answered(p);
    if (p->in_room > 65536 && !p->busy) { /* ten thousand idle connections shall not each keep a list */
        rf_free(&p->in);
        p->in_room = 0;
    }
}

/* ---- timers and loop ---- */

void rf_load_timer(struct rf_load *load, struct rf_timer *t, double after_s)
{
    RF_ASSERT(!t->armed && after_s < SLOT_S * (N_SLOTS - 2));
    t->at = rf_bench_now() + after_s;
    int64_t slot = (int64_t)(t->at / SLOT_S) + 1;
    slot = slot < load->slot ? load->slot : slot;
    t->armed = true;
    t->next = load->slots[slot % N_SLOTS];
    load->slots[slot % N_SLOTS] = t;
}

static void fire_due(struct rf_load *load)
{
    int64_t now = (int64_t)(rf_bench_now() / SLOT_S);
    for (; load->slot <= now; load->slot++) {
        struct rf_timer *t = load->slots[load->slot % N_SLOTS];
        load->slots[load->slot % N_SLOTS] = NULL;
        for (struct rf_timer *next; t != NULL; t = next) {
            next = t->next;
            t->armed = false;
            t->fire(t);
        }
    }
}

struct rf_load *rf_load_create(int port)
{
    struct rf_load *load = rf_new(struct rf_load);
    load->port = port;
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load->epoll < 0)
        die("epoll_create1");
    load->slot = (int64_t)(rf_bench_now() / SLOT_S);
    return load;
}

void rf_load_destroy(struct rf_load **load)
{
    struct rf_load *l = *load;
    if (l == NULL)
        return;
    for (struct rf_peer *p = l->peers, *next; p != NULL; p = next) {
        next = p->next;
        close(p->fd);
        free(p->in);
        free(p->out);
        free(p);
    }
    close(l->epoll);
    rf_free(load);
}

void rf_load_run(struct rf_load *load, double until_s, const bool *stop)
{
    struct epoll_event events[256];
    while (!*stop && rf_bench_now() < until_s) {
        int n = epoll_wait(load->epoll, events, RF_COUNT_OF(events), 5);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct rf_peer *p = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                push(p);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                pull(p);
        }
        fire_due(load);
    }
}
