"""Masks as COCO RLE, from a JSON, JSON lines or parquet file.

A mask is ``{"size": [H, W], "counts": ...}`` or null for an empty one. Counts are the compressed text, the same as
bytes or as bytes turned into text (``b'...'``), or a list of run lengths. A list of masks follows the frames of the
metadata; a mapping goes by the frames' names.

Legend: H W pixels, R runs.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.masks import decode, decode_runs
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, Expression, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.scoring.predictions.placing import frames_of, guess, highest, layouts, place, stem
from rvosbench.harness.scoring.predictions.problems import Problem
from rvosbench.harness.scoring.predictions.rle_files import RleFile, Track, Unusable
from rvosbench.harness.scoring.predictions.sources import Reading, wrong_size
from rvosbench.harness.text import one_line

_LONGEST_RUN = 2**40
_FIX = 'Write {"<video>": {"<expression>": [RLE or null per frame]}}, names as in the metadata.'


class RlePredictions:
    """The masks of one RLE file; a video's part of it travels to the worker that scores the video.

    Raises:
        PrerequisiteError: not one entry fits a sample of the dataset, or masks are named by position and not all are
            there.
    """

    def __init__(self, path: Path, file: RleFile, dataset: Dataset, not_on_disk: frozenset[str]) -> None:
        self._tracks = file.tracks
        self._not_on_disk = not_on_disk
        known = [layout for layout in layouts(dataset) if not layout.index_maps]
        placement = place(file.tracks, known)
        if placement is None:
            hint = guess(file.tracks, known[0], dataset)
            first = f"; the first is '{one_line(next(iter(file.tracks)))}'" if file.tracks else ""
            raise PrerequisiteError(
                f"None of the {len(file.tracks)} lists of masks in {path} fits a video and an expression of "
                f"{dataset.card.title} ({dataset.split})" + (f"; {hint}." if hint else f"{first}."),
                _FIX,
            )
        if placement.rivals:
            raise PrerequisiteError(
                f"{path} holds masks of this benchmark's samples below {placement.rivalry}.",
                "Keep one of them, or put all masks below one key.",
            )
        self._placement = placement
        self._of: dict[tuple[str, str], tuple[str, Track]] = {}
        videos = {video.name: video for video in dataset.videos}
        self._of_no_frame: dict[str, list[str]] = {}
        by_position = 0
        for own, given in placement.folders.items():
            track = file.tracks[given]
            for video, expression in placement.layout.folders[own]:
                aligned, how, strange = _aligned(track, videos[video], path, given)
                by_position += how == "position"
                self._of[video, expression] = given, aligned
                if strange:
                    self._of_no_frame[given] = strange
        title = placement.layout.title.removesuffix("/<frame>.png")
        below = f", below {one_line(placement.prefix)}" if placement.prefix else ""
        reasons = [track.reason for _, track in self._of.values() if isinstance(track, Unusable)]
        if len(reasons) == len(self._of):
            raise PrerequisiteError(f"{path} holds no masks of {dataset.card.title}: {reasons[0]}.", _FIX)
        if all(track == {} for _, track in self._of.values()):
            problem = f"The entries of {path} fit {title}{below}, but no mask in them is named as a frame."
            raise PrerequisiteError(problem, "Name each mask as its frame, or give a list with one for every frame.")
        notes = list(file.notes)
        if by_position:
            notes.append(f"Masks are named by position in {by_position} of {len(self._of)} lists.")
        self.reading = Reading(f"{file.title}, {title}{below}", tuple(notes))

    def unexpected(self) -> list[Problem]:
        """Entries that no sample has, and masks that no frame has."""
        used = set(self._placement.folders.values())
        above = self._placement.above()
        counts: Counter[str] = Counter()
        for given, track in self._tracks.items():
            inside = given.removeprefix(self._placement.prefix)
            if (
                given in used
                or isinstance(track, Unusable)
                or any(inside.startswith(f"{name}/") for name in self._not_on_disk)
            ):
                continue
            whole = highest(given, above)
            counts[given if whole == given else f"{whole}/"] += max(1, len(track))
        out = [Problem("extra", where, f"{count} masks", count) for where, count in counts.items()]
        for given, names in self._of_no_frame.items():
            where = f"{one_line(given)}[{one_line(names[0])}]"
            out.append(Problem("extra", where, f"{len(names)} masks of no frame", len(names)))
        return out

    def of_video(self, video: Video) -> _RleMasks:
        """The video's masks, not decoded."""
        own = {e.id: self._of[video.name, e.id] for e in video.expressions if (video.name, e.id) in self._of}
        return _RleMasks(video, own)


