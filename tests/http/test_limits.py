"""Clients that send too much, too slowly, too oddly or not at all: a clean answer or a closed connection, the server
alive, no descriptor left behind.

SPDX-License-Identifier: Apache-2.0
"""
import os
import random
import socket
import time

import pytest

from conftest import DEADLINE, Server, Worker, content, until

IDLE = 1  # seconds of --idle-seconds here


def n_fds(server):
    return len(os.listdir("/proc/%d/fd" % server.process.pid))


@pytest.fixture
def server(tmp_path):
    """An impatient server; at the end it is alive, has said nothing of errors, and has all its descriptors back."""
    server = Server(tmp_path).start("--idle-seconds", str(IDLE), "--log-level", "info")
    first = server.client()
    for path in ("/healthz", "/v1/videos", "/v1/videos?limit=100", "/metrics"):  # opens what is kept open for good
        assert first.get(path).status == 200
    first.close()
    before = until(lambda: n_fds(server))
    yield server
    for client in server.clients:
        client.close()
    assert server.process.poll() is None, server.log_text()
    last = server.client()
    assert last.get("/healthz").status == 200
    last.close()
    until(lambda: n_fds(server) <= before + 2)  # the pool of readers may have grown
    assert "level=error" not in server.log_text()
    server.finish()


class Raw:
    """A socket and the bytes that came back."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
        self.got = b""

    def send(self, data):
        """False when the server has had enough."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def rest(self, half_close=False):
        """All that comes until the server hangs up or cuts the line."""
        try:
            if half_close:
                self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was reset already; what came before can still be read
        try:
            while piece := self.socket.recv(65536):
                self.got += piece
        except OSError:
            pass
        self.socket.close()
        return self.got

    def dribble(self, data, pause=0.05, piece=1):
        """Sends a piece per pause until the server cuts the line or all is out. True: it was cut."""
        self.socket.settimeout(pause)
        end = time.monotonic() + DEADLINE
        for i in range(0, len(data), piece):
            assert time.monotonic() < end, "still not cut"
            if not self.send(data[i:i + piece]):
                return True
            try:
                got = self.socket.recv(65536)
                self.got += got
                if not got:
                    return True
            except TimeoutError:
                pass
            except ConnectionError:
                return True
        self.socket.settimeout(DEADLINE)
        return False


def ask(server, data, half_close=True):
    raw = Raw(server)
    raw.send(data)
    return raw.rest(half_close)


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else None


def short(value):
    """A name for a case, also of a case with a hundred thousand bytes."""
    return repr(value[:16])[:24].strip("b'\"") + (str(len(value)) if len(value) > 16 else "")


