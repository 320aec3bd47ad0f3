"""The wan_2.1 causal video autoencoder, whole sequences at a time, at any base width.

A clip of 4k+1 frames becomes k+1 latents of 1/8 size; frame i never depends on later frames, so
the latents of a clip's beginning are the beginning of the clip's latents.
Three-dimensional convolutions are run as two-dimensional ones over three stacked frames: with so
few channels that is several times faster on a GPU than the 3-D kernels.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]
FAST = {"stack": False}              # see CausalConv; set by the training script after a timing


def normalise(latent):
    """Raw latent to the transformer's space; and back below."""
    mean, std = (torch.tensor(v, device=latent.device).view(-1, 1, 1, 1) for v in (MEAN, STD))
    return (latent.float() - mean) / std


def denormalise(latent):
    mean, std = (torch.tensor(v, device=latent.device).view(-1, 1, 1, 1) for v in (MEAN, STD))
    return latent.float() * std + mean


class CausalConv(nn.Conv3d):
    """3x3x3 or 1x1x1; two zero frames in front, none behind."""

    def __init__(self, a, b, size=3):
        super().__init__(a, b, size, padding=0)
        self.size = size

    def forward(self, x):
        if self.size == 1:
            return super().forward(x)
        if x.shape[2] == 1:                                        # a still picture meets only the last tap
            return F.conv2d(x[:, :, 0], self.weight[:, :, 2], self.bias, padding=1).unsqueeze(2)
        if not FAST["stack"]:
            return super().forward(F.pad(x, (1, 1, 1, 1, 2, 0)))
        batch, frames = x.shape[0], x.shape[2]
        x = F.pad(x, (0, 0, 0, 0, 2, 0)).permute(0, 2, 3, 4, 1)    # channels last, as they lie in memory
        stacked = torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], 4).flatten(0, 1).permute(0, 3, 1, 2)
        weight = self.weight.transpose(1, 2).flatten(1, 2)         # out, 3 * in, 3, 3 in the same order
        y = F.conv2d(stacked, weight, self.bias, padding=1)
        return y.unflatten(0, (batch, frames)).transpose(1, 2)


def per_frame(f, x):
    """Applies a 2-D function to every frame of [batch, channels, frames, h, w]."""
    batch = x.shape[0]
    y = f(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (batch, -1)).transpose(1, 2)


class Norm(nn.Module):
    """L2 norm over channels, times sqrt(channels) and gamma; no epsilon inside the root."""

    def __init__(self, channels, axes=3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x):
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).clamp(min=1e-12)
        return x * (math.sqrt(x.shape[1]) / length).to(x.dtype) * self.gamma.to(x.dtype)


class Res(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.residual = nn.Sequential(Norm(a), nn.SiLU(), CausalConv(a, b), Norm(b), nn.SiLU(), nn.Identity(),
                                      CausalConv(b, b))
        self.shortcut = CausalConv(a, b, 1) if a != b else nn.Identity()

    def forward(self, x):
        return self.shortcut(x) + self.residual(x)


class Attend(nn.Module):
    """One head over the positions of one frame."""

    def __init__(self, channels):
        super().__init__()
        self.norm = Norm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def frame(self, x):
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).chunk(3, 1)
        scores = (q.transpose(1, 2) @ k).float() / math.sqrt(x.shape[1])
        return x + self.proj((v @ scores.softmax(-1).to(v.dtype).transpose(1, 2)).reshape(x.shape))

    def forward(self, x):
        return per_frame(self.frame, x)


def time_conv(a, b, stride=1):
    return nn.Conv3d(a, b, (3, 1, 1), (stride, 1, 1))


class Down(nn.Module):
    def __init__(self, channels, time):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, 2))
        self.time_conv = time_conv(channels, channels, 2) if time else None

    def forward(self, x):
        x = per_frame(self.resample, x)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], 2)       # frame 0 bypasses, but is history


class Up(nn.Module):
    def __init__(self, channels, time):
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"),
                                      nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = time_conv(channels, 2 * channels) if time else None

    def forward(self, x):
        if self.time_conv is not None and x.shape[2] > 1:
            first, rest = x[:, :, :1], x[:, :, 1:]                  # frame 0 bypasses and is not history
            both = self.time_conv(F.pad(rest, (0, 0, 0, 0, 2, 0)))
            pair = torch.stack(both.chunk(2, 1), 3).flatten(2, 3)   # first half of the channels is earlier
            x = torch.cat([first, pair], 2)
        return per_frame(self.resample, x)


class Encoder(nn.Module):
    def __init__(self, base):
        super().__init__()
        w = [base, base, 2 * base, 4 * base, 4 * base]
        self.conv1 = CausalConv(3, base)
        stages = []
        for i in range(4):
            stages += [Res(w[i], w[i + 1]), Res(w[i + 1], w[i + 1])]
            if i < 3:
                stages.append(Down(w[i + 1], time=i > 0))
        self.downsamples = nn.Sequential(*stages)
        self.middle = nn.Sequential(Res(w[4], w[4]), Attend(w[4]), Res(w[4], w[4]))
        self.head = nn.Sequential(Norm(w[4]), nn.SiLU(), CausalConv(w[4], 32))

    def forward(self, x):
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, base):
        super().__init__()
        w = [4 * base, 4 * base, 4 * base, 2 * base, base]
        self.conv1 = CausalConv(16, w[0])
        self.middle = nn.Sequential(Res(w[0], w[0]), Attend(w[0]), Res(w[0], w[0]))
        stages = []
        for i in range(4):
            a = w[i] // 2 if i > 0 else w[i]                        # Up has halved the channels
            stages += [Res(a, w[i + 1]), Res(w[i + 1], w[i + 1]), Res(w[i + 1], w[i + 1])]
            if i < 3:
                stages.append(Up(w[i + 1], time=i < 2))
        self.upsamples = nn.Sequential(*stages)
        self.head = nn.Sequential(Norm(w[4]), nn.SiLU(), CausalConv(w[4], 3))

    def forward(self, x):
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class Vae(nn.Module):
    def __init__(self, base=16):
        super().__init__()
        self.encoder, self.decoder = Encoder(base), Decoder(base)
        self.conv1, self.conv2 = CausalConv(32, 32, 1), CausalConv(16, 16, 1)

    def encode(self, video):
        """[batch, 3, frames, h, w] in [-1, 1] to the raw mean [batch, 16, T, h/8, w/8]."""
        return self.conv1(self.encoder(video.contiguous(memory_format=torch.channels_last_3d)))[:, :16]

    def decode(self, latent):
        return self.decoder(self.conv2(latent))
