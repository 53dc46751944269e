"""Which of the known layouts a set of folders, or of keys in an RLE file, is in; and which file is which frame.

A layout says which folder holds which expressions. The folders that are there may lie below others, such as
``Annotations/``: all that precedes the part that fits is the prefix, and the prefix with the most folders is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import Video
from rvosbench.harness.text import one_line

Target = tuple[str, str]
"""(video, expression id)."""
Naming = Literal["name", "number", "position", "unclear"]
"""How files are called. name: as the frames. number: as the frames, but for leading zeros. position: 0 to T-1 where the
frames have other names. unclear: some are numbered by position and not all positions are there."""

_LISTED = 3
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Layout:
    """What the folders of a layout hold."""

    title: str
    folders: Mapping[str, tuple[Target, ...]]
    index_maps: bool = False
    """One image holds all objects of an annotator, by their ids."""
    protocol: str | None = None
    """The only protocol that it holds masks for."""


@dataclass(frozen=True)
class Placement:
    """Where a layout was found."""

    layout: Layout
    prefix: str
    """What precedes every folder, with a slash at its end; may be empty."""
    folders: Mapping[str, str]
    """Folder of the layout -> folder that was given."""
    rivals: tuple[str, ...]
    """Other prefixes below which as many of the layout's folders lie, or some that are not below the chosen one."""

    @property
    def title(self) -> str:
        """The layout in words."""
        return self.layout.title + (f" below {one_line(self.prefix)}" if self.prefix else "")

    @property
    def rivalry(self) -> str:
        """The prefixes that compete, in words; the first ones of many."""
        prefixes = [one_line(prefix) or "the top" for prefix in (self.prefix, *self.rivals)]
        more = len(prefixes) - _LISTED
        return " and ".join(prefixes[:_LISTED]) + (f" and {more} more" if more > 0 else "")

    def above(self) -> set[str]:
        """The layout's folders below the prefix, and all that they lie in."""
        out: set[str] = set()
        for own in self.layout.folders:
            parts = (self.prefix + own).split("/")
            out.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return out


def layouts(dataset: Dataset) -> tuple[Layout, ...]:
    """The layouts that masks of the dataset may be in, the plain one first."""
    plain = {f"{video.name}/{e.id}": ((video.name, e.id),) for video in dataset.videos for e in video.expressions}
    out = [Layout("<video>/<expression>/<frame>.png", plain)]
    by_object: dict[str, tuple[Target, ...]] = {}
    by_annotator: dict[str, tuple[Target, ...]] = {}
    for video in dataset.videos:
        for expression in video.expressions:
            own = (video.name, expression.id)
            if expression.exp_id is not None and len(expression.targets) == 1:
                folder = f"{expression.targets[0]}/{expression.exp_id}"
                by_object[folder] = (*by_object.get(folder, ()), own)
            if expression.annotator is not None:
                folder = f"anno_{expression.annotator}/{video.name}"
                by_annotator[folder] = (*by_annotator.get(folder, ()), own)
    if by_object:
        out.append(Layout("<source>_<video>_<object>/<exp_id>/<frame>.png", by_object))
    if by_annotator:
        title = "index maps anno_<annotator>/<video>/<frame>.png"
        out.append(Layout(title, by_annotator, index_maps=True, protocol="refdavis17/anno4"))
    return tuple(out)


def place(given: Collection[str], known: Sequence[Layout]) -> Placement | None:
    """The layout and prefix with the most of the given folders; None where not one folder fits."""
    best: Placement | None = None
    for layout in known:
        found: dict[str, dict[str, str]] = {}
        for folder in given:
            parts = folder.split("/")
            for start in range(len(parts)):
                if (own := "/".join(parts[start:])) in layout.folders:
                    prefix = "".join(f"{part}/" for part in parts[:start])
                    found.setdefault(prefix, {})[own] = folder
                    break
        if not found:
            continue
        chosen, *others = sorted(found, key=lambda prefix: (-len(found[prefix]), _prefix_rank(prefix)))
        if best is None or len(found[chosen]) > len(best.folders):
            rivals = [
                prefix
                for prefix in others
                if len(found[prefix]) == len(found[chosen]) or not found[prefix].keys() <= found[chosen].keys()
            ]
            best = Placement(layout, chosen, found[chosen], tuple(rivals))
    return best


