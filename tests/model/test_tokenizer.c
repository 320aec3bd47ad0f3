/* Prompts to ids: cleaning, EOS, truncation, and bytes from outside that are not what they claim to be.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "tests/model/tiny_model.h"
#include "worker/model/prompt.h"
#include "worker/model/tokenizer.h"

#define MAX_IDS 512
#define RED 4
#define CIRCLE 5
#define SPACE 6
#define LETTER(c) (7 + (c) - 'a')
#define OPEN (7 + 26)
#define CLOSE (OPEN + 1)
#define UNKNOWN 3

static struct rf_tokenizer *tiny(void)
{
    size_t size;
    RF_AUTO(rf_free) uint8_t *bytes = tiny_spiece(&size);
    struct rf_tokenizer *t = NULL;
    struct rf_err err;
    if (rf_tokenizer_open(bytes, size, &t, &err) != RF_OK) {
        if (strstr(err.msg, "no tokenizer"))
            skip();
        fail_msg("%s", err.msg);
    }
    return t;
}

static void check(const char *prompt, int64_t n, const int32_t *want)
{
    RF_AUTO(rf_tokenizer_close) struct rf_tokenizer *t = tiny();
    int32_t ids[MAX_IDS];
    int64_t n_ids = -1;
    bool truncated = true;
    assert_int_equal(rf_tokenizer_encode(t, prompt, MAX_IDS, ids, &n_ids, &truncated, NULL), RF_OK);
    assert_int_equal(n_ids, n);
    assert_memory_equal(ids, want, (size_t)n * sizeof *want);
    assert_false(truncated);
}

#define CHECK(prompt, ...) \
    check(prompt, sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t), (int32_t[]){__VA_ARGS__})

static void words_become_pieces_closed_by_eos(void **state)
{
    (void)state;
    CHECK("red circle", RED, CIRCLE, RF_TOKEN_EOS);
    CHECK("a red", SPACE, LETTER('a'), RED, RF_TOKEN_EOS);
}

static void whitespace_of_any_kind_collapses(void **state)
{
    (void)state;
    CHECK(" \t red \n\r\n  circle\u00A0 \u3000", RED, CIRCLE, RF_TOKEN_EOS);
    CHECK("", RF_TOKEN_EOS);
    CHECK("  \n ", RF_TOKEN_EOS);
}

static void parentheses_are_text_not_emphasis(void **state)
{
    (void)state;
    CHECK("(red", SPACE, OPEN, LETTER('r'), LETTER('e'), LETTER('d'), RF_TOKEN_EOS);
    CHECK("((a))", SPACE, OPEN, OPEN, LETTER('a'), CLOSE, CLOSE, RF_TOKEN_EOS);
}

static void what_the_model_does_not_know_is_one_unknown(void **state)
{
    (void)state;
    CHECK("red \U0001F600\U0001F600", RED, SPACE, UNKNOWN, RF_TOKEN_EOS);
    CHECK("<pad>", SPACE, UNKNOWN, LETTER('p'), LETTER('a'), LETTER('d'), UNKNOWN, RF_TOKEN_EOS);
}

static void long_prompts_keep_their_beginning_and_say_so(void **state)
{
    (void)state;
    RF_AUTO(rf_tokenizer_close) struct rf_tokenizer *t = tiny();
    enum { WORDS = 200000 };
    RF_AUTO(rf_free) char *prompt = rf_new_array(char, WORDS * 4 + 1);
    for (int i = 0; i < WORDS; i++)
        memcpy(prompt + (size_t)i * 4, "red ", 4);
    int32_t ids[MAX_IDS + 1];
    ids[MAX_IDS] = -7;
    int64_t n;
    bool truncated = false;
    assert_int_equal(rf_tokenizer_encode(t, prompt, MAX_IDS, ids, &n, &truncated, NULL), RF_OK);
    assert_int_equal(n, MAX_IDS);
    assert_true(truncated);
    assert_int_equal(ids[MAX_IDS - 2], RED);
    assert_int_equal(ids[MAX_IDS - 1], RF_TOKEN_EOS);
    assert_int_equal(ids[MAX_IDS], -7);

    prompt[4 * (MAX_IDS - 1)] = 0; /* 511 pieces: just fits */
    assert_int_equal(rf_tokenizer_encode(t, prompt, MAX_IDS, ids, &n, &truncated, NULL), RF_OK);
    assert_int_equal(n, MAX_IDS);
    assert_false(truncated);
    assert_int_equal(rf_tokenizer_encode(t, prompt, 1, ids, &n, &truncated, NULL), RF_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], RF_TOKEN_EOS);
}

static void bytes_that_are_no_utf8_are_an_error(void **state)
{
    (void)state;
    RF_AUTO(rf_tokenizer_close) struct rf_tokenizer *t = tiny();
    static const char *const bad[] = {
        "red \xff", "\x80", "\xC0\xAF", "\xE2\x82", "a\xF0\x9F\x98", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80",
        "\xF8\x88\x80\x80\x80",
    };
    int32_t ids[MAX_IDS];
    int64_t n;
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++) {
        struct rf_err err = {0};
        assert_int_equal(rf_tokenizer_encode(t, bad[i], MAX_IDS, ids, &n, NULL, &err), RF_ERR_INVALID);
        assert_non_null(strstr(err.msg, "UTF-8"));
    }
}

static void damaged_models_are_an_error(void **state)
{
    (void)state;
    size_t size;
    RF_AUTO(rf_free) uint8_t *bytes = tiny_spiece(&size);
    rf_tokenizer_close(&(struct rf_tokenizer *){tiny()}); /* skips where there is no tokenizer */
    struct rf_tokenizer *t = NULL;
    assert_int_equal(rf_tokenizer_open("", 0, &t, NULL), RF_ERR_FORMAT);
    assert_int_equal(rf_tokenizer_open("not a model at all", 18, &t, NULL), RF_ERR_FORMAT);
    assert_int_equal(rf_tokenizer_open(bytes, size - 1, &t, NULL), RF_ERR_FORMAT);
    assert_null(t);
    for (size_t i = 0; i < size; i += 3) { /* any answer but a crash */
        bytes[i] ^= 0x55;
        if (rf_tokenizer_open(bytes, size, &t, NULL) == RF_OK)
            rf_tokenizer_close(&t);
        bytes[i] ^= 0x55;
    }
}

static void cleaning_keeps_everything_but_whitespace(void **state)
{
    (void)state;
    RF_AUTO(rf_free) char *clean = NULL;
    assert_int_equal(rf_prompt_clean("  (Caf\u00E9:1.2)\u2003 \U0001F600 &amp;  ", &clean, NULL), RF_OK);
    assert_string_equal(clean, "(Caf\u00E9:1.2) \U0001F600 &amp;");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_become_pieces_closed_by_eos),
        cmocka_unit_test(whitespace_of_any_kind_collapses),
        cmocka_unit_test(parentheses_are_text_not_emphasis),
        cmocka_unit_test(what_the_model_does_not_know_is_one_unknown),
        cmocka_unit_test(long_prompts_keep_their_beginning_and_say_so),
        cmocka_unit_test(bytes_that_are_no_utf8_are_an_error),
        cmocka_unit_test(damaged_models_are_an_error),
        cmocka_unit_test(cleaning_keeps_everything_but_whitespace),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
