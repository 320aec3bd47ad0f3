/* The small parts: notes, log lines, stops, pauses, the scratch folder, digests.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

#include <cmocka.h>

#include "worker/catalogue.h"
#include "worker/farm/client.h"
#include "worker/log.h"
#include "worker/task.h"

static char *words[] = {"red", "circle", "moves", "left", "blue", "background"};
static struct rf_wire_model demo = {.name = "demo", .note = "It draws shapes.", .vocabulary = words,
                                    .n_vocabulary = RF_COUNT_OF(words)};

static void expect_note(const char *prompt, const char *want)
{
    RF_AUTO(rf_free) char *note = rf_vocabulary_note(&demo, prompt);
    if (want == NULL)
        assert_null(note);
    else
        assert_string_equal(note, want);
}

static void a_prompt_of_known_words_gets_no_note(void **state)
{
    expect_note("A RED circle, moves left over the blue background!", NULL);
    expect_note("", NULL);
    expect_note("12 34 ...", NULL);
}

static void unknown_words_are_named_once_and_in_order(void **state)
{
    expect_note("a dragon and a red Dragon eat the circle",
                "The demo model does not know: dragon, eat. It draws shapes.");
    expect_note("ein großer Drache", "The demo model does not know: ein, großer, drache. It draws shapes.");
}

static void a_long_list_of_unknown_words_is_cut(void **state)
{
    expect_note("q w e r t y u i o p", "The demo model does not know: q, w, e, r, t, y, u, i …. It draws shapes.");
}

static void a_hostile_word_is_cut_between_characters(void **state)
{
    char prompt[4000];
    memset(prompt, 'x', 38);
    strcpy(prompt + 38, "äääää");
    RF_AUTO(rf_free) char *note = rf_vocabulary_note(&demo, prompt);
    assert_true(rf_utf8_valid(note, strlen(note), NULL));
    memset(prompt, 'z', sizeof prompt - 1);
    prompt[sizeof prompt - 1] = '\0';
    RF_AUTO(rf_free) char *other = rf_vocabulary_note(&demo, prompt);
    assert_true(strlen(other) < 120);
}

static void a_model_without_a_vocabulary_knows_everything(void **state)
{
    struct rf_wire_model open = {.name = "open", .note = ""};
    assert_null(rf_vocabulary_note(&open, "a dragon"));
}

static void a_message_cut_inside_a_character_becomes_sendable(void **state)
{
    char cut[] = "caf\xc3\xa9 au lait", odd[] = "file \xff\xfe.png";
    rf_make_sendable(cut, 4); /* in the middle of the e with its accent */
    assert_string_equal(cut, "caf");
    rf_make_sendable(odd, 100);
    assert_string_equal(odd, "file ??.png");
}

static void a_text_cannot_forge_a_log_line(void **state)
{
    char line[64] = "";
    size_t used = 0;
    rf_log_quote(line, sizeof line, &used, "a\"b\\c\nlevel=error\x01");
    assert_string_equal(line, "\"a\\\"b\\\\c\\nlevel=error\\x01\"");
    used = 0;
    rf_log_quote(line, 16, &used, "0123456789012345678901234567890");
    assert_true(used < 16 && line[used - 1] == '"' && line[used] == '\0');
}

static void the_first_reason_to_stop_stays(void **state)
{
    struct rf_stop stop;
    rf_stop_init(&stop);
    assert_false(rf_stop_wait(&stop, 0));
    rf_stop_raise(&stop, RF_STOP_LOST);
    rf_stop_raise(&stop, RF_STOP_DRAIN);
    assert_true(rf_stop_wait(&stop, 3600 * 1000)); /* returns at once, or the test would time out */
    assert_int_equal(rf_stop_reason(&stop), RF_STOP_LOST);
    rf_stop_finish(&stop);
}

static void pauses_grow_to_ten_seconds_and_differ(void **state)
{
    int n_different = 0;
    for (int n = 0; n < 40; n++) {
        int64_t most = n < 6 ? 200 << n : 10000, pause = rf_backoff_ms(n);
        assert_true(pause >= most / 2 && pause < most);
        n_different += pause != rf_backoff_ms(n);
    }
    assert_true(n_different > 20);
}

static void digests_are_sha256(void **state)
{
    char hex[RF_SHA256_HEX];
    rf_sha256_bytes("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void scratch_sweeps_what_a_dead_worker_left_and_spares_the_living(void **state)
{
    char parent[] = "/tmp/framefarm-test-scratch-XXXXXX";
    assert_non_null(mkdtemp(parent));
    setenv("TMPDIR", parent, 1);
    RF_AUTO(rf_scratch_destroy) struct rf_scratch *living = NULL;
    assert_int_equal(rf_scratch_create(&living, NULL), RF_OK);
    RF_AUTO(rf_free) char *dead = rf_asprintf("%s/framefarm-worker-dead00", parent);
    RF_AUTO(rf_free) char *left = rf_asprintf("%s/segment.mp4", dead);
    assert_int_equal(mkdir(dead, 0700), 0);
    assert_int_equal(rf_write_file(left, "x", 1, NULL), RF_OK);
    struct utimbuf long_ago = {1000000000, 1000000000};
    assert_int_equal(utime(dead, &long_ago), 0);
    assert_int_equal(utime(rf_scratch_path(living), &long_ago), 0);

    RF_AUTO(rf_scratch_destroy) struct rf_scratch *next = NULL;
    assert_int_equal(rf_scratch_create(&next, NULL), RF_OK);
    assert_int_not_equal(access(dead, F_OK), 0);
    assert_int_equal(access(rf_scratch_path(living), F_OK), 0);

    RF_AUTO(rf_free) char *file = rf_scratch_file(next, "a.png");
    assert_int_equal(rf_write_file(file, "x", 1, NULL), RF_OK);
    rf_scratch_clear(next);
    assert_int_not_equal(access(file, F_OK), 0);
    rf_scratch_destroy(&next);
    rf_scratch_destroy(&living);
    assert_int_equal(rmdir(parent), 0); /* both took everything with them */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_of_known_words_gets_no_note),
        cmocka_unit_test(unknown_words_are_named_once_and_in_order),
        cmocka_unit_test(a_long_list_of_unknown_words_is_cut),
        cmocka_unit_test(a_hostile_word_is_cut_between_characters),
        cmocka_unit_test(a_model_without_a_vocabulary_knows_everything),
        cmocka_unit_test(a_message_cut_inside_a_character_becomes_sendable),
        cmocka_unit_test(a_text_cannot_forge_a_log_line),
        cmocka_unit_test(the_first_reason_to_stop_stays),
        cmocka_unit_test(pauses_grow_to_ten_seconds_and_differ),
        cmocka_unit_test(digests_are_sha256),
        cmocka_unit_test(scratch_sweeps_what_a_dead_worker_left_and_spares_the_living),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
