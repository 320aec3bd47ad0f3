"""Stage "export": the files people load, in the layout and under the names of the public models."""
import json

import numpy as np
import torch

from . import prompts, tensorfile
from .dit import LORA_ALPHA
from .tensorfile import dequantised, to_fp8
from .train_dit import load_model

FILES = {"high": "diffusion_models/demo_high_noise_fp8_scaled.safetensors",
         "low": "diffusion_models/demo_low_noise_fp8_scaled.safetensors",
         "lora_high": "loras/demo_lora_high_noise.safetensors",
         "lora_low": "loras/demo_lora_low_noise.safetensors",
         "text_encoder": "text_encoders/demo_umt5.safetensors", "vae": "vae/demo_vae.safetensors"}
LIMIT = 32 * 1024 * 1024


def expert_tensors(model):
    """Scaled fp8: every Linear weight with its scale, everything else in 16 bits."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name.endswith(".weight") and value.dim() == 2:
            tensors[name], scale = to_fp8(value)
            tensors[name[:-len("weight")] + "scale_weight"] = scale.reshape(())
        else:
            tensors[name] = value.half()
    marker = tensorfile.Fp8(torch.zeros(2, dtype=torch.uint8))      # two elements: weights only
    return {"scaled_fp8": marker, **tensors}


def read_back(tensors):
    return dequantised(tensors)


def lora_tensors(state):
    tensors = {}
    for key, value in state.items():
        module, part = key.rsplit(".", 1)
        tensors[f"diffusion_model.{module}.{part}.weight"] = value.half()
        tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(LORA_ALPHA)
    return tensors


def manifest():
    return {
        "name": "demo", "title": "Demo: coloured shapes in motion", **FILES,
        "defaults": {"size": "192x128", "num_frames": 81, "num_inference_steps": 4, "switch_step": 2,
                     "flow_shift": 5.0, "guidance_scale": 1.0},
        "sizes": ["192x128", "128x192", "128x128"], "max_segment_frames": 81,
        "vocabulary": prompts.vocabulary(),
        "examples": ["a red circle moves left over a blue background", "a yellow star turns on a purple background",
                     "white background, a green heart growing", "a small orange square rises quickly on black"],
        "note": "It draws one coloured shape (circle, square, triangle, star or heart) on a coloured "
                "background, moving, growing, shrinking, turning or standing still as you say.",
    }


def take_back(folder, work):
    """The autoencoder's checkpoint out of an exported folder."""
    torch.save({k: v.float() for k, v in tensorfile.load(folder / FILES["vae"]).items()}, work / "vae.pt")


def export(work, out, tokenizer_proto, log):
    """Writes the folder from the checkpoints in `work`."""
    def state(name):
        return torch.load(work / f"{name}.pt", map_location="cpu")
    spiece = torch.from_numpy(np.frombuffer(tokenizer_proto, np.uint8).copy())
    half = {name: {k: v.half() for k, v in state(name).items()} for name in ("text", "vae")}
    contents = {"text_encoder": {**half["text"], "spiece_model": spiece}, "vae": half["vae"]}
    for name in ("high", "low"):
        model = load_model(work, name, "cpu")
        contents[name] = expert_tensors(model)
        contents[f"lora_{name}"] = lora_tensors(state(f"lora-{name}"))
    total = 0
    for name, path in FILES.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        tensorfile.save(out / path, contents[name])
        total += (out / path).stat().st_size
        log(f"export {path}: {(out / path).stat().st_size:,} bytes, {len(contents[name])} tensors")
    (out / "model.json").write_text(json.dumps(manifest(), indent=1) + "\n")
    log(f"export: {total:,} bytes in all")
    if total > LIMIT:
        raise SystemExit("the model is larger than it may be")
