"""Reads predicted masks: a folder of PNGs, or one RLE file.

Folder: ``<video>/<expression>/<frame>.png``, video names may contain slashes. 1-bit, grey (8 or 16 bit), palette and
RGB images are read; a pixel belongs to the object when its value, or palette index, is not zero.

RLE file: ``.json`` or ``.json.gz``, ``{"<video>": {"<expression>": [mask, ...]}}`` with one mask per frame that the
metadata lists for the video, in that order. A mask is a COCO RLE, ``{"size": [H, W], "counts": "<text>"}``, or null
for an empty one.

Frames without ground truth may have a mask or none. Hidden files (names that start with a dot) are ignored.

Legend: H W pixels.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from rvosbench.harness.data.cards import video_ids
from rvosbench.harness.data.images import read_binary
from rvosbench.harness.data.layouts import candidates
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.metadata import read_metadata
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, Expression, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError

Kind = Literal["missing", "extra", "wrong size", "unreadable", "ground truth"]
KINDS: tuple[Kind, ...] = ("missing", "extra", "wrong size", "unreadable", "ground truth")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps predictions from being complete."""

    kind: Kind
    """"ground truth": the data root's own mask is damaged."""
    where: str
    """Path below the predictions folder, or keys in the RLE file; a whole folder ends with a slash."""
    detail: str = ""
    masks: int = 1
    """How many masks or files it concerns."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}" + (f" ({self.detail})" if self.detail else "")


class VideoMasks(Protocol):
    """The predictions of one video; cheap to send to another process."""

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        """The mask on a frame (index into the video's frames) if it has the shape (H, W), else what is wrong."""
        ...


class Predictions(Protocol):
    """Masks of many videos."""

    def surplus(self, dataset: Dataset) -> list[Problem]:
        """What belongs to no sample of the dataset."""
        ...

    def of_video(self, video: Video) -> VideoMasks:
        """The masks of one video."""
        ...


def open_predictions(path: Path) -> Predictions:
    """A predictions folder or RLE file.

    Raises:
        PrerequisiteError: there is neither, or the file is not of the documented form.
    """
    if path.is_dir():
        return FolderPredictions(path)
    if path.is_file() and path.name.endswith((".json", ".json.gz")):
        return RlePredictions(path)
    if path.exists():
        raise PrerequisiteError(
            f"{path} is neither a folder nor a .json or .json.gz file.",
            "Give a folder of <video>/<expression>/<frame>.png, or a mask RLE file.",
        )
    raise PrerequisiteError(f"{path} does not exist.", "Give a folder of masks or a mask RLE file.")


class FolderPredictions:
    """``<root>/<video>/<expression>/<frame>.png``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def surplus(self, dataset: Dataset) -> list[Problem]:
        frames = {
            f"{video.name}/{expression.id}": frozenset(f"{frame}.png" for frame in video.frames)
            for video in dataset.videos
            for expression in video.expressions
        }
        above = {""}
        for folder in frames:
            parts = folder.split("/")
            above.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        elsewhere = _videos_not_on_disk(dataset)
        above.update("/".join(name.split("/")[:depth]) for name in elsewhere for depth in range(1, name.count("/") + 1))
        return list(self._walk("", frames, above, elsewhere))

    def of_video(self, video: Video) -> _FolderMasks:
        return _FolderMasks(self._root, video)

    def _walk(
        self, folder: str, frames: Mapping[str, frozenset[str]], above: set[str], elsewhere: frozenset[str]
    ) -> Iterator[Problem]:
        for entry in sorted(os.scandir(self._root / folder), key=lambda entry: entry.name):
            inside = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or inside in elsewhere:
                continue
            if not entry.is_dir():
                if entry.name not in frames.get(folder, frozenset()):
                    yield Problem("extra", inside)
            elif inside in frames or inside in above:
                yield from self._walk(inside, frames, above, elsewhere)
            else:
                files = sum(len(names) for _, _, names in os.walk(entry.path))
                yield Problem("extra", f"{inside}/", f"{files} files", files)


@dataclass(frozen=True, slots=True)
class _FolderMasks:
    root: Path
    video: Video

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        where = f"{self.video.name}/{expression.id}/{self.video.frames[frame]}.png"
        path = self.root / where
        if not path.is_file():
            return Problem("missing", where)
        try:
            mask_HW = read_binary(path)
        except SampleError as error:
            return Problem("unreadable", where, str(error).replace(str(path), path.name))
        return mask_HW if mask_HW.shape == shape else _wrong_size(where, mask_HW.shape, shape)


class RlePredictions:
    """A mask RLE file, read once; a video's part of it travels to the worker that scores the video."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._videos = _load_rle_file(path)

    def surplus(self, dataset: Dataset) -> list[Problem]:
        known = {video.name: {expression.id for expression in video.expressions} for video in dataset.videos}
        elsewhere = _videos_not_on_disk(dataset)
        out = []
        for video, expressions in self._videos.items():
            if video in elsewhere:
                continue
            if video not in known:
                out.append(Problem("extra", f"{video}/", f"{len(expressions)} expressions", len(expressions)))
                continue
            out += [Problem("extra", f"{video}/{name}") for name in expressions if name not in known[video]]
        return out

    def of_video(self, video: Video) -> _RleMasks:
        return _RleMasks(video, self._videos.get(video.name, {}))


@dataclass(frozen=True, slots=True)
class _RleMasks:
    video: Video
    expressions: Mapping[str, Sequence[Any]]

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        where = f"{self.video.name}/{expression.id}[{self.video.frames[frame]}]"
        masks = self.expressions.get(expression.id)
        if masks is None:
            return Problem("missing", where)
        if len(masks) != len(self.video.frames):
            return Problem("unreadable", where, f"{len(masks)} masks for {len(self.video.frames)} frames")
        rle = masks[frame]
        if rle is None:
            return decode(None, *shape)
        size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
        if not (isinstance(size, list) and len(size) == 2 and isinstance(counts, str)):
            return Problem("unreadable", where, 'neither null nor {"size": [H, W], "counts": "<text>"}')
        if tuple(size) != shape:
            return _wrong_size(where, (size[0], size[1]), shape)
        try:
            return decode(counts, *shape)
        except SampleError as error:
            return Problem("unreadable", where, str(error))


def summed_up(problems: Sequence[Problem], frames: int) -> list[Problem]:
    """The problems of one expression; what concerns all its frames alike is told once."""
    if len(problems) < max(frames, 2) or len({(problem.kind, problem.detail) for problem in problems}) > 1:
        return list(problems)
    first = problems[0]
    folder = first.where.rpartition("[")[0] if first.where.endswith("]") else first.where.rpartition("/")[0] + "/"
    detail = f"{first.detail}; {len(problems)} masks" if first.detail else f"{len(problems)} masks"
    return [Problem(first.kind, folder, detail, len(problems))]


def _wrong_size(where: str, found: tuple[Any, ...], shape: tuple[int, int]) -> Problem:
    detail = f"{found[0]}x{found[1]} (HxW), expected {shape[0]}x{shape[1]}"
    return Problem("wrong size", where, detail)


def _videos_not_on_disk(dataset: Dataset) -> frozenset[str]:
    """Videos that the metadata lists and the data root does not hold: their predictions are not in the way."""
    split = dataset.card.splits[dataset.split]
    located = [c for c in candidates(dataset.card, dataset.split, dataset.root) if c.layout.name == dataset.layout]
    if not located:
        return frozenset()
    names = {entry.name for entry in read_metadata(located[0].metadata, dataset.card, split, located[0].layout)}
    allowed = video_ids(split)
    if allowed is not None:
        names &= allowed
    return frozenset(names - {video.name for video in dataset.videos})


def _load_rle_file(path: Path) -> dict[str, dict[str, list[Any]]]:
    fix = 'Write {"<video>": {"<expression>": [RLE or null per frame]}}.'
    try:
        content = path.read_bytes()
        raw = json.loads(gzip.decompress(content) if path.name.endswith(".gz") else content)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}.", "Replace the file with an intact copy.") from error
    except json.JSONDecodeError as error:
        problem = f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise PrerequisiteError(problem, fix) from error
    if not isinstance(raw, dict):
        raise PrerequisiteError(f"{path} must be a mapping from video to expressions.", fix)
    for video, expressions in raw.items():
        if not isinstance(expressions, dict) or not all(isinstance(masks, list) for masks in expressions.values()):
            raise PrerequisiteError(f"{path}: '{video}' must map expressions to lists of masks.", fix)
    return raw
