"""Stage "text": teaches the text encoder to read before anything is drawn.

The </s> row must tell all six properties of the scene through plain linear read-outs. Left to the
pictures alone, the encoder learns the words soon but takes very long to learn which of two colours
is the background: only the noisiest tenth of the training steps can tell. Here it takes minutes on a CPU.
The read-outs are thrown away.
"""
import multiprocessing
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
CHUNK = 4096                         # captions that one process draws at a time


class Readouts(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in CHOICES.items()})

    def loss(self, row, wanted):
        """(summed cross-entropy, share of captions read without a mistake); wanted [n, 6]."""
        total, right = 0.0, torch.ones(len(row), dtype=torch.bool, device=row.device)
        for i, name in enumerate(CHOICES):
            logits = self.heads[name](row)
            total = total + F.cross_entropy(logits, wanted[:, i])
            right &= logits.argmax(-1) == wanted[:, i]
        return total, right.float().mean()


def draw(job):
    """(captions, property indices [n][6]) of one seed; a plain function so that processes can run it."""
    seed, count, held_out = job
    rng = random.Random(seed)
    scenes = [prompts.draw_scene(rng, held_out=held_out) for _ in range(count)]
    wanted = [[values.index(getattr(scene, name)) for name, values in CHOICES.items()] for scene in scenes]
    return [prompts.caption(rng, scene, held_out=held_out) for scene in scenes], wanted


def tensors(drawn, tokenizer, device):
    captions, wanted = drawn
    ids, lengths = tokenizer.batch(captions)
    return ids.to(device), lengths.to(device), torch.tensor(wanted, device=device)


def read(text, ids, lengths, device):
    """The </s> row of every caption."""
    with autocast(device):
        rows = text(ids, lengths)
    return rows[torch.arange(len(rows), device=device), lengths - 1].float()


def train(budget, work, seed, tokenizer, device, log, batch=0):
    batch = batch or (128 if device == "cpu" else 512)
    rng = Rng(seed, f"text{budget.begin}", device)
    text, readouts = load_text(work, tokenizer, device), Readouts().to(device)
    parameters = [*text.parameters(), *readouts.parameters()]
    optimizer = adam(parameters, device)
    average = torch.zeros((), device=device)
    # Threads of the parent must not be forked, so the drawing processes start afresh.
    with multiprocessing.get_context("spawn").Pool(1 if device == "cpu" else 8) as pool:
        chunks = pool.imap(draw, ((f"{seed}/text/{budget.begin}/{i}", CHUNK, False) for i in range(10 ** 9)))
        ids = ()
        while budget.left():
            if len(ids) < batch:
                ids, lengths, wanted = tensors(next(chunks), tokenizer, device)
                longest = int(lengths.max())
            for group in optimizer.param_groups:
                group["lr"] = ramp(budget.progress(), [(0, 1e-5), (0.05, 1.5e-3), (0.6, 1.5e-3), (1, 3e-5)])
            row = read(text, ids[:batch, :longest], lengths[:batch], device)
            loss, right = readouts.loss(row, wanted[:batch])
            ids, lengths, wanted = ids[batch:], lengths[batch:], wanted[batch:]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            budget.step += 1
            average = 0.98 * average + 0.02 * right
            if budget.step % 100 == 0 or budget.step == 1:
                log(f"text step {budget.step} progress {budget.progress():.2f} loss {loss.item():.4f} "
                    f"all right {average.item():.4f}")
        pool.terminate()
    with torch.no_grad():
        ids, lengths, wanted = tensors(draw((f"{seed}/held", 1024, True)), tokenizer, device)
        right = readouts.loss(read(text, ids, lengths, device), wanted)[1]
    log(f"text: {budget.step} steps in {budget.elapsed():.0f} s; unseen combinations and forms read without a "
        f"mistake: {right:.3f}")
    torch.save(text.state_dict(), work / "text.pt")
