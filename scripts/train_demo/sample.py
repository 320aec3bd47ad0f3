"""The two-pass sampler: Euler over the shifted schedule, high expert first, then low."""
import torch

from .bank import with_grey_tail
from .stage import autocast
from .vae import denormalise, normalise


def sigmas(steps=4, shift=5.0):
    """The "simple" schedule: the shifted table read at equal distances."""
    table = [shift * (k / 1000) / (1 + (shift - 1) * (k / 1000)) for k in range(1, 1001)]
    return [table[999 - int(i * 1000 / steps)] for i in range(steps)] + [0.0]


def velocity(model, x, condition, sigma, context, empty, guidance, device):
    """Guided velocity; one pass when guidance is 1. Gradients are the caller's choice."""
    t = torch.full((len(x),), 1000.0 * sigma, device=device)
    x = torch.cat([x, condition], 1)
    with autocast(device):
        v = model(x, t, context)
        if guidance != 1:
            v_empty = model(x, t, empty)
            v = v_empty + guidance * (v - v_empty)
    return v


@torch.no_grad()
def denoise(high, low, x, condition, context, device, steps=4, switch=2, guidance=1.0, empty=None):
    schedule = sigmas(steps)
    for i, (a, b) in enumerate(zip(schedule, schedule[1:])):
        x = x + (b - a) * velocity(high if i < switch else low, x, condition, a, context, empty, guidance, device)
    return x


@torch.no_grad()
def decode(vae, latent, device, batch=4):
    """uint8 frames [batch, F, H, W, 3] on the CPU."""
    out = []
    for part in latent.split(batch):
        with autocast(device):
            video = vae.decode(denormalise(part)).float()
        out.append(((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu())
    return torch.cat(out)


@torch.no_grad()
def image_condition(vae, picture, frames, device):
    """The 20 extra channels for a start picture [batch, H, W, 3] uint8; None is text only."""
    video = picture.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    out = []
    for part in video.split(4):
        with autocast(device):
            latent = normalise(vae.encode(with_grey_tail(part, frames)))
        mask = torch.zeros(len(part), 4, *latent.shape[2:], device=device)
        mask[:, :, 0] = 1
        out.append(torch.cat([mask, latent], 1))
    return torch.cat(out)


class Pipeline:
    """Everything needed to turn prompts into frames."""

    def __init__(self, vae, text, tokenizer, high, low, device):
        self.vae, self.text, self.tokenizer, self.high, self.low, self.device = vae, text, tokenizer, high, low, device

    def context(self, prompts):
        ids, lengths = self.tokenizer.batch(prompts)
        with torch.no_grad(), autocast(self.device):
            return self.text(ids.to(self.device), lengths.to(self.device))

    def segment(self, prompts, noise, picture=None, batch=32, **options):
        """One clip per prompt; noise [n, 16, T, h, w] fixes the size. Returns uint8 frames."""
        frames = 4 * noise.shape[2] - 3
        condition = torch.zeros(len(prompts), 20, *noise.shape[2:], device=self.device)
        if picture is not None:
            condition = image_condition(self.vae, picture, frames, self.device)
        context, empty = self.context(prompts), self.context([""] * len(prompts))
        latents = []
        for i in range(0, len(prompts), batch):
            part = slice(i, i + batch)
            latents.append(denoise(self.high, self.low, noise[part].to(self.device), condition[part], context[part],
                                   self.device, empty=empty[part], **options))
        return decode(self.vae, torch.cat(latents), self.device)

    def two_segments(self, prompts, seed=0, size=(192, 128), frames=81, **options):
        """Frames of a clip and of its continuation, without the shared frame repeated."""
        shape = (len(prompts), 16, (frames - 1) // 4 + 1, size[1] // 8, size[0] // 8)
        generator = torch.Generator().manual_seed(seed)
        first = self.segment(prompts, torch.randn(shape, generator=generator), **options)
        second = self.segment(prompts, torch.randn(shape, generator=generator), first[:, -1], **options)
        return torch.cat([first, second[:, 1:]], 1)
