"""Memory that runs out, from outside: the real server, the product worker, and the kernel's own limit on its data.

A limit is set on the running process once it has registered, so what is refused is a real allocation.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import re
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "http"))
from conftest import Server, until  # noqa: E402

WORKER, MODELS = os.environ["FRAMEFARM_TEST_PRODUCT"], os.environ["FRAMEFARM_TEST_MODELS"]
MIB = 1 << 20
PATIENCE = 150
LARGE = {"prompt": "a red circle", "size": "512x512", "num_frames": 5, "fps": 16, "num_inference_steps": 1,
         "switch_step": 0}
SMALL = {**LARGE, "size": "64x64"}
ROOM_FOR_SMALL = 160  # MiB: the model's weights and a clip of 64x64, not one of 512x512

# Of a usual segment the VAE takes most, and it runs by slices in every plan: only of a long one does a plan save much.
# Beside the model it takes 79 MiB, in the smallest plan 41; the encoder of the file wants some 22 beside that.
LONG = {**LARGE, "size": "128x128", "num_frames": 481, "max_segment_frames": 481}
ROOM_FOR_LONG_IN_THE_SMALLEST_PLAN = 73

pytestmark = pytest.mark.skipif(not os.path.exists(os.path.join(MODELS, "model.json")), reason="no small model here")


def models_of_long_segments(folder):
    """The small model's files, and a description that allows what LONG asks for."""
    for path in pathlib.Path(MODELS).rglob("*"):
        if path.is_file() and path.name != "model.json":
            to = folder / path.relative_to(MODELS)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.symlink_to(path.resolve())
    model = json.loads(pathlib.Path(MODELS, "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**model, "max_segment_frames": LONG["max_segment_frames"]}))
    return str(folder)


class Farm:
    def __init__(self, folder):
        self.models = models_of_long_segments(folder / "models")
        self.server = Server(folder).start()
        self.client = self.server.client()
        self.processes = []

    def worker(self, name):
        process = subprocess.Popen([WORKER, "--server", "http://127.0.0.1:%d" % self.server.port, "--models", self.models,
                                    "--device", "cpu", "--name", name, "--threads", "2"], stderr=subprocess.DEVNULL)
        self.processes.append(process)
        self.id_of(name)
        return process

    def id_of(self, name):
        def look():
            return [w["id"] for w in self.client.get("/v1/workers").json()["data"] if w["name"] == name]
        return until(look, PATIENCE)[0]

    def drain(self, name, on=True):
        assert self.client.post("/v1/workers/%s/drain" % self.id_of(name), {"drain": on}).status == 200

    def ended(self, id, status):
        def over():
            video = self.client.video(id)
            return video if video["status"] in ("completed", "failed") else None
        video = until(over, PATIENCE, pause=0.05)
        assert video["status"] == status, video
        return video

    def finish(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.server.finish()


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    yield farm
    farm.finish()


def limit(process, mib):
    """Room for so much data beyond what the process has now. Linux counts private writable memory."""
    data = re.search(r"VmData:\s+(\d+) kB", pathlib.Path("/proc/%d/status" % process.pid).read_text())
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (int(data[1]) * 1024 + mib * MIB, resource.RLIM_INFINITY))


def test_memory_that_is_short_costs_a_retry_in_a_smaller_plan_then_the_job_and_never_the_queue(farm):
    worker = farm.worker("narrow")
    limit(worker, ROOM_FOR_SMALL)
    large, after = farm.client.create(**LARGE)["id"], farm.client.create(**SMALL)["id"]
    failed = farm.ended(large, "failed")
    assert failed["error"]["code"] == "no_memory" and "512x512" in failed["error"]["message"]
    assert [(a["code"], "512x512" in a["message"]) for a in failed["attempts"]] == [("no_memory", True)] * 3
    farm.ended(after, "completed")

    limit(worker, ROOM_FOR_LONG_IN_THE_SMALLEST_PLAN)  # beyond the model, which the clip of 64x64 has left in memory
    video = farm.ended(farm.client.create(**LONG)["id"], "completed")
    assert [(a["code"], "128x128, 481 frames" in a["message"]) for a in video["attempts"]] == [("no_memory", True)]
    assert any("smallest memory plan" in note for note in video["notes"])
    assert worker.poll() is None


def test_what_a_smaller_plan_does_not_help_goes_to_another_worker(farm):
    limit(farm.worker("narrow"), ROOM_FOR_SMALL)
    farm.worker("wide")
    farm.drain("wide")
    id = farm.client.create(**LARGE)["id"]
    until(lambda: len(farm.client.video(id)["attempts"]) == 2, PATIENCE)
    farm.drain("wide", False)  # within the task's 4 s of rest after its second failure
    video = farm.ended(id, "completed")
    assert [attempt["worker"] for attempt in video["attempts"]] == ["narrow", "narrow"]
    assert video["made_with"]["worker"] == "wide"
