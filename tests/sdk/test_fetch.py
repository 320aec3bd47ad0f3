"""The way to the package on a machine without npm, against a registry of pretence.

SPDX-License-Identifier: Apache-2.0
"""
import http.server
import io
import tarfile
import threading

import pytest

import fetch


@pytest.fixture
def registry():
    """A registry whose one tarball is whatever the test puts into `data`."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(server.data)

        def log_message(self, *args):
            pass

    asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data, server.asked = b"", asked
    server.url = "http://127.0.0.1:%d" % server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def tarball(*names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"hi"))
    return out.getvalue()


def test_another_tarball_than_the_pinned_one_is_refused_and_leaves_nothing(registry, tmp_path):
    registry.data = tarball("package/index.js")
    with pytest.raises(ValueError, match="sha512"):
        fetch.install(tmp_path / "cache", npm=None, registry=registry.url + "/")
    assert registry.asked == ["/openai/-/openai-%s.tgz" % fetch.pinned()[0]]
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_expected_tarball_is_unpacked_and_asked_for_once(registry, tmp_path, monkeypatch):
    registry.data = tarball("package/index.js", "package/lib/a.js", "package/../../evil.js")
    digest = fetch.base64.b64encode(fetch.hashlib.sha512(registry.data).digest()).decode()
    monkeypatch.setattr(fetch, "pinned", lambda: ("1.2.3", digest))
    for _ in range(2):
        folder = fetch.install(tmp_path / "cache", npm=None, registry=registry.url)
    package = folder / "node_modules" / "openai"
    assert sorted(str(p.relative_to(package)) for p in package.rglob("*.js")) == ["index.js", "lib/a.js"]
    assert len(registry.asked) == 1 and not list(tmp_path.rglob("evil.js"))


def test_a_registry_that_is_not_there_is_told_apart_from_one_that_lies(tmp_path):
    with pytest.raises(fetch.Unreachable):
        fetch.install(tmp_path, npm=None, registry="http://127.0.0.1:1")
