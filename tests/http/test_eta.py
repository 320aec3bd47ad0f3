"""Expected times, the queue's order, retries by the hundred: from outside, against the real server.

SPDX-License-Identifier: Apache-2.0
"""
import time

from conftest import WEBP, Server, Worker, until

TIMINGS = [{"stage": "high_noise", "step": 0, "started_at_ms": 1700000000000, "seconds": 0.01},
           {"stage": "low_noise", "step": 0, "started_at_ms": 1700000000000, "seconds": 0.01}]


def measure(client, worker, **fields):
    """One job from end to end, so that the farm knows what such a one takes; its id."""
    id = client.create(**fields)["id"]
    while client.video(id)["status"] != "completed":
        task = worker.take()
        for name in (["segment-0.mp4"] if task["kind"] == "segment" else ["video.mp4", "thumbnail.webp"]):
            assert worker.put(task, name, b"x" * 100).status == 200
        assert worker.complete(task, timings=TIMINGS).status == 200
    return id


def expected(client, id, key="expected_end_at"):
    return until(lambda: client.video(id)[key])


def test_nothing_is_expected_before_anything_was_measured(client, worker):
    video = client.create()
    assert video["expected_start_at"]  # a worker is idle
    assert video["expected_end_at"] is None and video["expected_error_seconds"] is None and video["preview_at"] is None
    plan = client.post("/v1/videos", {"prompt": "x"}, dry_run=1).json()
    assert plan["expected_end_at"] is None


def test_measured_jobs_tell_when_the_next_will_end(client, worker):
    measure(client, worker)
    now = time.time()
    id = client.create()["id"]
    assert now - 2 <= expected(client, id) <= now + 30
    video = client.video(id)
    assert video["expected_start_at"] <= video["expected_end_at"] and video["expected_error_seconds"] >= 0
    answer = client.get("/v1/videos/" + id)
    assert 500 <= int(answer.headers["openai-poll-after-ms"]) <= 10000
    worker.work_all()
    video = client.video(id)
    assert video["status"] == "completed" and video["expected_end_at"] is None and video["expected_start_at"] is None


def test_dry_run_says_when_it_would_end_and_adds_nothing(client, worker):
    measure(client, worker)
    plan = until(lambda: (v := client.post("/v1/videos", {"prompt": "x"}, dry_run=1).json())["expected_end_at"] and v)
    assert plan["id"] is None and plan["queue_position"] == 1 and plan["expected_start_at"] <= plan["expected_end_at"]
    assert client.get("/v1/queue").json()["jobs"]["queued"] == 0


def test_knowledge_outlives_the_server(tmp_path):
    server = Server(tmp_path).start()
    measure(server.client(), Worker(server.client()))
    server.kill()
    server.start()
    client = server.client()
    worker = Worker(server.client(), name="a new one of its kind")
    assert worker.id
    assert expected(client, client.create()["id"])
    server.finish()


def test_paused_queue_promises_nothing(client, worker):
    measure(client, worker)
    id = client.create()["id"]
    assert expected(client, id)
    client.post("/v1/queue/pause")
    until(lambda: client.video(id)["expected_end_at"] is None)
    client.post("/v1/queue/resume")
    assert expected(client, id)


def test_preview_at_tells_that_a_preview_came(client, worker):
    id = client.create()["id"]
    task = worker.take()
    assert client.video(id)["preview_at"] is None
    worker.put(task, "preview-0.webp", WEBP)
    first = client.video(id)["preview_at"]
    assert abs(first - time.time()) < 30
    worker.put(task, "preview-0.webp", WEBP + b"x")
    until(lambda: client.video(id)["preview_at"] >= first)
    assert client.get("/v1/videos/%s/content" % id, variant="preview").body == WEBP + b"x"
    worker.about(task, "release")
    worker.work_all()
    assert client.video(id)["preview_at"] is None


def listed(client, **query):
    answer = client.get("/v1/videos", **query)
    assert answer.status == 200, answer.body
    return [v["id"] for v in answer.json()["data"]]


def test_queue_is_listed_in_its_own_order(client, worker):
    ids = [client.create(user="ann")["id"] for _ in range(4)] + [client.create(user="bob")["id"]]
    urgent = client.create(priority=5)["id"]
    order = [urgent, ids[0], ids[4], ids[1], ids[2], ids[3]]
    assert listed(client, status="queued", order="queue") == order
    assert [client.video(id)["queue_position"] for id in order] == [1, 2, 3, 4, 5, 6]
    assert listed(client, status="queued", order="queue", user="ann") == ids[:4]
    page = client.get("/v1/videos", status="queued", order="queue", limit=2).json()
    assert page["has_more"] and page["last_id"] == order[1]
    assert listed(client, status="queued", order="queue", after=order[1], limit=50) == order[2:]
    worker.take()
    assert listed(client, status="queued", order="queue") == order[1:]
    assert client.get("/v1/videos", status="queued", order="queue", after=urgent).status == 404
    assert client.get("/v1/videos", order="queue").status == 400
    assert client.get("/v1/videos", status="queued", order="queue", q="x").status == 400


def test_jobs_of_a_day_are_listed(client):
    id = client.create()["id"]
    created = client.video(id)["created_at"]
    assert listed(client, created_after=created, created_before=created + 10) == [id]
    assert listed(client, created_after=created, order="asc") == [id]
    assert listed(client, created_before=created) == [] and listed(client, created_before=created, order="asc") == []
    assert listed(client, created_after=created + 10) == [] and listed(client, created_after=created + 10, order="asc") == []
    assert listed(client, created_before=created + 10, after=id) == []
    assert client.get("/v1/videos", created_after="yesterday").status == 400


def test_failed_jobs_are_retried_in_bulk(client, worker):
    failed = []
    for i in range(30):
        failed.append(client.create(user="ann" if i % 3 else "bob")["id"])
        worker.about(worker.take(), "fail", code="format", message="broken weights", retryable=False, timings=[])
    cancelled = client.create()["id"]
    client.post("/v1/videos/%s/cancel" % cancelled)
    assert client.post("/v1/videos/retry", status="completed").status == 400
    assert client.post("/v1/videos/retry", user="bob").json() == \
        {"object": "video.retried", "retried": 10, "has_more": False}
    assert client.post("/v1/videos/retry").json()["retried"] == 20
    assert client.post("/v1/videos/retry").json()["retried"] == 0
    assert {client.video(id)["state"] for id in failed} == {"queued"}
    assert client.video(cancelled)["state"] == "cancelled"
    assert client.post("/v1/videos/retry", status="cancelled").json()["retried"] == 1
    assert client.get("/v1/queue").json()["jobs"] == \
        {"queued": 31, "in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0}
