"""Stage "vae": trains the autoencoder, then gives its latents the statistics the pipeline assumes.

The latent is blurred with noise in training, so that the decoder forgives the small errors a
sampler makes, and some clips are one picture followed by grey, as image-to-video encodes them.
"""
import torch
import torch.nn.functional as F

from . import prompts, scene, vae as vae_module
from .stage import Rng, adam, autocast, ramp
from .vae import MEAN, STD, CausalConv, Down, Up, Vae

#          progress, clips x frames x height x width: still crops, short clips, then whole long clips
SCHEDULE = [(0.35, (48, 1, 64, 96)), (0.55, (6, 9, 64, 96)), (0.72, (4, 17, 96, 64)), (0.80, (2, 17, 128, 192)),
            (0.88, (2, 17, 192, 128)), (1.01, (1, 81, 128, 192))]


@torch.no_grad()
def start_as_image_coder(model):
    """First weights: every frame for itself, colours averaged down and copied up, branches silent.

    From the usual random start the first frame of a clip stays wrong for thousands of steps and
    long clips drift, because both rely on weights that short clips hardly train.
    """
    for name, module in model.named_modules():
        if isinstance(module, CausalConv) and module.size == 3:
            module.weight[:, :, :2] = 0
            module.weight[:, :, 2] *= 3 ** 0.5
        if name.endswith("residual.6") or name.endswith("proj"):
            module.weight.zero_()
            module.bias.zero_()
        if name.endswith("shortcut") and not isinstance(module, torch.nn.Identity):
            same = module.weight.shape[1]
            module.weight[:same] = torch.eye(same, device=module.weight.device)[..., None, None, None]
        if isinstance(module, Down):
            conv = module.resample[1]
            for c in range(conv.weight.shape[0] // 2):           # half the channels average, half stay free
                conv.weight[c] = 0
                conv.weight[c, c, :2, :2] = 0.25
            if module.time_conv is not None:
                module.time_conv.weight.zero_()
                module.time_conv.bias.zero_()
                for tap in (1, 2):
                    module.time_conv.weight[:, :, tap, 0, 0] = 0.5 * torch.eye(conv.weight.shape[0])
        if isinstance(module, Up):
            conv = module.resample[1]
            half = conv.weight.shape[0]
            conv.weight[:, :half, 1, 1] += torch.eye(half, device=conv.weight.device)
            if module.time_conv is not None:
                module.time_conv.weight.zero_()
                module.time_conv.bias.zero_()
                module.time_conv.weight[:, :, 2, 0, 0] = torch.eye(2 * half).repeat(2, 1)
    # Colour and its negative, since SiLU(x) - SiLU(-x) = x; and a constant, since the norms keep only ratios.
    eye = torch.eye(3, device=model.conv1.weight.device)
    for conv in (model.encoder.conv1, model.decoder.conv1):
        conv.weight[7:] *= 0.5
        conv.weight[:7] = 0
        conv.weight[0:3, :3, 2, 1, 1], conv.weight[4:7, :3, 2, 1, 1] = eye, -eye
        conv.bias.zero_()
        conv.bias[3] = 1
    for conv in (model.encoder.head[2], model.decoder.head[2]):
        conv.weight[:3] = 0
        conv.weight[:3, 0:3, 2, 1, 1], conv.weight[:3, 4:7, 2, 1, 1] = eye / 2, -eye / 2
        conv.bias.zero_()
    for conv in (model.conv1, model.conv2):
        conv.weight[:, :, 0, 0, 0] = torch.eye(conv.weight.shape[0])
        conv.bias.zero_()


def loss_of(model, video, rng, device):
    with autocast(device):
        mu = model.encode(video)
        amount = 0.12 * torch.rand(len(mu), 1, 1, 1, 1, generator=rng.device, device=device)
        spread = mu.detach().float().std((0, 2, 3, 4), keepdim=True)
        out = model.decode(mu + amount * spread * rng.randn_like(mu))
    out, mu = out.float(), mu.float()
    edges = sum((out.diff(dim=d) - video.diff(dim=d)).abs().mean() for d in (3, 4))
    return (out - video).abs().mean() + edges + 1e-4 * mu.pow(2).mean(), out


def train(budget, work, seed, device, log, toy=False):
    rng = Rng(seed, "vae", device)
    model = Vae()
    start_as_image_coder(model)
    model.to(device)
    optimizer = adam(model.parameters(), device)
    while budget.left():
        progress = budget.progress()
        count, frames, height, width = next(shape for end, shape in SCHEDULE if progress < end)
        if frames > 1 and budget.step % 4 == 0:                      # the first frame has a path of its own
            count, frames, height, width = 8, 1, 128, 192
        if toy:
            count, frames, height, width = 1, 5, 32, 48
        video = scene.free_clips(rng.python, count, width, height, frames, device)
        rate = ramp(progress, [(0, 1e-4), (0.04, 1e-3), (0.6, 1e-3), (1, 3e-5)])
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, out = loss_of(model, video, rng, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        budget.step += 1
        if budget.step % 200 == 0 or budget.step in (1, 10):
            log(f"vae step {budget.step} progress {progress:.2f} shape {count}x{frames}x{height}x{width} "
                f"loss {loss.item():.4f} psnr {psnr(out, video):.2f}")
    fold_statistics(model, rng, device, log, toy)
    log(f"vae: {budget.step} steps in {budget.elapsed():.0f} s, psnr on unseen 81-frame clips "
        f"{measure(model, rng, device, toy):.2f} dB")
    torch.save(model.state_dict(), work / "vae.pt")


def psnr(out, video):
    return (-10 * torch.log10((out.clamp(-1, 1) - video).float().pow(2).mean() / 4)).item()


@torch.no_grad()
def measure(model, rng, device, toy=False):
    """Mean PSNR over clips as the model will be used: whole 81-frame clips from the caption world."""
    frames = 5 if toy else 81
    scenes = [prompts.draw_scene(rng.python, held_out=True) for _ in range(2 if toy else 16)]
    values = []
    for i in range(0, len(scenes), 4):
        video = scene.clips(rng.python, scenes[i:i + 4], 192, 128, frames, device, ["start", "later"])
        with autocast(device):
            values.append(psnr(model.decode(model.encode(video)).float(), video))
    return sum(values) / len(values)


@torch.no_grad()
def fold_statistics(model, rng, device, log, toy=False):
    """Rescales the two 1x1 convolutions so that raw latents have the fixed mean and deviation.

    Every Wan pipeline applies those constants (MEAN, STD); with this, they are true of this
    autoencoder too, and reconstruction is unchanged.
    """
    frames, clips = (5, 4) if toy else (81, 64)
    latents = []
    for _ in range(0, clips, 4):
        scenes = [prompts.draw_scene(rng.python) for _ in range(4)]
        with autocast(device):
            latents.append(model.encode(scene.clips(rng.python, scenes, 192, 128, frames, device,
                                                    ["start", "later"])).float())
    latents = torch.cat(latents)
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    log(f"vae latents before folding: std {std.min():.3f} .. {std.max():.3f}")
    want_mean, want_std = (torch.tensor(v, device=device) for v in (MEAN, STD))
    ratio = want_std / std
    weight, bias = model.conv1.weight, model.conv1.bias
    weight[:16] *= ratio.view(-1, 1, 1, 1, 1)
    bias[:16] = (bias[:16] - mean) * ratio + want_mean
    weight, bias = model.conv2.weight, model.conv2.bias
    bias += weight[:, :, 0, 0, 0] @ (mean - want_mean / ratio)
    weight /= ratio.view(1, -1, 1, 1, 1)


def load(work, device):
    model = Vae().to(device)
    model.load_state_dict(torch.load(work / "vae.pt", map_location=device))
    return model.eval().requires_grad_(False)


def choose_convolution(device, log):
    """Times both ways to run a causal convolution in training and keeps the faster one."""
    import time
    model = Vae().to(device)
    rng, times = Rng(0, "timing", device), {}
    video = scene.free_clips(rng.python, 16, 96, 64, 17, device)
    for stack in (False, True):
        vae_module.FAST["stack"] = stack
        for repeat in range(4):
            if repeat == 1:
                torch.cuda.synchronize()
                start = time.time()
            loss_of(model, video, rng, device)[0].backward()
        torch.cuda.synchronize()
        times[stack] = time.time() - start
    vae_module.FAST["stack"] = times[True] < times[False]
    log(f"causal convolution, 3 steps: 3-D {times[False]:.3f} s, stacked 2-D {times[True]:.3f} s")