def request(line, *headers, body=b""):
    return "\r\n".join([line + " HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1") + body


# ---- slow clients ----

def test_a_header_byte_at_a_time_is_cut(server):
    begun = time.monotonic()
    assert Raw(server).dribble(request("GET /healthz", "X-Slow: " + "a" * 4000))
    assert IDLE <= time.monotonic() - begun < IDLE + 4
    assert b"framefarm_http_slow_clients_cut_total 1" in server.client().get("/metrics").body


def test_a_request_line_that_never_ends_and_one_that_never_begins_are_cut(server):
    assert Raw(server).dribble(b"GET /" + b"a" * 4000)
    assert Raw(server).rest() == b""


def test_a_body_byte_at_a_time_is_cut_and_makes_no_job(server):
    body = b'{"prompt":"' + b"x" * 4000 + b'"}'
    head = request("POST /v1/videos", "Content-Type: application/json", "Content-Length: %d" % len(body))
    raw = Raw(server)
    assert raw.send(head) and raw.dribble(body)
    chunked = Raw(server)
    assert chunked.send(request("POST /v1/videos", "Content-Type: application/json", "Transfer-Encoding: chunked"))
    assert chunked.dribble(b"".join(b"1\r\n%c\r\n" % c for c in body), piece=6)
    assert server.client().get("/v1/videos").json()["data"] == []


def test_a_slow_line_that_keeps_moving_is_served(server):
    body = b'{"prompt":"' + b"x" * 30000 + b'"}'
    raw = Raw(server)
    raw.send(request("POST /v1/videos", "Content-Type: application/json", "Content-Length: %d" % len(body)))
    assert not raw.dribble(body, pause=0.1, piece=1000)  # three times the patience in all
    assert status(raw.rest(half_close=True)) == 200


def test_who_waits_for_us_is_not_slow(server):
    worker = Worker(server.client())
    assert worker.lease(wait_ms=IDLE * 1000 * 3).status == 204
    page = Raw(server)
    page.send(request("GET /v1/events"))
    assert worker.lease(wait_ms=IDLE * 1000 * 3).status == 204
    id = server.client().create()["id"]
    while id.encode() not in page.got:
        piece = page.socket.recv(65536)
        assert piece, "the stream was cut"
        page.got += piece
    page.socket.close()


def test_a_connection_kept_for_the_next_request_ends_when_none_comes(server):
    raw = Raw(server)
    raw.send(request("GET /healthz"))
    assert raw.rest().count(b"HTTP/1.1 200") == 1


def test_an_answer_that_nobody_reads_holds_no_connection_for_ever(server):
    client = server.client()
    worker = Worker(server.client())
    client.create()
    task = worker.take()
    big = os.urandom(1 << 20) * 32
    assert worker.put(task, "segment-0.mp4", big).status == 200
    before = n_fds(server)
    raw = Raw(server)
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.send(request("GET /farm/v1/tasks/%s/files/segment-0.mp4?lease=%d" % (task["task_id"], task["lease"])))
    until(lambda: n_fds(server) > before)   # socket and file are open ...
    until(lambda: n_fds(server) <= before)  # ... and closed, though we have read nothing
    raw.socket.close()


# ---- many clients ----

def test_thousands_of_idle_connections_hinder_nobody_and_go(server):
    client = server.client()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3000)]
    begun = time.monotonic()
    assert client.create()["id"] and client.get("/healthz").status == 200
    assert time.monotonic() - begun < 1
    until(lambda: n_fds(server) < 100)
    for one in idle:
        assert one.recv(1) == b""
        one.close()


def test_a_full_house_makes_room_for_who_has_something_to_ask(tmp_path):
    server = Server(tmp_path).start("--idle-seconds", "60", "--max-connections", "64")
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    begun = time.monotonic()
    assert server.client().get("/healthz").status == 200
    assert time.monotonic() - begun < 20, "the idle were not sent away early"
    for one in idle:
        one.close()
    server.finish()


# ---- too much ----

@pytest.mark.parametrize("headers", [
    ["X-Long: " + "a" * 20000], ["X-%d: %s" % (i, "a" * 100) for i in range(300)], ["X-%d: a" % i for i in range(5000)],
    ["X" * 30000 + ": a"]], ids=["value", "sum", "number", "name"])
def test_headers_over_the_limit_are_refused(server, headers):
    assert status(ask(server, request("GET /healthz", *headers))) in (413, 431, 400, None)


def test_headers_of_a_generous_proxy_are_fine(server):
    assert status(ask(server, request("GET /healthz", *["X-%d: %s" % (i, "a" * 100) for i in range(50)]))) == 200


@pytest.mark.parametrize("line", [
    "GET /" + "a" * 60000, "GET /v1/videos?q=" + "a" * 60000, "GET /v1/videos?" + "a=b&" * 15000,
    "A" * 60000 + " /", "GET " + "/" * 60000], ids=["path", "value", "parameters", "method", "slashes"])
def test_a_request_line_over_the_limit_is_refused(server, line):
    assert status(ask(server, request(line))) in (400, 413, 414, 431, None)


@pytest.mark.parametrize("query", ["a=b&" * 1000, "&" * 3000, "=" * 3000, "limit=" + "9" * 3000, "q=" + "%41" * 1000,
                                   "limit=1&limit=2", "after=" + "x" * 3000, "limit[]=1", "limit=%31%00",
                                   "status=" + "queued," * 400], ids=short)
