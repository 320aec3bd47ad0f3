"""Who may look into whom: every #include is held against the table of rooms in docs/style.md, part 1.

Usage: test_includes.py SOURCE_ROOT [--self-test]
SPDX-License-Identifier: Apache-2.0
"""
import pathlib
import re
import sys

# room: project folders and files it may include, and system headers that belong to other rooms
OUTSIDE = {"microhttpd.h", "sqlite3.h", "cjson/", "curl/", "libav", "libsw", "cuda", "cublas", "cudnn", "cblas.h",
           "openblas", "sentencepiece", "openssl/"}
ROOMS = [
    ("schema/", ["schema/"], {"cjson/"}),
    # Telling webhooks takes an HTTP client; one file has it, so that nothing else in the server ever calls out.
    ("server/webhook.c", ["server/", "schema/"], {"curl/", "openssl/"}),
    ("server/", ["server/", "schema/"], {"microhttpd.h", "sqlite3.h", "cjson/", "openssl/"}),
    ("worker/engine/cuda/", ["worker/engine/", "schema/base.h", "schema/err.h"], {"cuda", "cublas", "cudnn"}),
    ("worker/engine/", ["worker/engine/", "schema/base.h", "schema/err.h"], {"cblas.h", "openblas"}),
    ("worker/model/", ["worker/model/", "worker/engine/engine.h", "worker/engine/dtype.h", "schema/base.h", "schema/err.h",
      "schema/plan.h"],
     {"sentencepiece"}),
    ("worker/media/", ["worker/media/", "schema/base.h", "schema/err.h"], {"libav", "libsw"}),
    ("worker/net/", ["worker/net/", "worker/model/", "worker/engine/engine.h", "worker/engine/dtype.h", "schema/base.h",
      "schema/err.h"], set()),
    ("worker/farm/", ["worker/", "schema/"], {"curl/", "cjson/", "openssl/"}),
    ("worker/", ["worker/", "schema/"], {"cjson/", "openssl/"}),
]
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)


def breaches(path, text):
    room = next((r for r in ROOMS if path.startswith(r[0])), None)
    if room is None:
        return
    name, inside, outside = room
    for kind, header in INCLUDE.findall(text):
        if kind == '"' and not any(header.startswith(a) for a in inside):
            if re.match(r"^(schema|server|worker|tests)/", header) or "/" not in header:
                yield f"{path}: includes \"{header}\", which the room {name} may not see or which is not from the root"
        foreign = next((o for o in OUTSIDE if header.startswith(o)), None)
        if foreign and not any(header.startswith(o) for o in outside):
            yield f"{path}: includes <{header}>, which belongs to another room than {name}"


def main():
    root = pathlib.Path(sys.argv[1])
    # The check must be able to fail.
    assert list(breaches("server/x.c", '#include <libavcodec/avcodec.h>\n'))
    assert list(breaches("worker/model/x.c", '#include "worker/engine/backend.h"\n'))
    assert list(breaches("worker/media/x.c", '#include "media.h"\n'))
    files = [p for room in ("schema", "server", "worker") for p in (root / room).rglob("*")
             if p.suffix in (".c", ".h", ".cu", ".cuh", ".cc")]
    assert len(files) > 20, "found no sources"
    found = [b for p in files for b in breaches(str(p.relative_to(root)), p.read_text(encoding="utf-8"))]
    print("\n".join(found) or f"{len(files)} files stay in their rooms")
    return 1 if found else 0


sys.exit(main())
