"""Masks as images: a folder or an archive of PNGs in one of the known layouts.

A pixel belongs to the object when its value, or palette index, is not zero; in an index map, when it is the object's
id. Files beside the PNGs are ignored; PNGs that belong to no sample are unexpected, as are those of videos that neither
the data root nor its metadata has.

Legend: H W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rvosbench.harness.data.images import SizeError, read_labels, read_mask
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, Expression, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.scoring.predictions.placing import (
    IMAGE_SUFFIXES,
    Naming,
    Placement,
    frames_of,
    guess,
    highest,
    layouts,
    place,
    stem,
)
from rvosbench.harness.scoring.predictions.problems import Problem
from rvosbench.harness.scoring.predictions.sources import STRANGE_IDS, Reading, wrong_size
from rvosbench.harness.scoring.predictions.trees import FileReader, FileTree, Member
from rvosbench.harness.text import one_line

_BYTES_PER_PIXEL = 8
"""16 bits in four channels: no PNG of a mask is longer, but for what it may say in text."""
_FREE_BYTES = 1 << 20
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".json", ".jsonl", ".parquet")
"""Suffixes of files that may hold masks themselves."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """One folder of the layout."""

    path: str
    """As it is called in the predictions, or would be."""
    frames: Mapping[int, Member]
    """By index of the frame."""


class ImagePredictions:
    """PNGs in a folder or archive.

    Raises:
        PrerequisiteError: not one mask fits a sample of the dataset, the masks lie below several folders, or some are
            numbered by position while others are absent.
    """

    def __init__(self, path: Path, tree: FileTree, dataset: Dataset, not_on_disk: frozenset[str]) -> None:
        self._tree = tree
        self._not_on_disk = not_on_disk
        by_folder: dict[str, dict[str, str]] = {}
        others: Counter[str] = Counter()
        self._second: list[str] = []
        for name in tree.files:
            folder, _, file = name.rpartition("/")
            base, dot, suffix = file.rpartition(".")
            # Some tools add .png to the frame's file name: 00000.jpg.png.
            frame = stem(base)
            if not dot or suffix.lower() != "png":
                others[f".{suffix.lower()}" if dot else file] += 1
            else:
                plain, *others_of_frame = sorted(
                    {by_folder.setdefault(folder, {}).get(frame, name), name}, key=_plainness
                )
                by_folder[folder][frame] = plain
                self._second += others_of_frame
        known = layouts(dataset)
        placement = place(by_folder, known)
        if placement is None:
            raise PrerequisiteError(
                f"None of the {sum(map(len, by_folder.values()))} PNG files in {path} fits "
                f"{known[0].title} of {dataset.card.title} ({dataset.split})"
                + (
                    "; it holds the benchmark itself."
                    if dataset.metadata.resolve().is_relative_to(path.resolve())
                    else _cause(by_folder, others, guess(by_folder, known[0], dataset))
                ),
                "Arrange the masks as <video>/<expression>/<frame>.png, names as in the metadata.",
            )
        if placement.rivals:
            raise PrerequisiteError(
                f"{path} holds masks of this benchmark's samples below {placement.rivalry}.",
                "Give one of them, or put all masks below one folder.",
            )
        self._placement = placement
        self._videos = {video.name: video for video in dataset.videos}
        self._folders, naming = self._frames(path, placement, by_folder)
        self._by_folder = by_folder
        self._ids = _object_ids(dataset) if placement.layout.index_maps else {}
        hint = guess(self._unmatched(), placement.layout, dataset)
        self.reading = Reading(placement.title, tuple(_notes(naming, others, tree, hint)), placement.layout.protocol)

    def unexpected(self) -> list[Problem]:
        """PNGs below the prefix that no sample has, whole folders as one problem."""
        prefix = self._placement.prefix
        out = [Problem("extra", one_line(name), "twice in the archive") for name in self._tree.twice]
        out += [Problem("extra", name, "another file of the same name is read") for name in self._second]
        used = {member.name for folder in self._folders.values() for member in folder.frames.values()}
        above = self._placement.above()
        whole: Counter[str] = Counter()
        for folder, files in self._by_folder.items():
            inside = f"{folder}/".removeprefix(prefix)
            if not f"{folder}/".startswith(prefix) or any(inside.startswith(f"{name}/") for name in self._not_on_disk):
                continue
            if folder in self._known_folders:
                names = [name for name in files.values() if self._tree.files[name].name not in used]
                out += [Problem("extra", name) for name in names]
            else:
                whole[highest(folder, above)] += len(files)
        out += [
            Problem("extra", f"{folder}/" if folder else "./", f"{count} files", count)
            for folder, count in whole.items()
        ]
        return sorted(out, key=lambda problem: problem.where)

    def of_video(self, video: Video) -> _ImageMasks:
        """The video's masks: where they are, not what they hold."""
        return _ImageMasks(
            self._tree.reader,
            video,
            {e.id: self._folders[video.name, e.id] for e in video.expressions if (video.name, e.id) in self._folders},
            self._ids.get(video.name, {}),
            self._placement.layout.index_maps,
        )

    @property
    def _known_folders(self) -> frozenset[str]:
        return frozenset(self._placement.folders.values())

    def _unmatched(self) -> list[str]:
        known = self._known_folders
        return [folder for folder in self._by_folder if folder not in known]

    def _frames(
        self, path: Path, placement: Placement, by_folder: Mapping[str, Mapping[str, str]]
    ) -> tuple[dict[tuple[str, str], _Folder], Counter[Naming]]:
        out: dict[tuple[str, str], _Folder] = {}
        naming: Counter[Naming] = Counter()
        for own, targets in placement.layout.folders.items():
            given = placement.folders.get(own)
            files = by_folder[given] if given is not None else {}
            for video, expression in targets:
                how, frames = frames_of(files.keys(), self._videos[video])
                naming[how] += bool(files)
                if how == "unclear":
                    first = self._videos[video].frames
                    raise PrerequisiteError(
                        f"The masks in {one_line(f'{path}/{given}')} are named by position, and they are not 0 to "
                        f"{len(first) - 1}: {len(files)} files for {len(first)} frames, which are called {first[0]}"
                        + (f", {first[1]}" if len(first) > 1 else "")
                        + " and so on.",
                        "Name each mask as its frame, or give one for every frame.",
                    )
                members = {index: self._tree.files[files[frame]] for index, frame in frames.items()}
                out[video, expression] = _Folder(placement.prefix + own, members)
        if not any(folder.frames for folder in out.values()):
            raise PrerequisiteError(
                f"The folders in {path} fit {placement.title}, but no file in them is named as a frame.",
                "Name each mask as its frame: <frame>.png.",
            )
        return out, naming


