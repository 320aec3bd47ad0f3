"""The worker's loop against a farm of pretence: what it reports, and what it does when things go wrong.

The binary under test is the product's loop with a pipeline that draws gradients (fake_pipeline.c); a FIFO holds it
before each sampling step, so nothing here depends on time.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from farm_double import Farm, assemble, error, segment  # noqa: E402

WORKER = os.environ["FRAMEFARM_TEST_WORKER"]


def write_weights(path, channels):
    """A safetensors file with only the tensor that the catalogue looks at."""
    header = json.dumps({"patch_embedding.weight": {"dtype": "F32", "shape": [1, channels, 1, 2, 2],
                                                    "data_offsets": [0, channels * 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(channels * 16))


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models" / "demo"
    folder.mkdir(parents=True)
    for name in ("high", "low", "text_encoder", "vae", "x_high_noise", "x_low_noise"):
        write_weights(folder / f"{name}.safetensors", 36)
    (folder / "model.json").write_text(json.dumps({
        "name": "demo", "title": "Shapes", "high": "high.safetensors", "low": "low.safetensors",
        "text_encoder": "text_encoder.safetensors", "vae": "vae.safetensors", "lora_high": "x_high_noise.safetensors",
        "lora_low": "x_low_noise.safetensors", "vocabulary": ["red", "circle"], "note": "It draws circles.",
        "defaults": {"size": "96x64", "num_frames": 9, "num_inference_steps": 4, "switch_step": 2}}))
    return tmp_path / "models"


@pytest.fixture
def farm():
    farm = Farm()
    yield farm
    if farm.http is not None:
        farm.stop()


class Worker:
    """The process, its log, and the gate before its steps."""

    def __init__(self, farm, models, tmp_path, *options, gated=False, device="cpu", **more_env):
        env = {**os.environ, "TMPDIR": str(tmp_path), "OPENBLAS_NUM_THREADS": "1", **more_env}
        self.gate = None
        if gated:
            gate = tmp_path / "gate"
            os.mkfifo(gate)
            env["FAKE_PIPELINE_GATE"] = str(gate)
            self.gate = os.open(gate, os.O_RDWR)        # both ends: opening never waits
        self.tmp_path, self.log, self.logged = tmp_path, "", threading.Condition()
        self.process = subprocess.Popen([WORKER, "--server", farm.url, "--models", str(models), "--device", device, "--name",
                                         "w1", "--threads", "1", *options], env=env, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()

    def _read_log(self):
        for line in self.process.stderr:
            with self.logged:
                self.log += line.decode()
                self.logged.notify_all()

    def step(self, n=1):
        os.write(self.gate, b"x" * n)

    def wait(self, timeout=20):
        status = self.process.wait(timeout)
        self.reader.join()
        return status

    def wait_for_log(self, text, timeout=20):
        with self.logged:
            assert self.logged.wait_for(lambda: text in self.log, timeout), f"no line says: {text}"

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        self.wait_for_log("asked to leave")

    def left_behind(self):
        return [p.name for p in self.tmp_path.iterdir() if p.name.startswith("framefarm-worker-")]


@pytest.fixture
def start(farm, models, tmp_path):
    workers = []

    def start_worker(*options, **more):
        workers.append(Worker(farm, models, tmp_path, *options, **more))
        return workers[-1]
    yield start_worker
    for worker in workers:
        worker.process.kill()
        worker.process.wait()
        sys.stderr.write(worker.log)                    # pytest shows it when the test failed


def png(width, height, colour):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = (b"\0" + bytes(colour) * width) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def probe(content, tmp_path):
    path = tmp_path / "probe.mp4"
    path.write_bytes(content)
    out = subprocess.run(["ffprobe", "-v", "error", "-count_packets", "-show_entries",
                          "stream=width,height,r_frame_rate,nb_read_packets,duration", "-of", "json", str(path)],
                         check=True, capture_output=True).stdout
    stream = json.loads(out)["streams"][0]
    return (stream["width"], stream["height"], stream["r_frame_rate"], int(stream["nb_read_packets"]),
            float(stream["duration"]))


# ---- the good day ----

def test_registration_says_what_the_worker_is_and_has(farm, start):
    start()
    body = farm.wait("register").json
    assert (body["protocol"], body["name"]) == (1, "w1")
    assert (body["device"]["kind"], body["device"]["precision"]) == ("cpu", "f32")
    assert body["device"]["memory_bytes"] > 0 and body["pid"] > 0 and body["host"] and body["build"]
    model, = body["models"]
    assert (model["name"], model["takes_text"], model["takes_image"], model["loras"]) == ("demo", True, True, ["x"])
    assert len(model["hash"]) == 64 and model["defaults"]["num_inference_steps"] == 4
    assert farm.wait("lease").json["wait_ms"] <= 30000


def test_a_segment_is_rendered_encoded_uploaded_and_every_stage_timed(farm, start, tmp_path):
    farm.give(segment())
    worker = start("--once")
    report = farm.wait("complete").json
    assert worker.wait() == 0
    assert probe(farm.files["segment-0.mp4"], tmp_path) == (96, 64, "32/1", 18, 18 / 32)
    assert "last-0.png" not in farm.files                # nobody follows
    stages = [(t["stage"], t["step"]) for t in report["timings"]]
    assert sorted(stages, key=str) == sorted(
        [("load", None), ("text", None), ("high_noise", 0), ("high_noise", 1), ("low_noise", 0), ("low_noise", 1),
         ("decode", None), ("interpolate", None), ("encode", None), ("upload", None)], key=str)
    assert all(t["seconds"] >= 0 and t["started_at_ms"] > 1.6e12 for t in report["timings"])
    result = report["result"]
    assert (result["num_frames"], result["width"], result["height"], result["fps"]) == (18, 96, 64, 32)
    assert report["lease"] == 1 and report["worker_id"] == farm.workers[0]
    assert not worker.left_behind()


def test_two_segments_and_their_assembly_give_exactly_twice_the_frames(farm, start, tmp_path):
    farm.give(segment(index=0, count=2), segment(index=1, count=2, lease=2, start_image="last-0.png"),
              assemble(count=2))
    start()
    farm.wait("complete", 3)
    assert probe(farm.files["segment-0.mp4"], tmp_path)[3] == 17
    assert probe(farm.files["segment-1.mp4"], tmp_path)[3] == 17
    assert probe(farm.files["video.mp4"], tmp_path) == (96, 64, "32/1", 34, 34 / 32)
    assert farm.files["last-0.png"].startswith(b"\x89PNG") and "last-1.png" not in farm.files
    assert farm.files["thumbnail.webp"][8:12] == farm.files["spritesheet.webp"][8:12] == b"WEBP"
    second, last = (farm.seen("complete")[i].json for i in (1, 2))
    assert second["result"]["colour_shift"] == 3         # the largest of the three channels
    assert ("encode_image", None) in [(t["stage"], t["step"]) for t in second["timings"]]
    assert not [t for t in second["timings"] if t["stage"] == "load"]    # the model was kept
    assert (last["result"]["num_frames"], last["result"]["seconds"]) == (34, 34 / 32)
    assert [t["stage"] for t in last["timings"]] == ["assemble", "upload"]


def test_16_fps_leaves_the_frames_as_they_were_rendered(farm, start, tmp_path):
    farm.give(segment(index=0, count=2, fps=16), segment(index=1, count=2, fps=16, lease=2, start_image="last-0.png"))
    start()
    farm.wait("complete", 2)
    assert probe(farm.files["segment-0.mp4"], tmp_path)[2:4] == ("16/1", 9)
    assert probe(farm.files["segment-1.mp4"], tmp_path)[2:4] == ("16/1", 8)


def test_a_start_image_of_any_size_is_taken(farm, start):
    farm.files["input"] = png(300, 100, (200, 30, 30))
    farm.give(segment(start_image="input", has_input_reference=True))
    start("--once")
    assert farm.wait("complete").json["result"]["num_frames"] == 18


def test_heartbeats_carry_growing_fractions_and_a_preview_follows(farm, start):
    farm.give(segment())
    worker = start(gated=True)
    for expected in (("high_noise", 0), ("high_noise", 1), ("low_noise", 0), ("low_noise", 1)):
        farm.wait("heartbeat", check=lambda c, e=expected: (c.json["stage"], c.json["step"]) == e)
        worker.step()
    farm.wait("complete")
    fractions = [c.json["fraction"] for c in farm.seen("heartbeat")]
    assert fractions == sorted(fractions) and fractions[-1] > 0.5 and max(fractions) <= 1
    assert farm.files["preview-0.webp"][8:12] == b"WEBP"


def test_words_the_model_does_not_know_become_a_note(farm, start):
    farm.give(segment(prompt="a red dragon"))
    start("--once")
    assert farm.wait("complete").json["notes"] == ["The demo model does not know: dragon. It draws circles."]


def test_a_prompt_too_long_for_the_model_becomes_a_note(farm, start):
    farm.give(segment(prompt="red circle " * 300))
    start("--once")
    note, = farm.wait("complete").json["notes"]
    assert "longer than the 512 tokens" in note


def test_the_token_goes_with_every_call(farm, start, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    farm.give(segment())
    worker = start("--once", "--token-file", str(tmp_path / "token"))
    assert worker.wait() == 0
    assert {c.headers.get("Authorization") for c in farm.calls} == {"Bearer secret"}
    assert "secret" not in worker.log


# ---- what the device tells ----

CARD = {"FRAMEFARM_NVML": os.environ.get("FRAMEFARM_TEST_NVML", ""), "FAKE_PCI_ADDRESS": "00000000:18:00.0",
        "FAKE_NVML": "2048,35,41,118500"}
TOLD = {"memory_used_bytes": 2048 << 20, "utilization": 0.35, "temperature_c": 41, "power_w": 118.5}


def test_a_device_tells_how_it_is_with_every_poll_and_every_heartbeat(farm, start):
    worker = start(gated=True, **CARD)
    poll = farm.wait("lease").json
    assert poll["device"] == TOLD and poll["wait_ms"] <= 10000
    farm.give(segment())
    assert farm.wait("heartbeat").json["device"] == TOLD
    worker.step(4)
    farm.wait("complete")
    assert farm.wait("lease", 2).json["device"] == TOLD


def test_a_device_that_tells_nothing_is_not_made_up(farm, start):
    start(**{**CARD, "FAKE_NVML": ",,,"})
    poll = farm.wait("lease").json
    assert "device" not in poll and poll["wait_ms"] > 10000


@pytest.mark.parametrize("device,told", [("auto", 1), ("cpu", 0)])
def test_a_worker_that_was_to_choose_says_why_it_renders_on_the_cpu(farm, start, device, told):
    worker = start(device=device)
    if farm.wait("register").json["device"]["kind"] != "cpu":
        pytest.skip("there is a GPU here")
    farm.wait("lease")
    lines = [line for line in worker.log.splitlines() if "rendering on the CPU, because " in line]
    assert len(lines) == told and all("level=warn" in line and "--device cuda:0" in line for line in lines), worker.log


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(farm, start):
    worker = start(device="cuda:63")
    assert worker.wait() == 3 and "cuda:63" in worker.log and not farm.calls


# ---- leases ----

def test_a_worker_whose_lease_is_refused_drops_the_task_and_asks_for_other_work(farm, start):
    farm.on("heartbeat", lambda call: (409, error("an old lease", "lease")) if call.json["lease"] == 1 else None)
    farm.give(segment())
    worker = start(gated=True)
    worker.wait_for_log("not ours any more")
    worker.step()                                        # it notices after at most this step
    farm.wait("lease", 2)
    farm.give(segment(job=1, lease=2))
    worker.step(4)
    assert farm.wait("complete").json["lease"] == 2
    assert not farm.seen("fail") and not farm.seen("release") and len(farm.seen("complete")) == 1


@pytest.mark.parametrize("prompt,report", [("red", "complete"), ("fail no_memory", "fail")])
def test_a_heartbeat_that_comes_after_the_report_is_refused_and_disturbs_nothing(farm, start, prompt, report):
    reported = threading.Event()

    def take(call):
        reported.set()
        worker.wait_for_log("the task has ended")       # only then does the worker hear that its report was taken
    farm.on(report, take)
    farm.on("heartbeat", lambda call: (409, error("an old lease", "lease")) if reported.is_set() else None)
    worker = start("--log-level", "debug")
    farm.give(segment(prompt=prompt))
    farm.wait("lease", 2)
    assert len(farm.seen(report)) == 1
    assert "not ours any more" not in worker.log and "was not taken" not in worker.log
    assert report == "fail" or "doing=segment msg=\"done in" in worker.log


def test_a_refused_completion_is_not_repeated(farm, start):
    farm.on("complete", lambda call: (409, error("an old lease", "lease")) if call.json["lease"] == 1 else None)
    farm.give(segment(), segment(job=1, lease=2))
    start()
    farm.wait("complete", check=lambda c: c.json["lease"] == 2)
    assert len(farm.seen("complete")) == 2 and not farm.seen("fail")


def test_a_refused_upload_ends_the_task_without_a_word(farm, start):
    farm.on("put segment-N.mp4", lambda call: (409, error("an old lease", "lease")) if "lease=1" in call.path else None)
    farm.give(segment(), segment(job=1, lease=2))
    start()
    farm.wait("complete", check=lambda c: c.json["lease"] == 2)
    assert len(farm.seen("complete")) == 1 and not farm.seen("fail")


def test_cancel_stops_within_one_step_and_nothing_more_is_said(farm, start):
    farm.on("heartbeat", lambda call: (200, {"cancel": call.json["lease"] == 1, "lease_ms": 30000}))
    farm.give(segment())
    worker = start(gated=True)
    worker.wait_for_log("cancelled")
    worker.step()
    farm.wait("lease", 2)                                # three more steps would have been needed
    farm.give(segment(job=1, lease=2))
    worker.step(4)
    farm.wait("complete", check=lambda c: c.json["lease"] == 2)
    about_the_first = [c.name for c in farm.calls if ".0" in c.path and "0" * 25 + "0." in c.path]
    assert set(about_the_first) == {"heartbeat"} and not farm.seen("fail")


# ---- a server that dies, and lines that lie ----

def test_rendering_goes_on_while_the_server_is_dead_and_is_delivered_to_the_next(farm, start):
    farm.give(segment())
    worker = start(gated=True)
    farm.wait("heartbeat")
    farm.stop()
    worker.step(4)
    farm.start(forget_workers=True)
    report = farm.wait("complete", check=lambda c: c.json["worker_id"] in farm.workers).json
    assert report["lease"] == 1 and len(farm.workers) == 1 and farm.n_workers == 2
    assert "segment-0.mp4" in farm.files
    farm.give(segment(job=1, lease=2))
    worker.step(4)
    farm.wait("complete", check=lambda c: c.json["lease"] == 2)


def test_a_worker_started_before_its_server_waits_for_it(farm, start):
    farm.stop()
    worker = start("--once")
    farm.start()
    farm.give(segment())
    assert worker.wait() == 0 and farm.seen("complete")


def test_a_damaged_upload_is_sent_again(farm, start):
    answers = iter([(422, error("damaged", "sha256"))] * 2)
    farm.on("put segment-N.mp4", lambda call: next(answers, None))
    farm.give(segment())
    worker = start("--once")
    assert worker.wait() == 0
    assert len(farm.seen("put segment-N.mp4")) == 3 and len(farm.seen("complete")) == 1


def test_an_upload_that_is_damaged_every_time_fails_the_task(farm, start):
    farm.on("put segment-N.mp4", lambda call: (422, error("damaged", "sha256")))
    farm.give(segment())
    worker = start("--once")
    assert farm.wait("fail").json["code"] == "format"
    assert worker.wait() == 1


def test_a_full_disk_at_the_server_is_waited_out(farm, start):
    answers = iter([(507, error("disk full", "no_space"))] * 3)
    farm.on("put segment-N.mp4", lambda call: next(answers, None))
    farm.give(segment())
    assert start("--once").wait() == 0
    assert farm.seen("complete") and not farm.seen("fail")


def test_a_damaged_download_is_fetched_again(farm, start):
    farm.files["input"] = png(96, 64, (1, 2, 3))
    answers = iter([(200, b"\x89PNG torn", {"X-Content-SHA256": "0" * 64})])
    farm.on("get input", lambda call: next(answers, None))
    farm.give(segment(start_image="input"))
    assert start("--once").wait() == 0
    assert len(farm.seen("get input")) == 2


def test_a_redirect_is_not_followed(farm, start):
    other = Farm()
    farm.on("register", lambda call: (307, b"", {"Location": other.url + "/farm/v1/register"}))
    worker = start()
    assert worker.wait() == 1
    assert not other.calls and "307" in worker.log
    other.stop()


def test_another_protocol_ends_the_worker_with_the_servers_reason(farm, start):
    farm.on("register", lambda call: (409, error("this server speaks protocol 2", "protocol")))
    worker = start()
    assert worker.wait() == 1 and "protocol 2" in worker.log


# ---- failures of its own ----

@pytest.mark.parametrize("code,retryable,status", [("no_memory", True, 1), ("format", False, 1), ("device", True, 3)])
def test_a_failed_task_says_why_and_whether_to_try_again(farm, start, code, retryable, status):
    farm.give(segment(prompt=f"fail {code}"))
    worker = start("--once")
    report = farm.wait("fail").json
    assert (report["code"], report["retryable"], report["lease"]) == (code, retryable, 1)
    assert f"asked for {code}" in report["message"] and worker.wait() == status
    assert farm.seen("leave")


def test_a_lost_device_ends_the_worker_with_a_status_of_its_own(farm, start):
    farm.give(segment(prompt="fail device"))
    assert start().wait() == 3


def test_an_unknown_lora_is_named_with_those_there_are(farm, start):
    farm.give(segment(loras=[{"name": "dragons", "strength": 1}]))
    start("--once")
    report = farm.wait("fail").json
    assert report["code"] == "invalid" and not report["retryable"]
    assert "dragons" in report["message"] and "has x" in report["message"]


def test_a_start_image_that_is_none_fails_for_good(farm, start):
    farm.files["input"] = b"this is no image"
    farm.give(segment(start_image="input"))
    start("--once")
    report = farm.wait("fail").json
    assert report["code"] == "format" and not report["retryable"] and "start image" in report["message"]


def test_a_task_that_cannot_be_read_is_given_back_as_failed(farm, start):
    task = segment()
    task["kind"] = "upscale"
    farm.give(task, segment(job=1, lease=2))
    start()
    report = farm.wait("fail").json
    assert report["lease"] == 1 and report["retryable"] and "kind" in report["message"]
    farm.wait("complete", check=lambda c: c.json["lease"] == 2)


def test_a_completion_that_the_server_finds_wrong_becomes_a_failure(farm, start):
    farm.on("complete", lambda call: (400, error("timings: too many", "invalid")))
    farm.give(segment())
    start("--once")
    report = farm.wait("fail").json
    assert report["code"] == "invalid" and "timings: too many" in report["message"]


# ---- leaving ----

def test_sigterm_hands_the_segment_back_and_leaves(farm, start):
    farm.give(segment())
    worker = start(gated=True)
    farm.wait("heartbeat")
    worker.terminate()
    worker.step()
    assert farm.wait("release").json["lease"] == 1
    assert worker.wait() == 0 and farm.seen("leave") and not farm.seen("complete") and not farm.seen("fail")
    assert not worker.left_behind()


def test_sigterm_while_waiting_for_work_leaves_at_once(farm, start):
    worker = start()
    farm.wait("lease")
    worker.terminate()
    assert worker.wait(5) == 0 and farm.seen("leave")


def test_sigterm_with_finish_on_term_finishes_the_segment_first(farm, start):
    farm.give(segment(), segment(job=1, lease=2))
    worker = start("--finish-on-term", gated=True)
    farm.wait("heartbeat")
    worker.terminate()
    worker.step(4)
    assert farm.wait("complete").json["lease"] == 1
    assert worker.wait() == 0 and len(farm.seen("complete")) == 1 and farm.seen("leave") and len(farm.tasks) == 1


def test_a_renderer_that_does_not_let_go_is_left_behind_within_the_bound(farm, start):
    farm.give(segment())
    worker = start("--drain-timeout", "1", gated=True)
    farm.wait("heartbeat")
    worker.terminate()           # and the gate stays shut
    assert farm.wait("release").json["lease"] == 1
    assert worker.wait(10) == 0 and farm.seen("leave")
    assert not worker.left_behind()


def test_the_second_sigterm_stops_at_once(farm, start):
    farm.give(segment())
    worker = start(gated=True)
    farm.wait("heartbeat")
    worker.terminate()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 128 + signal.SIGTERM
    assert not farm.seen("release")


def test_a_worker_that_is_killed_leaves_its_folder_to_be_swept(farm, start, tmp_path):
    farm.give(segment())
    worker = start(gated=True)
    farm.wait("heartbeat")
    worker.process.kill()
    worker.wait()
    left, = worker.left_behind()
    os.utime(tmp_path / left, (1e9, 1e9))
    assert start("--version").wait() == 0
    os.unlink(tmp_path / "gate")
    start()
    farm.wait("register", 2)
    assert left not in worker.left_behind()
