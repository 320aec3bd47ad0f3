"""POST /v1/videos in its forms, and its batch.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import json

import pytest

from conftest import JPEG, PNG, WEBP


def test_a_prompt_alone_becomes_a_queued_job_with_the_models_defaults(client, worker):
    video = client.create()
    assert video["object"] == "video" and video["status"] == "queued" and video["progress"] == 0
    assert (video["size"], video["num_frames"], video["num_frames_out"]) == ("192x128", 81, 162)
    assert video["model"] == "demo" and video["queue_position"] == 1
    assert client.video(video["id"])["prompt"] == "a red circle moves left"


def test_a_form_with_text_numbers_and_brackets_is_the_same_request(client, worker):
    answer = client.form("/v1/videos", [
        ("loras[][name]", "demo_4steps"), ("loras[][strength]", "0.5"), ("prompt", "zwölf röte Kreise"), ("seconds", "10"),
        ("fps", "16"), ("seed", "7"), ("size", "64x80")])
    assert answer.status == 200, answer.body
    video = answer.json()
    assert (video["prompt"], video["seconds"], video["num_frames"], video["fps"], video["seed"], video["size"]) == \
        ("zwölf röte Kreise", "10.0625", 161, 16, 7, "64x80")
    assert video["loras"] == [{"name": "demo_4steps", "strength": 0.5}]
    assert [s["num_frames"] for s in video["segments"]] == [81, 81]


@pytest.mark.parametrize("image", [PNG, JPEG, WEBP], ids=["png", "jpeg", "webp"])
def test_a_start_image_reaches_the_worker_as_it_was_sent(client, worker, image):
    by_file = client.form("/v1/videos", [("prompt", "x"), ("input_reference", "a.png", "image/png", image)])
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    by_url = client.post("/v1/videos", {"prompt": "x", "input_reference": {"image_url": url}})
    by_field = client.form("/v1/videos", [("input_reference[image_url]", url), ("prompt", "x")])
    for answer in (by_file, by_url, by_field):
        assert answer.status == 200, answer.body
        assert answer.json()["has_input_reference"] is True
        task = worker.take()
        assert task["start_image"] == "input"
        assert worker.file(task, "input").body == image
        worker.about(task, "fail", code="test", message="enough", retryable=False, timings=[])


def test_a_file_field_left_empty_is_no_start_image(client, worker):
    answer = client.form("/v1/videos", [("prompt", "x"), ("input_reference", "", "application/octet-stream", b"")])
    assert answer.status == 200 and answer.json()["has_input_reference"] is False


@pytest.mark.parametrize("fields, param", [
    ({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": "x", "promt": "y"}, "promt"),
    ({"prompt": "x", "num_frames": 80}, "num_frames"), ({"prompt": "x", "size": "1x1"}, "size"),
    ({"prompt": "x", "fps": 24}, "fps"), ({"prompt": "x", "seed": -1}, "seed"), ({"prompt": "x", "seed": "1"}, "seed"),
    ({"prompt": "x", "model": "sora-2"}, "model"), ({"prompt": "x", "loras": [{}]}, "loras"),
    ({"prompt": "x", "input_reference": {"image_url": "http://example.org/a.png"}}, "input_reference"),
    ({"prompt": "x", "input_reference": {"image_url": "data:image/png;base64,R0lGODlh"}}, "input_reference"),
    ({"prompt": "x", "input_reference": {"image_url": "data:image/png;base64,%%%"}}, "input_reference"),
])
def test_what_is_wrong_is_named(client, worker, fields, param):
    answer = client.post("/v1/videos", fields)
    assert answer.status == 400
    assert answer.error["param"].startswith(param), answer.error
    assert client.get("/v1/queue").json()["jobs"]["queued"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"prompt":"x"}{', b'{"prompt":"a","prompt":"b"}',
                                  b"[" * 5000, b'{"prompt":"\x00"}'])
def test_a_body_that_is_no_json_object_is_refused(client, body):
    answer = client.ask("POST", "/v1/videos", body, {"Content-Type": "application/json"})
    assert answer.status == 400 and answer.error


def test_other_content_types_get_415(client):
    answer = client.ask("POST", "/v1/videos", b"prompt=x", {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 415 and "multipart/form-data" in answer.error["message"]


def test_a_form_that_breaks_off_makes_no_job(client):
    body = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na red cir'
    answer = client.ask("POST", "/v1/videos", body, {"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status == 400 and "closing boundary" in answer.error["message"]


def test_files_where_none_belong_and_files_that_are_no_images_are_refused(client):
    answer = client.form("/v1/videos", [("prompt", "p.txt", "text/plain", b"x")])
    assert answer.status == 400 and answer.error["param"] == "prompt"
    answer = client.form("/v1/videos", [("prompt", "x"), ("input_reference", "a.gif", "image/gif", b"GIF89a......")])
    assert answer.status == 400 and answer.error["param"] == "input_reference"
    answer = client.form("/v1/videos", [("prompt", "x"), ("input_reference", "a.png", "image/png", PNG),
                                        ("input_reference", "b.png", "image/png", PNG)])
    assert answer.status == 400 and "twice" in answer.error["message"]


def test_an_image_over_20_mib_gets_413_and_leaves_nothing(server, client):
    image = PNG + b"\0" * (20 << 20)
    answer = client.form("/v1/videos", [("input_reference", "a.png", "image/png", image), ("prompt", "x")])
    assert answer.status == 413 and answer.error["code"] == "too_large"
    assert list((server.folder / "data" / "tmp").iterdir()) == []


def test_a_dry_run_plans_and_keeps_nothing(client, worker):
    answer = client.post("/v1/videos", {"prompt": "x", "num_frames": 161}, dry_run=1)
    video = answer.json()
    assert answer.status == 200 and video["id"] is None
    assert [s["num_frames"] for s in video["segments"]] == [81, 81] and video["num_frames_out"] == 322
    assert client.get("/v1/videos").json()["data"] == []


def test_an_idempotency_key_makes_one_job_of_two_sends(client, worker):
    key = {"Idempotency-Key": "night-1"}
    first = client.post("/v1/videos", {"prompt": "x"}, headers=key)
    again = client.post("/v1/videos", {"prompt": "x"}, headers=key)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true" and first.headers["idempotent-replayed"] is None
    other = client.post("/v1/videos", {"prompt": "y"}, headers=key)
    assert other.status == 409 and other.error["code"] == "idempotency_key_reused"
    assert other.headers["x-should-retry"] == "false"
    # The same form has another boundary each time it is sent.
    a = client.form("/v1/videos", [("prompt", "x")], {"Idempotency-Key": "f"}, boundary="one")
    b = client.form("/v1/videos", [("prompt", "x")], {"Idempotency-Key": "f"}, boundary="two")
    assert a.json()["id"] == b.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_bad_idempotency_key_is_refused(client, key):
    answer = client.post("/v1/videos", {"prompt": "x"}, headers={"Idempotency-Key": key})
    assert answer.status == 400 and answer.error["param"] == "Idempotency-Key"


def test_a_silent_second_send_of_a_stock_sdk_joins_the_first(client, worker):
    def send(count, prompt="x", boundary="b"):
        return client.form("/v1/videos", [("prompt", prompt)], {"X-Stainless-Retry-Count": str(count)}, boundary).json()["id"]
    first = send(0)
    assert send(1, boundary="other") == first and send(2) == first
    assert send(1, prompt="y") != first
    assert send(0) != first, "two sends that are no retries are two jobs"


def test_a_silent_second_send_with_a_start_image_joins_the_first(client, worker):
    parts = [("prompt", "x"), ("input_reference", "a.png", "image/png", PNG)]
    first = client.form("/v1/videos", parts, {"X-Stainless-Retry-Count": "0"})
    again = client.form("/v1/videos", parts, {"X-Stainless-Retry-Count": "1"})
    assert first.status == again.status == 200 and first.json()["id"] == again.json()["id"]


# ---- batch ----

def batch(client, body, **query):
    answer = client.ask("POST", "/v1/videos/batch", body, {"Content-Type": "application/x-ndjson"}, **query)
    return answer, [json.loads(line) for line in answer.body.splitlines()]


def test_a_batch_answers_line_by_line_and_bad_lines_hinder_nobody(client, worker):
    answer, lines = batch(client, b'{"prompt":"one"}\n\n{"prompt":\r\n{"prompt":"two","fps":25}\n{"prompt":"three"}')
    assert answer.status == 200 and answer.headers["content-type"] == "application/x-ndjson"
    assert [line["line"] for line in lines] == [1, 3, 4, 5]
    assert "id" in lines[0] and "id" in lines[3]
    assert lines[2]["error"]["param"] == "fps" and lines[1]["error"]["code"]
    assert client.video(lines[0]["id"])["prompt"] == "one"
    assert client.get("/v1/queue").json()["jobs"]["queued"] == 2


def test_an_atomic_batch_with_a_bad_line_adds_nothing(client, worker):
    answer, lines = batch(client, b'{"prompt":"one"}\n{"promt":"two"}\n', atomic=1)
    assert answer.status == 400
    assert all("error" in line for line in lines)
    assert client.get("/v1/queue").json()["jobs"]["queued"] == 0
    answer, lines = batch(client, b'{"prompt":"one"}\n{"prompt":"two"}\n', atomic=1)
    assert answer.status == 200 and all("id" in line for line in lines)


def test_five_hundred_lines_are_one_transaction(client, worker):
    answer, lines = batch(client, b"".join(b'{"prompt":"clip %d"}\n' % i for i in range(500)))
    assert answer.status == 200 and len({line["id"] for line in lines}) == 500


def test_a_batch_sent_twice_with_one_key_is_one_batch(client, worker):
    body, key = b'{"prompt":"one"}\n{"prompt":"two"}\n', {"Idempotency-Key": "b"}
    first = client.ask("POST", "/v1/videos/batch", body, key)
    again = client.ask("POST", "/v1/videos/batch", body, key)
    assert first.body == again.body and client.get("/v1/queue").json()["jobs"]["queued"] == 2


def test_a_batch_line_may_bring_a_start_image(client, worker):
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    answer, lines = batch(client, json.dumps({"prompt": "x", "input_reference": {"image_url": url}}).encode())
    assert answer.status == 200, answer.body
    task = worker.take()
    assert task["job_id"] == lines[0]["id"] and worker.file(task, "input").body == PNG


@pytest.mark.parametrize("body", [b"", b"\n\n", b"nonsense", b"\xff\xfe\n", b"{}\n" * 10001])
def test_nonsense_batches_add_nothing(client, body):
    answer, lines = batch(client, body) if len(body) < 1000 else (client.ask("POST", "/v1/videos/batch", body), [])
    assert answer.status == (413 if len(body) > 1000 else 200 if not body.strip() else 400)
    assert client.get("/v1/queue").json()["jobs"]["queued"] == 0
