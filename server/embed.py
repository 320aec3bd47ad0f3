#!/usr/bin/env python3
"""Writes the page's files as C arrays, plain and packed.

usage: embed.py OUT.c OUT.d OPENAPI_YAML WEB_DIR

OUT.d lists every file and folder that was looked at, so that ninja notices changed, new and removed ones.
SPDX-License-Identifier: Apache-2.0
"""
import gzip
import hashlib
import pathlib
import sys

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".webp": "image/webp", ".woff2": "font/woff2", ".webmanifest": "application/manifest+json",
    ".yaml": "application/yaml; charset=utf-8",
}


def array(name, data):
    rows = (", ".join(map(str, data[i:i + 24])) for i in range(0, len(data), 24))
    return "static const uint8_t %s[] = {\n%s\n};\n" % (name, ",\n".join(rows))


def main(out, depfile, openapi, web):
    web = pathlib.Path(web)
    files = [("openapi.yaml", pathlib.Path(openapi))]
    folders = []
    if web.is_dir():
        folders = [web] + sorted(p for p in web.rglob("*") if p.is_dir())
        files += sorted((p.relative_to(web).as_posix(), p) for p in web.rglob("*") if p.is_file() and p.suffix in TYPES)
    text = ["/* Written by server/embed.py. */\n#include \"server/page.h\"\n"]
    rows = []
    for i, (name, path) in enumerate(files):
        data = path.read_bytes()
        packed = gzip.compress(data, 9, mtime=0)
        use = len(packed) < len(data) * 0.9 and path.suffix not in (".webp", ".woff2")
        text.append(array("plain_%d" % i, data or b"\0"))
        if use:
            text.append(array("packed_%d" % i, packed))
        gz = "packed_%d, sizeof packed_%d" % (i, i) if use else "NULL, 0"
        etag = hashlib.sha256(data).hexdigest()[:20]
        rows.append('    {"%s", "%s", "\\"%s\\"", plain_%d, %d, %s},' % (name, TYPES[path.suffix], etag, i, len(data), gz))
    text.append("const struct rf_page_asset rf_page_assets[] = {\n%s\n};\n" % "\n".join(rows))
    text.append("const size_t rf_n_page_assets = %d;\n" % len(rows))
    pathlib.Path(out).write_text("\n".join(text))
    looked_at = [str(p).replace(" ", "\\ ") for p in [*folders, *(p for _, p in files)]]
    pathlib.Path(depfile).write_text("%s: %s\n" % (out.replace(" ", "\\ "), " ".join(looked_at)))


if __name__ == "__main__":
    main(*sys.argv[1:])
