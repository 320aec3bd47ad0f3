"""Stage "eval": renders held-out prompts from the exported files and lets the judge count."""
import json
import multiprocessing
import time

import torch

from . import judge, prompts, tensorfile, train_vae, video
from .dit import Transformer
from .export import FILES
from .sample import Pipeline
from .score import SEGMENT, complaints, judge_clip, table
from .tensorfile import dequantised
from .tokenizer import Tokenizer
from .train_dit import load_model, load_text
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


def judged(clips, listed):
    """[(prompt, scene, verdicts)]; the judge runs on all cores."""
    jobs = [(clip, scene) for clip, (_, scene) in zip(clips, listed)]
    with multiprocessing.get_context("spawn").Pool() as pool:
        verdicts = pool.map(judge_clip, jobs, chunksize=2)
    return [(prompt, scene, v) for (prompt, scene), v in zip(listed, verdicts)]


def peek(work, words, seed, device, log, count=32, frames=SEGMENT):
    """The base network as it is, on held-out prompts with 12 guided steps: pictures, one segment, two."""
    model = load_model(work, "base", device).eval()
    pipeline = Pipeline(train_vae.load(work, device), load_text(work, words, device).eval(), words, model, model, device)
    listed = prompts.held_out_list(count, seed)
    texts, options = [prompt for prompt, _ in listed], {"steps": 12, "switch": 6, "guidance": 2.0}
    still = pipeline.segment(texts, torch.randn(count, 16, 1, 16, 24, generator=torch.Generator().manual_seed(seed)), **options)
    found = [judge.find(clip[0]) for clip in still.numpy()]
    right = [(judge.colour_name(p.colour) == s.colour and judge.colour_name(p.ground) == s.ground,
              judge.shape_name(p, False)[0] == s.shape) if p else (0, 0) for p, (_, s) in zip(found, listed)]
    log(f"peek: pictures: colour {sum(c for c, _ in right)}, shape {sum(s for _, s in right)} of {count}")
    video.write_png(work / "peek-stills.png", video.sheet(still.numpy().reshape(-1, 8 if count >= 8 else 1, *still.shape[2:]), 8))
    clips = pipeline.two_segments(texts, seed, frames=frames, **options).numpy()
    log("peek:\n" + table(judged(clips, listed)))
    video.write_png(work / "peek.png", video.sheet(clips[:12]))


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
        results = judged(clips, listed)
        report[variant] = table(results)
        log(f"eval {variant}: rendered in {rendered:.1f} s, judged in {time.time() - start - rendered:.1f} s\n"
            + report[variant] + "\n" + "\n".join(list(complaints(results))[:25]))
        video.write_png(out / f"sheet-{variant}.png", video.sheet(clips[:12]))
    (out / "report.json").write_text(json.dumps(report, indent=1))
