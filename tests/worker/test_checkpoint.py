"""The product binary with files of the public names, keys, types and shapes: found, loaded, rendered from.

Full width, one block each, mostly holes: it is the shapes that are tested, the picture is noise.
SPDX-License-Identifier: Apache-2.0
"""
import os
import struct
import subprocess
import sys
import zlib

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from farm_double import Farm, segment  # noqa: E402

WORKER, MAKE = os.environ["FRAMEFARM_TEST_PRODUCT"], os.environ["FRAMEFARM_TEST_MAKE_CHECKPOINT"]


def grey_png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = (b"\0" + b"\x80" * 3 * width) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("task, dtype", [("t2v", "fp8"), ("i2v", "bf16")])
def test_a_worker_renders_from_files_of_the_public_shapes(task, dtype, tmp_path):
    subprocess.run([MAKE, "--out", tmp_path, "--model", task, "--depth", "1", "--dtype", dtype, "--sparse"], check=True,
                   stdout=subprocess.DEVNULL)
    farm = Farm()
    worker = subprocess.Popen([WORKER, "--server", farm.url, "--models", tmp_path, "--device", "cpu"])
    try:
        model = farm.wait("register", timeout=60).json["models"][0]
        assert model["name"].startswith(f"wan2.2-{task}-a14b")
        image = {"start_image": "last-0.png", "has_input_reference": True} if task == "i2v" else {}
        farm.files["last-0.png"] = grey_png(64, 64)
        farm.give(segment(frames=5, model=model["name"], width=64, height=64, prompt="anything", **image))
        done = farm.wait("complete", timeout=100)
        assert done.json["result"]["num_frames"] == 10
    finally:
        worker.kill()
        worker.wait()
        farm.stop()
