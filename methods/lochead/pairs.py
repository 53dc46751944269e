"""Pairs of an image and an expression to calibrate on: frames of a benchmark, or a list of images.

The paper draws from RefCOCO, whose every expression means something in its image. From a video the frame is drawn
among those where the target is visible, if the split's masks are public.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np

from rvosbench.harness.data.images import read_rgb
from rvosbench.harness.data.parsing import parse_json
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import FrameHW3, Sample
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.settings import Json


@dataclass(frozen=True)
class Pair:
    """An image file and an expression about an object in it."""

    name: str
    """Unique in its source; enters the digest of what was drawn."""
    image: Path
    expression: str

    def picture(self) -> FrameHW3:
        """The image.

        Raises:
            SampleError: it cannot be read; names the file.
        """
        return read_rgb(self.image)


class Pairs(Protocol):
    """Where pairs are drawn from."""

    def __len__(self) -> int: ...

    def draw(self, index: int, generator: np.random.Generator) -> Pair | None:
        """The pair of an expression; None where it has no image that shows its target."""
        ...

    def describe(self) -> dict[str, Json]:
        """Description of the source, for the heads file."""
        ...


class DatasetPairs:
    """A benchmark's expressions, each with a frame of its video."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._samples: list[Sample] = list(dataset.samples())

    def __len__(self) -> int:
        return len(self._samples)

    def draw(self, index: int, generator: np.random.Generator) -> Pair | None:
        sample = self._samples[index]
        for frame in generator.permutation(len(sample.video.frames)):
            if self._visible(sample, int(frame)):
                name = f"{sample.id}@{sample.video.frames[frame]}"
                return Pair(name, sample.video.frame_paths[frame], sample.expression.text)
        return None

    def _visible(self, sample: Sample, frame: int) -> bool:
        truth = self._dataset.ground_truth
        if truth is None:
            return True
        if frame not in truth.scored_frames(sample.video, sample.expression):
            return False
        return bool(truth.mask(sample.video, sample.expression, frame).any())

    def describe(self) -> dict[str, Json]:
        dataset = self._dataset
        return {
            "dataset": dataset.card.name,
            "split": dataset.split,
            "coverage": dataset.coverage,
            "frames": "any" if dataset.ground_truth is None else "with the target visible",
        }


class ListedPairs:
    """A JSON-lines file: ``{"image": path, "expression": text}`` a line, paths relative to the file's folder.

    Raises:
        PrerequisiteError: the file cannot be read, or a line is not of that form; names the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        form = 'A line is {"image": "path.jpg", "expression": "the dog on the left"}.'
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PrerequisiteError(f"The list of pairs {path} cannot be read: {error}.", form) from error
        self._pairs: list[Pair] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            entry = parse_json(line.encode("utf-8"), f"Line {number} of {path}")
            image, expression = (entry.get(key) if isinstance(entry, dict) else None for key in ("image", "expression"))
            if not _is_text(image) or not _is_text(expression):
                raise PrerequisiteError(f"Line {number} of {path} is no pair.", form)
            self._pairs.append(Pair(f"{number} {image} {expression}", path.parent / image, expression))

    def __len__(self) -> int:
        return len(self._pairs)

    def draw(self, index: int, generator: np.random.Generator) -> Pair | None:
        return self._pairs[index]

    def describe(self) -> dict[str, Json]:
        return {"list": self._path.name}


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that can be written down: no half characters, no NUL."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def draw_trial(pairs: Pairs, count: int, seed: int, trial: int) -> tuple[list[Pair], list[str]]:
    """``count`` pairs without repetition, or as many as there are; and what could not be drawn, one sentence each.

    The same seed and trial draw the same pairs.
    """
    generator = np.random.default_rng([seed, trial])
    drawn: list[Pair] = []
    failed: list[str] = []
    for index in generator.permutation(len(pairs)):
        if len(drawn) == count:
            break
        try:
            pair = pairs.draw(int(index), generator)
        except SampleError as error:
            failed.append(str(error))
            continue
        if pair is not None:
            drawn.append(pair)
    return drawn, failed
