/* The container: what is written reads back; every kind of damage is an error that names what is wrong.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/safetensors.h"

#include "tests/model/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* A file in memory: header text and data bytes. */
static enum rf_code parse(const char *header, size_t n_data, struct rf_safetensors **ret_file, struct rf_err *err)
{
    static char bytes[1 << 16];
    size_t length = strlen(header);
    assert_true(8 + length + n_data <= sizeof bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(length >> 8 * i);
    memcpy(bytes + 8, header, length);
    memset(bytes + 8 + length, 7, n_data);
    /* A block of exactly this size, so that the sanitizer sees a byte too many. */
    static char *exact;
    free(exact);
    exact = memcpy(malloc(8 + length + n_data), bytes, 8 + length + n_data);
    return rf_safetensors_parse("mem", exact, 8 + length + n_data, ret_file, err);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B "\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}"

static void a_good_header_is_read(void **state)
{
    struct rf_safetensors *f = NULL;
    struct rf_err err = {0};
    assert_int_equal(parse("{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\\u00e9\\ud83d\\ude00\"}," B ",\n\t" A
                           ",\"z\":{\"shape\":[0,3],\"data_offsets\":[9,9],\"dtype\":\"F8_E4M3\"}}   ", 9, &f, &err),
                     RF_OK);
    assert_int_equal(rf_safetensors_count(f), 3);
    assert_string_equal(rf_safetensors_at(f, 0)->name, "a");
    const struct rf_st_entry *b = rf_safetensors_find(f, "b");
    assert_true(b->n_dims == 0 && b->size_bytes == 1 && *(const char *)b->data == 7);
    assert_null(rf_safetensors_find(f, "z")->data);
    assert_null(rf_safetensors_find(f, "c"));
    assert_string_equal(rf_safetensors_metadata(f, "format"), "pt");
    assert_string_equal(rf_safetensors_metadata(f, "k"), "\xc3\xa9\xf0\x9f\x98\x80");
    assert_null(rf_safetensors_metadata(f, "x"));
    rf_safetensors_close(&f);
    assert_int_equal(parse("{}", 0, &f, &err), RF_OK);
    assert_null(rf_safetensors_find(f, "a"));
    rf_safetensors_close(&f);
}

static void every_kind_of_damage_is_named(void **state)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *named;
    } bad[] = {
        {"", 0, "not a JSON object"},
        {"[]", 0, "not a JSON object"},
        {" {}", 0, "not a JSON object"},
        {"{" A, 8, "ends"},
        {"{" A "}x", 8, "goes on"},
        {"{" A ",}", 8, "a string"},
        {"{" A "," A "}", 8, "overlap"},
        {"{" A ",\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,8]}}", 8, "'a': the name is there twice"},
        {"{" A "}", 7, "'a': offsets"},
        {"{" A "}", 9, "cover"},
        {"{" B "}", 9, "'b': there is a hole"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "'a': its shape needs 12"},
        {"{\"a\":{\"dtype\":\"F99\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'a': the dtype 'F99'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[0,8]}}", 8, "whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8, "too large"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "too many elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "more than 5"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "'a': offsets 8 to 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "two numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "more than 2"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "','"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "there twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"extra\":1,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'extra' is unknown"},
        {"{\"a\\u0000b\":{}}", 0, "bad escape"},
        {"{\"a\\ud800\":{}}", 0, "bad escape"},
        {"{\"a\\x\":{}}", 0, "bad escape"},
        {"{\"a\\", 0, "does not end"},
        {"{\"a\xff\":{}}", 0, "a character"},
        {"{\"a\xc0\x80\":{}}", 0, "a character"},
        {"{\"a\nb\":{}}", 0, "a character"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "there twice"},
        {"{\"a\":null}", 0, "'{'"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++) {
        struct rf_safetensors *f = NULL;
        struct rf_err err = {0};
        enum rf_code rc = parse(bad[i].header, bad[i].n_data, &f, &err);
        if (rc != RF_ERR_FORMAT || strstr(err.msg, bad[i].named) == NULL || strncmp(err.msg, "mem: ", 5) != 0)
            fail_msg("%s: got %s \"%s\", wanted \"%s\"", bad[i].header, rf_code_name(rc), err.msg, bad[i].named);
        assert_null(f);
    }
}

static void hostile_lengths_are_refused(void **state)
{
    static const uint64_t lengths[] = {1, 100, (uint64_t)1 << 40, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < RF_COUNT_OF(lengths); i++) {
        struct rf_safetensors *f = NULL;
        char bytes[8];
        memcpy(bytes, &lengths[i], 8);
        assert_int_equal(rf_safetensors_parse("mem", bytes, 8, &f, NULL), RF_ERR_FORMAT);
        assert_int_equal(rf_safetensors_parse("mem", bytes, i, &f, NULL), RF_ERR_FORMAT);
    }
}

static void a_file_cut_anywhere_is_an_error(void **state)
{
    struct checkpoint *c = checkpoint_load(NULL);
    checkpoint_set(c, "one", RF_F32, 2, (int64_t[]){2, 3}, (float[6]){1, 2, 3, 4, 5, 6});
    checkpoint_set(c, "two", RF_BF16, 1, (int64_t[]){3}, (float[3]){1, 2, 3});
    const char *path = checkpoint_write(c, "whole.safetensors");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (off_t size = st.st_size - 1; size >= 0; size--) {
        struct rf_safetensors *f = NULL;
        assert_int_equal(truncate(path, size), 0);
        assert_int_equal(rf_safetensors_open(path, &f, NULL), RF_ERR_FORMAT);
    }
    checkpoint_free(&c);
}

static void what_is_written_reads_back(void **state)
{
    struct checkpoint *c = checkpoint_load(NULL);
    float values[6] = {1, -2, 3, -4, 5, -6};
    checkpoint_set(c, "b\"\\\n", RF_F16, 1, (int64_t[]){3}, values);
    checkpoint_set(c, "f8", RF_F8_E4M3, 1, (int64_t[]){1}, values);
    checkpoint_set(c, "empty", RF_F8_E4M3, 1, (int64_t[]){0}, NULL);
    checkpoint_set(c, "scalar", RF_F32, 0, NULL, values + 1);
    checkpoint_set(c, "f32", RF_F32, 5, (int64_t[]){1, 2, 1, 3, 1}, values);
    const char *path = checkpoint_write(c, "back.safetensors");
    struct checkpoint *back = checkpoint_load(path);
    assert_int_equal(back->n, c->n);
    for (int i = 0; i < c->n; i++) {
        struct rf_st_entry *a = &c->entries[i], *b = checkpoint_find(back, a->name);
        assert_non_null(b);
        assert_true(a->dtype == b->dtype && a->n_dims == b->n_dims && a->size_bytes == b->size_bytes);
        assert_memory_equal(a->shape, b->shape, (size_t)a->n_dims * sizeof *a->shape);
        assert_memory_equal(a->data, b->data, a->size_bytes);
    }
    checkpoint_free(&back);
    struct rf_err err = {0};
    assert_int_equal(rf_safetensors_write("/nonexistent/x.safetensors", c->entries, c->n, &err), RF_ERR_IO);
    assert_non_null(strstr(err.msg, "/nonexistent/x.safetensors"));
    checkpoint_free(&c);
}

static void a_path_that_cannot_be_mapped_is_an_io_error(void **state)
{
    struct rf_safetensors *f = NULL;
    struct rf_err err = {0};
    assert_int_equal(rf_safetensors_open("/nonexistent/file", &f, &err), RF_ERR_IO);
    assert_non_null(strstr(err.msg, "/nonexistent/file"));
    assert_int_equal(rf_safetensors_open("/", &f, &err), RF_ERR_IO);
    assert_int_equal(rf_safetensors_open("/dev/zero", &f, &err), RF_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_header_is_read),
        cmocka_unit_test(every_kind_of_damage_is_named),
        cmocka_unit_test(hostile_lengths_are_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_an_error),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(a_path_that_cannot_be_mapped_is_an_io_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
