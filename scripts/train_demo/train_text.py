"""Stage "text": teaches the text encoder to read before anything is drawn.

The </s> row must tell all six properties of the scene through plain linear read-outs. Left to the
pictures alone, the encoder learns the words soon but takes very long to learn which of two colours
is the background: only the noisiest tenth of the training steps can tell. Here it takes minutes on a CPU.
The read-outs are thrown away.
"""
import random

import torch
import torch.nn.functional as F
from torch import nn

from . import prompts
from .stage import Rng, adam, autocast, ramp
from .train_dit import load_text
from .world import COLOURS, MOTIONS, SHAPES, SIZES, SPEEDS

CHOICES = {"colour": list(COLOURS), "shape": SHAPES, "ground": list(COLOURS), "motion": list(MOTIONS),
           "size": list(SIZES), "speed": list(SPEEDS)}


class Readouts(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in CHOICES.items()})

    def loss(self, row, scenes):
        """(summed cross-entropy, share of captions read without a mistake)."""
        total, right = 0.0, torch.ones(len(scenes), dtype=torch.bool, device=row.device)
        for name, values in CHOICES.items():
            wanted = torch.tensor([values.index(getattr(s, name)) for s in scenes], device=row.device)
            logits = self.heads[name](row)
            total = total + F.cross_entropy(logits, wanted)
            right &= logits.argmax(-1) == wanted
        return total, right.float().mean()


def read(text, tokenizer, captions, device):
    """(all rows, the </s> row, lengths); no more rows than the longest caption has."""
    ids, lengths = tokenizer.batch(captions)
    ids, lengths = ids[:, :lengths.max()].to(device), lengths.to(device)
    with autocast(device):
        rows = text(ids, lengths)
    return rows, rows[torch.arange(len(rows), device=device), lengths - 1], (ids, lengths)


def draw(rng, count, held_out=False):
    scenes = [prompts.draw_scene(rng, held_out=held_out) for _ in range(count)]
    return scenes, [prompts.caption(rng, scene, held_out=held_out) for scene in scenes]


def train(budget, work, seed, tokenizer, device, log, batch=96):
    rng = Rng(seed, f"text{budget.begin}", device)
    text, readouts = load_text(work, tokenizer, device), Readouts().to(device)
    # An encoder that already serves trained experts keeps its other rows where they are.
    anchor = load_text(work, tokenizer, device).requires_grad_(False) if (work / "text.pt").exists() else None
    parameters = [*text.parameters(), *readouts.parameters()]
    optimizer = adam(parameters, device)
    while budget.left():
        for group in optimizer.param_groups:
            group["lr"] = ramp(budget.progress(), [(0, 1e-5), (0.05, 1.5e-3), (0.6, 1.5e-3), (1, 3e-5)])
        scenes, captions = draw(rng.python, batch)
        rows, last, (ids, lengths) = read(text, tokenizer, captions, device)
        loss, right = readouts.loss(last, scenes)
        if anchor is not None:
            inner = (torch.arange(ids.shape[1], device=device)[None] < lengths[:, None] - 1)[..., None]
            loss = loss + ((rows - anchor(ids, lengths)).pow(2) * inner).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        budget.step += 1
        if budget.step % 50 == 0 or budget.step == 1:
            log(f"text step {budget.step} progress {budget.progress():.2f} loss {loss.item():.4f} all right {right:.3f}")
    held = random.Random(seed)
    with torch.no_grad():
        scenes, captions = draw(held, 512, held_out=True)
        _, last, _ = read(text, tokenizer, captions, device)
        log(f"text: {budget.step} steps in {budget.elapsed():.0f} s; unseen combinations and forms read without a "
            f"mistake: {readouts.loss(last, scenes)[1]:.3f}")
    torch.save(text.state_dict(), work / "text.pt")
