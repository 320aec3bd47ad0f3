"""The Wan2.2 transformer, high and low expert alike.

Parameter names are those of the public checkpoints. Only one thing differs from a plain
transcription: the 512 text rows are mostly one and the same padding vector, so attention to the
padding is computed once and weighted by its count; the result is the same (see CrossAttention).
"""
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Linear

HEAD = 128                           # one head is always this wide
TEXT_LEN = 512                       # rows of text that cross-attention sees, padding included
TIME_WIDTH = 256
LORA_LINEARS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2")
LORA_RANK, LORA_ALPHA = 16, 8.0      # alpha / rank is not 1, as in the public 4-step LoRAs


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight.to(x.dtype)


def attention(q, k, v):
    """[batch, heads, tokens, HEAD]; PyTorch's fused kernel where there is one."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v)
    out = torch.empty_like(q)
    for part in range(0, q.shape[2], 1024):        # bounded memory on old PyTorch, CPU only
        scores = q[:, :, part:part + 1024] @ k.transpose(-1, -2) / math.sqrt(HEAD)
        out[:, :, part:part + 1024] = scores.softmax(-1) @ v
    return out


@functools.lru_cache(32)
def rope_table(frames, height, width, device):
    """(cos, sin) [tokens, 64]: pairs 0..21 turn with time, 22..42 with y, 43..63 with x."""
    def angles(count, pairs):
        speed = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        return torch.arange(count, dtype=torch.float64)[:, None] * speed
    t, y, x = angles(frames, 22), angles(height, 21), angles(width, 21)
    grid = torch.cat([t[:, None, None].expand(-1, height, width, -1), y[None, :, None].expand(frames, -1, width, -1),
                      x[None, None].expand(frames, height, -1, -1)], -1).reshape(-1, 64)
    return grid.cos().float().to(device), grid.sin().float().to(device)


def rotate(x, cos, sin):
    """Pairs are neighbours (0,1), (2,3)...; x is [batch, heads, tokens, HEAD]."""
    a, b = x.float().unflatten(-1, (64, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v, self.o = (Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    @staticmethod
    def split(x):
        return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)


class SelfAttention(Attention):
    def forward(self, x, rope):
        q, k, v = self.split(self.norm_q(self.q(x))), self.split(self.norm_k(self.k(x))), self.split(self.v(x))
        out = attention(rotate(q, *rope), rotate(k, *rope), v)
        return self.o(out.transpose(1, 2).flatten(2))


class CrossAttention(Attention):
    @torch.no_grad()
    def look_away_from_padding(self):
        """Queries begin opposite to the key of a padding row (its bias), so that the few words, not
        the hundreds of padding rows, have most of the weight from the first step."""
        sign = torch.randint(0, 2, self.q.bias.shape).float() * 2 - 1
        self.q.bias.copy_(2 * sign)
        self.k.bias.copy_(-0.5 * sign)

    def forward(self, x, context, bias):
        """`context` ends with one padding row; `bias` [rows] holds 0 and log(padding count) for it.

        n equal keys add n times the same weight to a softmax: one key with log(n) added.
        """
        q, k, v = (self.split(self.norm_q(self.q(x))), self.split(self.norm_k(self.k(context))),
                   self.split(self.v(context)))
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(HEAD) + bias
        return self.o((scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2))


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / math.sqrt(dim))
        self.self_attn, self.cross_attn = SelfAttention(dim), CrossAttention(dim)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = nn.Sequential(Linear(dim, ffn), nn.GELU(approximate="tanh"), Linear(ffn, dim))

    def forward(self, x, e6, context, bias, cos, sin):
        m = (self.modulation + e6).unsqueeze(2).unbind(1)
        x = x + self.self_attn(norm(x) * (1 + m[1]) + m[0], (cos, sin)) * m[2]
        x = x + self.cross_attn(self.norm3(x), context, bias)
        return x + self.ffn(norm(x) * (1 + m[4]) + m[3]) * m[5]


class Head(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / math.sqrt(dim))
        self.head = Linear(dim, 64)

    def forward(self, x, e):
        shift, scale = (self.modulation + e[:, None]).unsqueeze(2).unbind(1)
        return self.head(norm(x) * (1 + scale) + shift)


class Transformer(nn.Module):
    def __init__(self, dim=256, ffn=768, blocks=8, channels=36, text_dim=128):
        super().__init__()
        self.patch_embedding = nn.Conv3d(channels, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(Linear(text_dim, dim), nn.GELU(approximate="tanh"), Linear(dim, dim))
        self.time_embedding = nn.Sequential(Linear(TIME_WIDTH, dim), nn.SiLU(), Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, ffn) for _ in range(blocks))
        self.head = Head(dim)
        self.dim = dim
        self._initialise()

    def _initialise(self):
        """The untrained network answers zero, as the public one does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.head.head.weight)
        for block in self.blocks:
            block.cross_attn.look_away_from_padding()

    def time_features(self, t):
        """Cosines first; t is 1000 * sigma, never divided."""
        half = TIME_WIDTH // 2
        speed = 10000.0 ** (-torch.arange(half, device=t.device, dtype=torch.float64) / half)
        angle = t.double()[:, None] * speed
        return torch.cat([angle.cos(), angle.sin()], -1).float()

    def forward(self, x, t, text):
        """x [batch, channels, T, h, w], t [batch], text [batch, rows, text_dim] zero past each prompt.

        Fewer than 512 rows stand for 512: the missing ones are padding and counted as such.
        """
        batch, _, frames, height, width = x.shape
        rows = text.shape[1]
        if rows < TEXT_LEN:
            text = F.pad(text, (0, 0, 0, 1))
        bias = torch.zeros(text.shape[1], device=x.device)
        bias[-1:].fill_(math.log(max(TEXT_LEN - rows, 1)))        # a copy from the host would not be recorded
        context = self.text_embedding(text)
        e = self.time_embedding(self.time_features(t))
        e6 = self.time_projection(e).unflatten(-1, (6, self.dim))
        cos, sin = rope_table(frames, height // 2, width // 2, x.device)
        x = self.patch_embedding(x).flatten(2).transpose(1, 2).float()
        for block in self.blocks:
            x = block(x, e6, context, bias, cos, sin)
        y = self.head(x, e)
        # the 64 outputs are (y, x, channel) with the channel fastest
        y = y.reshape(batch, frames, height // 2, width // 2, 2, 2, 16)
        return y.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, 16, frames, height, width).float()

    def lora_linears(self):
        for i, block in enumerate(self.blocks):
            for name in LORA_LINEARS:
                yield f"blocks.{i}.{name}", block.get_submodule(name)
