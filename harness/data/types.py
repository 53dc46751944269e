"""The nouns: video, expression, sample, mask track, ground truth.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BoolHW = NDArray[np.bool_]
"""A mask, (H, W) bool."""
FrameHW3 = NDArray[np.uint8]
"""An RGB frame, (H, W, 3) uint8."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A sentence that refers to one target, several, or none, in one video."""

    id: str
    """Unique within the video; the folder name of its predictions."""
    text: str
    """As the dataset gives it; methods normalise."""
    targets: tuple[str, ...] = ()
    """Keys into the ground truth (palette ids, annotation ids, folder names); empty: no target, or hidden."""
    objects: tuple[str, ...] = ()
    """Ids of the objects it names, where ``targets`` are not those: a pickle's keys count expressions, so that several
    of them stand for one object. Empty: the targets are the objects."""
    subset: str | None = None
    """The card's named subset, e.g. "referring", "reasoning", "no_target"."""
    annotator: int | None = None
    """Ref-DAVIS17: 0..3, for protocol anno4."""
    is_sentence: bool | None = None
    """ReasonVOS: a full sentence (True) or a noun phrase (False)."""
    exp_id: str | None = None
    """ReasonVOS: the id that the owner's file gives, which with the target names the folder of its predictions;
    two expressions of a video may share it."""


@dataclass(frozen=True, slots=True)
class Video:
    """A clip as a list of frame files, with its expressions."""

    dataset: str
    split: str
    name: str
    """The dataset's own key; may contain slashes."""
    frames: tuple[str, ...]
    """Frame names without extension, in order; opaque strings."""
    frame_paths: tuple[Path, ...]
    """One image file per frame, same order."""
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class MaskTrack:
    """One binary mask per listed frame of a video, as COCO RLE.

    A frame that is not listed has no prediction (attention masks exist on keyframes only);
    ``None`` in ``rles`` is an empty mask.
    """

    height: int
    width: int
    frames: tuple[int, ...]
    """Indices into ``Video.frames``, ascending."""
    rles: tuple[str | None, ...]
    """COCO RLE ``counts`` strings (column-major, background first), parallel to ``frames``."""


class GroundTruth(Protocol):
    """The target's masks of one dataset split. Masks are decoded on demand."""

    def scored_frames(self, video: Video, expression: Expression) -> Sequence[int]:
        """Indices into ``video.frames`` that have ground truth, ascending."""
        ...

    def mask(self, video: Video, expression: Expression, frame: int) -> BoolHW:
        """Union of the expression's targets on a frame, (H, W) bool; all False where absent.

        Raises:
            SampleError: the file is missing or unreadable; the message names it.
        """
        ...

    def digest(self, video: Video, expression: Expression) -> str:
        """Hex digest that changes when the target's masks change."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """What is scored: one video and one of its expressions."""

    video: Video
    expression: Expression

    @property
    def id(self) -> str:
        """``dataset/split/video/expression``, unique in a run."""
        return f"{self.video.dataset}/{self.video.split}/{self.video.name}/{self.expression.id}"
