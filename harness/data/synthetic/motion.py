"""How objects move: a named motion turned into a path.

Shape legend: T frames; a point is (x, y) in pixels, y down.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatT = NDArray[np.float64]

MOTIONS = (
    "steady",  # one straight line at one speed
    "stops",  # the first half of the clip only
    "starts",  # the second half of the clip only
    "speeds_up",
    "returns",  # out and back on the same line
    "still",
    "bounces",  # hops on the spot
    "circles",  # one turn around a point
    "spins",  # turns about itself
    "grows",
    "shrinks",
    "enters",  # outside the image at first
    "leaves",  # outside the image at the end
)
TRAVELLING = ("steady", "stops", "starts", "speeds_up", "returns", "enters", "leaves")
"""Motions along a straight line; the others stay around one place."""

HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

WAIT = 0.3
"""Fraction of the clip that an object which enters (leaves) spends outside the image."""


def progress(motion: str, frames: int) -> FloatT:
    """Fraction of its line that a travelling object has covered, (T,) in [0, 1]."""
    time = np.linspace(0, 1, frames)
    if motion == "steady":
        return time
    if motion == "stops":
        return np.minimum(time / 0.5, 1)
    if motion == "starts":
        return np.maximum((time - 0.5) / 0.5, 0)
    if motion == "speeds_up":
        return time**2.4
    if motion == "returns":
        return 1 - np.abs(2 * time - 1)
    if motion == "enters":
        return np.maximum((time - WAIT) / (1 - WAIT), 0)
    if motion == "leaves":
        return np.minimum(time / (1 - WAIT), 1)
    raise ValueError(f"motion {motion!r} does not travel along a line")


def travel(motion: str, frames: int, start: tuple[float, float], end: tuple[float, float]) -> NDArray[np.float64]:
    """Path (T, 2) of a travelling motion from ``start`` to ``end``."""
    fraction = progress(motion, frames)[:, None]
    return np.asarray(start)[None] * (1 - fraction) + np.asarray(end)[None] * fraction


def hops(frames: int, floor: tuple[float, float], height: float) -> NDArray[np.float64]:
    """Path (T, 2) of an object that hops on the spot; at least six frames to a hop where the clip allows two hops."""
    count = max(2, round(frames / 8))
    path = np.tile(np.asarray(floor, dtype=float), (frames, 1))
    path[:, 1] -= height * np.abs(np.sin(np.linspace(0, math.pi * count, frames)))
    return path


def orbit(frames: int, centre: tuple[float, float], radius: float, first: float, sense: int) -> NDArray[np.float64]:
    """Path (T, 2) of one turn around ``centre`` from the angle ``first``; ``sense`` is +1 or -1."""
    turn = first + sense * np.linspace(0, 2 * math.pi, frames)
    return np.stack([centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn)], axis=1)


def spin(frames: int, sense: int) -> FloatT:
    """Angles (T,) in radians, slow enough that no symmetric shape seems to stand or turn the other way."""
    step = math.radians(min(18.0, 360.0 / frames))
    return sense * step * np.arange(frames, dtype=np.float64)


def swell(motion: str, frames: int) -> FloatT:
    """Scale of the radius over the clip, (T,)."""
    small, large = 0.62, 1.38
    return np.linspace(small, large, frames) if motion == "grows" else np.linspace(large, small, frames)
