/* The few words every room shares: small allocations, scope clean-up, assertions.
 *
 * Small blocks come from rf_new() and friends, which abort when memory is gone: jobs live in SQLite, a restart is
 * cheap, and untested error paths are not. What has a size chosen outside (bodies, frames, weights) does not come
 * from here; its owner returns RF_ERR_NO_MEMORY.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_BASE_H
#define RF_SCHEMA_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Calls `destroy(&var)` when the variable leaves its scope. Every destroy takes the address, accepts NULL inside and
 * clears the pointer, so a handed-over pointer is simply set to NULL. */
#define RF_AUTO(destroy) __attribute__((cleanup(destroy)))

/* For our own mistakes only, on in release too. Bytes from outside are checked at the door and become errors. */
#define RF_ASSERT(cond) ((cond) ? (void)0 : rf_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void rf_assert_failed(const char *cond, const char *file, int line);

#define RF_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define RF_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Zeroed memory, never NULL; free with free() or rf_free(). */
#define rf_new(type) ((type *)rf_calloc(1, sizeof(type)))
#define rf_new_array(type, n) ((type *)rf_calloc((n), sizeof(type)))
void *rf_calloc(size_t n, size_t size);
void *rf_realloc(void *block, size_t n, size_t size);
char *rf_strdup(const char *text);                     /* NULL stays NULL */
char *rf_strndup(const char *text, size_t n_bytes);
char *rf_asprintf(const char *format, ...) RF_PRINTF(1, 2);

/* For RF_AUTO(rf_free) char *text: takes the address of any pointer. */
static inline void rf_free(void *address)
{
    void **slot = address;
    free(*slot);
    *slot = NULL;
}

#endif
