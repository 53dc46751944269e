"""What a source of masks offers: the masks of one video, and of a whole dataset.

Legend: H W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rvosbench.harness.data.types import BoolHW, Expression, Video
from rvosbench.harness.scoring.predictions.problems import Problem

ABSENT = "absent"
"""Oddity: a mask without a file, which counts as empty because the caller requested it."""
STRANGE_IDS = "strange ids"
"""Oddity: an index map with an id that no object of the video has."""


class VideoMasks(Protocol):
    """The predictions of one video; cheap to send to another process."""

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        """The mask on a frame (index into the video's frames) if it has the shape (H, W), else what is wrong."""
        ...

    def oddities(self, expression: Expression) -> Mapping[str, int]:
        """How many of the expression's masks read so far look as if they were no masks, by kind."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How predictions were read, to be printed and kept with the score."""

    layout: str
    """For example "<video>/<expression>/<frame>.png below Annotations/"."""
    notes: tuple[str, ...] = ()
    """What was ignored or interpreted, one sentence each."""
    protocol: str | None = None
    """The only protocol that this layout holds masks for; None for any."""

    @property
    def text(self) -> str:
        """All of it on one line."""
        return " ".join((f"{self.layout}.", *self.notes))


class Predictions(Protocol):
    """Masks of many videos."""

    @property
    def reading(self) -> Reading:
        """How they were read."""
        ...

    def unexpected(self) -> list[Problem]:
        """What belongs to no sample of the dataset."""
        ...

    def of_video(self, video: Video) -> VideoMasks:
        """The masks of one video."""
        ...


class EmptyWhereAbsent:
    """Another source's masks, with an empty mask where there is no file."""

    def __init__(self, masks: VideoMasks) -> None:
        self._masks = masks
        self._absent: dict[str, Counter[str]] = {}

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        mask = self._masks.read(expression, frame, shape)
        if not isinstance(mask, Problem) or mask.kind != "missing":
            return mask
        self._absent.setdefault(expression.id, Counter())[ABSENT] += 1
        return np.zeros(shape, dtype=bool)

    def oddities(self, expression: Expression) -> Mapping[str, int]:
        return {**self._masks.oddities(expression), **self._absent.get(expression.id, {})}


def wrong_size(where: str, found: Sequence[Any], shape: tuple[int, int]) -> Problem:
    """The problem of a mask of another size; says so where height and width are merely swapped."""
    detail = f"{found[0]}x{found[1]} (HxW), expected {shape[0]}x{shape[1]}"
    if tuple(found) == shape[::-1]:
        detail += "; height and width are swapped"
    return Problem("wrong size", where, detail)
