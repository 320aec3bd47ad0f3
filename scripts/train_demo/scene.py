"""Scenes in motion, and the pictures of them.

A scene's state (position, radius, angle) changes by the same amount every frame until it reaches
an edge or a limit and stays there. So a clip may begin at any frame of a scene, which is exactly
what a continued segment has to do.
"""
import math

import torch
import torch.nn.functional as F

from . import shapes
from .world import (COLOURS, GRADIENT, GROWTH, MOTIONS, RADIUS_MAX, RADIUS_MIN, SHAPES, SIZES, SPEEDS, TRAVEL_X,
                    TRAVEL_Y, TURN)

SPAN = 80                            # speeds in world.py are per this many frames
JITTER = {"share": 1.0}              # how freely places, sizes and shades vary; --jitter sets it


def about(rng, low, high):
    """A random number from the middle part of [low, high] that JITTER allows."""
    half = (high - low) / 2 * JITTER["share"]
    return rng.uniform((low + high) / 2 - half, (low + high) / 2 + half)


def _limits(radius, width, height):
    """How near the border a centre may come, per axis, as shares of width and height."""
    reach = 1.2 * radius * min(width, height)
    return min(reach / width + 0.01, 0.5), min(reach / height + 0.01, 0.5)


def _start(rng, scene, width, height):
    """First state of a text-only clip: upright, with room for two clips of travel."""
    direction = MOTIONS[scene.motion]
    radius = SIZES[scene.size] * about(rng, 0.94, 1.06)
    if scene.motion == "grow":
        radius = about(rng, 0.10, 0.13)
    if scene.motion == "shrink":
        radius = about(rng, 0.28, 0.32)
    near_x, near_y = _limits(radius, width, height)
    if direction is None:
        spread = 0.07 if scene.motion in ("grow", "shrink") else 0.17
        return about(rng, 0.5 - spread, 0.5 + spread), about(rng, 0.5 - spread, 0.5 + spread), radius, 0.0
    start = []
    for step, near in zip(direction, (near_x, near_y)):
        edge = near + about(rng, 0, 0.045)
        start.append({1: edge, -1: 1 - edge, 0: about(rng, 0.3, 0.7)}[step])
    return start[0], start[1], radius, 0.0


def _anywhere(rng, scene, width, height):
    """First state for a start image that somebody drew: any place, size and angle."""
    radius = rng.uniform(0.10, 0.26)
    near_x, near_y = _limits(radius, width, height)
    turned = rng.uniform(-math.pi, math.pi) if rng.random() < 0.3 else 0.0
    return rng.uniform(near_x, 1 - near_x), rng.uniform(near_y, 1 - near_y), radius, turned


def path(rng, scene, width, height, frames, begin="start", margin=0):
    """(x, y, radius, angle) lists over frames, in pixels and radians.

    begin: "start" (a fresh text-only clip), "later" (somewhere into one, mostly one segment in) or
    "anywhere". `margin` extra frames come first: the end of the segment before.
    """
    x, y, radius, angle = (_anywhere if begin == "anywhere" else _start)(rng, scene, width, height)
    speed = SPEEDS[scene.speed] * about(rng, 0.95, 1.05) / SPAN
    dx, dy = MOTIONS[scene.motion] or (0, 0)
    grow = {"grow": GROWTH, "shrink": -GROWTH}.get(scene.motion, 0) * speed
    turn = {"turn": TURN}.get(scene.motion, 0) * speed
    first = 0
    if begin == "later":
        first = SPAN if rng.random() < 0.7 else rng.randrange(0, 2 * SPAN)
    states = []
    for f in range(first - margin, first + frames):
        r = min(max(radius + grow * f, min(RADIUS_MIN, radius)), max(RADIUS_MAX, radius))
        near_x, near_y = _limits(radius, width, height)
        px = x + dx * TRAVEL_X * speed * f if dx == 0 else min(max(x + dx * TRAVEL_X * speed * f, near_x), 1 - near_x)
        py = y + dy * TRAVEL_Y * speed * f if dy == 0 else min(max(y + dy * TRAVEL_Y * speed * f, near_y), 1 - near_y)
        states.append((px * width, py * height, r * min(width, height), angle + turn * f))
    return states


