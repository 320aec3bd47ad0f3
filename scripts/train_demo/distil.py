"""Stages "lora-high" and "lora-low": each expert learns to take a whole step of the 4-step schedule.

The student is the expert as it ships (fp8 weights) plus a LoRA; its target is where several small
guided steps of the full-precision expert arrive. So the LoRA also mends the quantisation.
"""
import torch
import torch.nn.functional as F

from . import export
from .dit import LORA_ALPHA, LORA_RANK, Transformer
from .optimise import Optimiser
from .record import Recorded
from .sample import sigmas, velocity
from .stage import Rng, ramp
from .train_dit import load_model, speed_up

GUIDANCE = {"high": 2.0, "low": 1.0}   # what is drawn is decided early; guiding the rest only shifts colours
SUBSTEPS = {0: 3, 1: 3, 2: 3, 3: 6}  # teacher steps per step of the schedule


class Lora:
    """Low-rank matrices kept beside the model and always merged into its weights.

    The gradient of a merged weight W + s * up @ down gives those of up and down by the chain rule,
    so the network needs no side branches, and runs the very graph that was compiled to train it.
    """

    def __init__(self, model, device):
        self.modules = dict(model.lora_linears())
        self.base = {name: module.weight.detach().clone() for name, module in self.modules.items()}
        self.down = {name: torch.randn(LORA_RANK, module.in_features, device=device) / module.in_features ** 0.5
                     for name, module in self.modules.items()}
        self.up = {name: torch.zeros(module.out_features, LORA_RANK, device=device)
                   for name, module in self.modules.items()}
        self.scale = LORA_ALPHA / LORA_RANK

    def parameters(self):
        return [*self.down.values(), *self.up.values()]

    @torch.no_grad()
    def merge(self):
        for name, module in self.modules.items():
            module.weight.copy_(torch.addmm(self.base[name], self.up[name], self.down[name], alpha=self.scale))

    @torch.no_grad()
    def take_gradients(self):
        for name, module in self.modules.items():
            self.up[name].grad = self.scale * module.weight.grad @ self.down[name].T
            self.down[name].grad = self.scale * self.up[name].T @ module.weight.grad

    def state(self):
        return {f"{name}.{part}": value for name in self.modules
                for part, value in (("lora_down", self.down[name]), ("lora_up", self.up[name]))}

    def load(self, state):
        for name in self.modules:
            self.down[name].copy_(state[f"{name}.lora_down"])
            self.up[name].copy_(state[f"{name}.lora_up"])
        self.merge()


def shipped(model, device):
    """A copy with the weights that people will read back from the fp8 file."""
    copy = Transformer().to(device)
    copy.load_state_dict(export.read_back(export.expert_tensors(model)))
    return copy


def student_of(name, work, device):
    """(model, lora) of an expert as it ships; the LoRA of an earlier stage is merged when there is one."""
    model = shipped(load_model(work, name, device), device)
    lora = Lora(model, device)
    path = work / f"lora-{name}.pt"
    if path.exists():
        lora.load(torch.load(path, map_location=device))
    return model, lora


def arrive(students, x0, condition, context, noise, step, device):
    """The state before `step` that the students make themselves from noise; of a real clip when they are None."""
    schedule = sigmas()
    if students is None:
        return (1 - schedule[step]) * x0 + schedule[step] * noise
    x = noise
    for i in range(step):
        v = velocity(students[i // 2], x, condition, schedule[i], context, None, 1.0, device).detach()
        x = x + (schedule[i + 1] - schedule[i]) * v
    return x


def teacher_step(teacher, x, condition, begin, end, context, empty, guidance, substeps, device):
    levels = torch.linspace(begin, end, substeps + 1).tolist()
    for a, b in zip(levels, levels[1:]):
        x = x + (b - a) * velocity(teacher, x, condition, a, context, empty, guidance, device).detach()
    return x


def train_lora(name, budget, work, seed, bank, tokens, device, log):
    rng, schedule = Rng(seed, f"lora-{name}", device), sigmas()
    # Nothing below runs under no_grad: that would be another compiled graph, a minute of waiting.
    teacher = speed_up(load_model(work, name, device), device)
    (work / f"lora-{name}.pt").unlink(missing_ok=True)
    student, lora = student_of(name, work, device)
    students = [speed_up(student, device)] * 2
    if name == "low":
        students[0] = speed_up(student_of("high", work, device)[0], device)
    optimiser = Optimiser([], lora.parameters(), device)

    def learn(step, own):
        """One training step on what happens at `step` of the schedule, for a graph of its own."""
        begin, end = schedule[step], schedule[step + 1]

        def run(x0, condition, context, empty, noise):
            x = arrive(students if own else None, x0, condition, context, noise, step, device)
            goal = teacher_step(teacher, x, condition, begin, end, context, empty, GUIDANCE[name], SUBSTEPS[step], device)
            v = velocity(student, x, condition, begin, context, None, 1.0, device)
            loss = (v - (goal - x) / (end - begin)).pow(2).mean()
            optimiser.clear()
            student.zero_grad(set_to_none=True)
            loss.backward()
            lora.take_gradients()
            optimiser.step()
            lora.merge()
            return loss.detach()
        return Recorded(run, device)

    recorded, average = {}, {}
    while budget.left():
        progress = budget.progress()
        step = rng.python.choice((0, 1) if name == "high" else (2, 3))
        own = step > 0 and (rng.python.random() < 0.75 or not bank.has_clips)
        x0, condition, context = bank.batch(tokens // 2, 21, rng, device, drop=0.02)
        rate = ramp(progress, [(0, 1e-4), (0.05, 1e-3), (0.4, 1e-3), (1, 2e-5)])
        optimiser.rate(rate, rate)
        empty = F.pad(bank.empty.float(), (0, 0, 0, context.shape[1] - 1)).expand_as(context)
        key = (step, own, x0.shape)
        if key not in recorded:
            recorded[key] = learn(step, own)
        loss = recorded[key](x0, condition, context, empty, rng.randn_like(x0))
        budget.step += 1
        average[step] = loss.clone() if step not in average else average[step].lerp_(loss, 0.02)
        if budget.step % 20 == 0 or budget.step in (1, 10):
            shown = ", ".join(f"{k}: {v.item():.5f}" for k, v in sorted(average.items()))
            log(f"lora-{name} step {budget.step} progress {progress:.3f} loss {shown} "
                f"steps/s {budget.step / budget.elapsed():.2f}")
    log(f"lora-{name}: {budget.step} steps in {budget.elapsed():.0f} s")
    torch.save({k: v.cpu() for k, v in lora.state().items()}, work / f"lora-{name}.pt")
