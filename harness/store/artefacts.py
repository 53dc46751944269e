"""The content-addressed artefact store: one file per (stage, key), complete when it exists.

An artefact is a zip with ``meta.json`` and one ``.npy`` member per array, written to a temporary file, synced,
then renamed: the rename is the commit. The same artefact always gives the same bytes (members sorted, fixed
dates, no compression of arrays), so two runs can be compared file by file. Nothing is ever unpickled.

The archive's comment ends the file: ``rvosbench``, SHA-256 of ``meta.json``, SHA-256 of all bytes before. Any flipped
bit is found when what it stands in is read.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Json

_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
_META = "meta.json"
_DIGEST = 64
"""Hex digits of a SHA-256."""
_COMMENT = re.compile(rb"rvosbench ([0-9a-f]{64}) ([0-9a-f]{64})")
_COMMENT_BYTES = len("rvosbench ") + 2 * _DIGEST + 1
_SURROGATES: Literal["surrogatepass"] = "surrogatepass"
"""Half a character of a pair, as a cut text has it, is kept."""
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, RecursionError, MemoryError),
    *(KeyError, ValueError, EOFError, OverflowError, TypeError, SyntaxError),
)
"""What readers of zip, JSON and npy raise on bytes that nobody wrote, as far as a checksum lets them come."""
_ELSEWHERE = "Choose another folder with --set runs=FOLDER, or --out."
_STORAGE_FIXES = {
    errno.ENOSPC: "Free disk space, then run the same command again: everything committed so far is kept.",
    errno.EDQUOT: "Raise the quota or free space, then run the same command again: everything committed is kept.",
    errno.EROFS: f"The file system is read-only. {_ELSEWHERE}",
    errno.EACCES: f"Make the folder writable. {_ELSEWHERE}",
    errno.EPERM: f"Make the folder writable. {_ELSEWHERE}",
    errno.ENOTDIR: f"A file stands where the folder should be. {_ELSEWHERE}",
    errno.EEXIST: f"A file stands where the folder should be. {_ELSEWHERE}",
    errno.ENOENT: _ELSEWHERE,
    errno.ENAMETOOLONG: _ELSEWHERE,
    errno.EFBIG: f"The file system takes no file of that size. {_ELSEWHERE}",
    errno.EIO: f"The disk reports an error. {_ELSEWHERE}",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns "the disk says no" into a prerequisite error: every further item would fail the same way."""
    try:
        yield
    except OSError as error:
        fix = _STORAGE_FIXES.get(error.errno or 0)
        if fix is None:
            raise
        raise PrerequisiteError(f"Cannot write {path}: {os.strerror(error.errno or 0)}.", fix) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` only when the block ends without an error.

    Raises:
        PrerequisiteError: the disk is full, read-only or not permitted; no partial file is left.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: object) -> None:
    """Atomic, human-readable JSON; refuses NaN and infinity."""
    with atomic_write(path) as file:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        file.write(text.encode() + b"\n")


@dataclass(frozen=True)
class Artefact:
    """A stage's output for one expression: JSON values and arrays, nothing else."""

    meta: Mapping[str, Json] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


class DamagedArtefactError(PrerequisiteError):
    """An artefact whose bytes are not those that were written. A run computes it again."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"Artefact {path} is damaged ({why}).", "Delete the file and run the recipe again.")
        self.path = path
        self.why = why

    def __reduce__(self) -> tuple[type[DamagedArtefactError], tuple[Path, str]]:
        return DamagedArtefactError, (self.path, self.why)


class ArtefactStore:
    """Artefacts below one folder; safe for many writers on one (shared) file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, key: str) -> Path:
        """Where the artefact is, whether it exists or not."""
        return self.root / stage / key[:2] / f"{key}.npz"

    def paths(self, stage: str) -> Iterator[Path]:
        """The files of a stage's committed artefacts, in no order."""
        return (self.root / stage).glob("[0-9a-f][0-9a-f]/*.npz")

    def has(self, stage: str, key: str) -> bool:
        """Whether the artefact was committed."""
        return self.path(stage, key).is_file()

    def write(self, stage: str, key: str, artefact: Artefact) -> None:
        """Commits an artefact; a second writer of the same key writes the same bytes.

        Raises:
            PrerequisiteError: the disk refuses.
        """
        with atomic_write(self.path(stage, key)) as file:
            file.write(to_bytes(artefact))

    def read(self, stage: str, key: str) -> Artefact:
        """The committed artefact.

        Raises:
            PrerequisiteError: it is missing.
            DamagedArtefactError: its bytes are not those that were written.
        """
        path = self.path(stage, key)
        with _read_errors(path):
            return from_bytes(path.read_bytes())

    def damage(self, stage: str, key: str) -> DamagedArtefactError | None:
        """What is wrong with a committed artefact's bytes; None: nothing.

        Raises:
            PrerequisiteError: it is missing.
        """
        path = self.path(stage, key)
        with _read_errors(path):
            try:
                _checked(path.read_bytes())
            except ValueError as error:
                return DamagedArtefactError(path, str(error))
        return None

    def discard(self, path: Path) -> None:
        """Removes a damaged artefact, so that it is computed again.

        Raises:
            PrerequisiteError: the disk refuses.
        """
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def read_meta(self, stage: str, key: str) -> Mapping[str, Json]:
        """The artefact's JSON values alone; its arrays are not read from the disk.

        Raises:
            PrerequisiteError: as ``read``.
        """
        path = self.path(stage, key)
        with _read_errors(path), path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _COMMENT_BYTES))
            expected = _COMMENT.fullmatch(file.read())
            if expected is None:
                raise ValueError("its checksum is gone")
            with zipfile.ZipFile(file) as archive:
                content = archive.read(_META)
            if hashlib.sha256(content).hexdigest().encode() != expected[1]:
                raise ValueError("its checksum differs")
            return _parsed(content)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PrerequisiteError(
            f"Artefact {path} is missing.", "Run the recipe again: it computes what is missing."
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a place in the file that no file has
            raise DamagedArtefactError(path, "it names places outside of it") from error
        raise PrerequisiteError(
            f"Artefact {path} cannot be read: {error.strerror or error}.", "Make it readable, or check the disk."
        ) from error
    except _DAMAGE as error:
        raise DamagedArtefactError(path, " ".join(str(error).split()) or type(error).__name__) from error


def to_bytes(artefact: Artefact) -> bytes:
    """The file content: deterministic for equal artefacts."""
    buffer = io.BytesIO()
    meta = json.dumps(artefact.meta, sort_keys=True, ensure_ascii=False, allow_nan=False).encode("utf-8", _SURROGATES)
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = f"rvosbench {hashlib.sha256(meta).hexdigest()} {'0' * _DIGEST}".encode()
        archive.writestr(zipfile.ZipInfo(_META, _FIXED_DATE), meta, zipfile.ZIP_DEFLATED, 6)
        for name in sorted(artefact.arrays):
            member = io.BytesIO()
            np.save(member, np.ascontiguousarray(artefact.arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _FIXED_DATE), member.getvalue())
    content = buffer.getvalue()[:-_DIGEST]
    return content + hashlib.sha256(content).hexdigest().encode()


def from_bytes(content: bytes) -> Artefact:
    """The artefact in a file's content.

    Raises:
        ValueError: the content is not what ``to_bytes`` gave.
    """
    _checked(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {
            name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
            for name in archive.namelist()
            if name.endswith(".npy")
        }
        return Artefact(meta=_parsed(archive.read(_META)), arrays=arrays)


def _checked(content: bytes) -> None:
    if _COMMENT.fullmatch(content[-_COMMENT_BYTES:]) is None:
        raise ValueError("its checksum is gone")
    if hashlib.sha256(content[:-_DIGEST]).hexdigest().encode() != content[-_DIGEST:]:
        raise ValueError("its checksum differs")


def _parsed(content: bytes) -> Mapping[str, Json]:
    meta = json.loads(content.decode("utf-8", _SURROGATES))
    if not isinstance(meta, dict):
        raise ValueError("its values are no mapping")
    return meta


def _umask() -> int:
    """The process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
