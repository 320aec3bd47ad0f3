"""Each shape as a signed distance field: negative inside, unit radius, on a square grid.

One table serves both sides: training samples it to draw shapes of any size and angle, the judge
compares what it finds in a frame with the same outlines. numpy only.
"""
import functools
import math

import numpy as np

from .world import SHAPES

GRID, REACH = 192, 1.6              # the table covers [-REACH, REACH] in both directions


def _regular(points, outer, inner=None, turn=0.0):
    """Corners of a regular polygon, or of a star when an inner radius is given."""
    count = points * 2 if inner else points
    radius = [inner if inner and i % 2 else outer for i in range(count)]
    angle = [turn - math.pi / 2 + 2 * math.pi * i / count for i in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radius, angle)]


def _heart():
    """The well-known sine curve, shifted so that its middle is the centre of its area."""
    ts = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    x = 16 * np.sin(ts) ** 3
    y = -(13 * np.cos(ts) - 5 * np.cos(2 * ts) - 2 * np.cos(3 * ts) - np.cos(4 * ts))
    return list(zip(x / 15.5, (y - 0.3) / 15.5))


_POLYGONS = {
    "square": _regular(4, 1.25, turn=math.pi / 4),
    "triangle": _regular(3, 1.28),
    "star": _regular(5, 1.32, 0.56),
    "heart": _heart(),
}


def _polygon_distance(corners, x, y):
    """Exact signed distance to a simple polygon, even-odd rule."""
    best = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        best = np.minimum(best, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / (by - ay) + ax)
    return np.where(inside, -1, 1) * np.sqrt(best)


def distance(shape, x, y):
    """Signed distance of the points (x, y) to a shape of unit radius."""
    if shape == "circle":
        return np.hypot(x, y) - 1
    return _polygon_distance(_POLYGONS[shape], x, y)


@functools.lru_cache(None)
def tables():
    """[shape, GRID, GRID] float32, rows are y; sample points are pixel centres."""
    axis = ((np.arange(GRID) + 0.5) / GRID * 2 - 1) * REACH
    x, y = np.meshgrid(axis, axis)
    return np.stack([distance(shape, x, y) for shape in SHAPES]).astype(np.float32)
