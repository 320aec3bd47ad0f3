#!/bin/sh
# Each header compiles alone: headers_alone.sh SOURCE_ROOT COMPILER
set -eu
root=$1
shift
count=0
# cuda/ speaks the toolkit's types, which most machines do not have; nothing outside includes from it.
for header in $(cd "$root" && find schema server worker -name '*.h' -not -path 'worker/engine/cuda/*'); do
    printf '#include "%s"\n' "$header" | "$@" -x c -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -I "$root" - ||
        { echo "$header does not compile alone"; exit 1; }
    count=$((count + 1))
done
[ "$count" -gt 10 ] || { echo 'found no headers'; exit 1; }
echo "$count headers compile alone"
