"""Finds which of a card's layouts lies under a data root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from rvosbench.harness.data.cards import Card, Layout
from rvosbench.harness.errors import PrerequisiteError

Needs = Literal["frames", "masks"]
_MOST_ENTRIES = 1000
"""Of a folder that is searched for one in another spelling."""


@dataclass(frozen=True, slots=True)
class Located:
    """A layout with the paths it was found at."""

    layout: Layout
    folder: Path
    """The benchmark's own folder."""
    metadata: Path
    frames: Path | None
    """Folder with one folder of images per video; None when absent."""
    masks: Path | None
    """Folder or file of the ground truth; None when absent."""

    @property
    def whole(self) -> bool:
        """Metadata, frames and, where public, masks are there."""
        return self.frames is not None and (self.masks is not None or self.layout.masks is None)


def locate(card: Card, split: str, data_root: Path, needs: Needs) -> Located:
    """The layout to read: the first that is there whole, else the first that has what is needed.

    Raises:
        PrerequisiteError: none fits; says what was looked for and how to obtain the data.
    """
    if not is_folder(data_root):
        raise PrerequisiteError(f"The data root {data_root} is not a folder.", "Set --data-root or RVOSBENCH_DATA.")
    found = candidates(card, split, data_root)
    hidden = card.splits[split].ground_truth == "hidden"
    if needs == "masks":
        fits = [candidate for candidate in found if candidate.masks is not None] or (found if hidden else [])
    else:
        fits = [candidate for candidate in found if candidate.frames is not None]
    if fits:
        return next((candidate for candidate in fits if candidate.whole), fits[0])
    raise _nothing_fits(card, split, data_root, needs, found)


def candidates(card: Card, split: str, data_root: Path) -> list[Located]:
    """Every layout of the split whose metadata is on disk, in the card's order."""
    found = []
    for layout in card.layouts_of(split):
        for folder in _folders(card, layout, data_root):
            metadata = _first(folder, layout.metadata, card, split, file=True)
            if metadata is None:
                continue
            masks = None
            if layout.masks is not None:
                masks = _first(folder, layout.masks.paths, card, split, file=layout.masks.kind == "rle")
            frames = _first(folder, layout.frames, card, split, file=False)
            found.append(Located(layout, folder, metadata, frames, masks))
    return found


def is_folder(path: Path) -> bool:
    """Whether there is a folder that may be entered; never raises, as ``Path.is_dir`` does without permission."""
    return os.path.isdir(path)  # noqa: PTH112 - see the docstring


def _folders(card: Card, layout: Layout, data_root: Path) -> list[Path]:
    """Where the benchmark may lie: the card's folder names, then folders called so in another spelling."""
    names = layout.folders or (*card.folders, card.name, card.title)
    exact = [data_root / name for name in layout.folders or card.folders]
    wanted = {_folded(name) for name in names}
    return exact + [
        data_root / name for name in _entries(data_root) if _folded(name) in wanted and data_root / name not in exact
    ]


def _folded(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in islice(os.scandir(folder), _MOST_ENTRIES) if entry.is_dir())
    except OSError:
        return []


def fill(template: str, card: Card, split: str) -> str:
    """A layout's path for a split."""
    return template.replace("{folder}", card.splits[split].folder).replace("{split}", split)


def _first(folder: Path, templates: tuple[str, ...], card: Card, split: str, *, file: bool) -> Path | None:
    for template in templates:
        # Plain text, so that "../DAVIS" is beside the folder even where the folder is a link.
        path = Path(os.path.normpath(folder / fill(template, card, split)))
        if os.path.isfile(path) if file else is_folder(path):  # noqa: PTH113 - as for folders
            return path
    return None


def _nothing_fits(card: Card, split: str, data_root: Path, needs: Needs, found: list[Located]) -> PrerequisiteError:
    layouts = card.layouts_of(split)
    if found:
        what = "frames" if needs == "frames" else "masks"
        paths = {
            f"{candidate.folder.name}/{fill(template, card, split)}"
            for candidate in found
            for template in _templates(candidate.layout, needs)
        }
        problem = f"{card.title} (split {split}) has {found[0].metadata} but no {what}: looked for {_either(paths)}."
    else:
        meant = _meant_root(card, split, data_root)
        if meant is not None:
            return meant
        paths = {
            f"{name}/{fill(template, card, split)}"
            for layout in layouts
            for name in layout.folders or card.folders
            for template in layout.metadata
        }
        problem = f"{card.title} (split {split}) is not under {data_root}: looked for {_either(paths)}."
    return PrerequisiteError(problem, card.obtain)


def _meant_root(card: Card, split: str, data_root: Path) -> PrerequisiteError | None:
    """What to say when the benchmark lies one level above or below the data root that was given."""
    for layout in card.layouts_of(split):
        if _first(data_root, layout.metadata, card, split, file=True) is None:
            continue
        name = (layout.folders or card.folders)[0]
        problem = f"{data_root} is not a data root but most likely the folder of {card.title} itself."
        if data_root in _folders(card, layout, data_root.parent):
            return PrerequisiteError(problem, f"Give the folder above it: --data-root {data_root.parent}")
        return PrerequisiteError(problem, f"Call it {name} and give the folder above it as --data-root.")
    for name in _entries(data_root):
        below = candidates(card, split, data_root / name)
        if below:
            problem = f"{card.title} (split {split}) lies one level below the data root {data_root}, in {name}."
            return PrerequisiteError(problem, f"Give that folder: --data-root {data_root / name}")
    return None


def _templates(layout: Layout, needs: Needs) -> tuple[str, ...]:
    if needs == "frames":
        return layout.frames
    return layout.masks.paths if layout.masks is not None else ()


def _either(paths: set[str]) -> str:
    return " or ".join(sorted(paths))
