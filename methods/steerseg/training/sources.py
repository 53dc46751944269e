"""Where training clips come from: a dataset card with masks, or the synthetic dataset made in memory.

No torch, and no package that only scoring or clusters need: a GPU machine may have neither.

Shape legend: T keyframes, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import FrameHW3, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.steerseg.training.recipe import DataChoice

if TYPE_CHECKING:
    from rvosbench.harness.data.reader import Dataset

BoolTHW = NDArray[np.bool_]


@dataclass(frozen=True)
class TargetExpression:
    """An expression with a target."""

    id: str
    text: str


class Source(Protocol):
    """Clips with expressions and masks, as keyframes."""

    @property
    def videos(self) -> Sequence[str]:
        """Names, in order."""
        ...

    @property
    def digest(self) -> str:
        """Digest of frames, expressions and masks."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """One sentence for every omission of data."""
        ...

    def expressions(self, video: str) -> Sequence[TargetExpression]: ...

    def frames(self, video: str) -> list[FrameHW3]:
        """The keyframes. Raises SampleError naming an unreadable file."""
        ...

    def masks(self, video: str, expression: str) -> BoolTHW:
        """The target on the keyframes; all False where it is absent. Raises SampleError naming an unreadable file."""
        ...


def open_source(choice: DataChoice, data_root: Path, index: Path, keyframes: int) -> Source:
    """The clips of a recipe.

    Args:
        choice: the recipe's data.
        data_root: the folder that holds the benchmark's folder.
        index: folder in which digests of frames are remembered.
        keyframes: number of keyframes of every clip.

    Raises:
        PrerequisiteError: the data is not there, or has no masks.
    """
    if choice.generate is not None:
        return ShapesSource(choice.generate, choice.split, choice.seed, keyframes)
    return CardSource(choice, data_root, index, keyframes)


class CardSource:
    """A split of a dataset card, on disk."""

    def __init__(self, choice: DataChoice, data_root: Path, index: Path, keyframes: int) -> None:
        from rvosbench.harness.data.reader import open_dataset

        dataset = open_dataset(choice.name, data_root, choice.split, needs="frames")
        truth = dataset.ground_truth
        where = f"{dataset.card.title}, split {dataset.split},"
        if truth is None:
            raise PrerequisiteError(
                f"{where} has no masks in {data_root}, so no prompts can be trained on it.",
                "Choose a split whose masks are public and on disk, such as ref_youtube_vos: train.",
            )
        notes = list(dataset.notes)
        expressions_of = {video.name: _target_expressions(video) for video in dataset.videos}
        videos = [video for video in dataset.videos if expressions_of[video.name]]
        complete = [video for video in videos if truth.absence(video) is None]
        if not complete:
            why = f": {videos[0].name} has {truth.absence(videos[0])}" if videos else ": no expression has a target"
            raise PrerequisiteError(
                f"{where} has no video with all its masks{why}.", "Get the masks too (rvosbench datasets verify)."
            )
        if len(complete) < len(videos):
            notes.append(f"{len(videos) - len(complete)} of {len(videos)} videos lack masks and are left out.")
        chosen = complete if choice.limit_videos is None else complete[: choice.limit_videos]
        self.notes: Sequence[str] = notes
        self._truth = truth
        self._keyframes = keyframes
        self._videos = {video.name: video for video in chosen}
        self._target_expressions = {name: expressions_of[name] for name in self._videos}
        self.videos: Sequence[str] = list(self._videos)
        self._dataset, self._index = dataset, index

    @cached_property
    def digest(self) -> str:
        """Reads every file once; frames' digests are remembered.

        Raises:
            PrerequisiteError: a file cannot be read.
        """
        return _card_digest(self._dataset, list(self._videos.values()), self._index)

    def expressions(self, video: str) -> Sequence[TargetExpression]:
        return self._target_expressions[video]

    def frames(self, video: str) -> list[FrameHW3]:
        from rvosbench.harness.data.frames import DecodedFrames

        decoded = DecodedFrames(self._videos[video])
        return [decoded[index] for index in self._indices(video)]

    def masks(self, video: str, expression: str) -> BoolTHW:
        entry = self._videos[video]
        [candidate] = [candidate for candidate in entry.expressions if candidate.id == expression]
        scored = set(self._truth.scored_frames(entry, candidate))
        missing = [index for index in self._indices(video) if index not in scored]
        if missing:
            raise SampleError(f"keyframe {entry.frames[missing[0]]} of '{video}' has no mask to train on")
        return np.stack([self._truth.mask(entry, candidate, index) for index in self._indices(video)])

    def _indices(self, video: str) -> tuple[int, ...]:
        return keyframe_indices(len(self._videos[video].frames), self._keyframes)


class ShapesSource:
    """Clips of the synthetic dataset, made in memory; the same numbers give the same clips on any machine."""

    def __init__(self, count: int, split: str, seed: int, keyframes: int) -> None:
        from rvosbench.harness.data.synthetic.clip import SPLITS
        from rvosbench.harness.data.synthetic.write import VERSION

        if split not in SPLITS:
            raise PrerequisiteError(f"The synthetic dataset has no split '{split}'.", f"Known: {', '.join(SPLITS)}.")
        make = partial(_shapes_clip, seed, split, keyframes)
        workers = min(8, (os.cpu_count() or 1) // 2)
        if workers > 1 and count > 16:
            # Spawned, not forked: this process may hold a GPU.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                made = list(pool.map(make, range(count), chunksize=8))
        else:
            made = [make(index) for index in range(count)]
        self._clips = {clip.name: clip for clip in made if clip.targets_of}
        self.videos: Sequence[str] = list(self._clips)
        self.notes: Sequence[str] = ()
        self.digest = hashlib.sha256(f"shapes {VERSION} {split} {seed} {count} {keyframes}".encode()).hexdigest()

    def expressions(self, video: str) -> Sequence[TargetExpression]:
        return list(self._clips[video].targets_of)

    def frames(self, video: str) -> list[FrameHW3]:
        return list(self._clips[video].frames_THW3)

    def masks(self, video: str, expression: str) -> BoolTHW:
        clip = self._clips[video]
        targets = next(
            targets for target_expression, targets in clip.targets_of.items() if target_expression.id == expression
        )
        return np.isin(clip.ids_THW, targets)


@dataclass(frozen=True, eq=False)
class _ShapesClip:
    name: str
    frames_THW3: NDArray[np.uint8]
    ids_THW: NDArray[np.uint8]
    targets_of: Mapping[TargetExpression, tuple[int, ...]]


def _shapes_clip(seed: int, split: str, keyframes: int, index: int) -> _ShapesClip:
    from rvosbench.harness.data.synthetic.clip import make_clip

    clip = make_clip(seed, split, index)
    kept = list(keyframe_indices(len(clip.ids_THW), keyframes))
    targets_of = {
        TargetExpression(str(number), sentence.text): tuple(sentence.targets)
        for number, sentence in enumerate(clip.sentences)
        if sentence.targets
    }
    return _ShapesClip(clip.name, np.stack(list(clip.images(kept))), clip.ids_THW[kept], targets_of)


def _target_expressions(video: Video) -> list[TargetExpression]:
    return [TargetExpression(candidate.id, candidate.text) for candidate in video.expressions if candidate.targets]


def _card_digest(dataset: Dataset, videos: Sequence[Video], index: Path) -> str:
    """Digest of the videos' frames, expressions and masks, independent of their paths.

    Raises:
        PrerequisiteError: a file cannot be read.
    """
    from rvosbench.harness.data.digests import MediaIndex

    media = MediaIndex(index)
    truth = dataset.ground_truth
    assert truth is not None, "checked by the caller"
    whole = hashlib.sha256()
    try:
        for video in videos:
            entries = [
                [expression.id, expression.text, truth.digest(video, expression)]
                for expression in video.expressions
                if expression.targets
            ]
            whole.update(json.dumps([video.name, media.video(video), entries]).encode())
    except SampleError as error:
        raise PrerequisiteError(f"The training data is damaged: {error}.", "Restore the file.") from error
    return whole.hexdigest()
