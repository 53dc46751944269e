"""Finds which of a card's layouts lies under a data root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rvosbench.harness.data.cards import Card, Layout
from rvosbench.harness.errors import PrerequisiteError

Needs = Literal["frames", "masks"]


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
    """Folder or file of the ground truth; None when absent or hidden."""

    @property
    def whole(self) -> bool:
        """Metadata, frames and, where public, masks are there."""
        return self.frames is not None and (self.masks is not None or self.layout.masks is None)


def locate(card: Card, split: str, data_root: Path, needs: Needs) -> Located:
    """The layout to read: the first that is there whole, else the first that has what is needed.

    Raises:
        PrerequisiteError: none fits; says what was looked for and how to obtain the data.
    """
    if not data_root.is_dir():
        raise PrerequisiteError(f"The data root {data_root} is not a folder.", "Set --data-root or RVOSBENCH_DATA.")
    found = candidates(card, split, data_root)
    hidden = card.splits[split].ground_truth == "hidden"
    if needs == "masks" and not hidden:
        fits = [candidate for candidate in found if candidate.masks is not None]
    elif needs == "masks":
        fits = found
    else:
        fits = [candidate for candidate in found if candidate.frames is not None]
    if fits:
        return next((candidate for candidate in fits if candidate.whole), fits[0])
    raise _nothing_fits(card, split, data_root, needs, found)


def candidates(card: Card, split: str, data_root: Path) -> list[Located]:
    """Every layout of the split whose metadata is on disk, in the card's order."""
    found = []
    for layout in card.layouts_of(split):
        for name in layout.folders or card.folders:
            folder = data_root / name
            metadata = _first(folder, layout.metadata, card, split, file=True)
            if metadata is None:
                continue
            masks = None
            if layout.masks is not None:
                masks = _first(folder, layout.masks.paths, card, split, file=layout.masks.kind == "rle")
            frames = _first(folder, layout.frames, card, split, file=False)
            found.append(Located(layout, folder, metadata, frames, masks))
    return found


def fill(template: str, card: Card, split: str) -> str:
    """A layout's path for a split."""
    return template.format(folder=card.splits[split].folder, split=split)


def _first(folder: Path, templates: tuple[str, ...], card: Card, split: str, *, file: bool) -> Path | None:
    for template in templates:
        # Plain text, so that "../DAVIS" is beside the folder even where the folder is a link.
        path = Path(os.path.normpath(folder / fill(template, card, split)))
        if path.is_file() if file else path.is_dir():
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
        paths = {
            f"{name}/{fill(template, card, split)}"
            for layout in layouts
            for name in layout.folders or card.folders
            for template in layout.metadata
        }
        problem = f"{card.title} (split {split}) is not under {data_root}: looked for {_either(paths)}."
    return PrerequisiteError(problem, card.obtain)


def _templates(layout: Layout, needs: Needs) -> tuple[str, ...]:
    if needs == "frames":
        return layout.frames
    return layout.masks.paths if layout.masks is not None else ()


def _either(paths: set[str]) -> str:
    return " or ".join(sorted(paths))
