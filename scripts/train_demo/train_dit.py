"""Stages "base" and "experts": one network on all noise levels, then two on their own range.

The text encoder learns with the base network and is frozen when the experts part ways.
"""
import torch

from .dit import Transformer
from .stage import Rng, adam, autocast, compiled, ramp
from .umt5 import TextEncoder

BOUNDARY = 0.83333                   # where the 4-step schedule changes experts (step 2 of shift 5)
RANGES = {"high": (0.80, 1.0), "low": (0.0, 0.86)}      # a little overlap: other schedules change nearby
#           progress, latent frames to choose from: pictures teach colour and shape, long clips motion
CURRICULUM = [(0.20, (1,)), (0.35, (1, 3, 5)), (0.50, (1, 7, 13)), (1.01, (21, 21, 21, 13, 7, 1))]


def shifted(u, shift=5.0):
    return shift * u / (1 + (shift - 1) * u)


def speed_up(model, device):
    """Compiles the block, the unit that repeats: one graph serves all of them."""
    if hasattr(torch, "_dynamo"):
        torch._dynamo.config.cache_size_limit = 64               # train, sample, LoRA: each is its own graph
    for block in model.blocks:
        block.forward = compiled(block.forward, device)
    return model


def loss_of(model, context, batch, sigma, rng, device):
    x0, condition = batch[:2]
    noise = rng.randn_like(x0)
    level = sigma.view(-1, 1, 1, 1, 1)
    x = (1 - level) * x0 + level * noise
    with autocast(device):
        v = model(torch.cat([x, condition], 1), sigma * 1000, context)
    return (v - (noise - x0)).pow(2).mean()


def train(model, text, bank, budget, draw_sigma, rates, rng, tokens, device, log, name, optimizer=None, save=None):
    """The loop of both stages. `rates` is a ramp of the learning rate over progress."""
    parameters = [p for m in (model, text) for p in m.parameters() if p.requires_grad]
    optimizer = optimizer or adam(parameters, device)
    seen, average = 0, None
    while budget.left():
        progress = budget.progress()
        frames = rng.python.choice(next(choice for end, choice in CURRICULUM if progress < end))
        batch = bank.batch(tokens, frames, rng, device)
        for group in optimizer.param_groups:
            group["lr"] = ramp(progress, rates) * min(1, (budget.step + 1) / 200)
        sigma = draw_sigma(torch.rand(len(batch[0]), generator=rng.device, device=device))
        with autocast(device):
            context = text(*batch[2:])
        loss = loss_of(model, context, batch, sigma, rng, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        budget.step += 1
        seen += len(sigma)
        average = loss.detach() if average is None else 0.99 * average + 0.01 * loss.detach()
        if budget.step % 100 == 0 or budget.step in (1, 10, 50):
            log(f"{name} step {budget.step} progress {progress:.3f} frames {frames} loss {average.item():.4f} "
                f"clips/s {seen / budget.elapsed():.0f}")
    log(f"{name}: {budget.step} steps, {seen} clips in {budget.elapsed():.0f} s")
    return optimizer


def load_text(work, tokenizer, device):
    text = TextEncoder(tokenizer.size).to(device)
    if (work / "text.pt").exists():
        text.load_state_dict(torch.load(work / "text.pt", map_location=device))
    return text


def load_model(work, name, device):
    model = Transformer().to(device)
    if (work / f"{name}.pt").exists():
        state = torch.load(work / f"{name}.pt", map_location=device)
        model.load_state_dict({key: value.float() for key, value in state.items()})
    return model


def train_base(budget, work, seed, bank, tokenizer, tokens, device, log):
    rng = Rng(seed, f"base{budget.begin}", device)
    model, text = load_model(work, "base", device), load_text(work, tokenizer, device)
    speed_up(model, device)
    optimizer = adam([*model.parameters(), *text.parameters()], device)
    if budget.begin > 0 and (work / "base-optimizer.pt").exists():
        optimizer.load_state_dict(torch.load(work / "base-optimizer.pt", map_location=device))
    train(model, text, bank, budget, shifted, [(0, 1.5e-3), (0.7, 1.5e-3), (1, 4e-4)], rng, tokens, device, log, "base",
          optimizer)
    torch.save(model.state_dict(), work / "base.pt")
    torch.save(text.state_dict(), work / "text.pt")
    torch.save(optimizer.state_dict(), work / "base-optimizer.pt")


def train_expert(name, budget, work, seed, bank, tokenizer, tokens, device, log):
    rng = Rng(seed, name, device)
    low, high = RANGES[name]
    u_low, u_high = (s / (5 - 4 * s) for s in (low, high))       # the inverse of shifted()
    budget.begin = max(budget.begin, 0.50)                       # long clips only
    model, text = load_model(work, "base", device), load_text(work, tokenizer, device).requires_grad_(False)
    speed_up(model, device)
    train(model, text, bank, budget, lambda u: shifted(u_low + (u_high - u_low) * u), [(0.5, 4e-4), (1, 1e-5)], rng,
          tokens, device, log, name)
    torch.save(model.state_dict(), work / f"{name}.pt")
