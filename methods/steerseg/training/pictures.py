"""Where a held-out call looks without the prompt and with it, as PNG files.

Shape legend: H W pixels of a cell, t h w a map's grid, T keyframes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.methods.ground.fusion import match_keyframes, normalise_clip
from rvosbench.methods.picture.painting import Colour, cell_size, fit, fit_mask, paint_heat, paint_mask
from rvosbench.methods.steerseg.training.prepared import Call
from rvosbench.methods.steerseg.training.targets import Float32

ROWS = ("target", "without", "with prompt")
COLUMNS = 6
_TARGET: Colour = (60, 200, 90)
_GAP, _LABEL = 4, 16


def draw(path: Path, call: Call, without_thw: Float32, with_thw: Float32) -> None:
    """Three rows: the target, the map without the prompt, the map with it; each map from 0 to 1 over the call."""
    keyframes = len(call.frames)
    shown = np.unique(np.linspace(0, keyframes - 1, min(COLUMNS, keyframes)).astype(int))
    size = cell_size(*call.frames[0].shape[:2])
    maps = [match_keyframes(normalise_clip(found), keyframes) for found in (without_thw, with_thw)]
    rows = [[paint_mask(fit(call.frames[k], size), fit_mask(call.masks_THW[k], size), _TARGET) for k in shown]]
    rows += [[paint_heat(fit(call.frames[k], size), found[k]) for k in shown] for found in maps]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(_sheet(rows, size)).save(path)


def _sheet(rows: list[list[FrameHW3]], size: tuple[int, int]) -> FrameHW3:
    height, width = size
    columns = len(rows[0])
    high, wide = height + _LABEL + _GAP, width + _GAP
    sheet = np.full((len(rows) * high, columns * wide, 3), 255, dtype=np.uint8)
    for row, cells in enumerate(rows):
        top = row * high
        cv2.putText(sheet, ROWS[row], (2, top + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        for column, cell in enumerate(cells):
            sheet[top + _LABEL : top + _LABEL + height, column * wide : column * wide + width] = cell
    return sheet
