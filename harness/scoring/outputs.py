"""Checks before the work that what a command is to write can be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rvosbench.harness.errors import PrerequisiteError


def require_output_folder(folder: Path) -> None:
    """Raises PrerequisiteError when no file can be written into a folder, which need not exist yet."""
    fix = "Choose another folder with --out."
    with _reported(folder, fix):
        if _exists(folder) and not folder.is_dir():
            raise PrerequisiteError(f"{folder} is not a folder, and the tables need one.", fix)
        _require_room(folder, fix)


def require_output_file(file: Path, suffix: str) -> None:
    """Raises PrerequisiteError when a file cannot be written, or its name does not end with the suffix.

    An existing file may be replaced, a folder may not.
    """
    fix = f"Give the archive's name with --out, e.g. masks{suffix}."
    with _reported(file, fix):
        if file.is_dir():
            raise PrerequisiteError(f"{file} is a folder, not the name of a file.", fix)
        if file.suffix.lower() != suffix:
            raise PrerequisiteError(f"{file} does not end with {suffix}, which the server expects.", fix)
        _require_room(file.parent, fix)


@contextmanager
def _reported(path: Path, fix: str) -> Iterator[None]:
    """Turns what the file system says (no permission, too long a name, a loop of links) into one sentence."""
    try:
        yield
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {path}: {error.strerror}.", fix) from error


def _require_room(folder: Path, fix: str) -> None:
    """Writes a file without a name in the nearest folder that exists."""
    nearest = folder.absolute()
    while not _exists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise PrerequisiteError(f"Cannot write into {folder}: {nearest} is not a folder.", fix)
    with tempfile.TemporaryFile(dir=nearest):
        pass


def _exists(path: Path) -> bool:
    """Whether something is there, a link to nowhere included; raises OSError for a path that cannot be."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
