"""What people do with the stock npm client, done against the server: the checklist of what such clients need.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import concurrent.futures

import pytest

from conftest import SdkError, farm

CREATE = "return client.videos.create({prompt: 'a red circle moves left'})"
STOCK_KEYS = {"id", "object", "model", "status", "progress", "created_at", "completed_at", "expires_at", "prompt",
              "size", "seconds", "remixed_from_video_id", "error"}


def jobs(client):
    return client.get("/v1/videos", limit=1000).json()["data"]


def thrown(sdk, code, args=None, **options):
    with pytest.raises(SdkError) as info:
        sdk(code, args, **options)
    return info.value


# ---- the life of a video ----

def test_a_prompt_alone_becomes_a_video_object_with_every_stock_key(sdk, worker):
    video = sdk(CREATE)
    assert STOCK_KEYS <= set(video)
    assert (video["object"], video["status"], video["progress"]) == ("video", "queued", 0)
    assert video["seconds"] == "5.0625" and video["size"] == "192x128" and isinstance(video["created_at"], int)
    for key in ("completed_at", "remixed_from_video_id", "error"):
        assert video[key] is None
    assert sdk("return client.videos.retrieve(args.id)", {"id": video["id"]}) == video


def test_our_own_fields_go_through_the_stock_create(sdk, worker):
    video = sdk("""return client.videos.create({prompt: 'zwölf röte Kreise', seconds: '10', size: '64x80', fps: 16,
                   seed: 7, loras: [{name: 'demo_4steps', strength: 0.5}], user: 'ann', priority: 3})""")
    assert video["seconds"] == "10.0625" and video["size"] == "64x80" and video["prompt"] == "zwölf röte Kreise"
    assert (video["fps"], video["seed"], video["user"], video["priority"]) == (16, 7, "ann", 3)
    assert video["loras"] == [{"name": "demo_4steps", "strength": 0.5}]


@pytest.mark.parametrize("reference", [
    "await toFile(Buffer.from(args.image, 'base64'), 'a.png', {type: 'image/png'})", "fs.createReadStream(args.path)",
    "{image_url: 'data:image/png;base64,' + args.image}"], ids=["bytes", "stream", "data_url"])
def test_a_start_image_reaches_the_worker_as_it_was(sdk, worker, tmp_path, reference):
    path = tmp_path / "a.png"
    path.write_bytes(farm.PNG)
    args = {"image": base64.b64encode(farm.PNG).decode(), "path": str(path)}
    video = sdk("return client.videos.create({prompt: 'x', input_reference: %s})" % reference, args)
    assert video["has_input_reference"] is True
    task = worker.take()
    assert task["job_id"] == video["id"] and worker.file(task, "input").body == farm.PNG


def test_polling_as_the_server_asks_sees_the_end(sdk, worker):
    id = sdk(CREATE)["id"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        polled = pool.submit(sdk, """
            const seen = [];
            for (;;) {
                const { data, response } = await client.videos.retrieve(args.id).withResponse();
                seen.push({status: data.status, after: response.headers.get('openai-poll-after-ms')});
                if (data.status !== 'queued' && data.status !== 'in_progress')
                    return {seen, data};
                await new Promise((done) => setTimeout(done, Math.min(Number(seen.at(-1).after), 50)));
            }""", {"id": id})
        worker.work(worker.take())
        worker.work_all()
        end = polled.result(farm.DEADLINE)
    for look in end["seen"][:-1]:
        assert 0 < int(look["after"]) <= 60000
    assert end["seen"][-1] == {"status": "completed", "after": None}
    assert end["data"]["progress"] == 100 and end["data"]["completed_at"] is not None


def test_every_variant_downloads_with_its_type(sdk, worker):
    id = sdk(CREATE)["id"]
    worker.work_all()
    for variant, name, kind in (("video", "video.mp4", "video/mp4"), ("thumbnail", "thumbnail.webp", "image/webp"),
                                ("spritesheet", "spritesheet.webp", "image/webp"), (None, "video.mp4", "video/mp4")):
        got = sdk("""const wanted = args.variant ? {variant: args.variant} : {};
                     const response = await client.videos.downloadContent(args.id, wanted);
                     const bytes = Buffer.from(await response.arrayBuffer());
                     return {type: response.headers.get('content-type'), bytes: bytes.toString('base64')}""",
                  {"id": id, "variant": variant})
        assert got["type"] == kind and base64.b64decode(got["bytes"]) == farm.content(id, name)
    part = sdk("""const response = await client.videos.downloadContent(args.id, {}, {headers: {Range: 'bytes=5-9'}});
                  return {status: response.status, text: await response.text()}""", {"id": id})
    assert part == {"status": 206, "text": farm.content(id, "video.mp4")[5:10].decode()}


def test_a_list_is_walked_over_its_pages(sdk, client, worker):
    ids = [client.create(prompt="clip %d" % i)["id"] for i in range(7)]
    walked = """const ids = [], pages = [];
                for await (const video of client.videos.list(args.query)) ids.push(video.id);
                const first = await client.videos.list(args.query);
                for await (const page of first.iterPages()) pages.push(page.data.length);
                return {ids, pages}"""
    assert sdk(walked, {"query": {"limit": 3}}) == {"ids": ids[::-1], "pages": [3, 3, 1]}
    assert sdk(walked, {"query": {"limit": 3, "order": "asc"}}) == {"ids": ids, "pages": [3, 3, 1]}
    assert sdk(walked, {"query": {"limit": 7}}) == {"ids": ids[::-1], "pages": [7]}
    assert sdk(walked, {"query": {"after": ids[1], "limit": 2}}) == {"ids": ids[:1], "pages": [1]}


def test_a_list_of_nothing_ends_at_once(sdk):
    page = sdk("""const page = await client.videos.list(); return {data: page.data, more: page.has_more,
                  last: page.last_id, next: page.hasNextPage()}""")
    assert page == {"data": [], "more": False, "last": "", "next": False}  # the client makes "" of null


def test_delete_forgets_a_video_whatever_it_is_doing(sdk, worker):
    done, running, waiting = (sdk(CREATE)["id"] for _ in range(3))
    worker.work(worker.take())
    worker.work(worker.take())  # the same job's files are joined
    task = worker.take()
    assert task["job_id"] == running
    for id in (done, running, waiting):
        answer = sdk("return client.videos.delete(args.id)", {"id": id})
        assert answer == {"id": id, "object": "video.deleted", "deleted": True}
        assert thrown(sdk, "return client.videos.retrieve(args.id)", {"id": id}).kind == "NotFoundError"
    assert worker.beat(task).status != 200 or worker.beat(task).json()["cancel"] is True


def test_remix_is_a_new_video_that_names_its_source(sdk, worker):
    source = sdk("return client.videos.create({prompt: 'a red circle', seed: 5, num_frames: 25})")
    video = sdk("return client.videos.remix(args.id, {prompt: 'a blue circle'})", {"id": source["id"]})
    assert video["remixed_from_video_id"] == source["id"] and video["id"] != source["id"]
    assert (video["prompt"], video["seed"], video["num_frames"]) == ("a blue circle", 5, 25)


def test_a_failed_and_a_cancelled_video_are_no_http_errors(sdk, client, worker):
    failed, cancelled = sdk(CREATE)["id"], sdk(CREATE)["id"]
    worker.about(worker.take(), "fail", code="no_memory", message="16 GiB are not enough", retryable=False, timings=[])
    client.post("/v1/videos/%s/cancel" % cancelled)
    shown = sdk("return client.videos.retrieve(args.id)", {"id": failed})
    assert shown["status"] == "failed" and shown["error"]["code"] == "no_memory"
    assert "16 GiB are not enough" in shown["error"]["message"]
    shown = sdk("return client.videos.retrieve(args.id)", {"id": cancelled})
    assert shown["status"] == "failed" and shown["error"]["code"] == "cancelled"


# ---- errors ----

@pytest.mark.parametrize("fields, param", [
    ("{prompt: ''}", "prompt"), ("{}", "prompt"), ("{prompt: 'x', model: 'sora-2'}", "model"),
    ("{prompt: 'x', seconds: 'soon'}", "seconds"), ("{prompt: 'x', size: '1x1'}", "size"),
    ("{prompt: 'x', nonsense: 1}", "nonsense"),
    ("{prompt: 'x', input_reference: {file_id: 'file-1'}}", "input_reference")])
def test_what_is_wrong_arrives_as_a_bad_request_that_names_the_field(sdk, client, worker, fields, param):
    error = thrown(sdk, "return client.videos.create(%s)" % fields)
    assert (error.kind, error.status, error.type) == ("BadRequestError", 400, "invalid_request_error")
    assert error.param.startswith(param) and error.code == "invalid"
    assert error.requestID and error.requestID == error.headers["x-request-id"]
    assert jobs(client) == []


@pytest.mark.parametrize("code", [
    "retrieve('video_nothing')", "delete('video_nothing')", "downloadContent('video_nothing')",
    "remix('video_nothing', {prompt: 'x'})", "list({after: 'video_nothing'})"])
def test_what_is_not_there_is_a_not_found_error(sdk, code):
    error = thrown(sdk, "return client.videos." + code)
    assert (error.kind, error.status, error.code) == ("NotFoundError", 404, "not_found") and error.requestID


def test_what_the_server_does_not_do_is_said_in_an_error_object(sdk):
    for code in ("edit({prompt: 'x', video: {id: 'v'}})", "extend({prompt: 'x', seconds: '4', video: {id: 'v'}})"):
        error = thrown(sdk, "return client.videos." + code)
        assert error.status in (404, 405) and error.code and error.requestID


def test_a_download_before_the_end_fails_at_once(sdk, proxy, worker):
    id = sdk(CREATE)["id"]
    error = thrown(sdk, "return client.videos.downloadContent(args.id)", {"id": id}, port=proxy.port)
    assert (error.kind, error.code) == ("NotFoundError", "not_ready") and len(proxy.requests) == 1


def test_a_full_queue_is_a_rate_limit_error_with_a_time_to_wait(server, node, worker):
    server.stop()
    server.start("--max-queued", "2")
    node.port = server.port
    for _ in range(2):
        node(CREATE)
    error = thrown(node, CREATE, maxRetries=0)
    assert (error.kind, error.status, error.code, error.type) == ("RateLimitError", 429, "limit", "rate_limit_error")
    assert 0 < int(error.headers["retry-after"]) <= 60 and error.requestID
    assert len(jobs(server.client())) == 2


# ---- sending twice ----

@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize("fields", [
    "prompt: 'x'", "prompt: 'x', input_reference: await toFile(Buffer.from(args.image, 'base64'), 'a.png')"],
    ids=["prompt", "image"])
def test_a_create_whose_answer_is_lost_makes_one_job(sdk, client, proxy, worker, fields, losses):
    proxy.losses = losses
    args = {"image": base64.b64encode(farm.PNG).decode()}
    video = sdk("return client.videos.create({%s})" % fields, args, port=proxy.port)
    assert [video["id"]] == [job["id"] for job in jobs(client)]
    assert len(proxy.requests) == losses + 1 and b"retry-count: %d" % losses in proxy.requests[-1].lower()


def test_a_remix_whose_answer_is_lost_makes_one_job(sdk, client, proxy, worker):
    source = sdk(CREATE)["id"]
    proxy.losses = 1
    video = sdk("return client.videos.remix(args.id, {prompt: 'x'})", {"id": source}, port=proxy.port)
    assert {job["id"] for job in jobs(client)} == {source, video["id"]}
    other = sdk("return client.videos.remix(args.id, {prompt: 'x'})", {"id": source}, port=proxy.port)
    assert other["id"] != video["id"] and len(jobs(client)) == 3


def test_a_delete_whose_answer_is_lost_is_still_over(sdk, proxy, worker):
    id = sdk(CREATE)["id"]
    proxy.losses, proxy.losing = 1, b"DELETE "
    assert thrown(sdk, "return client.videos.delete(args.id)", {"id": id}, port=proxy.port).kind == "NotFoundError"


def test_all_answers_lost_is_a_connection_error_and_still_one_job(sdk, client, proxy, worker):
    proxy.losses = 3
    assert thrown(sdk, CREATE, port=proxy.port).kind == "APIConnectionError"
    assert len(jobs(client)) == 1


def test_identical_creates_at_the_same_time_stay_as_many_jobs(sdk, client, worker):
    made = sdk("return Promise.all([1, 2, 3, 4].map(() => client.videos.create({prompt: 'x'})))")
    assert len({video["id"] for video in made}) == 4 and len(jobs(client)) == 4


def test_one_lost_answer_among_identical_creates_costs_none_of_them(sdk, client, proxy, worker):
    proxy.losses = 1
    made = sdk("return Promise.all([1, 2].map(() => client.videos.create({prompt: 'x'})))", port=proxy.port)
    assert {video["id"] for video in made} <= {job["id"] for job in jobs(client)}
    assert len(jobs(client)) == 2


KEYED = """const { data, response } = await client.videos.create({prompt: args.prompt},
               {headers: {'Idempotency-Key': args.key}}).withResponse();
           return {id: data.id, replayed: response.headers.get('idempotent-replayed')}"""


def test_an_idempotency_key_gives_the_first_job_again(sdk, client, worker):
    first = sdk(KEYED, {"prompt": "x", "key": "night-1"})
    assert first["replayed"] is None
    assert sdk(KEYED, {"prompt": "x", "key": "night-1"}) == {"id": first["id"], "replayed": "true"}
    assert sdk(KEYED, {"prompt": "x", "key": "night-2"})["id"] != first["id"]
    assert len(jobs(client)) == 2


def test_a_key_used_for_something_else_is_a_conflict_that_is_sent_once(sdk, proxy, worker):
    sdk(KEYED, {"prompt": "x", "key": "k"})
    error = thrown(sdk, KEYED, {"prompt": "y", "key": "k"}, port=proxy.port)
    assert (error.kind, error.status, error.code) == ("ConflictError", 409, "idempotency_key_reused")
    assert error.param == "Idempotency-Key" and len(proxy.requests) == 1


def test_a_key_outlives_a_server_that_is_killed_before_its_answer_arrives(server, sdk, proxy, worker):
    def kill_and_restart():
        server.kill()
        server.start(listen="127.0.0.1:%d" % proxy.port_behind)
    proxy.losses, proxy.before_cut = 1, kill_and_restart
    made = sdk(KEYED, {"prompt": "x", "key": "k"}, port=proxy.port)
    assert made["replayed"] == "true" and [made["id"]] == [job["id"] for job in jobs(server.client())]
