"""Opens a benchmark: from a card's name and a data root to videos, expressions and ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rvosbench.harness.data.cards import Card, load_card, video_ids
from rvosbench.harness.data.files import images_by_stem
from rvosbench.harness.data.ground_truth import (
    BinaryGroundTruth,
    DiskGroundTruth,
    PaletteGroundTruth,
    RleGroundTruth,
    missing_words,
)
from rvosbench.harness.data.layouts import Located, Needs, fill, locate
from rvosbench.harness.data.metadata import VideoEntry, read_metadata
from rvosbench.harness.data.types import Sample, Video
from rvosbench.harness.errors import PrerequisiteError


@dataclass(frozen=True)
class Dataset:
    """A split as it lies on disk. ``open_dataset(card.source, root, split, needs=...)`` gives it again."""

    card: Card
    split: str
    root: Path
    """The data root that was given, made absolute: workers may run elsewhere."""
    layout: str
    """Name of the layout found there."""
    metadata: Path
    """The file that lists videos and expressions."""
    videos: tuple[Video, ...]
    ground_truth: DiskGroundTruth | None
    """None where no masks are there, or nothing says which of them belong to an expression."""
    expected_videos: int | None
    """Of the complete split; None when nobody knows."""
    notes: tuple[str, ...]
    """What was left out or differs from the card, one sentence each."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """Ids of the protocols that score it, primary first: local ones where a hidden split's masks are on disk."""
        split = self.card.splits[self.split]
        local = split.ground_truth == "hidden" and self.ground_truth is not None
        return split.local_protocols if local else split.protocols

    @property
    def coverage(self) -> str:
        """How much of the split is here, e.g. "5 of 30 videos"."""
        if self.expected_videos is None:
            return f"{len(self.videos)} videos"
        return f"{len(self.videos)} of {self.expected_videos} videos"

    def samples(self) -> Iterator[Sample]:
        """Every (video, expression), in order."""
        for video in self.videos:
            for expression in video.expressions:
                yield Sample(video, expression)


def open_dataset(name: str, data_root: Path, split: str | None = None, *, needs: Needs = "frames") -> Dataset:
    """Reads the layout that is on disk.

    Args:
        name: a card's name, or the path of a card of one's own.
        data_root: the folder that holds the benchmark's folder, e.g. ``davis17/``.
        split: a split of the card; None for its default one.
        needs: "frames" leaves out videos whose frames are not all on disk (masks may be absent); "masks"
            leaves out videos whose masks are not all on disk (frames may be absent). A hidden split has no
            masks to need: all its videos are listed.

    Raises:
        PrerequisiteError: unknown name or split, no layout fits, metadata is malformed, or nothing is left.
    """
    card = load_card(name)
    split, facts = card.split(split)
    data_root = data_root.absolute()
    located = locate(card, split, data_root, needs)
    listing = list_videos(card, split, located)
    notes = _Notes(card, split, located)
    if listing.others:
        total = len(listing.videos) + listing.others
        notes.add(f"{listing.others} of {total} videos in {located.metadata.name} belong to other splits than {split}.")
    videos = listing.videos
    if needs == "frames":
        videos = notes.complete(videos, lambda video: listing.absent_frames[video.name], "frames")
    elif listing.ground_truth is not None:
        videos = notes.complete(videos, listing.ground_truth.absence, "masks")
    if not videos:
        what = needs if facts.ground_truth == "public" or needs == "frames" else "an entry"
        why = f": {notes.lines[-1]}" if notes.lines else "."
        problem = f"{card.title} (split {split}) has {located.metadata} but no video with {what}{why}"
        raise PrerequisiteError(problem, card.obtain)
    if listing.ground_truth is None and facts.ground_truth == "public":
        notes.add("No masks are there, so nothing can be scored.")
    if listing.unnamed_masks is not None:
        notes.add(unnamed(listing.unnamed_masks, located.metadata))
    notes.counts(videos)
    expected = facts.expected.videos if facts.expected else None
    layout, metadata = located.layout.name, located.metadata
    return Dataset(card, split, data_root, layout, metadata, videos, listing.ground_truth, expected, notes.lines)


@dataclass(frozen=True)
class Listing:
    """What a located layout lists, whether or not its files are all on disk."""

    videos: tuple[Video, ...]
    absent_frames: Mapping[str, str | None]
    """By video: why it cannot be shown to a method, in a few words; None when all its frames are there."""
    ground_truth: DiskGroundTruth | None
    others: int
    """Videos in the metadata that belong to other splits."""
    unnamed_masks: Path | None = None
    """Masks of a hidden split that are on disk, when the metadata does not say which belong to an expression."""


