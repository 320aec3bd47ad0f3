"""Clips encoded once and kept on the device: what the transformer trains on.

Because the autoencoder is causal, the first T latents of an 81-frame clip are exactly the latents
of its first 4T-3 frames, so one bank serves every clip length.
"""
import torch
import torch.nn.functional as F

from . import prompts, scene
from .stage import autocast
from .tokenizer import ROWS
from .vae import normalise

FRAMES = 81
PHRASINGS = 8                        # captions drawn per scene
SIZES = [(192, 128), (128, 192), (128, 128)]


class Clips:
    """Latents, captions and (for image-to-video) the encoded start picture with its grey tail."""

    def __init__(self, latents, starts, ids, lengths):
        self.latents, self.starts, self.ids, self.lengths = latents, starts, ids, lengths
        self.count = len(latents)

    @torch.no_grad()
    def read(self, text, device, batch=512):
        """Runs the (frozen) text encoder once over all captions."""
        longest = -(-int(self.lengths.max()) // 8) * 8
        with autocast(device):
            rows = [text(ids[:, :longest].to(device), lengths.to(device)).to(torch.bfloat16) for ids, lengths in
                    zip(self.ids.flatten(0, 1).split(batch), self.lengths.flatten().split(batch))]
        self.context = torch.cat(rows).unflatten(0, (self.count, PHRASINGS))


@torch.no_grad()
def encode(vae, video, device):
    with autocast(device):
        return normalise(vae.encode(video))


@torch.no_grad()
def start_picture(vae, video, margin, rng, device):
    """The first frame as the pipeline will hand it over: half of them have been through a decoder
    (the end of the segment before), with a sampler's small errors, and all are rounded to 8 bits."""
    clean = video[:, :, margin]
    with autocast(device):
        latent = vae.encode(video[:, :, :margin + 1]).float()
        latent = latent + 0.1 * torch.rand(len(latent), 1, 1, 1, 1, generator=rng.device, device=device) \
            * rng.randn_like(latent)
        worn = vae.decode(latent)[:, :, -1].float()
    keep = (torch.rand(len(video), 1, 1, 1, generator=rng.device, device=device) < 0.4).float()
    picture = clean * keep + worn * (1 - keep)
    return ((picture.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


@torch.no_grad()
def with_grey_tail(picture, frames):
    video = torch.zeros(*picture.shape[:2], frames, *picture.shape[2:], device=picture.device)
    video[:, :, 0] = picture
    return video


def build(vae, tokenizer, count, size, images, rng, device, frames=FRAMES, batch=16, draw=True):
    """`count` clips of one size; with `images`, clips that continue or begin from a picture.
    Without `draw` the clips themselves are left zero: captions and start pictures only."""
    latents, starts, texts = [], [], []
    margin = 12 if images else 0
    for begin in range(0, count, batch):
        scenes = [prompts.draw_scene(rng.python) for _ in range(min(batch, count - begin))]
        modes = ["later", "later", "later", "anywhere", "anywhere", "start"] if images else "start"
        video = scene.clips(rng.python, scenes, *size, frames if draw else 1, device, modes, margin)
        if draw:
            latents.append(encode(vae, video[:, :, margin:], device).to(torch.bfloat16))
        else:
            shape = (16, (frames + 3) // 4, size[1] // 8, size[0] // 8)
            latents.append(torch.zeros(1, 1, 1, 1, 1, dtype=torch.bfloat16, device=device).expand(len(scenes), *shape))
        if images:
            picture = start_picture(vae, video, margin, rng, device)
            starts.append(encode(vae, with_grey_tail(picture, frames), device).to(torch.bfloat16))
        for s in scenes:
            texts += [prompts.caption(rng.python, s) for _ in range(PHRASINGS)]
    ids, lengths = tokenizer.batch(texts)
    return Clips(torch.cat(latents), torch.cat(starts) if images else None,
                 ids.reshape(count, PHRASINGS, ROWS), lengths.reshape(count, PHRASINGS))


class Bank:
    """Text-only and image clips of all sizes; draws mixed batches."""
    has_clips = True

    def __init__(self, vae, tokenizer, scale, rng, device, log, frames=FRAMES):
        self.weights, self.groups = [0.8, 0.1, 0.1], []
        for size, weight in zip(SIZES, self.weights):
            count = max(int(scale * weight), 2)
            self.groups.append([build(vae, tokenizer, count, size, False, rng, device, frames),
                                build(vae, tokenizer, max(count * 3 // 4, 1), size, True, rng, device, frames)])
            log(f"bank: {size[0]}x{size[1]} done")
        log(f"bank: {sum(a.count for a, _ in self.groups)} text clips, {sum(b.count for _, b in self.groups)} image "
            f"clips of {frames} frames")

    def read(self, text, device):
        """Encodes all captions, and the empty one that stands in for a dropped caption."""
        for group in self.groups:
            for clips in group:
                clips.read(text, device)
        with torch.no_grad(), autocast(device):
            self.empty = text(torch.ones(1, 1, dtype=torch.long, device=device), torch.ones(1, device=device))

    def batch(self, tokens, frames, rng, device, drop=0.1):
        """(x0, condition [.., 20, ..], context [.., rows, text_dim]): about `tokens` tokens of `frames` latents,
        half of them text only; the same shapes for the same group and frames."""
        text_only, images = self.groups[rng.python.choices(range(len(self.groups)), self.weights)[0]]
        frames = min(frames, text_only.latents.shape[2])
        per_clip = frames * text_only.latents.shape[3] * text_only.latents.shape[4] // 4
        count = max(tokens // per_clip // 2, 1)
        rows = max(clips.context.shape[2] for clips in (text_only, images))
        parts = []
        for clips in (text_only, images):
            index = torch.randint(0, clips.count, (count,), generator=rng.device, device=device)
            phrasing = torch.randint(0, PHRASINGS, (count,), generator=rng.device, device=device)
            x0 = clips.latents[index, :, :frames].float()
            condition = torch.zeros(count, 20, *x0.shape[2:], device=device)
            if clips.starts is not None:
                condition[:, :4, 0] = 1
                condition[:, 4:] = clips.starts[index, :, :frames].float()
            context = clips.context[index, phrasing].float()
            parts.append((x0, condition, F.pad(context, (0, 0, 0, rows - context.shape[1]))))
        x0, condition, context = (torch.cat(part) for part in zip(*parts))
        dropped = torch.rand(len(x0), 1, 1, generator=rng.device, device=device) < drop
        empty = F.pad(self.empty.float(), (0, 0, 0, rows - 1))
        return x0, condition, torch.where(dropped, empty, context)


class Stills(Bank):
    """Single pictures, the first frames of text-only clips: they teach shapes and colours at a hundredth of the cost."""

    def __init__(self, vae, tokenizer, scale, rng, device, log):
        self.weights = [1]
        clips = build(vae, tokenizer, scale, SIZES[0], False, rng, device, 1, batch=256)
        self.groups = [[clips, clips]]
        log(f"bank: {scale} pictures")


class Starts(Bank):
    """Captions and start pictures without their clips: all that distillation needs, at a fraction of the cost."""
    has_clips = False

    def __init__(self, vae, tokenizer, count, rng, device, log, frames=FRAMES):
        self.weights = [1]
        self.groups = [[build(vae, tokenizer, 4 * count, SIZES[0], False, rng, device, frames, draw=False),
                        build(vae, tokenizer, count, SIZES[0], True, rng, device, frames, batch=4, draw=False)]]
        log(f"bank: {count} start pictures, {5 * count} scenes in words")
