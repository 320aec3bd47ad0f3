"""The optimiser of the networks: Muon for the matrices inside the blocks, AdamW for all the rest.

Muon (Jordan and others, 2024) takes the momentum of a matrix and replaces its singular values by
about one, so every direction moves as far; a Newton-Schulz iteration does it with products alone.
The update is scaled to the size AdamW's has (0.2 per element), so one learning rate serves both.
Learning rates live in tensors on the device, because the step is recorded as a CUDA graph.
"""
import math

import torch

from .stage import adam


def orthogonal(g, steps=5):
    """[n, rows, cols] with all singular values pushed to between 0.7 and 1.2."""
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon:
    """Matrices of one shape are stepped together."""

    def __init__(self, parameters, decay=0.01, momentum=0.95):
        shapes = {}
        for p in parameters:
            shapes.setdefault(p.shape, []).append(p)
        self.groups = [(group, torch.zeros(len(group), *shape, device=group[0].device))
                       for shape, group in shapes.items()]
        self.decay, self.momentum = decay, momentum

    @torch.no_grad()
    def step(self, rate):
        for group, average in self.groups:
            gradient = torch.stack([p.grad for p in group])
            average.lerp_(gradient, 1 - self.momentum)
            update = orthogonal(torch.lerp(gradient, average, self.momentum))
            scale = 0.2 * math.sqrt(max(average.shape[1:]))
            for p, u in zip(group, update.unbind()):
                p.mul_(1 - rate * self.decay).sub_(rate * scale * u)

    def state(self):
        return [average for _, average in self.groups]


class Optimiser:
    """rate(r), then step() after a backward(); `matrices` may be empty."""

    def __init__(self, matrices, others, device):
        self.parameters = [*matrices, *others]
        self.muon = Muon(matrices)
        self.on_device = device != "cpu"
        self.lr = torch.zeros((), device=device)
        self.adam = adam(others, device)
        if self.on_device:
            for group in self.adam.param_groups:
                group.update(lr=torch.zeros((), device=device), capturable=True)

    def rate(self, matrices, others):
        self.lr.fill_(matrices)
        for group in self.adam.param_groups:
            if self.on_device:
                group["lr"].fill_(others)
            else:
                group["lr"] = others

    def clear(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.muon.step(self.lr)
        self.adam.step()

    def state(self):
        return {"muon": self.muon.state(), "adam": self.adam.state_dict()}

    def load(self, state):
        for mine, theirs in zip(self.muon.state(), state["muon"]):
            mine.copy_(theirs)
        rates = [group["lr"] for group in self.adam.param_groups]
        self.adam.load_state_dict(state["adam"])
        for group, lr in zip(self.adam.param_groups, rates):
            group["lr"] = lr


def of_transformer(model, device, muon=True):
    """Matrices of the blocks to Muon, embeddings, head, biases and vectors to AdamW."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        (matrices if muon and name.startswith("blocks.") and name.endswith(".weight") and p.dim() == 2
         else others).append(p)
    return Optimiser(matrices, others, device)
