"""The model that ships: complete, within its size, and described by its manifest as it is.

Reads only headers and the few bytes it needs; no PyTorch, no rendering.
"""
import json
import pathlib
import struct
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("numpy")
from train_demo import prompts  # noqa: E402

FILES = ["high", "low", "lora_high", "lora_low", "text_encoder", "vae"]
LORA_LINEARS = [f"{part}.{n}" for part in ("self_attn", "cross_attn") for n in "qkvo"] + ["ffn.0", "ffn.2"]


@pytest.fixture(scope="module")
def manifest():
    return json.loads((DEMO / "model.json").read_text())


def header(path):
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(length)), 8 + length


def shapes(manifest, name):
    entries, _ = header(DEMO / manifest[name])
    return {key: (entry["dtype"], entry["shape"]) for key, entry in entries.items()}


def test_everything_fits_in_32_mib():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 32 * 1024 * 1024


@pytest.mark.parametrize("name", FILES)
def test_data_ends_where_the_file_ends(manifest, name):
    path = DEMO / manifest[name]
    entries, start = header(path)
    assert start + max(entry["data_offsets"][1] for entry in entries.values()) == path.stat().st_size


@pytest.mark.parametrize("name", ["high", "low"])
def test_experts_are_scaled_fp8_with_36_channels(manifest, name):
    tensors = shapes(manifest, name)
    assert tensors["patch_embedding.weight"] == ("F16", [256, 36, 1, 2, 2])
    assert tensors["scaled_fp8"] == ("F8_E4M3", [2])             # two elements: weights only
    linears = [key for key, (_, shape) in tensors.items() if key.endswith(".weight") and len(shape) == 2]
    assert len(linears) == 8 * 10 + 6
    for key in linears:
        assert tensors[key][0] == "F8_E4M3"
        assert tensors[key[:-len("weight")] + "scale_weight"] == ("F32", [])
    others = {dtype for key, (dtype, _) in tensors.items() if key not in linears and "scale" not in key}
    assert others == {"F16"}


@pytest.mark.parametrize("name", ["lora_high", "lora_low"])
def test_loras_cover_ten_linears_of_every_block(manifest, name):
    tensors = shapes(manifest, name)
    for block in range(8):
        for linear in LORA_LINEARS:
            module = f"diffusion_model.blocks.{block}.{linear}"
            assert tensors[module + ".lora_down.weight"][1][0] == 16
            assert tensors[module + ".lora_up.weight"][1][1] == 16
            assert tensors[module + ".alpha"] == ("F32", [])
    assert len(tensors) == 8 * 10 * 3


def test_text_encoder_carries_its_tokenizer(manifest):
    tensors = shapes(manifest, "text_encoder")
    dtype, shape = tensors["spiece_model"]
    assert dtype == "U8" and len(shape) == 1
    assert tensors["shared.weight"][1][1] == 128
    for layer in range(3):
        assert tensors[f"encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight"][1] == [32, 2]


def test_vae_has_the_194_tensors_of_the_public_one(manifest):
    tensors = shapes(manifest, "vae")
    assert len(tensors) == 194
    assert tensors["decoder.head.2.weight"][1] == [3, 16, 3, 3, 3]


def test_manifest_says_what_the_grammar_knows(manifest):
    assert manifest["vocabulary"] == prompts.vocabulary()
    assert manifest["defaults"]["size"] in manifest["sizes"]
    for size in manifest["sizes"]:
        assert all(int(side) % 16 == 0 for side in size.split("x"))
    assert manifest["defaults"]["num_frames"] % 4 == 1 and manifest["max_segment_frames"] % 4 == 1
    assert len(manifest["examples"]) >= 3
    for text in manifest["examples"]:
        scene = prompts.read(text)
        assert scene.colour and scene.shape and scene.ground, text
