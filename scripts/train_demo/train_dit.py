"""Stages "stills", "base" and the experts: one network on all noise levels, then two on their own range.

Pictures come first: what a shape and a colour look like is learnt from them at a hundredth of the
cost of clips. The text encoder has been taught to read by then and stays as it is.
"""
import time

import torch

from .dit import Transformer
from .optimise import of_transformer
from .record import Recorded
from .stage import Rng, autocast, compiled, ramp
from .umt5 import TextEncoder

BOUNDARY = 0.83333                   # where the 4-step schedule changes experts (step 2 of shift 5)
RANGES = {"high": (0.80, 1.0), "low": (0.0, 0.86)}      # a little overlap: other schedules change nearby
SHIFT = 3.0                          # noise levels of the base stage; the sampler's 5 leaves few steps to the details
FRAMES = [(0.10, (7,)), (1.01, (21, 21, 21, 21, 7))]    # progress, latent frames to choose from
SAVE_EVERY = 60                      # seconds between checkpoints, for looking on and for going on


def shifted(u, shift=SHIFT):
    return shift * u / (1 + (shift - 1) * u)


def unshifted(sigma, shift=SHIFT):
    return sigma / (shift - (shift - 1) * sigma)


def speed_up(model, device):
    """Compiles the block, the unit that repeats: one graph serves all of them."""
    if hasattr(torch, "_dynamo"):
        torch._dynamo.config.cache_size_limit = 64               # train, sample, LoRA: each is its own graph
    for block in model.blocks:
        block.forward = compiled(block.forward, device)
    return model


def loss_of(model, x0, condition, context, noise, sigma, device):
    level = sigma.view(-1, 1, 1, 1, 1)
    x = (1 - level) * x0 + level * noise
    with autocast(device):
        v = model(torch.cat([x, condition], 1), sigma * 1000, context)
    return (v - (noise - x0)).pow(2).mean()


def train(model, bank, budget, draw_sigma, rates, frames, rng, tokens, device, log, name, optimiser, save):
    """The loop of all stages. `rates` is a ramp over progress that scales the learning rates."""
    def step(*inputs):
        optimiser.clear()
        loss = loss_of(model, *inputs, device)
        loss.backward()
        optimiser.step()
        return loss.detach()

    recorded, seen, average, saved = {}, 0, None, time.time()
    while budget.left():
        progress = budget.progress()
        latents = rng.python.choice(next(choice for end, choice in frames if progress < end))
        batch = bank.batch(tokens, latents, rng, device)
        rate = ramp(progress, rates) * min(1, (budget.step + 1) / 100)
        optimiser.rate(4e-3 * rate, 1.5e-3 * rate)
        sigma = draw_sigma(torch.rand(len(batch[0]), generator=rng.device, device=device))
        shape = batch[0].shape
        if shape not in recorded:
            begin = time.time()
            recorded[shape] = Recorded(step, device)
            recorded[shape](*batch, rng.randn_like(batch[0]), sigma)
            log(f"{name}: {tuple(shape)} recorded in {time.time() - begin:.1f} s")
        loss = recorded[shape](*batch, rng.randn_like(batch[0]), sigma)
        budget.step += 1
        seen += len(sigma)
        average = loss.clone() if average is None else average.lerp_(loss, 0.01)
        if budget.step % 200 == 0 or budget.step in (1, 10, 50):
            log(f"{name} step {budget.step} progress {progress:.3f} loss {average.item():.4f} "
                f"clips/s {seen / budget.elapsed():.0f}")
            if time.time() - saved > SAVE_EVERY:
                save()
                saved = time.time()
    log(f"{name}: {budget.step} steps, {seen} clips in {budget.elapsed():.0f} s")
    save()


def load_text(work, tokenizer, device):
    text = TextEncoder(tokenizer.size).to(device)
    if (work / "text.pt").exists():
        text.load_state_dict(torch.load(work / "text.pt", map_location=device))
    return text


def load_model(work, name, device):
    """An expert that had no stage of its own is the base network."""
    model = Transformer().to(device)
    for path in (work / f"{name}.pt", work / "base.pt"):
        if path.exists():
            state = torch.load(path, map_location=device)
            model.load_state_dict({key: value.float() for key, value in state.items()})
            break
    return model


def saver(model, work, name, optimiser=None):
    """Writes beside and renames: another process may be looking."""
    def put(value, path):
        torch.save(value, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    def save():
        put({key: value.cpu() for key, value in model.state_dict().items()}, work / f"{name}.pt")
        if optimiser is not None:
            put(optimiser.state(), work / f"{name}-optimiser.pt")
    return save


def train_base(name, budget, work, seed, bank, tokens, device, log, muon=True):
    """"stills" begins anew, "base" goes on from it with clips."""
    rng = Rng(seed, f"{name}{budget.begin}", device)
    torch.manual_seed(seed)
    model = load_model(work, "base", device)
    optimiser = of_transformer(model, device, muon)
    if (work / "base-optimiser.pt").exists():
        optimiser.load(torch.load(work / "base-optimiser.pt", map_location=device))
    speed_up(model, device)
    rates, frames = ([(0, 1), (1, 1)], [(1.01, (1,))]) if name == "stills" else ([(0, 1), (0.6, 1), (1, 0.2)], FRAMES)
    train(model, bank, budget, shifted, rates, frames, rng, tokens, device, log, name, optimiser,
          saver(model, work, "base", optimiser))


def train_expert(name, budget, work, seed, bank, tokens, device, log):
    rng = Rng(seed, name, device)
    u_low, u_high = (unshifted(s) for s in RANGES[name])
    model = load_model(work, "base", device)
    optimiser = of_transformer(model, device)
    speed_up(model, device)
    train(model, bank, budget, lambda u: shifted(u_low + (u_high - u_low) * u), [(0, 0.25), (1, 0.01)], FRAMES[-1:], rng,
          tokens, device, log, name, optimiser, saver(model, work, name))
