"""What a segmenter is prompted with, on one frame of what it tracks through. No torch is imported here.

Every prompt is about N objects that do not influence each other.

Shape legend: N objects, P points of an object, k tokens of an object, C width of SAM2's prompt embeddings, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.packed import BoolNHW

Candidates = Literal["best_of_three", "one"]
"""Whether the mask decoder's best of three candidate masks is taken, or its single one."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points on and beside each object."""

    position: int
    """Index into the frames that are tracked through, not into the video."""
    xy_NP2: NDArray[np.float32]
    """(x, y) relative to width and height, in [0, 1]."""
    label_NP: NDArray[np.int32]
    """1: on the object; 0: beside it."""

    def __post_init__(self) -> None:
        _check(self.xy_NP2.ndim == 3 and self.xy_NP2.shape[2] == 2 and self.xy_NP2.shape[1] > 0, self.xy_NP2, "points")
        _check(self.label_NP.shape == self.xy_NP2.shape[:2], self.label_NP, "labels of points")
        _check(bool(np.isfinite(self.xy_NP2).all()), self.xy_NP2, "finite points")
        _check(bool(np.isin(self.label_NP, (0, 1)).all()), self.label_NP, "labels 0 and 1")

    def __len__(self) -> int:
        return len(self.xy_NP2)

    def take(self, objects: slice) -> Points:
        """The prompt of some of the objects."""
        return Points(self.position, self.xy_NP2[objects], self.label_NP[objects])


@dataclass(frozen=True, eq=False)
class Boxes:
    """A box around each object."""

    position: int
    """As in ``Points``."""
    xyxy_N4: NDArray[np.float32]
    """(left, top, right, bottom) relative to width and height, in [0, 1]."""

    def __post_init__(self) -> None:
        _check(self.xyxy_N4.ndim == 2 and self.xyxy_N4.shape[1] == 4, self.xyxy_N4, "boxes")
        _check(bool(np.isfinite(self.xyxy_N4).all()), self.xyxy_N4, "finite boxes")
        ordered = self.xyxy_N4[:, :2] <= self.xyxy_N4[:, 2:]
        _check(bool(ordered.all()), self.xyxy_N4, "boxes whose left and top come first")

    def __len__(self) -> int:
        return len(self.xyxy_N4)

    def take(self, objects: slice) -> Boxes:
        """The prompt of some of the objects."""
        return Boxes(self.position, self.xyxy_N4[objects])


@dataclass(frozen=True, eq=False)
class Masks:
    """Each object's mask."""

    position: int
    """As in ``Points``."""
    mask_NHW: BoolNHW
    """At the video's size."""

    def __post_init__(self) -> None:
        _check(self.mask_NHW.ndim == 3 and self.mask_NHW.dtype == np.bool_, self.mask_NHW, "boolean masks")

    def __len__(self) -> int:
        return len(self.mask_NHW)

    def take(self, objects: slice) -> Masks:
        """The prompt of some of the objects."""
        return Masks(self.position, self.mask_NHW[objects])


@dataclass(frozen=True, eq=False)
class Tokens:
    """Embeddings that stand where SAM2's prompt encoder would put its sparse ones, such as a projected [SEG] token."""

    position: int
    """As in ``Points``."""
    embedding_NkC: NDArray[np.float32]
    """Fed to the mask decoder as they are; no point of padding is added."""
    candidates: Candidates = "best_of_three"
    """See ``Candidates``; the checkpoint must have three for the first."""

    def __post_init__(self) -> None:
        _check(self.embedding_NkC.ndim == 3 and self.embedding_NkC.shape[1] > 0, self.embedding_NkC, "tokens")
        _check(bool(np.isfinite(self.embedding_NkC).all()), self.embedding_NkC, "finite tokens")

    def __len__(self) -> int:
        return len(self.embedding_NkC)

    def take(self, objects: slice) -> Tokens:
        """The prompt of some of the objects."""
        return Tokens(self.position, self.embedding_NkC[objects], self.candidates)


Prompt = Points | Boxes | Masks | Tokens


def _check(fits: bool, values: NDArray[Any], what: str) -> None:
    if not fits:
        raise ValueError(f"a prompt needs {what}, not an array of {values.dtype} and shape {values.shape}")