class _ImageMasks:
    """The masks of one video."""

    def __init__(
        self,
        reader: FileReader,
        video: Video,
        folders: Mapping[str, _Folder],
        ids: Mapping[str, tuple[int, ...]],
        index_maps: bool,
    ) -> None:
        self._reader = reader
        self._video = video
        self._folders = folders
        self._ids = ids
        self._index_maps = index_maps
        self._oddities: dict[str, Counter[str]] = {}

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        folder = self._folders.get(expression.id)
        path = folder.path if folder is not None else f"{self._video.name}/{expression.id}"
        member = folder.frames.get(frame) if folder is not None else None
        where = f"{path}/{self._video.frames[frame]}.png"
        if member is None:
            return Problem("missing", where)
        name = member.name.rpartition("/")[2]
        try:
            content = self._reader.read(member, _BYTES_PER_PIXEL * shape[0] * shape[1] + _FREE_BYTES)
            mask_HW, odd = self._decode(expression, content, name, shape)
        except FileNotFoundError:
            return Problem("missing", where)
        except SizeError as error:
            return wrong_size(where, error.found, shape)
        except SampleError as error:
            return Problem("unreadable", where, str(error))
        self._oddities.setdefault(expression.id, Counter()).update(odd)
        return mask_HW

    def oddities(self, expression: Expression) -> Mapping[str, int]:
        return self._oddities.get(expression.id, {})

    def _decode(
        self, expression: Expression, content: bytes, name: str, shape: tuple[int, int]
    ) -> tuple[BoolHW, Sequence[str]]:
        if not self._index_maps:
            image = read_mask(content, name, shape)
            return image.mask_HW, image.oddities
        labels_HW = read_labels(content, name, shape)
        known = {0, *(id_ for ids in self._ids.values() for id_ in ids)}
        strange = not set(np.flatnonzero(np.bincount(labels_HW.ravel(), minlength=256)).tolist()) <= known
        mask_HW: BoolHW = np.isin(labels_HW, self._ids[expression.id])
        return mask_HW, [STRANGE_IDS] if strange else []


def _plainness(name: str) -> tuple[int, bool]:
    """Sorts files of one frame: 00000.png before 00000.PNG and 00000.jpg.png."""
    return len(name), not name.endswith(".png")


def _object_ids(dataset: Dataset) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        video.name: {
            e.id: tuple(int(id_) for id_ in e.objects or e.targets if id_.isdecimal()) for e in video.expressions
        }
        for video in dataset.videos
    }


def _cause(by_folder: Mapping[str, object], others: Counter[str], hint: str | None) -> str:
    if hint:
        return f"; {hint}."
    images = {suffix: count for suffix, count in others.items() if suffix in IMAGE_SUFFIXES}
    if not by_folder and images:
        suffix, count = max(images.items(), key=lambda item: item[1])
        return f"; there are {count} {suffix} files, but masks must be PNG."
    if not by_folder and any(suffix in _PACKED for suffix in others):
        return f"; it holds {_listed(others)}: give such a file itself."
    if not by_folder:
        return f"; {_listed(others)}." if others else "; it holds no file that can be read."
    first = next(iter(by_folder))
    return f"; the first folder with PNG files is {one_line(first) or '.'}/."


def _notes(naming: Counter[Naming], others: Counter[str], tree: FileTree, hint: str | None) -> Sequence[str]:
    out = []
    folders = sum(naming.values())
    if naming["position"]:
        out.append(
            f"Masks are named by position in {naming['position']} of {folders} folders: 0 is the first listed frame."
        )
    if naming["number"]:
        out.append(f"Masks are named as their frames but for leading zeros in {naming['number']} of {folders} folders.")
    if others:
        out.append(f"{sum(others.values())} files that are no PNG were ignored: {_listed(others)}.")
    if tree.ignored:
        out.append(
            f"{len(tree.ignored)} links, special files or unsafe names were ignored, first {one_line(tree.ignored[0])}."
        )
    if hint:
        out.append(f"Of the folders that belong to no sample, {hint}.")
    return out


def _listed(others: Counter[str]) -> str:
    named = [f"{count} {one_line(suffix)}" for suffix, count in others.most_common(3)]
    return ", ".join(named) + (" and others" if len(others) > 3 else "")
