/* The database's tables as text: schema/sql/0001_….sql and up, in order. Migration i brings PRAGMA user_version from i
 * to i + 1. This room runs no SQL. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_SQL_H
#define RF_SCHEMA_SQL_H

struct rf_migration {
    const char *name;
    const char *sql;
};
extern const struct rf_migration rf_migrations[];
extern const int rf_n_migrations;

#endif
