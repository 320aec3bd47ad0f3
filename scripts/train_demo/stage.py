"""What every training stage shares: its budget, its log, its random numbers, its device."""
import contextlib
import random
import time

import torch


class Budget:
    """How long a stage may run: "8" minutes of wall clock, or "12000steps" for a repeatable run.

    "8@0:0.65" runs only the first 65 % of the stage's schedule, so that a long stage can be spread
    over several calls. progress() is what all schedules hang on.
    """

    def __init__(self, text):
        amount, _, part = text.partition("@")
        self.begin, self.end = (float(v) for v in part.split(":")) if part else (0.0, 1.0)
        self.steps = int(amount[:-len("steps")]) if amount.endswith("steps") else None
        self.seconds = None if self.steps is not None else float(amount) * 60
        self.start, self.step = time.time(), 0

    def elapsed(self):
        return time.time() - self.start

    def left(self):
        return self.step < self.steps if self.steps is not None else self.elapsed() < self.seconds

    def progress(self):
        done = self.step / max(self.steps, 1) if self.steps is not None else self.elapsed() / max(self.seconds, 1e-9)
        return self.begin + min(done, 1.0) * (self.end - self.begin)


class Log:
    """One line per event, to the screen and to work/log.txt."""

    def __init__(self, path):
        self.file = open(path, "a")
        self.start = time.time()

    def __call__(self, text):
        line = f"[{time.time() - self.start:7.1f}] {text}"
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()


class Rng:
    """Every stage draws from its own seed, so stages can be repeated alone."""

    def __init__(self, seed, name, device):
        seed = f"{seed}/{name}"
        self.python = random.Random(seed)
        self.cpu = torch.Generator().manual_seed(self.python.getrandbits(60))
        self.device = torch.Generator(device).manual_seed(self.python.getrandbits(60))
        torch.manual_seed(self.python.getrandbits(60))

    def randn_like(self, x):
        return torch.randn(x.shape, generator=self.device, device=x.device)

    def index(self, count, size):
        return torch.randint(0, count, (size,), generator=self.cpu)


def autocast(device):
    if device == "cpu":
        return contextlib.nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


def adam(groups, device):
    """AdamW with the fused kernel where there is one."""
    kwargs = {"betas": (0.9, 0.99), "weight_decay": 0.01}
    return torch.optim.AdamW(groups, **kwargs, **({"fused": True} if device != "cpu" else {}))


def ramp(progress, points):
    """Piecewise-linear schedule: [(progress, value), ...]."""
    for (a, va), (b, vb) in zip(points, points[1:]):
        if progress <= b:
            return va + (vb - va) * max(progress - a, 0) / max(b - a, 1e-9)
    return points[-1][1]


COMPILE = {"on": True}


def compiled(function, device):
    """Fused elementwise code on the GPU; eager elsewhere. One graph for all batch sizes."""
    if device == "cpu" or not COMPILE["on"] or not hasattr(torch, "compile"):
        return function
    return torch.compile(function, dynamic=True)
