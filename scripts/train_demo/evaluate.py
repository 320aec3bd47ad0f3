"""Stage "eval": renders held-out prompts from the exported files and lets the judge count."""
import json
import multiprocessing
import time

import torch

from . import prompts, tensorfile, video
from .dit import Transformer
from .export import FILES
from .sample import Pipeline
from .score import SEGMENT, complaints, judge_clip, table
from .tensorfile import dequantised
from .tokenizer import Tokenizer
from .umt5 import TextEncoder
from .vae import Vae


def open_pipeline(folder, device, lora=True):
    """The exported folder, as a farm worker sees it: fp8 with scales, LoRA merged into the weights."""
    def read(name):
        return tensorfile.load(folder / FILES[name])
    text_state = read("text_encoder")
    tokenizer = Tokenizer(text_state.pop("spiece_model").numpy().tobytes())
    text = TextEncoder(tokenizer.size)
    text.load_state_dict({k: v.float() for k, v in text_state.items()})
    vae = Vae()
    vae.load_state_dict({k: v.float() for k, v in read("vae").items()})
    experts = []
    for name in ("high", "low"):
        state = dequantised(read(name))
        if lora:
            merge(state, read(f"lora_{name}"))
        expert = Transformer()
        expert.load_state_dict(state)
        experts.append(expert.to(device).eval())
    return Pipeline(vae.to(device).eval(), text.to(device).eval(), tokenizer, *experts, device)


def merge(state, lora):
    """W += alpha / rank * up @ down, for every module of the LoRA file."""
    for name in lora:
        if name.endswith(".lora_down.weight"):
            module = name[:-len(".lora_down.weight")]
            down, up = lora[name].float(), lora[module + ".lora_up.weight"].float()
            state[module[len("diffusion_model."):] + ".weight"] += float(lora[module + ".alpha"]) / len(down) * up @ down


def evaluate(folder, out, count, seed, device, log, frames=SEGMENT, variants=("lora", "plain", "guided")):
    """Tables for the 4-step LoRA, for 4 steps without it, and for 20 guided steps without it."""
    listed = prompts.held_out_list(count, seed)
    texts = [prompt for prompt, _ in listed]
    options = {"lora": {}, "plain": {}, "guided": {"steps": 20, "switch": 10, "guidance": 3.0}}
    report = {}
    for variant in variants:
        start = time.time()
        pipeline = open_pipeline(folder, device, lora=variant == "lora")
        clips = pipeline.two_segments(texts, seed, frames=frames, **options[variant]).numpy()
        rendered = time.time() - start
        jobs = [(clip, scene) for clip, (_, scene) in zip(clips, listed)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            verdicts = pool.map(judge_clip, jobs, chunksize=2)
        results = [(prompt, scene, v) for (prompt, scene), v in zip(listed, verdicts)]
        report[variant] = table(results)
        log(f"eval {variant}: rendered in {rendered:.1f} s, judged in {time.time() - start - rendered:.1f} s\n"
            + report[variant] + "\n" + "\n".join(list(complaints(results))[:25]))
        video.write_png(out / f"sheet-{variant}.png", video.sheet(clips[:12]))
    (out / "report.json").write_text(json.dumps(report, indent=1))
