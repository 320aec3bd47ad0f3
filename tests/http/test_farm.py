"""The calls of workers, and what they may not do.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import json
import pathlib
import socket

import pytest

from conftest import MODEL, Worker, until


def test_an_old_protocol_is_told_so(client):
    answer = Worker(client, protocol=2).registered
    assert answer.status == 409 and answer.error["code"] == "protocol"


@pytest.mark.parametrize("change", [
    {"name": ""}, {"name": 5}, {"models": "demo"}, {"device": None}, {"device": {"kind": 5}}, {"protocol": "1"},
    {"models": [{**MODEL, "hash": "xyz"}]}, {"models": [{**MODEL, "max_segment_frames": 80}]}],
    ids=lambda change: next(iter(change)))
def test_a_registration_that_makes_no_sense_is_refused(client, change):
    answer = Worker(client, **change).registered
    assert answer.status == 400 and answer.error["message"]


def test_an_unknown_worker_is_told_to_register(client):
    for call in ("lease", "leave"):
        answer = client.post("/farm/v1/" + call, {"worker_id": "worker_" + "0" * 26, **({"wait_ms": 0} if call == "lease" else {})})
        assert answer.status == 404 and answer.error["code"] == "unknown_worker"


def test_a_waiting_worker_gets_the_job_the_moment_it_comes(server, client, worker):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(worker.take, 20000)
        until(lambda: b"framefarm_http_waiting 1" in client.get("/metrics").body)
        id = client.create()["id"]
        assert waiting.result(5)["job_id"] == id


def test_a_wait_without_work_ends_with_204(worker):
    answer = worker.lease(300)
    assert answer.status == 204 and answer.body == b"" and answer.headers["x-request-id"]


def test_work_given_to_a_worker_that_hung_up_comes_back_at_once(server, client, worker):
    body = json.dumps({"worker_id": worker.id, "wait_ms": 20000}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as gone:
        gone.sendall(b"POST /farm/v1/lease HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: b"framefarm_http_waiting 1" in client.get("/metrics").body)
    id = client.create()["id"]
    other = Worker(server.client(), "gpu-2")
    assert other.take(5000)["job_id"] == id


def test_a_stale_lease_can_do_nothing(server, client, worker):
    client.create()
    old = worker.take()
    assert worker.about(old, "release").status == 200
    new = worker.take()
    assert new["lease"] > old["lease"] and new["attempt"] == old["attempt"]
    assert worker.beat(old).status == 409
    assert worker.complete(old).status == 409
    assert worker.put(old, "segment-0.mp4", b"stale").status == 409
    assert worker.file(old, "input").status == 409
    assert worker.put(new, "segment-0.mp4", b"fresh").status == 200


def test_a_wrong_hash_is_422_and_nothing_is_kept(server, client, worker):
    client.create()
    task = worker.take()
    answer = worker.put(task, "segment-0.mp4", b"data", sha256="0" * 64)
    assert answer.status == 422 and answer.error
    assert worker.complete(task).status == 400, "the file has not been put"
    assert list((server.folder / "data" / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "farm.db", "segment--1.mp4", "segment-0.mp4%00",
                                  "input%2f", "%2e%2e"])
def test_file_names_lead_nowhere_else(client, worker, name):
    client.create()
    task = worker.take()
    path = "/farm/v1/tasks/%s/files/%s" % (task["task_id"], name)
    for method, body in (("GET", None), ("PUT", b"x")):
        answer = client.ask(method, path + "?lease=%d" % task["lease"], body, {"X-Content-SHA256": "0" * 64})
        assert answer.status in (400, 404), (method, answer.status)


@pytest.mark.parametrize("query, headers", [
    ("", {}), ("?lease=x", {}), ("?lease=0", {}), ("?lease=1&x=1", {}), ("?lease=1", {"X-Content-SHA256": "abc"}), ("?lease=1", {})])
def test_an_upload_with_a_bad_address_is_refused(client, worker, query, headers):
    client.create()
    task = worker.take()
    answer = client.ask("PUT", "/farm/v1/tasks/%s/files/segment-0.mp4%s" % (task["task_id"], query), b"x", headers)
    assert answer.status == 400 and answer.error


@pytest.mark.parametrize("call", ["heartbeat", "complete", "fail", "release"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"worker_id":5,"lease":1}', b'{"worker_id":"x","lease":"1"}', b"\xff"])
def test_nonsense_about_a_task_is_refused(client, worker, call, body):
    client.create()
    task = worker.take()
    answer = client.ask("POST", "/farm/v1/tasks/%s/%s" % (task["task_id"], call), body, {"Content-Type": "application/json"})
    assert answer.status == 400 and answer.error
    assert client.get("/v1/queue").json()["tasks_leased"] == 1


@pytest.mark.parametrize("task_id", ["x", "video_x.0", "video_" + "0" * 26 + ".0", "video_" + "0" * 26 + ".-1", "%2e"])
def test_unknown_tasks_are_refused(worker, task_id):
    for call in ("heartbeat", "complete", "release"):
        extra = {"stage": "load", "step": 0, "steps": 0, "fraction": 0} if call == "heartbeat" else \
            {"timings": [], "notes": [], "result": {}} if call == "complete" else {}
        answer = worker.about({"task_id": task_id, "lease": 1}, call, **extra)
        told_to_stop = call == "heartbeat" and answer.status == 200 and answer.json()["cancel"]
        assert told_to_stop or answer.status in (404, 409), (call, answer.status, answer.body)


def test_complete_may_be_repeated(client, worker):
    client.create()
    task = worker.take()
    worker.work(task)
    assert worker.complete(task).status == 200


def test_leaving_hands_back_what_was_held(server, client, worker):
    id = client.create()["id"]
    worker.take()
    assert client.post("/farm/v1/leave", {"worker_id": worker.id}).status == 200
    assert client.video(id)["segments"][0]["state"] == "ready"
    assert Worker(server.client(), "gpu-2").take()["job_id"] == id


def test_a_drained_worker_gets_nothing_new(client, worker):
    client.create()
    answer = client.post("/v1/workers/%s/drain" % worker.id)
    assert answer.status == 200 and answer.json()["state"] == "draining"
    assert worker.lease().status == 204
    assert client.post("/v1/workers/%s/drain" % worker.id, {"drain": False}).json()["state"] == "idle"
    assert worker.lease().status == 200
    assert client.post("/v1/workers/%s/drain" % worker.id, {"drain": 1}).error["param"] == "drain"
    assert client.post("/v1/workers/worker_nobody/drain").status == 404


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed_and_remembers(server, client, worker):
    assert client.post("/v1/queue/pause").json()["paused"] is True
    client.create()
    assert worker.lease().status == 204
    server.kill()
    server.start()
    client = server.client()
    assert client.get("/v1/queue").json()["paused"] is True
    assert client.post("/v1/queue/resume").json()["paused"] is False
    assert Worker(server.client()).lease().status == 200


def test_a_large_upload_arrives_whole_however_it_is_cut(server, client, worker):
    client.create()
    task = worker.take()
    data = b"0123456789abcdef" * 400000
    assert worker.put(task, "segment-0.mp4", data).json()["size_bytes"] == len(data)
    assert worker.file(task, "segment-0.mp4").body == data


def test_a_thousand_workers_wait_without_a_thread_each(server, client):
    threads = len(list((server_proc(server) / "task").iterdir()))
    sockets = []
    try:
        for i in range(1000):
            # One claim per worker: each registers its own.
            one = Worker(client, "gpu-%d" % i)
            s = socket.create_connection(("127.0.0.1", server.port))
            body = json.dumps({"worker_id": one.id, "wait_ms": 30000}).encode()
            s.sendall(b"POST /farm/v1/lease HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            sockets.append(s)
        until(lambda: b"framefarm_http_waiting 1000" in client.get("/metrics").body)
        assert len(list((server_proc(server) / "task").iterdir())) == threads
        assert client.create()["id"]
    finally:
        for s in sockets:
            s.close()


def server_proc(server):
    return pathlib.Path("/proc/%d" % server.process.pid)


def test_no_task_is_lost_when_workers_hang_up_at_random_moments(server, client):
    """Some before the job comes, some after: it is never in nobody's hands."""
    for round in range(10):
        sockets = []
        for i in range(5):
            one = Worker(client, "flaky-%d" % i)
            body = json.dumps({"worker_id": one.id, "wait_ms": 20000}).encode()
            s = socket.create_connection(("127.0.0.1", server.port))
            s.sendall(b"POST /farm/v1/lease HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            sockets.append(s)
        until(lambda: b"framefarm_http_waiting 5" in client.get("/metrics").body)
        for s in sockets[:round % 5]:
            s.close()
        id = client.create()["id"]
        for s in sockets:
            s.close()
        steady = Worker(server.client(), "steady")
        def taken():
            answer = steady.lease(1000)
            return answer.status == 200 and answer.json()
        # A worker that was answered before it hung up has the task; closing without reading makes that an error or not.
        task = until(lambda: taken() or client.video(id)["segments"][0]["state"] == "leased")
        if isinstance(task, dict):
            assert task["job_id"] == id
        client.delete("/v1/videos/" + id)