def _prefix_rank(prefix: str) -> tuple[bool, bool, str]:
    return prefix != "", not prefix.endswith("Annotations/"), prefix


def frames_of(names: Collection[str], video: Video) -> tuple[Naming, dict[int, str]]:
    """Which frame each file of a folder is.

    Args:
        names: file names without suffix, or keys.

    Returns:
        How they are called, and index of the frame -> name; names of no frame are left out.
    """
    frames = [stem(frame) for frame in video.frames]
    by_name = {index: frame for index, frame in enumerate(frames) if frame in names}
    if len(by_name) == len(frames) or len(by_name) == len(names):
        return "name", by_name
    numbers = _numbers(names)
    if numbers is None:
        return "name", by_name
    frame_numbers = _numbers(frames)
    if frame_numbers is not None and numbers.keys() <= frame_numbers.keys():
        order = {frame: index for index, frame in enumerate(frames)}
        return "number", {order[frame_numbers[number]]: name for number, name in numbers.items()}
    if numbers.keys() == set(range(len(frames))):
        return "position", dict(sorted(numbers.items()))
    # Numbers that no frame has and that are no higher than the video is long: positions, not all of them there.
    return ("unclear" if max(numbers) <= len(frames) else "name"), by_name


def stem(name: str) -> str:
    """A frame's name without the suffix of an image."""
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _numbers(names: Collection[str]) -> dict[int, str] | None:
    """Number -> name; None where a name is no number, or two are the same one."""
    if not all(name.isascii() and name.isdecimal() and len(name) <= 12 for name in names):
        return None
    out = {int(name): name for name in names}
    return out if len(out) == len(names) else None


def guess(given: Collection[str], layout: Layout, dataset: Dataset) -> str | None:
    """What folders that fit nothing may be, as the end of a sentence; None where nothing suggests itself."""
    wanted = layout.folders.keys()
    swapped = {f"{e.id}/{video.name}" for video in dataset.videos for e in video.expressions}
    joined = {f"{video.name}{mark}{e.id}" for video in dataset.videos for e in video.expressions for mark in "_-"}
    unpadded = {_unpadded(folder) for folder in wanted}
    lowered = {folder.lower() for folder in wanted}
    by_frame = {f"{video.name}/{frame}" for video in dataset.videos for frame in video.frames}
    videos = {video.name for video in dataset.videos}
    counts: Counter[str] = Counter()
    for folder in given:
        ends = _ends(folder)
        if any(end in wanted for end in ends):
            counts["below the same folder as the others"] += 1
        elif any(end in swapped for end in ends):
            counts["as <expression>/<video>/ (expression and video swapped)"] += 1
        elif any(end in by_frame for end in ends):
            counts["as <video>/<expression>/<frame>.png (expression and frame swapped)"] += 1
        elif any(_unpadded(end) in unpadded for end in ends):
            counts["with other leading zeros in the expression's id"] += 1
        elif any(end.lower() in lowered for end in ends):
            counts["with capital and small letters as in the metadata"] += 1
        elif inner := _without_one(folder, wanted):
            counts[f"without the folder {inner}/ in between"] += 1
        elif any(end in joined for end in ends):
            counts["as <video>/<expression>/ instead of one folder for both"] += 1
        elif any(end in videos for end in ends):
            counts["with a folder for each expression: they lie directly in their video's folder"] += 1
    if not counts:
        return None
    words, count = counts.most_common(1)[0]
    return f"{count} of {len(given)} folders would fit {words}"


def highest(folder: str, above: Collection[str]) -> str:
    """The highest folder on the way to one that no sample uses."""
    parts = folder.split("/")
    for depth in range(1, len(parts)):
        if "/".join(parts[:depth]) not in above:
            return "/".join(parts[:depth])
    return folder


def _ends(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _unpadded(folder: str) -> str:
    rest, _, last = folder.rpartition("/")
    return f"{rest}/{last.lstrip('0') or '0'}"


def _without_one(folder: str, wanted: Collection[str]) -> str | None:
    for end in _ends(folder):
        parts = end.split("/")
        for index in range(1, len(parts)):
            if "/".join(parts[:index] + parts[index + 1 :]) in wanted:
                return parts[index]
    return None
