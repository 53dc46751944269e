"""Masks on a map's grid, and what a map is measured by.

Shape legend: T keyframes, t time slots of a map, h w its grid, H W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.models.lvlm.base import Grid
from rvosbench.methods.steerseg.training.sources import BoolTHW

Float32 = NDArray[np.float32]


def mask_fractions(masks_THW: BoolTHW, grid: Grid) -> Float32:
    """The fraction of every cell that the mask covers, (t, h, w) in [0, 1]; exact where cells cut through pixels.

    A slot that holds two keyframes gets their mean; where the last one was repeated to fill it, that one alone.

    Raises:
        ValueError: neither ``t`` keyframes nor twice as many, one less at most.
    """
    slots, height, width = grid
    _, pixels_high, pixels_wide = masks_THW.shape
    down_hH, across_wW = _overlap(height, pixels_high), _overlap(width, pixels_wide)
    fractions_Thw = np.stack([down_hH @ mask_HW.astype(np.float32) @ across_wW.T for mask_HW in masks_THW])
    return np.clip(in_slots(fractions_Thw, slots), 0.0, 1.0)


def in_slots(values_Thw: Float32, slots: int) -> Float32:
    """One value a slot: itself, or the mean of the keyframes that a slot holds.

    Raises:
        ValueError: as ``mask_fractions``.
    """
    keyframes = len(values_Thw)
    if keyframes == slots:
        return values_Thw
    if slots != (keyframes + 1) // 2:
        raise ValueError(f"a map with {slots} time slots does not cover {keyframes} keyframes")
    if keyframes % 2:
        values_Thw = np.concatenate([values_Thw, values_Thw[-1:]])
    return np.asarray(values_Thw.reshape(slots, 2, *values_Thw.shape[1:]).mean(1), dtype=np.float32)


def concentration(map_thw: Float32, fractions_thw: Float32) -> float:
    """The fraction of the map's attention mass (the sum of its cells) inside the mask; 0 for a map without mass."""
    mass = float(map_thw.sum(dtype=np.float64))
    return float((map_thw * fractions_thw).sum(dtype=np.float64)) / mass if mass > 0 else 0.0


def points_inside(map_thw: Float32, masks_THW: BoolTHW) -> bool:
    """Whether the centre of the map's highest cell (first of equals) lies in the mask, on a keyframe of its slot."""
    slots, height, width = map_thw.shape
    slot, row, column = np.unravel_index(int(map_thw.argmax()), map_thw.shape)
    keyframes, pixels_high, pixels_wide = masks_THW.shape
    each = 1 if keyframes == slots else 2
    y, x = int((row + 0.5) * pixels_high / height), int((column + 0.5) * pixels_wide / width)
    return bool(masks_THW[int(slot) * each : (int(slot) + 1) * each, y, x].any())


def _overlap(cells: int, pixels: int) -> Float32:
    """How much of each cell each pixel covers, (cells, pixels); rows sum to 1."""
    edges = np.arange(cells + 1) * (pixels / cells)
    first, last = edges[:-1, None], edges[1:, None]
    left = np.arange(pixels)[None]
    covered = np.clip(np.minimum(last, left + 1) - np.maximum(first, left), 0.0, None)
    return np.asarray(covered / (pixels / cells), dtype=np.float32)
