"""The networks that train the demo model are the networks the engine runs: both meet the golden vectors."""
import pathlib
import sys

import pytest

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(ROOT / "scripts"))

from train_demo import dit, tensorfile, umt5, vae  # noqa: E402

LIMIT = 1e-5                         # measured 4e-6 (transformer), 1e-6 (the others), float32


def load(name):
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"no {name} here")
    return {k: v.float() if v.is_floating_point() else v for k, v in tensorfile.load(path).items()}


def close(out, wanted):
    assert ((out - wanted).norm() / wanted.norm()).item() < LIMIT


@pytest.mark.parametrize("folder, sizes", [
    ("dit-t2v", {"dim": 256, "ffn": 576, "blocks": 2, "channels": 16, "text_dim": 64}),
    ("dit-i2v", {"dim": 128, "ffn": 320, "blocks": 2, "channels": 36, "text_dim": 64})])
@pytest.mark.parametrize("t", ["1000.0", "937.5", "250.0"])
def test_transformer(folder, sizes, t):
    model = dit.Transformer(**sizes)
    model.load_state_dict(load(f"{folder}/weights.safetensors"))
    io = load(f"{folder}/io-t{t}.safetensors")
    context = io["in.context"]
    used = int((context.abs().sum(-1) > 0).sum())
    with torch.no_grad():
        close(model(io["in.latent"], io["in.timestep"], context), io["out.velocity"])
        # training shortens the text and counts its padding instead: the same function
        close(model(io["in.latent"], io["in.timestep"], context[:, :used + 5]), io["out.velocity"])


def test_text_encoder():
    model = umt5.TextEncoder(384, 96, 2, 192, 3)
    model.load_state_dict(load("umt5/weights.safetensors"))
    io = load("umt5/io.safetensors")
    with torch.no_grad():
        close(model(io["in.ids"], io["in.length"]), io["out.hidden"])


@pytest.mark.parametrize("stack", [False, True])
def test_vae(stack, monkeypatch):
    monkeypatch.setitem(vae.FAST, "stack", stack)
    model = vae.Vae(8)
    model.load_state_dict(load("vae/weights.safetensors"))
    encode, decode = load("vae/io-encode.safetensors"), load("vae/io-decode.safetensors")
    with torch.no_grad():
        close(model.encode(encode["in.video"]), encode["out.latent"])
        close(model.decode(decode["in.latent"]), decode["out.video"])


def test_fp8_rounds_to_nearest():
    values = tensorfile.E4M3[[0x01, 0x08, 0x30, 0x38, 0x40, 0x7E, 0xB8]]
    assert values.tolist() == [2.0 ** -9, 2.0 ** -6, 0.5, 1.0, 2.0, 448.0, -1.0]
    weight = torch.randn(64, 64)
    packed, scale = tensorfile.to_fp8(weight)
    back = packed.float() * scale
    grid = tensorfile.E4M3[torch.isfinite(tensorfile.E4M3)] * scale
    best = (weight.flatten()[:, None] - grid).abs().min(1).values
    assert torch.allclose((weight - back).abs().flatten(), best, atol=1e-7)
