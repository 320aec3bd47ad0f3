#!/bin/sh
# The server knows no pixels: links_clean.sh SERVER_BINARY. libcurl is here for webhooks; test_includes.py keeps it there.
set -eu
[ -x "$1" ] || { echo "no binary at $1"; exit 1; }
needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
echo "$needed" | grep -q libmicrohttpd || { echo "this is not the server: $needed"; exit 1; }
if echo "$needed" | grep -E 'libav|libsw|libcuda|libcudart|libcublas|libcudnn|libsentencepiece|openblas'; then
    echo 'the server links what belongs to the worker'
    exit 1
fi
echo "$needed"
