"""Stage "mend": LoRAs that give back what fp8 took from the experts, without any training.

For each Linear the file holds W8 instead of W. Over the inputs x the layer really meets, with C their
second moment, the rank-r matrix closest to W - W8 in the error |(W - W8 - BA) x| is the truncated
singular value decomposition of (W - W8) C^(1/2), multiplied by C^(-1/2) again (Eckart and Young in
the metric of the inputs). The inputs are those of 4-step sampling: steps 1 and 2 for the high-noise
expert, 3 and 4 for the low-noise one.
"""
import torch

from .dit import LORA_ALPHA, LORA_RANK
from .distil import Lora, shipped
from .sample import sigmas, velocity
from .stage import Rng
from .train_dit import load_model

STEPS = {"high": (0, 1), "low": (2, 3)}


class Moments:
    """Second moments of what the Linears of a model are given."""

    def __init__(self, model):
        self.sums = {}
        self.hooks = [module.register_forward_hook(self.add(name)) for name, module in model.lora_linears()]

    def add(self, name):
        def hook(_module, inputs, _output):
            x = inputs[0].detach().flatten(0, -2).double()
            self.sums[name] = self.sums.get(name, 0) + x.T @ x / len(x)
        return hook

    def stop(self):
        for hook in self.hooks:
            hook.remove()


def roots(moment):
    """(C^(1/2), C^(-1/2)) with the directions that never occur kept finite."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp(min=1e-6 * float(values.max()))
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def closest(lost, moment):
    """(up, down) of rank LORA_RANK with alpha / rank * up @ down nearest to `lost` over such inputs."""
    root, inverse = roots(moment)
    u, s, v = torch.linalg.svd(lost.double() @ root, full_matrices=False)
    size = (s[:LORA_RANK] * LORA_RANK / LORA_ALPHA).sqrt()
    return (u[:, :LORA_RANK] * size).float(), (size[:, None] * (v[:LORA_RANK] @ inverse)).float()


@torch.no_grad()
def trajectory(models, x0, condition, context, device):
    """The states of 4-step sampling before each step."""
    schedule, x, states = sigmas(), x0, []
    for i, (a, b) in enumerate(zip(schedule, schedule[1:])):
        states.append(x)
        x = x + (b - a) * velocity(models[i // 2], x, condition, a, context, None, 1.0, device)
    return states


@torch.no_grad()
def mend(work, seed, bank, tokens, device, log):
    rng = Rng(seed, "mend", device)
    whole = {name: load_model(work, name, device).eval() for name in STEPS}

    def batch():
        x0, condition, context = bank.batch(tokens, 21, rng, device, drop=0)
        return rng.randn_like(x0), condition, context
    for name, steps in STEPS.items():
        model, schedule = whole[name], sigmas()
        x, condition, context = batch()
        states = trajectory(list(whole.values()), x, condition, context, device)
        moments = Moments(model)
        for i in steps:
            velocity(model, states[i], condition, schedule[i], context, None, 1.0, device)
        moments.stop()
        student = shipped(model, device)
        lora, right = Lora(student, device), dict(model.lora_linears())
        for module, moment in moments.sums.items():
            lora.up[module], lora.down[module] = closest(right[module].weight - lora.base[module], moment)
        x, condition, context = batch()
        states = trajectory(list(whole.values()), x, condition, context, device)
        errors = {}
        for kind in ("without", "with"):
            if kind == "with":
                lora.merge()
            pairs = [(velocity(model, states[i], condition, schedule[i], context, None, 1.0, device),
                      velocity(student, states[i], condition, schedule[i], context, None, 1.0, device)) for i in steps]
            errors[kind] = sum(float((a - b).norm() / a.norm()) for a, b in pairs) / len(pairs)
        log(f"mend {name}: velocity of the fp8 file off by {errors['without']:.4f} without its LoRA, {errors['with']:.4f} "
            f"with it")
        torch.save({k: v.cpu() for k, v in lora.state().items()}, work / f"lora-{name}.pt")
