"""Webhooks: signed as the sheet says, sent again until they are heard, never to a private address unasked.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import hashlib
import hmac
import http.server
import json
import subprocess
import threading
import time

import pytest

from conftest import DEADLINE, Server, Worker, server_program, until


class Receiver:
    """Listens on a port of its own, keeps what comes, answers with the next of `statuses` (then 200)."""

    def __init__(self):
        self.heard, self.statuses, self.headers, self.body = [], [], {}, b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.heard.append((self.path, dict((k.lower(), v) for k, v in self.headers.items()), body))
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(outer.body)
                except OSError:
                    pass

            def log_message(self, *args):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


OPEN = ("--webhook-allow-private", "--webhook-retry-ms", "10")


@pytest.fixture
def farm(tmp_path):
    server = Server(tmp_path).start(*OPEN)
    yield server
    server.finish()


def secret(server, *words):
    done = subprocess.run([server_program(), "webhook-secret", *words, "--data", server.folder / "data"], check=True,
                          capture_output=True, text=True, timeout=DEADLINE)
    return done.stdout.strip()


def signature(key, headers, body):
    assert key.startswith("whsec_")
    signed = ("%s.%s." % (headers["webhook-id"], headers["webhook-timestamp"])).encode() + body
    return "v1," + base64.b64encode(hmac.new(base64.b64decode(key[6:]), signed, hashlib.sha256).digest()).decode()


def test_an_ended_job_is_told_and_the_signature_holds(farm, receiver):
    client = farm.client()
    id = client.create(webhook_url=receiver.url + "/hook?x=1")["id"]
    Worker(farm.client()).work_all()
    until(lambda: receiver.heard)
    path, headers, body = receiver.heard[0]
    event = json.loads(body)
    assert path == "/hook?x=1" and headers["content-type"] == "application/json"
    assert event == {"id": headers["webhook-id"], "object": "event", "created_at": event["created_at"],
                     "type": "video.completed", "data": {"id": id}}
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["webhook-signature"] == signature(secret(farm), headers, body)


def test_failed_and_cancelled_jobs_are_told_as_failed(farm, receiver):
    client, worker = farm.client(), Worker(farm.client())
    failed = client.create(webhook_url=receiver.url)["id"]
    task = worker.take()
    worker.about(task, "fail", code="invalid", message="no", retryable=False, timings=[])
    cancelled = client.create(webhook_url=receiver.url)["id"]
    client.post("/v1/videos/%s/cancel" % cancelled)
    until(lambda: len(receiver.heard) == 2)
    events = [json.loads(body) for _, _, body in receiver.heard]
    assert {(e["type"], e["data"]["id"]) for e in events} == {("video.failed", failed), ("video.failed", cancelled)}


def test_anything_but_2xx_is_sent_again_with_the_same_id_and_a_new_signature(farm, receiver):
    receiver.statuses = [500, 404, 302, 204]
    receiver.headers = {"Location": receiver.url + "/elsewhere"}
    farm.client().create(webhook_url=receiver.url + "/hook")
    Worker(farm.client()).work_all()
    until(lambda: len(receiver.heard) == 4)
    until(lambda: b'result="delivered"} 1' in farm.client().get("/metrics").body)
    assert {path for path, _, _ in receiver.heard} == {"/hook"}         # the redirect was not followed
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1
    key = secret(farm)
    for _, headers, body in receiver.heard:
        assert headers["webhook-signature"] == signature(key, headers, body)
    assert b'result="to_be_retried"} 3' in farm.client().get("/metrics").body


def test_a_telling_survives_kill_9(farm, receiver):
    receiver.statuses = [503] * 3
    farm.client().create(webhook_url=receiver.url)
    Worker(farm.client()).work_all()
    until(lambda: receiver.heard)
    farm.kill()
    farm.start(*OPEN)
    until(lambda: b'result="delivered"} 1' in farm.client().get("/metrics").body)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1


def test_after_a_rotation_both_secrets_sign(farm, receiver):
    old = secret(farm)
    new = secret(farm, "--rotate")
    assert old != new == secret(farm)
    farm.client().create(webhook_url=receiver.url)
    Worker(farm.client()).work_all()
    until(lambda: receiver.heard)
    _, headers, body = receiver.heard[0]
    assert headers["webhook-signature"].split(" ") == [signature(new, headers, body), signature(old, headers, body)]


def test_private_addresses_are_refused_and_nothing_is_sent(server, receiver):
    client = server.client()
    for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost"), receiver.url.replace("127.0.0.1", "[::1]"),
                receiver.url.replace("127.0.0.1", "2130706433"), receiver.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
                "http://169.254.169.254/latest/meta-data/"):
        client.create(webhook_url=url)
    Worker(server.client()).work_all()
    until(lambda: b'result="given_up"} 6' in client.get("/metrics").body)
    assert not receiver.heard and "address that is not public" in server.log_text()


def test_a_huge_answer_is_cut_off_and_counts_as_unheard(farm, receiver):
    receiver.body = b"x" * (1 << 20)
    farm.client().create(webhook_url=receiver.url)
    Worker(farm.client()).work_all()
    until(lambda: len(receiver.heard) >= 2)


def test_a_job_tried_again_is_told_of_again_and_a_deleted_one_is_forgotten(farm, receiver):
    client = farm.client()
    id = client.create(webhook_url=receiver.url)["id"]
    client.post("/v1/videos/%s/cancel" % id)
    client.post("/v1/videos/%s/retry" % id)
    Worker(farm.client()).work_all()
    until(lambda: len(receiver.heard) == 2)
    assert {json.loads(body)["type"] for _, _, body in receiver.heard} == {"video.failed", "video.completed"}
    other = client.create(webhook_url=receiver.url)["id"]
    client.delete("/v1/videos/" + other)
    third = client.create(webhook_url=receiver.url)["id"]
    client.post("/v1/videos/%s/cancel" % third)
    until(lambda: len(receiver.heard) == 3)
    assert json.loads(receiver.heard[2][2])["data"]["id"] == third


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "http:///x", "example.org", "https://user:pass@x/", "http://x y/",
                                 "file:///etc/passwd", "http://x/\u00e9", "https://:80/", 5, "http://" + "x" * 2048])
def test_what_is_no_address_is_refused_by_name(client, url):
    answer = client.post("/v1/videos", {"prompt": "x", "webhook_url": url})
    assert answer.status == 400 and answer.error["param"] == "webhook_url"


def test_neither_workers_nor_others_see_where_a_job_is_told(farm, receiver):
    client, worker = farm.client(), Worker(farm.client())
    video = client.create(webhook_url=receiver.url + "/secret-path")
    assert "secret-path" not in json.dumps(video) + json.dumps(worker.take())
