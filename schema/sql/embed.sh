#!/bin/sh
# The migrations as C: embed.sh OUT.c 0001_x.sql 0002_y.sql …  Bytes, not string literals: C promises only 4095 of those.
# SPDX-License-Identifier: Apache-2.0
set -eu
out=$1
shift
{
  echo '/* Made by schema/sql/embed.sh. */'
  echo '#include "schema/sql.h"'
  n=0
  for file in "$@"; do
    n=$((n + 1))
    echo "static const unsigned char sql_${n}[] = {"
    od -An -v -tx1 "$file" | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'
    echo '0x00};'
  done
  echo 'const struct rf_migration rf_migrations[] = {'
  i=0
  for file in "$@"; do
    i=$((i + 1))
    echo "    {\"$(basename "$file")\", (const char *)sql_$i},"
  done
  echo '};'
  echo "const int rf_n_migrations = $n;"
} > "$out"