def list_videos(card: Card, split: str, located: Located) -> Listing:
    """Reads the metadata of a located layout and looks up the frames.

    Raises:
        PrerequisiteError: the metadata is malformed.
    """
    entries = read_metadata(located.metadata, card, card.splits[split], located.layout)
    ids = video_ids(card, split)
    kept = [entry for entry in entries if ids is None or entry.name in ids]
    root = located.frames or located.folder / fill(located.layout.frames[0], card, split)
    videos, absent = [], {}
    for entry in kept:
        present = images_by_stem(root / entry.name)
        missing = [frame for frame in entry.frames if frame not in present]
        absent[entry.name] = missing_words(missing, len(entry.frames), "frames")
        # Where the image is absent the path says where it would be.
        paths = tuple(root / entry.name / present.get(frame, f"{frame}.jpg") for frame in entry.frames)
        videos.append(Video(card.name, split, entry.name, entry.frames, paths, entry.expressions))
    usable = card.splits[split].ground_truth == "public" or all(entry.names_targets for entry in kept)
    truth = _ground_truth(located, kept) if usable else None
    return Listing(tuple(videos), absent, truth, len(entries) - len(kept), None if usable else located.masks)


def unnamed(masks: Path, metadata: Path) -> str:
    """The sentence about masks of a hidden split that cannot be used."""
    return (
        f"Masks are in {masks}, but {metadata} does not say which of them belong to an expression (obj_id or anno_id); "
        "the metadata released with the masks does."
    )


def _ground_truth(located: Located, entries: Sequence[VideoEntry]) -> DiskGroundTruth | None:
    masks, path = located.layout.masks, located.masks
    if masks is None or path is None:
        return None
    if masks.kind == "palette":
        return PaletteGroundTruth(path)
    if masks.kind == "binary":
        return BinaryGroundTruth(path, no_file=masks.no_file)
    return RleGroundTruth(path, {entry.name: entry.size for entry in entries if entry.size is not None})


def no_ground_truth(dataset: Dataset) -> PrerequisiteError:
    """Why a dataset without ground truth cannot be scored here, and every way to a score."""
    card, facts = dataset.card, dataset.card.splits[dataset.split]
    if facts.ground_truth == "public":
        return PrerequisiteError(f"There are no masks of {facts.title} to score against.", card.obtain)
    problem = f"The ground truth of {facts.title} is hidden, and its masks are not under {dataset.root}."
    ways = []
    if card.archive is not None:
        where = f" and submit it: {facts.submit}" if facts.submit else "."
        ways.append(f"Make the archive with rvosbench export-submission --dataset {card.source}{where}")
    places = [layout.masks.paths[0] for layout in card.layouts_of(dataset.split) if layout.masks is not None]
    if places and facts.local_protocols:
        place = dataset.root / card.folders[0] / fill(places[0], card, dataset.split)
        released = f" {facts.released}" if facts.released else ""
        names = ", ".join(facts.local_protocols)
        ways.append(f"Or put the masks, if you have them, into {place} to score here under {names}.{released}")
    unusable = [note for note in dataset.notes if note.startswith("Masks are in ")]
    return PrerequisiteError(" ".join([problem, *unusable]), " ".join(ways))


class _Notes:
    """Leaves videos out and says so."""

    def __init__(self, card: Card, split: str, located: Located) -> None:
        self._card, self._split, self._located = card, split, located
        self._lines: list[str] = []

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def add(self, line: str) -> None:
        self._lines.append(line)

    def complete(
        self, videos: tuple[Video, ...], absence: Callable[[Video], str | None], what: str
    ) -> tuple[Video, ...]:
        kept, gone, partial = [], [], []
        for video in videos:
            why = absence(video)
            if why is None:
                kept.append(video)
            elif why.startswith("no "):
                gone.append(video.name)
            else:
                partial.append(f"{video.name} ({why})")
        if gone:
            self.add(f"{len(gone)} of {len(videos)} videos have no {what} on disk: {_some(gone)}.")
        if partial:
            self.add(f"{len(partial)} of {len(videos)} videos lack some {what}: {_some(partial)}.")
        return tuple(kept)

    def counts(self, videos: tuple[Video, ...]) -> None:
        expected = self._card.splits[self._split].expected
        if expected is None or expected.videos is None:
            return
        if len(videos) < expected.videos:
            self.add(f"This is part of the split: {len(videos)} of {expected.videos} videos.")
            return
        if len(videos) > expected.videos:
            self.add(f"There are {len(videos)} videos, the card expects {expected.videos}.")
        found = sum(len(video.expressions) for video in videos)
        if expected.expressions is not None and found != expected.expressions:
            self.add(f"There are {found} expressions, the card expects {expected.expressions}.")


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
