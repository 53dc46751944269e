"""Archives from outside, unpacked so that nothing lands outside the target and no archive outgrows its limits."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rvosbench.harness.data.parsing import brief, why_no_name
from rvosbench.harness.errors import PrerequisiteError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_FILES = 20_000_000
_CHUNK = 1 << 20
_GROWTH, _SLACK = 4, 1 << 30
"""Images are compressed already: an archive that grows by more than this is no archive of images."""
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


def stem(name: str) -> str | None:
    """The name of an archive without its suffix; None when it is not an archive."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a tar or zip archive into a new folder, which appears when it is complete.

    Only files and folders are accepted. An archive whose only member is a folder of the target's name gives that
    folder.

    Args:
        archive: named by one of `SUFFIXES`.
        target: must not exist.

    Raises:
        PrerequisiteError: damaged, a member that is a link or leads outside, or more than an archive of its size holds.
    """
    work = target.with_name(f"{target.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    limit = archive.stat().st_size * _GROWTH + _SLACK
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    written = files = 0
    try:
        for name, content in members(archive):
            files += 1
            if files > MAX_FILES:
                raise PrerequisiteError(f"{archive} holds more than {MAX_FILES:,} files.", _FIX)
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                while chunk := content.read(_CHUNK):
                    written += len(chunk)
                    if written > limit:
                        raise PrerequisiteError(f"{archive} unpacks to more than {limit:,} bytes.", _FIX)
                    file.write(chunk)
    except _DAMAGE as error:
        raise PrerequisiteError(f"{archive} cannot be unpacked: {brief(str(error))}.", _FIX) from error
    only = list(work.iterdir())
    if len(only) == 1 and only[0].name == target.name and only[0].is_dir():
        only[0].rename(target)
        work.rmdir()
    else:
        work.rename(target)


_FIX = "Remove it and run the command again, which downloads it once more."


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    # As a stream: one pass, no list of members in memory.
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if member.isdir():
                continue
            name = _safe(archive, member.name)
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise PrerequisiteError(f"{archive} holds {brief(member.name)}, which is a link or a device.", _FIX)
            if name is not None:
                yield name, content


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if member.is_dir():
                continue
            name = _safe(archive, member.filename)
            if (member.external_attr >> 28) not in (0, 0o10):
                raise PrerequisiteError(f"{archive} holds {brief(member.filename)}, which is a link or a device.", _FIX)
            if name is not None:
                with packed.open(member) as content:
                    yield name, content


def _safe(archive: Path, name: str) -> str | None:
    """The member's path below the target; None for what archivers of other systems add."""
    name = name.removeprefix("./")
    if (why := why_no_name(name, folders=True)) is not None:
        raise PrerequisiteError(f"{archive} holds {brief(name)}, which {why}.", _FIX)
    parts = name.split("/")
    return None if "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store" else name
