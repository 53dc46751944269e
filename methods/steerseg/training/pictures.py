"""Maps of a held-out call without the prompt and with it, as PNG files.

Shape legend: H W pixels of a cell, t h w a map's grid, T keyframes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rvosbench.harness.data.types import BoolHW, FrameHW3
from rvosbench.methods.ground.fusion import match_keyframes, normalise_clip, resize
from rvosbench.methods.steerseg.training.calls import Call
from rvosbench.methods.steerseg.training.targets import Float32

ROWS = ("target", "without", "with prompt")
COLUMNS = 6
_TARGET = (60, 200, 90)
_OPACITY = 0.5
_WIDTH, _GAP, _LABEL = 240, 4, 16
"""Pixels: a cell's width, between cells, above cells for the row's name."""


def draw(path: Path, call: Call, without_thw: Float32, with_thw: Float32) -> None:
    """Three rows: the target, the map without the prompt, the map with it; each map from 0 to 1 over the call."""
    keyframes = len(call.frames)
    shown = np.unique(np.linspace(0, keyframes - 1, min(COLUMNS, keyframes)).astype(int))
    maps = [match_keyframes(normalise_clip(found), keyframes) for found in (without_thw, with_thw)]
    rows = [[_with_mask(call.frames[k], call.masks_THW[k]) for k in shown]]
    rows += [[_with_map(call.frames[k], found[k]) for k in shown] for found in maps]
    high = max(cell.shape[0] for cell in rows[0]) + _LABEL + _GAP
    figure_HW3 = np.full((len(rows) * high, len(shown) * (_WIDTH + _GAP), 3), 255, dtype=np.uint8)
    for row, cells in enumerate(rows):
        where = (2, row * high + 12)
        cv2.putText(figure_HW3, ROWS[row], where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        for column, cell in enumerate(cells):
            top, left = row * high + _LABEL, column * (_WIDTH + _GAP)
            figure_HW3[top : top + cell.shape[0], left : left + _WIDTH] = cell
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(figure_HW3).save(path)


def _with_mask(frame_HW3: FrameHW3, mask_HW: BoolHW) -> FrameHW3:
    painted = frame_HW3.astype(np.float32)
    painted[mask_HW] = (1 - _OPACITY) * painted[mask_HW] + _OPACITY * np.array(_TARGET, dtype=np.float32)
    return _cell(np.rint(painted).astype(np.uint8))


def _with_map(frame_HW3: FrameHW3, map_hw: Float32) -> FrameHW3:
    cell_HW3 = _cell(frame_HW3)
    height, width = cell_HW3.shape[:2]
    heat_HW = np.rint(255 * resize(map_hw[None], (height, width))[0]).astype(np.uint8)
    # cv2's colours are blue, green, red.
    colour_HW3 = cv2.applyColorMap(heat_HW, cv2.COLORMAP_INFERNO)[:, :, ::-1].copy()
    return np.asarray(cv2.addWeighted(cell_HW3, 1 - _OPACITY, colour_HW3, _OPACITY, 0), dtype=np.uint8)


def _cell(image_HW3: FrameHW3) -> FrameHW3:
    """The image at the width of a cell."""
    height = max(1, round(image_HW3.shape[0] * _WIDTH / image_HW3.shape[1]))
    return np.asarray(cv2.resize(image_HW3, (_WIDTH, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
