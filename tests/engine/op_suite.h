/* One suite of the transformer's ops for every backend: each op against a naive loop in double precision, on random
 * data with odd sizes. Outputs start as NaN, so an element that is not written shows; zones of a pattern before and
 * after each buffer show a write outside.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_ENGINE_OP_SUITE_H
#define TESTS_ENGINE_OP_SUITE_H

/* Runs all tests on a device; the exit code of main(): 0 passed, 77 the device is not there. */
int op_suite_run(const char *device, const char *precision);

#endif
