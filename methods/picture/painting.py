"""Paints one cell of a sheet: a frame with a heat map, points or a mask on it.

Shape legend: H W pixels of the cell, h w map cells, n points.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW, FrameHW3
from rvosbench.methods.ground.fusion import Float32, resize

Colour = tuple[int, int, int]
"""RGB, 0..255."""

HEAT: NDArray[np.uint8] = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
)
"""The colour map, (256, 3): inferno, whose lightness rises evenly, so that equal steps look equal."""
HEAT_OPACITY = 0.55
MASK_OPACITY = 0.5
OUTLINE = 2
"""Width of a mask's outline, in pixels, inside the mask."""
POINT: Colour = (255, 255, 255)
CHOSEN: Colour = (0, 220, 255)
"""Neither is a colour of the heat map."""
_EDGE: Colour = (0, 0, 0)
_AREA = 40_000
"""Pixels of a cell: frames of any shape get the same room."""


def cell_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) of the cells for frames of this size; small frames are enlarged."""
    scale = math.sqrt(_AREA / (height * width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit(frame_HW3: FrameHW3, size: tuple[int, int]) -> FrameHW3:
    """The frame at (H, W) ``size``; a copy."""
    if frame_HW3.shape[:2] == size:
        return np.array(frame_HW3, dtype=np.uint8)
    smaller = size[0] < frame_HW3.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame_HW3, (size[1], size[0]), interpolation=how), dtype=np.uint8)


def fit_mask(mask_HW: BoolHW, size: tuple[int, int]) -> BoolHW:
    """The mask at (H, W) ``size``, for display only. What is smaller than half a pixel is kept rather than lost."""
    if mask_HW.shape == size:
        return mask_HW
    covered = cv2.resize(mask_HW.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    half_HW = np.asarray(covered >= 0.5, dtype=bool)
    return half_HW if half_HW.any() else np.asarray(covered > 0, dtype=bool)


def paint_heat(cell_HW3: FrameHW3, map_hw: Float32) -> FrameHW3:
    """The map's colours over the frame in grey, so that hue means heat alone. Bilinear between cell centres.

    Args:
        cell_HW3: the frame at the cell's size.
        map_hw: values in [0, 1], on any grid.

    Raises:
        ValueError: a value outside [0, 1].
    """
    if not (float(map_hw.min()) >= 0 and float(map_hw.max()) <= 1):
        raise ValueError(f"a heat map goes from 0 to 1, this one from {map_hw.min()} to {map_hw.max()}")
    height, width = cell_HW3.shape[:2]
    heat_HW = resize(np.asarray(map_hw, dtype=np.float32)[None], (height, width))[0]
    colour_HW3 = HEAT[np.rint(heat_HW * 255).astype(np.uint8)]
    return _rounded((1 - HEAT_OPACITY) * grey(cell_HW3) + HEAT_OPACITY * colour_HW3)


def paint_points(cell_HW3: FrameHW3, xy_n2: Float32, chosen_n: BoolHW) -> FrameHW3:
    """Dots at fractions of width and height; chosen ones larger, in another colour and on top."""
    height, width = cell_HW3.shape[:2]
    out = cell_HW3.copy()
    for index in np.argsort(chosen_n, kind="stable"):
        x, y = float(xy_n2[index, 0]) * width - 0.5, float(xy_n2[index, 1]) * height - 0.5
        draw_point(out, x, y, chosen=bool(chosen_n[index]))
    return out


def draw_point(picture_HW3: FrameHW3, x: float, y: float, *, chosen: bool) -> None:
    """One dot with a dark edge at (x, y) pixels, drawn in place."""
    # Sixteenths of a pixel, so that dots do not jump to the pixel grid.
    centre = round(x * 16), round(y * 16)
    radius = 5 if chosen else 3
    cv2.circle(picture_HW3, centre, (radius + 1) * 16 + 8, _EDGE, -1, cv2.LINE_AA, 4)
    cv2.circle(picture_HW3, centre, radius * 16, CHOSEN if chosen else POINT, -1, cv2.LINE_AA, 4)


def paint_mask(cell_HW3: FrameHW3, mask_HW: BoolHW, colour: Colour) -> FrameHW3:
    """The mask tinted over the frame in grey, so that an object of its colour does not hide it.

    The outline lies inside the mask; holes and the frame's border are outlined too.

    Raises:
        ValueError: the mask has another size than the cell.
    """
    if mask_HW.shape != cell_HW3.shape[:2]:
        raise ValueError(f"the mask has shape {mask_HW.shape}, the cell {cell_HW3.shape[:2]}")
    out = grey(cell_HW3)
    out[mask_HW] = (1 - MASK_OPACITY) * out[mask_HW] + MASK_OPACITY * np.array(colour, dtype=np.float32)
    painted = _rounded(out)
    inside = cv2.erode(
        mask_HW.astype(np.uint8),
        np.ones((3, 3), dtype=np.uint8),
        iterations=OUTLINE,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    painted[mask_HW & (inside == 0)] = colour
    return painted


def grey(picture_HW3: FrameHW3) -> Float32:
    """The picture's lightness, (H, W, 3) float32, 0..255."""
    grey_HW = cv2.cvtColor(picture_HW3, cv2.COLOR_RGB2GRAY)
    return np.repeat(np.asarray(grey_HW, dtype=np.float32)[:, :, None], 3, axis=2)


def _rounded(picture_HW3: NDArray[np.floating]) -> FrameHW3:
    return np.asarray(np.rint(picture_HW3), dtype=np.uint8)