def test_queries_that_make_no_sense_are_answered(server, query):
    assert status(ask(server, request("GET /v1/videos?" + query))) in (200, 400, 404, 413, 414, 431, None)


@pytest.mark.parametrize("field, most", [("prompt", 32000), ("negative_prompt", 32000), ("user", 64), ("model", 127)])
def test_texts_are_measured_in_characters_and_refused_by_name(server, field, most):
    client = server.client()
    for text, good in (("x" * most, True), ("x" * (most + 1), False), ("\U0001f3a5" * (most + 1), False)):
        answer = client.post("/v1/videos", {"prompt": "x", field: text}, dry_run=1)
        assert (answer.status == 200) is good or field == "model", (field, len(text), answer.body)
        if not good:
            assert answer.error["param"] == field
    answer = client.post("/v1/videos", {"prompt": "\U0001f3a5" * 32000})
    assert answer.status == 200 and client.video(answer.json()["id"])["prompt"] == "\U0001f3a5" * 32000


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(server):
    for n in (1 << 31, 1 << 40, (1 << 63) - 1):
        head = request("POST /v1/videos", "Content-Type: application/json", "Content-Length: %d" % n)
        assert status(ask(server, head, half_close=False)) == 413


def test_a_form_of_a_hundred_thousand_fields_is_refused(server):
    parts = (b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % i for i in range(100000))
    body = b"".join(parts) + b"--b--\r\n"
    answer = server.client().ask("POST", "/v1/videos", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status in (400, 413) and answer.error


# ---- too odd ----

@pytest.mark.parametrize("body", [
    b"FFFFFFFFFFFFFFFF\r\nx", b"FFFFFFFFFFFFFFFFF\r\nx", b"7FFFFFFFFFFFFFFF\r\nx", b"-1\r\nx\r\n0\r\n\r\n",
    b"0x1\r\nx\r\n0\r\n\r\n", b"1;" + b"e" * 50000 + b"\r\nx\r\n0\r\n\r\n", b"\r\n\r\n", b"1\r\nxx\r\n0\r\n\r\n",
    b"1\nx\n0\n\n", b"5\r\nab", b"0" * 40000,
    b"0\r\n" + b"Trailer: x\r\n" * 5000 + b"\r\n", b"1\r\n\x00\r\n0\r\n\r\n", b" 1 \r\nx\r\n0\r\n\r\n"], ids=short)
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/batch", "/nothing"])
def test_chunks_of_absurd_sizes_make_no_job(server, path, body):
    headers = "Content-Type: application/json", "Transfer-Encoding: chunked"
    answer = ask(server, request("POST " + path, *headers, body=body))
    # 500: libmicrohttpd 0.9.75's own word for a chunk's header that does not fit its buffer.
    assert status(answer) in (400, 404, 413, 431, None) or b"libmicrohttpd" in answer, answer[:200]
    assert server.client().get("/v1/videos").json()["data"] == []


def test_two_lengths_or_a_length_and_chunks_smuggle_nothing(server):
    hidden = b"POST /v1/queue/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    for headers in (["Content-Length: 0", "Content-Length: %d" % len(hidden)],
                    ["Content-Length: %d" % len(hidden), "Transfer-Encoding: chunked"],
                    ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], ["Content-Length: +5"],
                    ["Content-Length : %d" % len(hidden)], ["Transfer-Encoding: xchunked"], ["Content-Length: 0x10"]):
        raw = Raw(server)
        raw.send(request("POST /v1/queue/resume", *headers))
        raw.send(b"0\r\n\r\n" if "Transfer-Encoding: chunked" in headers else b"")
        raw.rest(half_close=True)
    assert server.client().get("/v1/queue").json()["paused"] is False


