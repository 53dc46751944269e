"""The checks behind ``datasets verify``: each yields findings, one sentence each, with the files at fault.

Quick checks read names, metadata and image headers; full ones decode every pixel. H W: pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from rvosbench.harness.data.cards import Card, Layout, Split
from rvosbench.harness.data.digests import file_sha256
from rvosbench.harness.data.files import images_by_stem
from rvosbench.harness.data.ground_truth import (
    BinaryGroundTruth,
    DiskGroundTruth,
    PaletteGroundTruth,
    RleGroundTruth,
)
from rvosbench.harness.data.images import image_size, read_rgb
from rvosbench.harness.data.types import Expression, Video
from rvosbench.harness.errors import SampleError

THREADS = 8
Level = Literal["error", "warning", "note"]
Mode = Literal["quick", "full"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about the data."""

    level: Level
    """error: scores would be wrong or impossible. warning: look at it. note: a fact."""
    kind: str
    """A stable word for the kind, e.g. "missing_frames"."""
    message: str
    about: tuple[str, ...] = ()
    """Files, videos or samples, all of them."""


def check_frames(root: Path, videos: Sequence[Video], mode: Mode) -> Iterator[Finding]:
    """Missing, unlisted, unreadable frames, and videos whose frames differ in size."""
    absent, missing, unlisted, paths = [], [], [], []
    for video in videos:
        present = images_by_stem(root / video.name)
        gone = [str(root / video.name / f"{frame}.jpg") for frame in video.frames if frame not in present]
        if len(gone) == len(video.frames):
            absent.append(video.name)
            continue
        missing += gone
        listed = set(video.frames)
        unlisted += [str(root / video.name / name) for stem, name in present.items() if stem not in listed]
        paths += [(video, root / video.name / present[frame]) for frame in video.frames if frame in present]
    if absent:
        yield Finding("warning", "absent_frames", f"{_videos(absent)} no frames on disk.", tuple(absent))
    if missing:
        yield Finding(
            "error", "missing_frames", f"{_files(missing)} missing from videos that are there.", tuple(missing)
        )
    if unlisted:
        yield Finding(
            "note", "unlisted_frames", f"{_files(unlisted)} on disk but not in the metadata.", tuple(unlisted)
        )

    def inspect(item: tuple[Video, Path]) -> tuple[int, int]:
        if mode == "full":
            height, width = read_rgb(item[1]).shape[:2]
            return height, width
        return image_size(item[1])

    yield from _sized(paths, inspect, "frame")


def check_masks(truth: DiskGroundTruth, videos: Sequence[Video]) -> Iterator[Finding]:
    """Missing and misaligned masks; masks whose size differs from the frame's. Decodes nothing."""
    absent, partial, complete = [], [], []
    for video in videos:
        why = truth.absence(video)
        if why is None:
            complete.append(video)
        elif why.startswith("no "):
            absent.append(video.name)
        else:
            partial.append(f"{video.name}: {why}")
    if absent:
        yield Finding("warning", "absent_masks", f"{_videos(absent)} no masks on disk.", tuple(absent))
    if partial:
        yield Finding("error", "missing_masks", f"{len(partial)} videos lack some masks.", tuple(partial))
    if isinstance(truth, PaletteGroundTruth):
        folders = {video.name: (video.name, set(video.frames)) for video in complete}
        yield from _unlisted_masks(truth.root, folders.values())
    if isinstance(truth, BinaryGroundTruth):
        yield from _unlisted_masks(
            truth.root,
            {(t, frozenset(v.frames)): (t, set(v.frames)) for v in complete for t in _targets(v)}.values(),
        )
        yield from _annotation_gaps(truth, complete)
    yield from _mask_sizes(truth, complete)


