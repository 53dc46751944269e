"""Signs that masks are not what they are taken for: counted per mask, reported in one line per kind.

None of them changes a score. Legend: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.scoring.kernel import GroundTruthFrame, PixelCounts, frame_counts
from rvosbench.harness.scoring.predictions.sources import ABSENT, STRANGE_IDS

Misreading = Literal["inverted", "row order"]
"""How a mask may have been meant."""

WARNING = "Warning: "
"""Begins a note that puts a score in doubt."""
_SENTENCES: Mapping[str, str] = {
    "grey values": "{n} masks hold more than two values, as soft masks do; every pixel that is not zero counts as "
    "object.",
    "noise": "{n} masks hold values close to zero, as JPEG compression leaves; every pixel that is not zero counts as "
    "object.",
    "palette": "{n} masks have a palette whose entry 0 is not black; entry 0 counts as background whatever its colour.",
    STRANGE_IDS: "{n} index maps hold an id that no object of the video has; its pixels count for no object.",
    "inverted": "{n} masks fit the ground truth better when object and background are swapped.",
    "row order": "{n} masks look like run lengths in row order; COCO run lengths go down the columns.",
}
_FITS = 0.5
"""J of the other reading from which on it is believed."""
_BETTER = 2
"""How many times better, or more compact, the other reading must be."""
_SMALLEST = 64
"""Pixels; smaller masks say nothing about their order."""


def misreading(truth: GroundTruthFrame, mask_HW: BoolHW, counts: PixelCounts) -> Misreading | None:
    """Whether another reading of a mask is far more likely: object and background swapped, or rows for columns."""
    height, width = truth.shape
    truth_area = truth.area
    area = counts.U - truth_area + counts.I
    overlap = counts.I / counts.U if counts.U else 1.0
    if not area or overlap >= _FITS:
        return None
    swapped = (truth_area - counts.I) / max(height * width - area + counts.I, 1)
    if 2 * area > height * width and swapped >= _FITS and swapped >= _BETTER * overlap:
        return "inverted"
    # A mask in pieces has about as many boundary pixels as pixels.
    fragmented = area >= _SMALLEST and 2 * counts.n_pred > area
    if fragmented or height == width:
        other = frame_counts(truth.mask_HW, mask_HW.reshape(-1, order="F").reshape(height, width))
        fit = other.I / other.U if other.U else 1.0
        if fit >= _FITS and fit >= _BETTER * overlap:
            return "row order"
        if fragmented and counts.n_pred >= _BETTER * other.n_pred:
            return "row order"
    return None


def oddity_notes(found: Mapping[str, int]) -> Iterator[str]:
    """One note per kind with the number of masks; all but that of absent files are warnings."""
    if found.get(ABSENT):
        yield f"{found[ABSENT]} masks without a file count as empty, as was asked for."
    for kind, sentence in _SENTENCES.items():
        if found.get(kind):
            yield WARNING + sentence.format(n=found[kind])


def both_wrong(j_: float, f_: float) -> bool:
    """Whether the region is all wrong and the boundary all right, as for masks with object and background swapped."""
    return bool(np.isclose(j_, 0.0, atol=0.01) and np.isclose(f_, 1.0, atol=0.01))
