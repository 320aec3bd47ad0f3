"""Looks at rendered frames and says what is in them: colours, shape, motion. numpy only.

It knows nothing about how the frames were made. Every measurement is on pixels: the background is
what the border shows, the object is the largest patch that stands out from it, its shape is the
outline that fits best, its motion is how that patch moves, scales and turns over the clip.
"""
import functools
import math
from collections import namedtuple

import numpy as np

from . import shapes
from .world import COLOURS, ROUND, SHAPES, SPEEDS, TRAVEL_X, TRAVEL_Y, TURN

FPS = 16                             # the model's own rate; faster files are thinned to it
EVERY = 4                            # look at every 4th frame
Patch = namedtuple("Patch", "ground colour cover x y area touches")
Verdict = namedtuple("Verdict", "colour shape motion seen")


# ---- one frame ------------------------------------------------------------------------------

def largest_patch(mask):
    """The largest 4-connected region of a boolean image: runs of each row joined by union-find."""
    parent, size, runs, before = [], [], [], []

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.view(np.int8), [0]])))
        here = []
        for begin, end in zip(edges[::2], edges[1::2]):
            label = len(parent)
            parent.append(label)
            size.append(end - begin)
            for other_begin, other_end, other in before:
                if other_begin < end and begin < other_end:
                    a, b = root(label), root(other)
                    if a != b:
                        parent[a] = b
                        size[b] += size[a]
            here.append((begin, end, label))
            runs.append((y, begin, end, label))
        before = here
    out = np.zeros_like(mask)
    if runs:
        best = max((root(i) for i in range(len(parent))), key=lambda i: size[i])
        for y, begin, end, label in runs:
            if root(label) == best:
                out[y, begin:end] = True
    return out


def find(frame):
    """The object in one frame, or None. `cover` is soft: 0 outside, 1 inside, between at the edge."""
    pixels = frame.astype(np.float32)
    height, width = pixels.shape[:2]
    border = np.concatenate([pixels[:4].reshape(-1, 3), pixels[-4:].reshape(-1, 3),
                             pixels[:, :4].reshape(-1, 3), pixels[:, -4:].reshape(-1, 3)])
    ground = np.median(border, 0)
    away = np.linalg.norm(pixels - ground, axis=2)
    far = np.percentile(away, 99.7)
    if far < 45:
        return None
    colour = np.median(pixels[away > 0.85 * far], 0)
    axis = colour - ground
    cover = np.clip((pixels - ground) @ axis / (axis @ axis), 0, 1)
    mask = largest_patch(cover > 0.5)
    area = int(mask.sum())
    if (cover > 0.5).sum() > 1.2 * area:                         # in pieces: nobody asked for two objects
        return None
    if area < 0.002 * width * height or area > 0.6 * width * height:
        return None
    near = np.zeros_like(mask)                                   # the patch and its soft rim
    ys, xs = np.nonzero(mask)
    near[max(ys.min() - 2, 0):ys.max() + 3, max(xs.min() - 2, 0):xs.max() + 3] = True
    cover = np.where(near & (mask | (cover < 0.5)), cover, 0)
    total = cover.sum()
    x = (cover.sum(0) @ np.arange(width)) / total
    y = (cover.sum(1) @ np.arange(height)) / total
    touches = ys.min() < 1 or xs.min() < 1 or ys.max() > height - 2 or xs.max() > width - 2
    core = pixels[mask & (cover > 0.8)]
    return Patch(ground, np.median(core, 0) if len(core) else colour, cover, x, y, total, touches)


def lab(rgb):
    """CIE L*a*b* of sRGB 0..255: distances there are closer to what people see."""
    c = np.asarray(rgb, np.float64) / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]) \
        / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def colour_name(rgb):
    """The nearest named colour, or "?" when none is near: a muddy mix counts as no colour."""
    names = list(COLOURS)
    gaps = np.linalg.norm(lab(np.array([COLOURS[n] for n in names])) - lab(rgb), axis=1)
    return names[int(gaps.argmin())] if gaps.min() < 28 else "?"


# ---- shape ----------------------------------------------------------------------------------

SIDE, VIEW = 44, 1.55                # outlines are compared on a SIDE^2 grid, VIEW * sqrt(area) wide each way


def _grid(angle=0.0):
    axis = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1) * VIEW
    x, y = np.meshgrid(axis, axis)
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


@functools.lru_cache(None)
def _outline(shape, degrees):
    """Soft mask of a shape scaled to area 1 around its centre of area, turned by `degrees`."""
    axis = np.linspace(-1.6, 1.6, 161)
    x, y = np.meshgrid(axis, axis)
    inside = shapes.distance(shape, x, y) < 0
    scale = math.sqrt(inside.mean()) * 3.2
    cx, cy = x[inside].mean(), y[inside].mean()
    u, v = _grid(-math.radians(degrees))
    return np.clip(0.5 - shapes.distance(shape, u * scale + cx, v * scale + cy) / scale * 12, 0, 1)


def _normalised(patch):
    """The patch resampled to area 1 around its own centre, bilinear."""
    u, v = _grid()
    scale = math.sqrt(patch.area)
    x = np.clip(patch.x + u * scale, 0, patch.cover.shape[1] - 1.001)
    y = np.clip(patch.y + v * scale, 0, patch.cover.shape[0] - 1.001)
    ix, iy = x.astype(int), y.astype(int)
    fx, fy, c = x - ix, y - iy, patch.cover
    return (c[iy, ix] * (1 - fx) + c[iy, ix + 1] * fx) * (1 - fy) + (c[iy + 1, ix] * (1 - fx) + c[iy + 1, ix + 1] * fx) * fy


