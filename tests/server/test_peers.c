/* Who is cut off for slowness, with a clock that the test moves.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/peers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define IDLE_MS 1000

/* A connection: ours is what the peers know, theirs sees the end. */
struct line {
    int ours, theirs;
    struct rf_peer *peer;
};

static struct line connect_line(struct rf_peers *peers, int64_t now_ms)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    return (struct line){pair[0], pair[1], rf_peers_add(peers, pair[0], now_ms)};
}

static bool was_cut(const struct line *line)
{
    char byte;
    return read(line->theirs, &byte, 1) == 0;
}

static void end_line(struct rf_peers *peers, struct line *line)
{
    rf_peers_remove(peers, line->peer);
    close(line->ours);
    close(line->theirs);
}

static void headers_have_their_time_from_the_last_answer(void **state)
{
    RF_AUTO(rf_peers_destroy) struct rf_peers *peers = rf_peers_create(IDLE_MS, 100);
    struct line line = connect_line(peers, 0);
    assert_int_equal(rf_peers_cut_slow(peers, IDLE_MS), 0);
    rf_peer_await_headers(line.peer, 900);
    assert_int_equal(rf_peers_cut_slow(peers, 900 + IDLE_MS), 0);
    assert_false(was_cut(&line));
    assert_int_equal(rf_peers_cut_slow(peers, 901 + IDLE_MS), 1);
    assert_true(was_cut(&line));
    assert_int_equal(rf_peers_cut_slow(peers, 902 + IDLE_MS), 0); /* once */
    end_line(peers, &line);
}

static void a_body_buys_a_second_per_kib(void **state)
{
    RF_AUTO(rf_peers_destroy) struct rf_peers *peers = rf_peers_create(IDLE_MS, 100);
    struct line line = connect_line(peers, 0);
    rf_peer_await_body(line.peer, 500);
    rf_peer_gave(line.peer, 2048);
    assert_int_equal(rf_peers_cut_slow(peers, 500 + IDLE_MS + 2000), 0);
    assert_int_equal(rf_peers_cut_slow(peers, 501 + IDLE_MS + 2000), 1);
    end_line(peers, &line);
}

static void the_next_request_starts_without_the_last_bodys_credit(void **state)
{
    RF_AUTO(rf_peers_destroy) struct rf_peers *peers = rf_peers_create(IDLE_MS, 100);
    struct line line = connect_line(peers, 0);
    rf_peer_await_body(line.peer, 0);
    rf_peer_gave(line.peer, 1 << 20);
    rf_peer_await_headers(line.peer, 0);
    assert_int_equal(rf_peers_cut_slow(peers, 1 + IDLE_MS), 1);
    end_line(peers, &line);
}

static void who_waits_for_us_is_never_cut(void **state)
{
    RF_AUTO(rf_peers_destroy) struct rf_peers *peers = rf_peers_create(IDLE_MS, 1);
    struct line line = connect_line(peers, 0);
    rf_peer_await_nothing(line.peer);
    assert_int_equal(rf_peers_cut_slow(peers, INT64_MAX / 2), 0);
    assert_false(was_cut(&line));
    end_line(peers, &line);
}

static void patience_is_short_when_connections_run_out(void **state)
{
    RF_AUTO(rf_peers_destroy) struct rf_peers *peers = rf_peers_create(100 * IDLE_MS, 4);
    struct line line[4];
    for (int i = 0; i < 3; i++)
        line[i] = connect_line(peers, 0);
    assert_int_equal(rf_peers_cut_slow(peers, 2 * IDLE_MS + 1), 0);
    line[3] = connect_line(peers, 2 * IDLE_MS);
    assert_int_equal(rf_peers_cut_slow(peers, 2 * IDLE_MS + 1), 3); /* a fiftieth, and the newest keeps its time */
    assert_false(was_cut(&line[3]));
    for (int i = 3; i >= 0; i--)
        end_line(peers, &line[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_have_their_time_from_the_last_answer),
        cmocka_unit_test(a_body_buys_a_second_per_kib),
        cmocka_unit_test(the_next_request_starts_without_the_last_bodys_credit),
        cmocka_unit_test(who_waits_for_us_is_never_cut),
        cmocka_unit_test(patience_is_short_when_connections_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
