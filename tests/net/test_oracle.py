"""scripts/torch-oracle on a CPU at toy size: its numbers against the engine's, its stream against its whole.

SPDX-License-Identifier: Apache-2.0
"""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys

import pytest

try:
    import torch
except ModuleNotFoundError:
    torch = None
pytestmark = pytest.mark.skipif(torch is None, reason="no PyTorch")     # each test skips: none collected would be an error
SCRIPT, NET = os.environ["FRAMEFARM_TEST_ORACLE"], os.environ["FRAMEFARM_TEST_NET"]
SMALL = ["--size", "64x64", "--dim", "256", "--layers", "2"]


def lines(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def oracle():
    loader = importlib.machinery.SourceFileLoader("oracle", SCRIPT)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("oracle", loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_it_prints_the_fields_of_the_engines_benchmark(precision):
    ours = lines(sys.executable, SCRIPT, "bench", "--frames", "5", "--repeat", "1", "--precision", precision, *SMALL)
    assert [line["bench"] for line in ours] == ["dit", "vae-decode", "vae-encode", "umt5", "job"]
    for line in ours:
        theirs, = lines(NET, "bench", line["bench"], "--frames", "5", "--repeat", "1", *SMALL)
        assert {"seconds", "seconds_min", "tflop_s", "repeat"} < set(line) & set(theirs)
        same = ("bench", "size", "frames", "layers", "dim", "tokens", "attention")
        assert {k: line[k] for k in same} == {k: theirs[k] for k in same}
        assert line["tflop"] == pytest.approx(theirs["tflop"], rel=1e-3)


def test_a_network_that_fails_is_told_and_the_next_goes_on():
    done = subprocess.run([sys.executable, SCRIPT, "bench", "umt5", "--device", "cuda:99", *SMALL], capture_output=True,
                          text=True)
    assert done.returncode == 1 and "failure" in json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_the_engine_meets_the_block_that_it_writes(kind, tmp_path):
    lines(sys.executable, SCRIPT, "check", "--out", str(tmp_path), "--frames", "9", *SMALL)
    io = tmp_path / f"{kind}-io.safetensors"
    done = subprocess.run([NET, "dit", "--weights", tmp_path / f"{kind}-weights.safetensors", "--input", io,
                           "--compare", io, "--tolerance", "1e-5"], capture_output=True, text=True)  # measured 4e-7
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_vae_in_pieces_is_the_vae_in_one(oracle):
    pieces = oracle.make(lambda: oracle.vae.Vae(16), "cpu", torch.float32)
    whole = oracle.vae.Vae(16)
    whole.load_state_dict(pieces.state_dict())
    latent, video = torch.randn(1, 16, 4, 4, 4), torch.randn(1, 3, 13, 32, 32)
    with torch.no_grad():
        z = pieces.conv2(latent)
        decoded = torch.cat([pieces.decoder(z[:, :, i:i + 1]) for i in range(4)], 2)
        oracle.forget(pieces)
        parts = [video[:, :, :1]] + [video[:, :, 1 + 4 * i:5 + 4 * i] for i in range(3)]
        encoded = pieces.conv1(torch.cat([pieces.encoder(part) for part in parts], 2))[:, :16]
        assert torch.allclose(decoded, whole.decode(latent), rtol=1e-4, atol=1e-5)
        assert torch.allclose(encoded, whole.encode(video), rtol=1e-4, atol=1e-5)