def check_contents(truth: DiskGroundTruth, videos: Sequence[Video], mode: Mode) -> Iterator[Finding]:
    """Masks in a form that is not the ground truth's, unreadable ones, and targets that are in no frame.

    Quick mode decodes a PNG or two of each video, and of a list of RLE as much as tells that it is not empty.
    """
    present = [video for video in videos if truth.absence(video) is None]
    if isinstance(truth, PaletteGroundTruth):
        yield from _wrong_labels(truth, present)
    if mode == "quick" and isinstance(truth, PaletteGroundTruth | BinaryGroundTruth):
        yield from _first_masks(truth, present)
        return
    empty: list[str] = []
    broken: dict[str, None] = {}
    for video in present:
        for targets, expressions in _by_targets(video).items():
            if not targets or _fault(truth, video, expressions[0]) is not None:
                continue  # without a target, or reported as misaligned
            visible, damage = _look(truth, video, expressions[0], mode)
            broken |= dict.fromkeys(damage)
            if not visible and not damage:
                empty += [f"{video.name}/{expression.id}" for expression in expressions]
    if broken:
        message = f"{len(broken)} masks are unreadable, first: {next(iter(broken))}."
        yield Finding("error", "unreadable_masks", message, tuple(broken))
    if empty:
        message = f"{len(empty)} expressions have a target whose mask is empty in every frame."
        yield Finding("warning", "empty_ground_truth", message, tuple(empty))


def check_same_masks(
    truth: DiskGroundTruth, videos: Sequence[Video], other: DiskGroundTruth, others: Sequence[Video]
) -> Iterator[Finding]:
    """Expressions whose masks differ between two copies of the ground truth (a pickle beside the PNGs)."""
    twins = {video.name: video for video in others}
    different = []
    for video in videos:
        twin = twins.get(video.name)
        if twin is None or truth.absence(video) is not None or other.absence(twin) is not None:
            continue
        for expression, copy in zip(video.expressions, twin.expressions, strict=True):
            try:
                same = all(
                    np.array_equal(truth.mask(video, expression, frame), other.mask(twin, copy, frame))
                    for frame in truth.scored_frames(video, expression)
                )
            except SampleError:
                # An unreadable copy is one more way to differ; the first copy's own faults are reported elsewhere.
                same = False
            if not same:
                different.append(f"{video.name}/{expression.id}")
    if different:
        message = f"{len(different)} expressions have other masks in the repackaged copy than in the one that is used."
        yield Finding("warning", "copies_differ", message, tuple(different))


