"""What every call shares: errors, limits, methods, who may ask; raw bytes on the socket; the page and the events.

SPDX-License-Identifier: Apache-2.0
"""
import gzip
import json
import re
import socket

import pytest



def raw(server, data):
    """What comes back for these bytes, until the server hangs up, cuts the line or has said nothing for a second."""
    out = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while piece := s.recv(65536):
                out += piece
        except OSError:
            pass
    return out


def test_an_unknown_address_is_404_for_every_method(client):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = client.ask(method, "/v2/nothing")
        assert answer.status == 404 and answer.error["code"] == "unknown_url", method


@pytest.mark.parametrize("method, path, allow", [
    ("PUT", "/v1/videos", "GET, HEAD, POST"), ("POST", "/v1/videos/x", "GET, HEAD, DELETE"), ("GET", "/farm/v1/lease", "POST"),
    ("PATCH", "/healthz", "GET, HEAD"), ("DELETE", "/", "GET, HEAD"), ("OPTIONS", "/v1/queue", "GET, HEAD")])
def test_a_wrong_method_is_405_and_says_which_are_right(client, method, path, allow):
    answer = client.ask(method, path)
    assert answer.status == 405 and answer.headers["allow"] == allow and answer.error["code"] == "method_not_allowed"


def test_every_answer_has_its_own_request_id(client):
    ids = {client.get(path).headers["x-request-id"] for path in ("/healthz", "/nothing", "/", "/v1/videos", "/metrics") * 2}
    assert len(ids) == 10 and None not in ids


def test_bodies_over_the_limit_are_413_announced_or_not(client):
    answer = client.ask("POST", "/v1/videos/x/priority", b"x" * 70000)
    assert answer.status == 413 and answer.error["code"] == "too_large"
    answer = client.ask("POST", "/v1/videos/x/priority", (b"x" * 10000 for _ in range(10)))
    assert answer.status == 413
    assert client.get("/healthz").status == 200


def test_a_client_that_waits_for_our_word_is_refused_before_it_sends(server):
    answer = raw(server, b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\n"
                         b"Content-Length: 1000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 415")


def test_get_requests_with_bodies_do_no_harm(client):
    assert client.ask("GET", "/v1/queue", b"x" * 100).status == 200
    assert client.ask("POST", "/v1/queue/pause", b"{}").status == 200
    assert client.ask("GET", "/v1/queue", b"x" * 100000).status == 413


@pytest.mark.parametrize("data", [
    b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /v1/videos?%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /v1/videos/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=lambda data: repr(data[:24]) + str(len(data)))
def test_nonsense_on_the_socket_harms_nobody(server, client, data):
    assert not raw(server, data).startswith(b"HTTP/1.1 2")
    assert client.get("/healthz").status == 200


def test_a_connection_serves_many_requests_and_pipelined_ones_in_order(server, client):
    answer = raw(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5 + b"GET /x HTTP/1.0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 5 and b"404" in answer


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("127.0.0.1:1234", 200), ("[::1]:80", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403),
    ("localhost.evil.example:8088", 403)])
def test_a_name_that_was_bent_to_loopback_gets_nothing(client, host, status):
    assert client.get("/v1/videos", {"Host": host}).status == status


@pytest.mark.parametrize("headers, status", [
    ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 200), ({}, 200)])
def test_a_page_of_another_site_cannot_submit(client, headers, status):
    assert client.post("/v1/videos", {"prompt": "x"}, headers=headers).status == status
    assert client.post("/v1/videos", {"prompt": "x"},
                       headers={"Origin": "http://127.0.0.1:%d" % client.port}).status == 200


def test_health_readiness_and_metrics(client, worker):
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json() == {"status": "ready"}
    client.create()
    worker.work_all()
    text = client.get("/metrics").body.decode()
    assert 'framefarm_jobs{state="completed"} 1' in text and 'framefarm_workers{state="idle"} 1' in text
    assert 'framefarm_stage_seconds_sum{stage="decode"} 1.0' in text
    assert re.search(r'framefarm_http_requests_total\{method="POST",status="2xx"\} [1-9]', text)
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) framefarm_\w+ .+|framefarm_\w+(\{[^{}]*\})? [-+0-9.e]+", line), line


