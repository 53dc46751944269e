"""Writes the synthetic dataset to disk: all of a split or nothing, and never over anything else."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rvosbench.harness.data.synthetic.layouts import LAYOUTS, Batch
from rvosbench.harness.errors import PrerequisiteError, nearest_name

VERSION = 1
"""Raised when the same seed gives other bytes."""
MERGED = ("mask_dict.json", "mask_dict_foreground.json")
"""ReVOS keeps the masks of both splits in one file."""


def write_shapes(data_root: Path, *, layout: str, split: str, seed: int, videos: int) -> Path:
    """Writes one split of the synthetic dataset in an official layout; the same arguments again change nothing.

    Args:
        data_root: made when absent.
        layout: a key of ``layouts.LAYOUTS``.
        split: one of the layout's splits.
        seed: same seed, same bytes (with the same versions of NumPy, Pillow and OpenCV).
        videos: number of videos; the first ones are the same for any number.

    Returns:
        The benchmark's folder under ``data_root``.

    Raises:
        PrerequisiteError: an unknown layout or split, a bad number, or a folder that holds something else.
    """
    batch = _checked(layout, split, seed, videos)
    folder = data_root / LAYOUTS[layout].folder
    manifest = {"generator": "shapes", "version": VERSION, "layout": layout, "split": split, "seed": seed,
                "videos": videos}  # fmt: skip
    if _already(folder, manifest):
        return folder
    data_root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".shapes-", dir=data_root))
    try:
        fresh = temporary / folder.name
        fresh.mkdir()
        LAYOUTS[layout].write(fresh, batch)
        _manifest(fresh, split).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        if not folder.exists():
            try:
                fresh.rename(folder)
            except OSError:
                # Another process was faster; what it wrote is checked below.
                if not folder.is_dir():
                    raise
        if fresh.exists() and not _already(folder, manifest):
            _merge(fresh, folder, last=_manifest(fresh, split))
    finally:
        shutil.rmtree(temporary)
    return folder


def _checked(layout: str, split: str, seed: int, videos: int) -> Batch:
    if layout not in LAYOUTS:
        raise PrerequisiteError(f"There is no layout '{layout}'.", nearest_name(layout, LAYOUTS))
    splits = LAYOUTS[layout].splits
    if split not in splits:
        raise PrerequisiteError(f"The layout '{layout}' has no split '{split}'.", nearest_name(split, splits))
    if seed < 0:
        raise PrerequisiteError(f"The seed must not be negative, found {seed}.", "Give 0 or more.")
    most = 202 if (layout, split) == ("ref_youtube_vos", "valid") else 9999
    if not 1 <= videos <= most:
        raise PrerequisiteError(f"The number of videos must be from 1 to {most}, found {videos}.", "Give another one.")
    return Batch(split, seed, videos)


def _manifest(folder: Path, split: str) -> Path:
    return folder / f"shapes.{split}.json"


def _already(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the split is there. Raises PrerequisiteError when the folder holds another one, or other data."""
    if not folder.exists():
        return False
    path = _manifest(folder, manifest["split"])
    fix = "Choose another data root, or remove the folder."
    if not any(folder.glob("shapes.*.json")):
        raise PrerequisiteError(f"{folder} exists and was not written by the shapes generator.", fix)
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}.", fix) from error
    if found != manifest:
        raise PrerequisiteError(
            f"{folder} already holds the split '{manifest['split']}' from other arguments: {json.dumps(found)}, "
            f"requested {json.dumps(manifest)}.",
            fix,
        )
    return True


def _merge(fresh: Path, folder: Path, last: Path) -> None:
    """Moves a new split beside an older one, its manifest last. Nothing moves unless everything fits."""
    files = sorted(path for path in fresh.rglob("*") if path.is_file() and path != last)
    merged: dict[Path, dict[str, Any]] = {}
    for path in files:
        target = folder / path.relative_to(fresh)
        if not target.exists():
            continue
        if path.name in MERGED:
            old, new = (json.loads(file.read_text(encoding="utf-8")) for file in (target, path))
            if all(old.get(key, value) == value for key, value in new.items()):
                merged[path] = dict(sorted({**old, **new}.items()))
                continue
        # Equal files are what an interrupted earlier call has left.
        elif target.read_bytes() == path.read_bytes():
            continue
        raise PrerequisiteError(
            f"{target} is in the way of the split to be written.", "Choose another data root, or remove the folder."
        )
    for path in [*files, last]:
        target = folder / path.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in merged:
            path.write_text(json.dumps(merged[path]) + "\n", encoding="utf-8")
        path.replace(target)
