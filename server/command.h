/* framefarm-server's words: token, webhook-secret, backup, check. They work on the data folder beside a running server.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_COMMAND_H
#define RF_SERVER_COMMAND_H

#include "schema/base.h"

/* True when argv[1] is one of the words; then it has been done and *ret_status is the program's exit status:
 * 0 done, 1 it failed, 2 not understood. */
bool rf_command_run(int argc, char **argv, int *ret_status);

#endif