def test_models_and_workers_show_what_was_registered(client, worker):
    model, = client.get("/v1/models").json()["data"]
    assert model["id"] == "demo" and model["workers"] == 1 and model["defaults"]["size"] == "192x128"
    shown, = client.get("/v1/workers").json()["data"]
    assert shown["name"] == "gpu-1" and shown["state"] == "idle" and shown["device"]["kind"] == "cpu"
    assert shown["models"][0]["name"] == "demo"


# ---- the page ----

def test_the_page_comes_with_its_policy_packed_and_only_when_changed(client):
    answer = client.get("/")
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/", {"If-None-Match": answer.headers["etag"]}).status == 304
    packed = client.get("/", {"Accept-Encoding": "gzip, deflate"})
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == answer.body
    for path in re.findall(r'(?:href|src)="([\w./-]+\.(?:css|js|svg))"', answer.body.decode()):
        assert client.get("/" + path).status == 200, path


def test_a_folder_can_stand_in_for_the_page(server, tmp_path):
    (tmp_path / "index.html").write_text("<p>mine")
    (tmp_path / "secret.txt").write_text("no")
    server.stop()
    server.start("--web", str(tmp_path))
    client = server.client()
    assert client.get("/").body == b"<p>mine"
    for path in ("/secret.txt", "/../port", "/%2e%2e/port", "/data/farm.db"):
        assert client.get(path).status == 404


# ---- events ----

class Events:
    def __init__(self, server, last_id=None):
        self.client = server.client()
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self.client.connection.request("GET", "/v1/events", headers=headers)
        self.response = self.client.connection.getresponse()
        assert self.response.status == 200 and self.response.headers["content-type"] == "text/event-stream"
        self.last_id = None

    def next(self):
        event = {}
        while True:
            line = self.response.readline().decode().rstrip("\n")
            assert line is not None
            if line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                event["type"] = line[7:]
            elif line.startswith("data: "):
                event["data"] = json.loads(line[6:])
            elif line == "" and "data" in event:
                return event

    def until(self, wanted):
        while True:
            event = self.next()
            if wanted(event):
                return event


def test_events_tell_the_life_of_a_job(server, client, worker):
    events = Events(server)
    id = client.create()["id"]
    assert events.until(lambda e: e["type"] == "video")["data"]["id"] == id
    task = worker.take()
    worker.beat(task)
    running = events.until(lambda e: e["type"] == "video" and e["data"]["stage"] == "low_noise")
    assert running["data"]["segments"][0]["fraction"] == 0.5
    worker.work(task)
    worker.work_all()
    events.until(lambda e: e["type"] == "video" and e["data"]["state"] == "completed")
    client.post("/v1/queue/pause")
    assert events.until(lambda e: e["type"] == "queue")["data"]["paused"] is True
    client.delete("/v1/videos/" + id)
    assert events.until(lambda e: e["type"] == "video.deleted")["data"]["id"] == id


def test_events_resume_where_they_broke_off(server, client, worker):
    events = Events(server)
    first = client.create()["id"]
    events.until(lambda e: e["type"] == "video" and e["data"]["id"] == first)
    events.client.close()
    second = client.create()["id"]
    again = Events(server, events.last_id)
    event = again.next()
    assert event["type"] == "video" and event["data"]["id"] == second


@pytest.mark.parametrize("last_id", ["1-1", "x", "99999999999999999999999-1", "-"])
def test_an_id_of_another_life_of_the_server_means_read_again(server, last_id):
    assert Events(server, last_id).next()["type"] == "reset"


def test_a_slow_page_gets_the_newest_state_not_a_long_queue(server, client, worker):
    events = Events(server)
    id = client.create()["id"]
    task = worker.take()
    for step in range(2000):
        assert worker.beat(task, step=step % 100, steps=100, fraction=step / 2000).status == 200
    worker.work(task)
    worker.work_all()
    n = 0
    while events.next()["data"].get("state") != "completed":
        n += 1
    assert n < 1000
