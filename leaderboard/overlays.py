"""Frames with prediction and ground truth painted on.

H W: pixels of the shown (possibly reduced) picture.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW, FrameHW3

View = Literal["compare", "prediction", "truth", "frame"]
VIEWS: dict[View, str] = {
    "compare": "Comparison",
    "prediction": "Prediction",
    "truth": "Ground truth",
    "frame": "Frame only",
}
COLOURS = {"both": (38, 166, 154), "missed": (66, 120, 230), "extra": (240, 120, 50)}
"""RGB; the three stay apart for colour-blind readers and on dark and light frames."""
MEANINGS = {"both": "in both", "missed": "in the ground truth only", "extra": "in the prediction only"}
LONG_SIDE = 640
_OPACITY = 0.5


def compose(frame_HW3: FrameHW3, prediction_HW: BoolHW | None, truth_HW: BoolHW | None, view: View) -> FrameHW3:
    """The frame with its masks, (H, W, 3) uint8, at most 640 pixels on the long side.

    Args:
        prediction_HW: None where the method gives no mask on this frame.
        truth_HW: None where the frame has no ground truth.
        view: "compare" paints agreement, misses and extras in different colours.

    Raises:
        ValueError: a mask has another size than the frame.
    """
    for name, mask in (("prediction", prediction_HW), ("ground truth", truth_HW)):
        if mask is not None and mask.shape != frame_HW3.shape[:2]:
            raise ValueError(f"the {name} is {_size(mask)}, the frame {_size(frame_HW3)}")
    picture = reduce_frame(frame_HW3)
    size = picture.shape[:2]
    empty = np.zeros(size, dtype=bool)
    prediction = empty if prediction_HW is None else reduce_mask(prediction_HW, size)
    truth = empty if truth_HW is None else reduce_mask(truth_HW, size)
    if view == "frame":
        return picture
    if view == "prediction":
        layers = {"extra": prediction}
    elif view == "truth":
        layers = {"missed": truth}
    else:
        layers = {"both": prediction & truth, "missed": truth & ~prediction, "extra": prediction & ~truth}
    for name, mask_HW in layers.items():
        picture = _paint(picture, mask_HW, COLOURS[name])
    return picture


def reduce_frame(frame_HW3: FrameHW3, long_side: int = LONG_SIDE) -> FrameHW3:
    """The frame reduced to ``long_side`` pixels, never enlarged; a copy."""
    height, width = frame_HW3.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return np.array(frame_HW3, dtype=np.uint8)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(frame_HW3, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def reduce_mask(mask_HW: BoolHW, size: tuple[int, int]) -> BoolHW:
    """The mask at (H, W) ``size``, for display only: scores never see a resized mask.

    A pixel is inside where half of its area is; a mask that is smaller than that everywhere is kept rather than lost.
    """
    if mask_HW.shape == size:
        return mask_HW
    covered_HW = cv2.resize(mask_HW.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    half_HW = np.asarray(covered_HW >= 0.5, dtype=bool)
    return half_HW if half_HW.any() else np.asarray(covered_HW > 0, dtype=bool)


def hex_colour(name: str) -> str:
    """A colour of `COLOURS` for HTML and charts."""
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[name])


def _paint(picture_HW3: FrameHW3, mask_HW: BoolHW, colour: tuple[int, int, int]) -> FrameHW3:
    if not mask_HW.any():
        return picture_HW3
    out = picture_HW3.astype(np.float64)
    out[mask_HW] = (1 - _OPACITY) * out[mask_HW] + _OPACITY * np.array(colour)
    painted = out.round().astype(np.uint8)
    outlines, _ = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, outlines, -1, colour, 1)
    return painted


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