class _RleMasks:
    """The masks of one video."""

    def __init__(self, video: Video, tracks: Mapping[str, tuple[str, Track]]) -> None:
        self._video = video
        self._tracks = tracks

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        name = self._video.frames[frame]
        key, track = self._tracks.get(expression.id, (f"{self._video.name}/{expression.id}", None))
        where = f"{one_line(key)}[{name}]"
        if track is None:
            return Problem("missing", where)
        if isinstance(track, Unusable):
            return Problem("unreadable", where, track.reason)
        if isinstance(track, dict):
            if name not in track:
                return Problem("missing", where)
            rle = track[name]
        elif len(track) != len(self._video.frames):
            return Problem("unreadable", where, f"{len(track)} masks for {len(self._video.frames)} frames")
        else:
            rle = track[frame]
        try:
            mask_HW = _decoded(rle, where, shape)
        except SampleError as error:
            return Problem("unreadable", where, str(error))
        if isinstance(mask_HW, Problem):
            return mask_HW
        return mask_HW

    def oddities(self, expression: Expression) -> Mapping[str, int]:
        return {}


def _aligned(track: Track, video: Video, path: Path, given: str) -> tuple[Track, str, list[str]]:
    """A mapping by the video's frame names, how they were called, and the keys of no frame; a list as it is."""
    if not isinstance(track, dict):
        return track, "list", []
    by_stem = {stem(name): rle for name, rle in track.items()}
    if len(by_stem) != len(track):
        twice = Counter(map(stem, track)).most_common(1)[0][0]
        return Unusable(f"it has two masks of frame '{one_line(twice)}', with and without a suffix"), "name", []
    how, frames = frames_of(by_stem, video)
    if how == "unclear":
        raise PrerequisiteError(
            f"The masks of '{one_line(given)}' in {path} are named by position, and they are not 0 to "
            f"{len(video.frames) - 1}: {len(track)} masks for {len(video.frames)} frames, the first of which is called "
            f"{video.frames[0]}.",
            "Name each mask as its frame, or give one for every frame.",
        )
    used = set(frames.values())
    strange = [name for name in by_stem if name not in used]
    return {video.frames[index]: by_stem[name] for index, name in frames.items()}, how, strange


def _decoded(rle: Any, where: str, shape: tuple[int, int]) -> BoolHW | Problem:
    if rle is None:
        return decode(None, *shape)
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if size is None or counts is None:
        raise SampleError('neither null nor {"size": [H, W], "counts": ...}')
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)):
        raise SampleError("its size is not two whole numbers, [H, W]")
    if tuple(size) != shape:
        return wrong_size(where, size, shape)
    if isinstance(counts, str | bytes):
        return decode(_plain(counts, shape), *shape)
    if isinstance(counts, list | tuple):
        return decode_runs(_run_lengths(counts, shape), *shape)
    raise SampleError("its counts are neither text nor a list of run lengths")


def _plain(counts: str | bytes, shape: tuple[int, int]) -> str | bytes:
    """Counts without what a conversion of bytes to text left around them."""
    if isinstance(counts, bytes) or not counts.startswith(("b'", 'b"')) or len(counts) > 8 * (shape[0] * shape[1] + 2):
        return counts
    try:
        value = ast.literal_eval(counts)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return counts
    return value if isinstance(value, bytes) else counts


def _run_lengths(counts: Sequence[Any], shape: tuple[int, int]) -> NDArray[np.int64]:
    if len(counts) > 2 * (shape[0] * shape[1] + 2):
        raise SampleError(f"{len(counts)} runs, more than such a mask has pixels")
    if not all(type(count) is int and 0 <= count < _LONGEST_RUN for count in counts):
        raise SampleError("its list of run lengths holds something else than non-negative integers")
    return np.array(counts, dtype=np.int64)