def shade(rng, name):
    """A named colour as nobody mixes it twice the same, in 0..255."""
    return [min(max(c + about(rng, -7, 7), 0), 255) for c in COLOURS[name]]


def render(shape, states, colour, ground, width, height, device):
    """[batch, 3, frames, height, width] in [-1, 1].

    shape: list of names; states: [batch][frames] of path(); colour, ground: [batch] of RGB.
    """
    table = torch.from_numpy(shapes.tables()).to(device)
    which = torch.tensor([SHAPES.index(s) for s in shape], device=device)
    x, y, radius, angle = torch.tensor(states, device=device).unbind(-1)
    batch, frames = x.shape
    u = (torch.arange(width, device=device) + 0.5 - x[..., None]) / radius[..., None]      # [batch, frames, width]
    v = (torch.arange(height, device=device) + 0.5 - y[..., None]) / radius[..., None]
    cos, sin = (f(angle)[..., None, None] / shapes.REACH for f in (torch.cos, torch.sin))
    u, v = u[:, :, None, :], v[:, :, :, None]
    grid = torch.stack([u * cos + v * sin, v * cos - u * sin], -1).flatten(1, 2)
    far = F.grid_sample(table[which][:, None], grid, padding_mode="border", align_corners=False)
    cover = (0.5 - far.reshape(batch, 1, frames, height, width) * radius[:, None, :, None, None]).clamp(0, 1)
    colour, ground = (torch.tensor(c, device=device).reshape(batch, 3, 1, 1, 1) / 127.5 - 1 for c in (colour, ground))
    light = 1 + GRADIENT * torch.linspace(1, -1, height, device=device).reshape(1, 1, 1, height, 1)
    back = ((ground + 1) * light - 1).clamp(-1, 1)
    return back * (1 - cover) + colour * cover


def clips(rng, scenes, width, height, frames, device, begin="start", margin=0):
    """Renders one clip per scene; see path()."""
    modes = [begin if isinstance(begin, str) else rng.choice(begin) for _ in scenes]
    states = [path(rng, s, width, height, frames, mode, margin) for s, mode in zip(scenes, modes)]
    return render([s.shape for s in scenes], states, [shade(rng, s.colour) for s in scenes],
                  [shade(rng, s.ground) for s in scenes], width, height, device)


def free_clips(rng, count, width, height, frames, device):
    """Material for the autoencoder: any colours, speeds and sizes, two shapes at a time, some clips
    that are one picture followed by grey (what image-to-video encodes)."""
    def colour():
        return shade(rng, rng.choice(list(COLOURS))) if rng.random() < 0.6 else [rng.uniform(0, 255) for _ in range(3)]

    def states():
        short = min(width, height)
        radius = rng.uniform(8, 50)
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(-3, 3) * (rng.random() < 0.5)
        dx, dy, dr, da = (rng.gauss(0, s) * (rng.random() < 0.7) for s in (0.7, 0.7, 0.12, 0.02))
        return [(x + dx * f, y + dy * f, min(max(radius + dr * f, 6), 0.7 * short), angle + da * f)
                for f in range(frames)]

    def layer():
        return [rng.choice(SHAPES) for _ in range(count)], [states() for _ in range(count)]

    grounds = [colour() for _ in range(count)]
    video = render(*layer(), [colour() for _ in range(count)], grounds, width, height, device)
    over = render(*layer(), [[255.0] * 3] * count, [[0.0] * 3] * count, width, height, device)[:, :1]
    second = torch.tensor([[rng.random() < 0.35] for _ in range(count)], device=device).reshape(-1, 1, 1, 1, 1)
    top = torch.tensor([colour() for _ in range(count)], device=device).reshape(count, 3, 1, 1, 1) / 127.5 - 1
    cover = (over * 0.5 + 0.5).clamp(0, 1) * second
    video = video * (1 - cover) + top * cover
    grey = torch.tensor([rng.random() < 0.2 for _ in range(count)], device=device)
    video[:, :, 1:][grey] = 0
    return video
