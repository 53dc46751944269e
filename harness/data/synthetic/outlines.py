"""What the shapes look like: unit outlines of equal area and their signed distance.

Every outline has the area of the unit disc, so that "larger" means the same for all shapes and the full area of
an object is pi r^2 without rasterising it. Image axes: x to the right, y down; shapes stand upright.

Shape legend: M outline vertices, H W pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "pillar")

FloatHW = NDArray[np.float32]


@functools.cache
def outline(shape: str) -> NDArray[np.float64]:
    """Vertices (M, 2) of a shape scaled to area pi, its centroid near the origin.

    The circle is a polygon of 96 sides here; ``signed_distance`` treats it exactly.
    """
    points = _raw(shape)
    x, y = points[:, 0], points[:, 1]
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    cross = x * next_y - next_x * y
    area = cross.sum() / 2
    centroid = np.array([((x + next_x) * cross).sum(), ((y + next_y) * cross).sum()]) / (6 * area)
    return np.asarray((points - centroid) * math.sqrt(math.pi / abs(area)))


def _raw(shape: str) -> NDArray[np.float64]:
    if shape == "circle":
        return _ring(np.ones(96))
    if shape == "square":
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    if shape == "triangle":
        return _ring(np.ones(3))
    if shape == "star":
        return _ring(np.tile([1.0, 0.46], 5))
    if shape == "cross":
        a, b = 0.36, 1.0
        return np.array(
            [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]]
        )
    if shape == "heart":
        turn = np.linspace(0, 2 * math.pi, 28, endpoint=False)
        height = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return np.stack([16 * np.sin(turn) ** 3, -height], axis=1)
    if shape == "pillar":
        return np.array([[-1, -2.6], [1, -2.6], [1, 2.6], [-1, 2.6]], dtype=float)
    raise ValueError(f"no outline for shape {shape!r}")


def _ring(radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vertices at equal angles, the first one on top."""
    turn = np.linspace(0, 2 * math.pi, len(radii), endpoint=False)
    return np.stack([radii * np.sin(turn), -radii * np.cos(turn)], axis=1)


@functools.cache
def extent(shape: str) -> tuple[float, float]:
    """Half width and half height of the unit outline, standing upright."""
    half_width, half_height = np.abs(outline(shape)).max(axis=0)
    return float(half_width), float(half_height)


@functools.cache
def reach(shape: str) -> float:
    """Radius of the disc that holds the unit outline however it is turned."""
    return float(np.hypot(*outline(shape).T).max())


def signed_distance(shape: str, x_HW: FloatHW, y_HW: FloatHW) -> FloatHW:
    """Distance of points to the unit outline, negative inside, in units of the radius.

    Polygons: the nearest point over all edges, the sign from the crossing number.
    """
    if shape == "circle":
        return np.sqrt(x_HW * x_HW + y_HW * y_HW) - np.float32(1)
    vertices = outline(shape).astype(np.float32)
    squared = np.full(x_HW.shape, np.inf, dtype=np.float32)
    inside = np.zeros(x_HW.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x_HW - ax, y_HW - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        dx, dy = px - along * ex, py - along * ey
        np.minimum(squared, dx * dx + dy * dy, out=squared)
        if ey != 0:
            crosses = (ay > y_HW) != (by > y_HW)
            inside ^= crosses & (px < py * (ex / ey))
    return np.where(inside, -np.sqrt(squared), np.sqrt(squared))