def shape_name(patch, turned):
    """(name, fit): best overlap with each outline; only turned objects may be at any angle."""
    mask = _normalised(patch)
    best = ("?", 0.0)
    for shape in SHAPES:
        angles = range(0, 360, 6) if turned and shape not in ROUND else (-8, 0, 8)
        for degrees in angles:
            other = _outline(shape, degrees)
            fit = np.minimum(mask, other).sum() / np.maximum(mask, other).sum()
            if fit > best[1]:
                best = (shape, fit)
    return best if best[1] > 0.78 else ("?", best[1])        # a clean drawing fits above 0.9


# ---- motion ---------------------------------------------------------------------------------

def _rim(patch):
    """How far the shape reaches in each of 360 directions: what turns when it turns."""
    height, width = patch.cover.shape
    y, x = np.mgrid[:height, :width]
    dx, dy = x - patch.x, y - patch.y
    angle = np.degrees(np.arctan2(dy, dx)) % 360
    weight = patch.cover * (dx * dx + dy * dy)
    profile = np.bincount((angle / 3).astype(int).ravel() % 120, weight.ravel(), 120)
    spectrum = np.fft.rfft(profile / profile.mean())
    spectrum[0] = 0
    spectrum[16:] = 0
    return spectrum


def _turned_by(a, b):
    """Degrees (clockwise positive) between two rims less than 30 degrees apart."""
    match = np.fft.irfft(np.conj(a) * b, 720)                    # half-degree steps
    steps = np.concatenate([np.arange(-60, 0), np.arange(0, 61)])
    return steps[match[steps].argmax()] * 0.5


Motion = namedtuple("Motion", "dx dy growth turn jump")


def measure(patches, width, height):
    """Travel (share of the frame), growth (log of radius), turn (degrees), largest single jump."""
    def ends(values):
        return np.mean(values[-2:]) - np.mean(values[:2])
    x, y = (np.array([getattr(p, k) for p in patches]) for k in "xy")
    x, y = x / width, y / height
    turn = 0.0
    rims = [_rim(p) for p in patches]
    strength = np.median([np.abs(r).sum() for r in rims])
    if strength > 25:                                            # a disc has nothing to turn
        turn = sum(_turned_by(a, b) for a, b in zip(rims, rims[1:]))
    jump = max(np.hypot(np.diff(x), np.diff(y)).max(), np.abs(np.diff(np.log([p.area for p in patches]))).max() / 4)
    return Motion(ends(x), ends(y), ends(np.log([p.area for p in patches])) / 2, turn, jump)


def motion_name(m, frames, speed="normal"):
    """The one thing that happens in a clip of so many frames; "mixed" or "jumps" when it is not one.

    A motion counts from 36 % of the expected amount; "still" allows 15 %.
    """
    span = (frames - 1) / 80
    amounts = {"move": math.hypot(m.dx / TRAVEL_X, m.dy / TRAVEL_Y) / span, "size": abs(m.growth) / 0.4 / span,
               "turn": abs(math.radians(m.turn)) / TURN / span}
    if m.jump > 0.12:
        return "jumps"
    active = [name for name, amount in amounts.items() if amount >= 0.36 * min(SPEEDS[speed], 1)]
    if not active:
        return "still" if max(amounts.values()) < 0.15 else "hardly"
    if len(active) > 1:
        return "mixed"
    if active[0] == "size":
        return "grow" if m.growth > 0 else "shrink"
    if active[0] == "turn":
        return "turn" if m.turn > 0 else "turns back"
    x, y = m.dx / TRAVEL_X, m.dy / TRAVEL_Y
    if min(abs(x), abs(y)) > 0.5 * max(abs(x), abs(y)):
        return "diagonal"
    return ("left" if x < 0 else "right") if abs(x) > abs(y) else ("up" if y < 0 else "down")


# ---- a clip ---------------------------------------------------------------------------------

def _most(names):
    """What at least two thirds of the frames agree on."""
    best = max(set(names), key=names.count)
    return best if names.count(best) >= 2 / 3 * len(names) else "?"


def describe(frames, turned=False, speed="normal"):
    """What a clip [F, H, W, 3] shows: {colour, ground, shape, motion} by name, and the numbers behind."""
    height, width = frames.shape[1:3]
    looked = [find(frame) for frame in frames[::EVERY]]
    patches = [p for p in looked if p]
    nothing = {"colour": "?", "ground": "?", "shape": "?", "motion": "?"}
    if len(patches) < 0.95 * len(looked) or len(patches) < 3:
        return {**nothing, "found": f"{len(patches)} of {len(looked)} frames"}
    whole = [p for p in patches if not p.touches] or patches
    named = [shape_name(p, turned) for p in whole[::max(len(whole) // 6, 1)]]
    moved = measure(patches, width, height)
    return {"colour": _most([colour_name(p.colour) for p in patches]),
            "ground": _most([colour_name(p.ground) for p in patches]),
            "shape": _most([name for name, _ in named]), "motion": motion_name(moved, len(frames), speed),
            "fit": round(float(np.mean([fit for _, fit in named])), 3),
            **{k: round(float(v), 3) for k, v in moved._asdict().items()}}


def judge(frames, scene, only_named=False):
    """Is the clip what the Scene asks for? Colour means object and background both.

    With only_named, parts that are None in the scene (a prompt that names no shape) pass.
    """
    seen = describe(frames, scene.motion.startswith("turn"), scene.speed)

    def right(part):
        return seen[part] == getattr(scene, part) or (only_named and getattr(scene, part) is None)
    return Verdict(right("colour") and right("ground"), right("shape"), right("motion"), seen)


def thin(frames, fps):
    """Frames at the model's rate: a file interpolated to 32 per second is halved."""
    return frames[::max(round(fps / FPS), 1)]


