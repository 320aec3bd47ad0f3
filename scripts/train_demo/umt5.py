"""The UMT5 text encoder, with Hugging Face names; every layer has its own position table."""
import math

import torch
import torch.nn.functional as F
from torch import nn

HEAD, BUCKETS = 64, 32


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def buckets(length, device):
    """Bucket of (key - query): 16 per sign, exact below 8, then logarithmic up to 128."""
    position = torch.arange(length, device=device)
    offset = position[None, :] - position[:, None]
    far = offset.abs()
    log = 8 + (torch.log(far.clamp(min=8).float() / 8) / math.log(16) * 8).long()
    return torch.where(far < 8, far, log.clamp(max=15)) + 16 * (offset > 0)


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, heads * HEAD, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * HEAD, dim, bias=False)
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)
        nn.init.normal_(self.q.weight, std=(dim * HEAD) ** -0.5)       # no 1/sqrt(64) below: it sits here
        nn.init.normal_(self.k.weight, std=dim ** -0.5)
        nn.init.normal_(self.v.weight, std=dim ** -0.5)
        nn.init.normal_(self.o.weight, std=(heads * HEAD) ** -0.5)
        nn.init.normal_(self.relative_attention_bias.weight, std=dim ** -0.5)

    def forward(self, x, valid):
        q, k, v = (f(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for f in (self.q, self.k, self.v))
        bias = self.relative_attention_bias(buckets(x.shape[1], x.device)).permute(2, 0, 1)
        scores = (q @ k.transpose(-1, -2)).float() + bias
        scores = scores.masked_fill(~valid[:, None, None], torch.finfo(torch.float32).min)
        return self.o((scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2))


class Feed(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.wi_0, self.wi_1 = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.wo = nn.Linear(hidden, dim, bias=False)
        nn.init.normal_(self.wi_0.weight, std=dim ** -0.5)
        nn.init.normal_(self.wi_1.weight, std=dim ** -0.5)
        nn.init.normal_(self.wo.weight, std=hidden ** -0.5)

    def forward(self, x):
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class Sub(nn.Module):
    """A norm and its part, under the names the checkpoints use."""

    def __init__(self, name, part, dim):
        super().__init__()
        self.layer_norm = RMSNorm(dim)
        self.add_module(name, part)


class Layer(nn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.layer = nn.ModuleList([Sub("SelfAttention", SelfAttention(dim, heads), dim),
                                    Sub("DenseReluDense", Feed(dim, hidden), dim)])

    def forward(self, x, valid):
        attend, feed = self.layer
        x = x + attend.SelfAttention(attend.layer_norm(x), valid)
        return x + feed.DenseReluDense(feed.layer_norm(x))


class TextEncoder(nn.Module):
    def __init__(self, vocab, dim=128, heads=2, hidden=256, layers=3):
        super().__init__()
        self.shared = nn.Embedding(vocab, dim)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList(Layer(dim, heads, hidden) for _ in range(layers))
        self.encoder.final_layer_norm = RMSNorm(dim)
        self._look_around()

    @torch.no_grad()
    def _look_around(self):
        """All layers but the last begin with one head on the words before and one on the words after.

        Which of two colours belongs to the thing is told by its neighbours; from tables without a
        preference the encoder stays a bag of words for thousands of steps.
        """
        for layer in self.encoder.block[:-1]:
            table = layer.layer[0].SelfAttention.relative_attention_bias.weight
            table[1:3, 0::2] += 3
            table[17:19, 1::2] += 3

    def forward(self, ids, length):
        """ids [batch, rows], length [batch] with </s> counted; rows past the length come out zero."""
        valid = torch.arange(ids.shape[1], device=ids.device)[None] < length[:, None]
        x = self.shared(ids)
        for layer in self.encoder.block:
            x = layer(x, valid)
        return self.encoder.final_layer_norm(x) * valid[..., None]
