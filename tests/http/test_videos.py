"""Looking at jobs, steering them, fetching what they became.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import csv
import io
import sqlite3
import time

import pytest

from conftest import PNG, content, until


def finish_one(client, worker, **fields):
    video = client.create(**fields)
    worker.work_all()
    video = client.video(video["id"])
    assert video["state"] == "completed", video
    return video


def test_a_job_goes_from_queued_to_completed_in_two_segments(client, worker):
    id = client.create(num_frames=161)["id"]
    task = worker.take()
    assert task["kind"] == "segment" and task["segment"]["count"] == 2 and task["start_image"] is None
    assert worker.beat(task).json() == {"cancel": False, "lease_ms": 30000}
    video = client.video(id)
    assert video["status"] == "in_progress" and video["started_at"] and video["stage"] == "low_noise"
    assert video["segments"][0]["fraction"] == 0.5 and video["segments"][0]["worker"] == "gpu-1"
    assert 0 < video["progress"] < 99
    worker.work(task)
    task = worker.take()
    assert task["start_image"] == "last-0.png"
    assert worker.file(task, "last-0.png").body == content(id, "last-0.png")
    worker.work(task)
    task = worker.take()
    assert task["kind"] == "assemble" and task["segments"] == ["segment-0.mp4", "segment-1.mp4"]
    assert client.video(id)["stage"] == "assemble"
    worker.work(task)
    video = client.video(id)
    assert video["status"] == "completed" and video["progress"] == 100 and video["completed_at"] >= video["created_at"]
    assert video["size_bytes"] == len(content(id, "video.mp4")) and len(video["sha256"]) == 64
    assert video["stage_durations"]["decode"] == 1.5 and "all fine" in video["notes"]


def test_polling_says_when_to_ask_again_only_while_it_is_not_finished(client, worker):
    id = client.create()["id"]
    assert int(client.get("/v1/videos/" + id).headers["openai-poll-after-ms"]) > 0
    worker.work_all()
    assert client.get("/v1/videos/" + id).headers["openai-poll-after-ms"] is None


def test_lists_page_in_both_orders(client, worker):
    ids = [client.create(prompt="clip %d" % i)["id"] for i in range(5)]
    assert ids == sorted(ids)
    seen, after = [], None
    while True:
        page = client.get("/v1/videos", limit=2, order="asc", **({"after": after} if after else {})).json()
        assert page["object"] == "list" and page["first_id"] == page["data"][0]["id"]
        seen += [v["id"] for v in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == ids
    assert [v["id"] for v in client.get("/v1/videos").json()["data"]] == ids[::-1]
    empty = client.get("/v1/videos", limit=0).json()
    assert empty["data"] == [] and empty["first_id"] is None and empty["last_id"] is None


def test_lists_filter(client, worker):
    a = client.create(prompt="a Red circle", user="ann")["id"]
    b = client.create(prompt="a blue square", user="bob")["id"]
    client.post("/v1/videos/%s/cancel" % b)
    def ids(**query):
        return [v["id"] for v in client.get("/v1/videos", **query).json()["data"]]
    assert ids(user="ann") == [a] and ids(q="red") == [a] and ids(model="demo") == [b, a] and ids(model="x") == []
    assert ids(status="cancelled") == [b] and ids(status="queued,cancelled") == [b, a] and ids(q="red", user="bob") == []


@pytest.mark.parametrize("query", ["limit=-1", "limit=1001", "limit=x", "limit=", "order=up", "status=done", "unknown=1",
                                   "limit=1&limit=2", "q=%zz", "q=%ff", "q=%00"])
def test_bad_list_queries_are_named(client, query):
    answer = client.get("/v1/videos?" + query)
    assert answer.status == 400 and query.split("=")[0] in answer.error["message"]


def test_a_page_after_an_unknown_job_is_an_error_not_an_end(client):
    assert client.get("/v1/videos", after="video_" + "0" * 26).status == 404
    assert client.get("/v1/videos", after="nonsense").status == 404


@pytest.mark.parametrize("id", ["video_" + "0" * 26, "x", "video_%2e%2e", "edits", "%00", "a" * 300])
def test_unknown_jobs_are_404_everywhere(client, id):
    for method, tail in [("GET", ""), ("DELETE", ""), ("GET", "/content"), ("GET", "/timings"), ("POST", "/cancel"),
                         ("POST", "/retry")]:
        answer = client.ask(method, "/v1/videos/" + id + tail)
        assert answer.status == 404 and answer.error, (method, tail)


def test_cancel_stops_the_worker_and_touches_nothing_else(client, worker):
    id, other = client.create()["id"], client.create()["id"]
    task = worker.take()
    assert task["job_id"] == id
    video = client.post("/v1/videos/%s/cancel" % id).json()
    assert video["state"] == "cancelled" and video["status"] == "failed" and video["error"]["code"] == "cancelled"
    beat = worker.beat(task)
    assert beat.status == 409 or beat.json()["cancel"] is True
    assert worker.complete(task).status == 409
    assert client.post("/v1/videos/%s/cancel" % id).status == 200, "cancelled twice is no error"
    assert client.video(other)["state"] == "queued"
    assert worker.take()["job_id"] == other


def test_a_finished_job_cannot_be_cancelled_and_only_failed_ones_are_retried(client, worker):
    id = finish_one(client, worker)["id"]
    answer = client.post("/v1/videos/%s/cancel" % id)
    assert answer.status == 409 and answer.headers["x-should-retry"] == "false"
    assert client.post("/v1/videos/%s/retry" % id).status == 409


def test_a_failed_job_says_why_and_can_be_retried(client, worker):
    id = client.create()["id"]
    worker.about(worker.take(), "fail", code="format", message="weights are damaged", retryable=False, timings=[])
    video = client.video(id)
    assert video["status"] == "failed" and "weights are damaged" in video["error"]["message"]
    assert video["attempts"][0]["worker"] == "gpu-1" and video["attempts"][0]["outcome"] == "failed"
    assert client.post("/v1/videos/%s/retry" % id).json()["state"] == "queued"
    worker.work_all()
    assert client.video(id)["state"] == "completed"


def test_priority_moves_a_job_to_the_front(client, worker):
    first, second = client.create()["id"], client.create()["id"]
    answer = client.post("/v1/videos/%s/priority" % second, {"priority": 5})
    assert answer.status == 200 and answer.json()["priority"] == 5 and answer.json()["queue_position"] == 1
    assert worker.take()["job_id"] == second
    for bad in ({}, {"priority": "5"}, {"priority": 1.5}, {"priority": 101}, {"priority": 1, "x": 1}):
        assert client.post("/v1/videos/%s/priority" % first, bad).error["param"] == "priority"


def test_a_waiting_job_is_moved_beside_another(client, worker):
    ids = [client.create()["id"] for _ in range(3)]
    answer = client.post("/v1/videos/%s/move" % ids[2], {"before": ids[0]})
    assert answer.status == 200 and answer.json()["queue_position"] == 1
    assert client.post("/v1/videos/%s/move" % ids[0], {"after": ids[1]}).json()["queue_position"] == 3
    waiting = client.get("/v1/videos", status="queued", order="queue").json()["data"]
    assert [v["id"] for v in waiting] == [ids[2], ids[1], ids[0]]
    assert worker.take()["job_id"] == ids[2]
    assert client.post("/v1/videos/%s/move" % ids[1], {"before": ids[2]}).status == 409
    assert client.post("/v1/videos/%s/move" % ids[1], {"before": "video_" + "0" * 26}).status == 404
    for bad in ({}, {"before": 5}, {"beside": ids[0]}, {"before": ids[0], "after": ids[0]}, {"before": ids[1]}):
        assert client.post("/v1/videos/%s/move" % ids[1], bad).status == 400, bad


def test_delete_forgets_the_job(client, worker):
    id = finish_one(client, worker)["id"]
    answer = client.delete("/v1/videos/" + id)
    assert answer.json() == {"id": id, "object": "video.deleted", "deleted": True}
    assert client.get("/v1/videos/" + id).status == 404 and client.delete("/v1/videos/" + id).status == 404


def test_deleting_a_running_job_stops_it(client, worker):
    id = client.create()["id"]
    task = worker.take()
    assert client.delete("/v1/videos/" + id).status == 200
    beat = worker.beat(task)
    assert beat.status == 409 or beat.json()["cancel"] is True


def test_remix_keeps_everything_but_the_prompt(client, worker):
    first = client.form("/v1/videos", [("prompt", "x"), ("seed", "5"), ("num_frames", "25"),
                                       ("input_reference", "a.png", "image/png", PNG)]).json()
    worker.work_all()
    answer = client.post("/v1/videos/%s/remix" % first["id"], {"prompt": "y"})
    video = answer.json()
    assert answer.status == 200 and video["id"] != first["id"] and video["remixed_from_video_id"] == first["id"]
    assert (video["prompt"], video["seed"], video["num_frames"], video["has_input_reference"]) == ("y", 5, 25, True)
    assert worker.file(worker.take(), "input").body == PNG
    assert client.post("/v1/videos/%s/remix" % first["id"], {"prompt": "y", "seed": 1}).status == 400
    assert client.post("/v1/videos/%s/remix" % first["id"], {}).error["param"] == "prompt"
    assert client.post("/v1/videos/video_%s/remix" % ("0" * 26), {"prompt": "y"}).status == 404


def test_no_loras_and_an_empty_list_of_them_are_two_things(client, worker):
    own, none = client.create(), client.create(loras=[])
    assert (own["loras"], none["loras"]) == (None, [])
    asked = {task["job_id"]: task["request"] for task in (worker.take(), worker.take())}
    assert asked[own["id"]]["loras"] == [] and "no_loras" not in asked[own["id"]]
    assert asked[none["id"]]["loras"] == [] and asked[none["id"]]["no_loras"] is True
    again = client.post("/v1/videos/%s/remix" % none["id"], {"prompt": "y"}).json()
    assert again["loras"] == []


def test_the_queue_counts_what_ended_in_the_last_hour(client, worker):
    for _ in range(2):
        client.create()
    worker.work_all()
    assert client.post("/v1/videos/%s/cancel" % client.create()["id"]).status == 200
    want = {"completed": 2, "failed": 0, "cancelled": 1}
    until(lambda: client.get("/v1/queue").json()["last_hour"] == want)


def test_throughput_counts_what_ended_hour_by_hour(server, client, worker):
    ids = [client.create()["id"] for _ in range(5)]
    worker.work_all()
    gone = client.create()["id"]
    assert client.post("/v1/videos/%s/cancel" % gone).status == 200
    assert server.stop() == 0
    this_hour = int(time.time()) // 3600 * 3600
    ended = {ids[0]: this_hour - 1, ids[1]: this_hour - 3600, ids[2]: this_hour - 3601, ids[3]: this_hour - 23 * 3600 - 1,
             ids[4]: this_hour, gone: this_hour - 5}
    with contextlib.closing(sqlite3.connect(server.folder / "data" / "farm.db", isolation_level=None)) as db:
        rows = [row for row, in db.execute("SELECT row FROM jobs ORDER BY row")]
        for row, at in zip(rows, ended.values()):  # ids sort by age, as rows do
            db.execute("UPDATE jobs SET finished_ms = ? WHERE row = ?", (1000 * at, row))
        db.execute("UPDATE jobs SET expired_ms = 1 WHERE row = ?", (rows[1],))  # its files are gone, it was made all the same
    client = server.start().client()
    hours = client.get("/v1/throughput").json()["data"]
    start = int(time.time()) // 3600 * 3600    # the hour may have turned meanwhile
    assert [h["start_at"] for h in hours] == [start - 3600 * i for i in range(23, -1, -1)]
    counted = {h["start_at"] - this_hour: (h["completed"], h["failed"], h["cancelled"]) for h in hours
               if h["completed"] + h["failed"] + h["cancelled"]}
    assert counted == {0: (1, 0, 0), -3600: (2, 0, 1), -7200: (1, 0, 0)}
    assert sum(h["completed"] for h in client.get("/v1/throughput", hours=25).json()["data"]) == 5
    client.delete("/v1/videos/" + ids[0])
    assert client.post("/v1/videos/%s/retry" % gone).status == 200
    at = {h["start_at"] - this_hour: h for h in client.get("/v1/throughput", hours=3).json()["data"]}
    assert (at[-3600]["completed"], at[-3600]["cancelled"]) == (1, 0)


@pytest.mark.parametrize("hours", ["0", "745", "x", "-1"])
def test_throughput_of_a_silly_number_of_hours_is_refused(client, hours):
    answer = client.get("/v1/throughput", hours=hours)
    assert answer.status == 400 and "'hours'" in answer.error["message"]


# ---- content ----

def test_content_comes_whole_in_parts_and_not_at_all_when_unchanged(client, worker):
    id = finish_one(client, worker, prompt="A red circle, moving!")["id"]
    path, data = "/v1/videos/%s/content" % id, content(id, "video.mp4")
    whole = client.get(path)
    assert whole.status == 200 and whole.body == data and whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes" and whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"] == 'inline; filename="a-red-circle-moving-%s.mp4"' % id[-6:]
    head = client.ask("HEAD", path)
    assert head.status == 200 and head.body == b"" and head.headers["content-length"] == str(len(data))
    etag = whole.headers["etag"]
    for asked, first, last in [("bytes=0-9", 0, 9), ("bytes=5-", 5, len(data) - 1), ("bytes=-7", len(data) - 7, len(data) - 1)]:
        part = client.get(path, {"Range": asked})
        assert part.status == 206 and part.body == data[first:last + 1]
        assert part.headers["content-range"] == "bytes %d-%d/%d" % (first, last, len(data))
    beyond = client.get(path, {"Range": "bytes=%d-" % len(data)})
    assert beyond.status == 416 and beyond.headers["content-range"] == "bytes */%d" % len(data) and beyond.error
    assert client.get(path, {"Range": "lines=1-2"}).status == 200
    assert client.get(path, {"If-None-Match": etag}).status == 304
    assert client.get(path, {"Range": "bytes=0-9", "If-Range": etag}).status == 206
    assert client.get(path, {"Range": "bytes=0-9", "If-Range": '"other"'}).status == 200


def test_pictures_are_webp_and_unknown_variants_are_named(client, worker):
    id = finish_one(client, worker)["id"]
    for variant in ("thumbnail", "spritesheet"):
        answer = client.get("/v1/videos/%s/content" % id, variant=variant)
        assert answer.status == 200 and answer.headers["content-type"] == "image/webp"
        assert answer.body == content(id, variant + ".webp")
    assert client.get("/v1/videos/%s/content" % id, variant="poster").error["param"] == "variant"


def test_content_before_its_time_is_404_and_the_preview_is_there_early(client, worker):
    id = client.create()["id"]
    path = "/v1/videos/%s/content" % id
    assert client.get(path).status == 404 and client.get(path).error["code"] == "not_ready"
    task = worker.take()
    assert worker.put(task, "preview-0.webp", b"first").status == 200
    assert client.get(path, variant="preview").body == b"first"
    assert worker.put(task, "preview-0.webp", b"second").status == 200
    assert client.get(path, variant="preview").body == b"second"


# ---- timings ----

def test_timings_come_as_json_and_as_csv(client, worker):
    id = finish_one(client, worker)["id"]
    answer = client.get("/v1/videos/%s/timings" % id).json()
    rows = [(r["task"], r["stage"], r["step"], r["seconds"]) for r in answer["data"] if r["stage"] != "queue"]
    assert answer["object"] == "list" and (0, "low_noise", 0, 0.25) in rows and (1, "decode", None, 0.5) in rows
    for answer in (client.get("/v1/videos/%s/timings" % id, format="csv"),
                   client.get("/v1/videos/%s/timings" % id, {"Accept": "text/csv"}), client.get("/v1/timings")):
        assert answer.headers["content-type"].startswith("text/csv")
        table = list(csv.DictReader(io.StringIO(answer.body.decode())))
        assert {"id": id, "stage": "low_noise", "step": "0", "seconds": "0.250000"}.items() <= \
            next(r for r in table if r["stage"] == "low_noise").items()
    assert client.get("/v1/timings", **{"from": 1, "to": 2}).body.count(b"\n") == 1
    assert client.get("/v1/timings?from=x").status == 400
    assert client.get("/v1/videos/%s/timings?format=xml" % id).status == 400