@pytest.mark.parametrize("headers, good", [
    (["Host: localhost"], False), (["Idempotency-Key: a", "Idempotency-Key: b"], False),
    (["Content-Length: 0"] * 2, False),
    (["Content-Type: text/plain", "Content-Type: application/json"], False), (["Authorization: Bearer a"] * 2, False),
    (["Content-Length: 5", "Transfer-Encoding: chunked"], False), (["Origin: http://localhost"] * 2, False),
    (["Connection: close", "Connection: keep-alive"], True), (["Range: bytes=0-1", "Range: bytes=2-3"], True),
    (["Accept: text/html", "Accept: text/csv"], True)], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_headers_that_decide_something_are_refused_when_given_twice(server, headers, good):
    answer = ask(server, request("GET /v1/queue", *headers))
    assert status(answer) == (200 if good else 400), answer
    assert good or (b'"code":"duplicate_header"' in answer and b"onnection: close" in answer)


@pytest.mark.parametrize("path", [
    "/..", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/v1/videos/../queue",
    "/v1/videos/..%2Fqueue", "/v1/videos/%00", "/v1/videos/video_%00", "/v1/videos/%", "/v1/videos/%zz",
    "/v1/videos/%c0%ae", "//healthz", "/./healthz", "/v1//videos", "/v1/videos/", "/healthz/",
    "/v1/videos/" + "a" * 8000, "/v1/videos/a/content/../../..", "/\\..\\..", "/;/healthz",
    "/farm/v1/tasks/..%2f..%2fx/files/..%2f..%2ffarm.db?lease=1", "/farm/v1/tasks/a/files/%2e%2e?lease=1"], ids=short)
def test_paths_lead_nowhere_else(server, path):
    answer = ask(server, request("GET " + path))
    assert status(answer) in (400, 404, 409, 414, 431), answer[:200]
    assert b"root:" not in answer and b"SQLite" not in answer


@pytest.mark.parametrize("data", [
    request("GET /healthz") + b"\x00" * 5000, request("GET /healthz") + b"garbage\r\n\r\n" * 100,
    request("GET /healthz") * 3 + b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc",
    request("GET /healthz") + os.urandom(3000),
    request("GET /healthz", "Connection: close") + request("POST /v1/queue/pause"),
    request("GET /healthz") + b" " * 40000, request("GET /healthz") + b"\r\n" * 2000 + request("GET /healthz")],
    ids=["nuls", "garbage", "half_a_post", "noise", "after_close", "blanks", "line_ends"])
def test_what_follows_a_good_request_spoils_only_itself(server, data):
    assert status(ask(server, data)) == 200
    assert server.client().get("/v1/queue").json()["paused"] is False


@pytest.mark.parametrize("data", [
    request("GET /heal\x00thz"), request("GET /healthz", "X: a\x00b"), request("GET /healthz", "X\x00: b"),
    b"GET /healthz\x00 HTTP/1.1\r\n\r\n", request("P\x00ST /v1/queue/pause"), request("GET /healthz", "Host: local\x00host")])
def test_nuls_are_no_way_in(server, data):
    answer = ask(server, data)
    assert status(answer) in (200, 400, 403, 404, 405, None), answer
    assert server.client().get("/v1/queue").json()["paused"] is False


def test_who_hangs_up_in_the_middle_leaves_nothing(server):
    body = b'{"prompt":"a circle"}'
    whole = request("POST /v1/videos", "Content-Type: application/json", "Content-Length: %d" % len(body), body=body)
    for n in range(1, len(whole) - 1, 7):
        raw = Raw(server)
        raw.send(whole[:n])
        if n % 2:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
        raw.socket.close()
    assert server.client().get("/v1/videos").json()["data"] == []


def test_a_half_closed_connection_still_gets_its_answer(server):
    assert status(ask(server, request("GET /healthz"))) == 200
    body = b'{"prompt":"x"}'
    head = request("POST /v1/videos", "Content-Type: application/json", "Content-Length: %d" % len(body))
    assert status(ask(server, head + body)) == 200
    assert ask(server, head + body[:-3]) in (b"",) or status(ask(server, head + body[:-3])) == 400
    assert len(server.client().get("/v1/videos").json()["data"]) == 1


# ---- HEAD and Range ----

def test_head_is_get_without_the_body(server):
    client = server.client()
    worker = Worker(server.client())
    id = client.create()["id"]
    worker.work_all()
    for path in ("/", "/healthz", "/readyz", "/openapi.yaml", "/v1/videos/" + id, "/v1/videos/%s/content" % id,
                 "/v1/videos/%s/content?variant=thumbnail" % id, "/v1/videos/nothing", "/nothing", "/v1/queue"):
        get, head = client.get(path), client.ask("HEAD", path)
        assert head.status == get.status and head.body == b"", path
        for name in ("content-type", "content-length", "etag", "accept-ranges", "cache-control"):
            assert head.headers[name] == get.headers[name], (path, name)


@pytest.mark.parametrize("value, first, last", [
    ("bytes=0-0", 0, 0), ("bytes=-1", -1, None), ("bytes=10-", 10, None), ("bytes=0-99999999999999999999", 0, None),
    ("bytes=-99999999999999999999", 0, None), ("BYTES=1-2", 1, 2), ("bytes= 1-2 ", 1, 2)])
def test_ranges_give_exactly_what_they_name(server, value, first, last):
    client = server.client()
    worker = Worker(server.client())
    id = client.create()["id"]
    worker.work_all()
    whole = content(id, "video.mp4")
    answer = client.get("/v1/videos/%s/content" % id, {"Range": value})
    wanted = whole[first:] if last is None else whole[first:last + 1]
    assert answer.status == 206 and answer.body == wanted and int(answer.headers["content-length"]) == len(wanted)
    begin = len(whole) - len(wanted) if last is None else first
    assert answer.headers["content-range"] == "bytes %d-%d/%d" % (begin, begin + len(wanted) - 1, len(whole))
    head = client.ask("HEAD", "/v1/videos/%s/content" % id, headers={"Range": value})
    assert head.body == b"" and head.status in (200, 206)


@pytest.mark.parametrize("value, status", [
    ("bytes=5-2", 200), ("bytes=", 200), ("bytes=-", 200), ("bytes=a-b", 200), ("items=0-1", 200),
    ("bytes=0-1,3-4", 200), ("bytes=0x1-2", 200), ("bytes=-0", 416), ("bytes=99999999-", 416), ("bytes=99999999999999999999-", 416), ("", 200),
    ("bytes=" + "1" * 8000 + "-", 416), ("bytes=1-2" * 500, 200)],
    ids=lambda value: short(value) if isinstance(value, str) else "")
def test_ranges_that_cannot_be_give_the_whole_or_416(server, value, status):
    client = server.client()
    worker = Worker(server.client())
    id = client.create()["id"]
    worker.work_all()
    answer = client.get("/v1/videos/%s/content" % id, {"Range": value})
    assert answer.status == status
    if status == 200:
        assert answer.body == content(id, "video.mp4")
    else:
        assert answer.headers["content-range"] == "bytes */%d" % len(content(id, "video.mp4")) and answer.error


# ---- all of it, by chance ----

def test_hundreds_of_spoilt_requests_leave_a_healthy_server(server):
    chance = random.Random(7)
    good = [request("GET /v1/videos?limit=3"),
            request("POST /v1/videos", "Content-Type: application/json", "Content-Length: 14", body=b'{"prompt":"x"}'),
            request("POST /v1/videos", "Content-Type: multipart/form-data; boundary=b", "Content-Length: 71",
                    body=b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na circle\r\n--b--\r\n'),
            request("GET /", "Range: bytes=0-5", "If-None-Match: \"x\""), request("DELETE /v1/videos/video_x"),
            request("POST /v1/videos/batch", "Transfer-Encoding: chunked", body=b'f\r\n{"prompt":"x"}\n\r\n0\r\n\r\n')]
    for _ in range(300):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            what = chance.randrange(4)
            if what == 0:
                data[at] = chance.randrange(256)
            elif what == 1:
                del data[at:at + chance.randint(1, 20)]
            elif what == 2:
                data[at:at] = chance.choice([b"\r\n", b"\0", b"%", b"A" * 3000, b":", b" ", b"\xff\xfe"])
            else:
                data = data[:at] + data[:at] + data[at:]
            if not data:
                break
        raw = Raw(server)
        raw.send(bytes(data))
        if chance.random() < 0.7:
            raw.socket.close()
        else:
            raw.rest(half_close=True)
