"""The product binary with its real pipeline and the model that ships, against a farm of pretence.

SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from farm_double import Farm, assemble, segment  # noqa: E402

WORKER, MODELS = os.environ["FRAMEFARM_TEST_PRODUCT"], os.environ["FRAMEFARM_TEST_MODELS"]
SCENE = {"width": 128, "height": 128, "prompt": "a red circle moves left over a blue background"}

pytestmark = pytest.mark.skipif(not os.path.exists(os.path.join(MODELS, "model.json")), reason="no small model here")


@pytest.fixture
def farm():
    farm = Farm()
    worker = subprocess.Popen([WORKER, "--server", farm.url, "--models", MODELS, "--device", "cpu"])
    yield farm
    worker.kill()
    worker.wait()
    farm.stop()


def test_the_same_request_and_seed_give_the_same_bytes(farm):
    files = []
    for n, seed in enumerate((5, 5, 6)):
        farm.give(segment(job=n, lease=n + 1, seed=seed, **SCENE))
        farm.wait("complete", n + 1, timeout=100)
        files.append(farm.files["segment-0.mp4"])
    assert files[0] == files[1] != files[2]


def test_an_empty_list_of_loras_renders_without_the_models_own(farm):
    files = []
    for n, more in enumerate(({}, {"loras": [{"name": "demo_lora", "strength": 1}]}, {"no_loras": True})):
        farm.give(segment(job=n, lease=n + 1, seed=5, **{"loras": [], **more}, **SCENE))
        farm.wait("complete", n + 1, timeout=100)
        files.append(farm.files["segment-0.mp4"])
    assert files[0] == files[1] != files[2]


def test_a_clip_of_two_segments_is_rendered_and_joined(farm):
    farm.give(segment(index=0, count=2, **SCENE), segment(index=1, count=2, lease=2, start_image="last-0.png", **SCENE),
              assemble(count=2, lease=3, **SCENE))
    last = farm.wait("complete", 3, timeout=100).json
    assert (last["result"]["num_frames"], last["result"]["fps"]) == (34, 32)
    second = farm.seen("complete")[1].json
    assert [(t["stage"], t["step"]) for t in second["timings"] if t["step"] is not None] == [
        ("high_noise", 0), ("high_noise", 1), ("low_noise", 0), ("low_noise", 1)]
    assert "colour_shift" in second["result"] and not second["notes"]