def check_expressions(card: Card, split: Split, layout: Layout, videos: Sequence[Video]) -> Iterator[Finding]:
    """Subsets that contradict targets, and Ref-DAVIS17 ids that contradict objects."""
    unsorted = [video.name for video in videos if list(video.frames) != sorted(video.frames)]
    if unsorted:
        message = (
            f"{_videos(unsorted)} frames listed in another order than that of their names; the file's order is kept."
        )
        yield Finding("note", "unsorted_frames", message, tuple(unsorted))
    if split.ground_truth == "hidden":
        return
    if card.annotators is not None:
        yield from _annotator_gaps(card.annotators, videos)
    samples = [(f"{video.name}/{expression.id}", expression) for video in videos for expression in video.expressions]
    if "no_target" in card.subsets:
        odd = [name for name, x in samples if (x.subset == "no_target") == bool(x.targets)]
        if odd:
            message = f"{len(odd)} expressions are in subset no_target but have targets, or the other way round."
            yield Finding("warning", "subset_contradicts_targets", message, tuple(odd))
    if card.annotators is not None and layout.masks is not None and layout.masks.key == "obj_id":
        # Objects come one after the other, each with one expression per annotator.
        odd = [name for name, x in samples if x.targets != (str(int(x.id) // card.annotators + 1),)]
        if odd:
            message = f"{len(odd)} expressions have an id that belongs to another object, so annotators are unsure."
            yield Finding("warning", "id_contradicts_object", message, tuple(odd))


def _annotator_gaps(annotators: int, videos: Sequence[Video]) -> Iterator[Finding]:
    """Objects that an annotator has no expression for: they would drop out of that annotator's mean."""
    gaps = []
    for video in videos:
        named = [(x.objects or x.targets, x.annotator) for x in video.expressions]
        for name in sorted({name for names, _ in named for name in names}):
            having = {annotator for names, annotator in named if name in names}
            gaps += [f"{video.name}: annotator {a}, object {name}" for a in range(annotators) if a not in having]
    if gaps:
        message = f"{len(gaps)} objects lack an annotator's expression, first: {gaps[0]}."
        yield Finding("error", "annotator_gaps", message, tuple(gaps))


def check_checksums(folder: Path, split: Split) -> Iterator[Finding]:
    """Files whose SHA-256 differs from the published one. Reads the files whole."""
    for checksum in split.checksums:
        path = folder / checksum.file
        if path.is_file() and (found := file_sha256(path)) != checksum.sha256:
            message = f"{path} has SHA-256 {found}, published is {checksum.sha256}."
            yield Finding("warning", "checksum", message, (str(path),))


def _sized(
    items: Sequence[tuple[Video, Path]], inspect: Callable[[tuple[Video, Path]], tuple[int, int]], what: str
) -> Iterator[Finding]:
    unreadable, differing = [], []
    first: dict[str, tuple[Path, tuple[int, int]]] = {}
    for (video, path), size in zip(items, _parallel(inspect, items), strict=True):
        if isinstance(size, SampleError):
            unreadable.append(str(size))
            continue
        leader, expected = first.setdefault(video.name, (path, size))
        if size != expected:
            differing.append(f"{path} is {_wide(size)}, but {leader.name} is {_wide(expected)}")
    if unreadable:
        message = f"{len(unreadable)} {what}s cannot be read, first: {unreadable[0]}."
        yield Finding("error", f"unreadable_{what}s", message, tuple(unreadable))
    if differing:
        message = f"{len(differing)} {what}s differ in size from the first of their video, first: {differing[0]}."
        yield Finding("error", f"{what}_sizes", message, tuple(differing))


def _mask_sizes(truth: DiskGroundTruth, videos: Sequence[Video]) -> Iterator[Finding]:
    items = [(v, e, f) for v in videos for e in _one_per_target(v) for f in _scored(truth, v, e)]

    @cache  # many targets share a frame
    def frame_size(path: Path) -> tuple[int, int] | None:
        return image_size(path) if path.is_file() else None

    def inspect(item: tuple[Video, Expression, int]) -> str | None:
        video, expression, frame = item
        image = frame_size(video.frame_paths[frame])
        if image is None or (mask := truth.size(video, expression, frame)) == image:
            return None
        where = f"{video.name}/{video.frames[frame]} (target {', '.join(expression.targets)})"
        return f"{where}: mask {_wide(mask)}, frame {_wide(image)}"

    wrong = [found for found in _parallel(inspect, items) if isinstance(found, str)]
    unaligned = {str(e) for v in videos for x in v.expressions if (e := _fault(truth, v, x)) is not None}
    if unaligned:
        lines = tuple(sorted(unaligned))
        yield Finding("error", "misaligned_masks", f"{len(lines)} mask lists do not fit, first: {lines[0]}.", lines)
    if wrong:
        message = f"{len(wrong)} masks have another size than their frame, first: {wrong[0]}."
        yield Finding("error", "mask_sizes", message, tuple(wrong))


def _annotation_gaps(truth: BinaryGroundTruth, videos: Sequence[Video]) -> Iterator[Finding]:
    gaps = []
    for video in videos:
        for target in _targets(video):
            count = len(truth.annotated(target) & set(video.frames))
            if count != len(video.frames):
                gaps.append(f"{target}: {count} masks for {len(video.frames)} frames")
    if gaps:
        message = f"{len(gaps)} objects are annotated on some frames only; only those are scored."
        yield Finding("note", "partly_annotated", message, tuple(gaps))


def _unlisted_masks(root: Path, folders: Iterable[tuple[str, set[str]]]) -> Iterator[Finding]:
    unlisted = [
        str(root / folder / name)
        for folder, frames in folders
        for stem, name in images_by_stem(root / folder).items()
        if stem not in frames
    ]
    if unlisted:
        message = f"{_files(unlisted)} in folders of masks, for frames that the metadata does not list."
        yield Finding("warning", "unlisted_masks", message, tuple(unlisted))


def _first_masks(truth: DiskGroundTruth, videos: Sequence[Video]) -> Iterator[Finding]:
    """Whether the first mask of each video can be read as ground truth at all (an RGB image cannot be an index)."""

    def read(video: Video) -> None:
        for expression in _one_per_target(video)[:1]:
            truth.mask(video, expression, truth.scored_frames(video, expression)[0])

    broken = dict.fromkeys(str(found) for found in _parallel(read, videos) if isinstance(found, SampleError))
    if broken:
        message = f"The first masks of {len(broken)} videos cannot be used, first: {next(iter(broken))}."
        yield Finding("error", "unreadable_masks", message, tuple(broken))


def _wrong_labels(truth: PaletteGroundTruth, videos: Sequence[Video]) -> Iterator[Finding]:
    """Index masks that hold other values than object ids, in every frame of a video.

    Saved as 0 and 255 they read as background and void; converted to grey by their colours, as 38, 75 and so on.
    """

    def values(video: Video, frames: Iterable[int]) -> set[int]:
        return {int(value) for frame in frames for value in np.unique(truth.labels(video, frame))} - {0}

    def inspect(video: Video) -> str | None:
        targets = {int(target) for target in _targets(video)}
        middle = len(video.frames) // 2
        found = values(video, (0, middle))
        if not targets or not found or found & targets:
            return None
        # Only a video that looks wrong is decoded whole.
        found |= values(video, range(len(video.frames)))
        if found & targets:
            return None
        shown = ", ".join(map(str, sorted(found)[:4]))
        wanted = ", ".join(map(str, sorted(targets)[:4]))
        return f"{truth.root / video.name}: values {shown}; the expressions name {wanted}"

    wrong = [found for found in _parallel(inspect, videos) if isinstance(found, str)]
    if wrong:
        message = (
            f"The masks of {len(wrong)} videos hold no object that an expression names: black and white or colours "
            f"instead of palette indices? First: {wrong[0]}."
        )
        yield Finding("error", "no_indices", message, tuple(wrong))


def _look(truth: DiskGroundTruth, video: Video, expression: Expression, mode: Mode) -> tuple[bool, list[str]]:
    """Whether the targets are in any frame, and what is wrong with masks; quick mode stops at the first of either."""
    if isinstance(truth, RleGroundTruth) and not any(rle for t in expression.targets for rle in truth.table[t]):
        return False, []  # nothing to decode, and nothing that gives a size
    visible, damage = False, []
    for frame in truth.scored_frames(video, expression):
        try:
            visible |= bool(truth.mask(video, expression, frame).any())
        except SampleError as error:
            damage.append(str(error))
        if mode == "quick" and (visible or damage):
            break
    return visible, damage


def _scored(truth: DiskGroundTruth, video: Video, expression: Expression) -> Sequence[int]:
    return truth.scored_frames(video, expression) if _fault(truth, video, expression) is None else ()


def _fault(truth: DiskGroundTruth, video: Video, expression: Expression) -> SampleError | None:
    try:
        truth.scored_frames(video, expression)
    except SampleError as error:
        return error
    return None


def _by_targets(video: Video) -> dict[tuple[str, ...], list[Expression]]:
    found: dict[tuple[str, ...], list[Expression]] = {}
    for expression in video.expressions:
        found.setdefault(expression.targets, []).append(expression)
    return found


def _one_per_target(video: Video) -> list[Expression]:
    return list({expression.targets: expression for expression in video.expressions if expression.targets}.values())


def _targets(video: Video) -> list[str]:
    return sorted({target for expression in video.expressions for target in expression.targets})


def _parallel(function: Callable[[T], R], items: Sequence[T]) -> list[R | SampleError]:
    def guarded(item: T) -> R | SampleError:
        try:
            return function(item)
        except SampleError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(guarded, items))


def _wide(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _videos(names: Sequence[str]) -> str:
    return f"The video {names[0]} has" if len(names) == 1 else f"{len(names)} videos have"


def _files(paths: Sequence[str]) -> str:
    return f"{paths[0]} is" if len(paths) == 1 else f"{len(paths)} files (first {paths[0]}) are"
