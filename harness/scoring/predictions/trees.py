"""The files of a folder or an archive, by their paths, whichever of the two it is.

Archives come from strangers. Nothing is unpacked by name: members are read into memory with a limit, links and special
files are ignored, and so are names that leave the archive. A compressed tar is expanded once, into one temporary file
of bounded size, because its members cannot be reached otherwise.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.store.artefacts import storage_errors

MAX_FILES = 4_000_000
"""Ten times the largest benchmark's masks of four methods."""
MAX_DEPTH = 24
"""Folders inside folders."""
MAX_EXPANSION = 400
"""How many times its own size a compressed file may expand to; small empty masks in a tar reach about 100."""
FREE_EXPANSION = 2**28
"""Bytes that any compressed file may expand to."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)

Packing = Literal["zip", "gz", "bz2", "xz", "none"]
"""none: a tar that is not compressed."""
_SIGNATURES: tuple[tuple[Packing, bytes], ...] = (
    ("zip", b"PK\x03\x04"),
    ("zip", b"PK\x05\x06"),  # an empty one
    ("gz", b"\x1f\x8b"),
    ("bz2", b"BZh"),
    ("xz", b"\xfd7zXZ\0"),
)
"""First bytes, by packing."""
Compressed = gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile

_CHUNK = 1 << 20
_JUNK_FOLDERS = ("__MACOSX",)
_JUNK_FILES = ("Thumbs.db", "desktop.ini")
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted member
    NotImplementedError,
    OverflowError,
    IndexError,  # what zipfile and tarfile raise on damaged headers is not documented
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file's bytes are."""

    name: str
    """As the folder or archive has it."""
    offset: int = 0
    """In an uncompressed tar."""
    size: int = 0


class FileReader(Protocol):
    """Reads members; cheap to send to another process."""

    def read(self, member: Member, limit: int) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: it is gone, or a link to nowhere.
            SampleError: unreadable, or longer than ``limit`` bytes.
        """
        ...


@dataclass(frozen=True)
class FileTree:
    """All files of a folder or archive, without system files."""

    files: Mapping[str, Member]
    """By path, "/" between the parts; sorted."""
    reader: FileReader
    twice: tuple[str, ...] = ()
    """Paths that an archive holds more than once; the last one is read."""
    ignored: tuple[str, ...] = ()
    """Links and names that leave the archive."""
    temporary: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Holds an expanded tar for as long as the tree lives."""


def open_tree(path: Path) -> FileTree:
    """The files below a folder, or in an archive.

    Raises:
        PrerequisiteError: unreadable, or larger than the limits above.
    """
    try:
        if path.is_dir():
            return _folder(path)
        packing = _packing(path)
        return _zip(path) if packing == "zip" else _tar(path, packing)
    except _DAMAGE as error:
        kind = "folder" if path.is_dir() else "archive"
        raise PrerequisiteError(f"{path} is not a readable {kind}: {error}.", "Give an intact copy.") from error


def _packing(path: Path) -> Packing:
    """How an archive is packed, by its first bytes: names are wrong more often. Else by its name."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar":
        return "none"
    for packing, signature in _SIGNATURES:
        if head.startswith(signature):
            return packing
    return "zip" if path.name.lower().endswith(".zip") else "none"


def is_archive(path: Path) -> bool:
    """Whether the name says that it is an archive that can be read."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def bounded(file: Compressed, compressed: int, name: str) -> Iterator[bytes]:
    """The expanded content of a compressed file, in chunks.

    Raises:
        PrerequisiteError: it expands to more than the limits.
    """
    total, limit = 0, max(FREE_EXPANSION, MAX_EXPANSION * compressed)
    while chunk := file.read(_CHUNK):
        total += len(chunk)
        if total > limit:
            raise PrerequisiteError(
                f"{name} expands to more than {limit} bytes, {MAX_EXPANSION} times its size.", "Give it uncompressed."
            )
        yield chunk


@dataclass(frozen=True, slots=True)
class _FolderReader:
    root: Path

    def read(self, member: Member, limit: int) -> bytes:
        try:
            with (self.root / member.name).open("rb") as file:
                return _limited(file.read(limit + 1), limit)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SampleError(str(error.strerror)) from error


@dataclass(frozen=True, slots=True)
class _ZipReader:
    path: Path

    def read(self, member: Member, limit: int) -> bytes:
        try:
            with _zip_file(self.path, os.getpid()).open(member.name) as file:
                return _limited(file.read(limit + 1), limit)
        except _DAMAGE as error:
            raise SampleError(f"the archive's member is damaged: {error}") from error


@lru_cache(maxsize=2)
def _zip_file(path: Path, process: int) -> zipfile.ZipFile:
    # One for each process: a forked worker would share the position in the file.
    return zipfile.ZipFile(path)


@dataclass(frozen=True, slots=True)
class _TarReader:
    path: Path

    def read(self, member: Member, limit: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(member.offset)
                return _limited(file.read(min(member.size, limit + 1)), limit)
        except OSError as error:
            raise SampleError(str(error.strerror)) from error


def _limited(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise SampleError(f"the file is longer than {limit} bytes, more than such a mask needs")
    return content


def _folder(root: Path) -> FileTree:
    files: dict[str, Member] = {}
    ignored: list[str] = []
    for name, regular in _walk(root, "", ()):
        if regular:
            files[name] = Member(name)
        else:
            ignored.append(name)
        _check_count(len(files), root)
    return FileTree(dict(sorted(files.items())), _FolderReader(root.absolute()), ignored=tuple(ignored))


def _walk(root: Path, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, bool]]:
    """Every entry that is no folder, and whether it is a regular file. Links are followed, loops are not."""
    status = (root / folder).stat()
    here = status.st_dev, status.st_ino
    if here in above or len(above) > MAX_DEPTH:
        return
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _junk(entry.name):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_folder:
                yield from _walk(root, name, (*above, here))
            else:
                yield name, is_file


def _zip(path: Path) -> FileTree:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    found = []
    for info in members:
        if info.filename.endswith(("/", "\\")):
            continue
        mode = info.external_attr >> 16
        regular = not mode or stat.S_ISREG(mode) or not stat.S_IFMT(mode)
        found.append((info.filename, Member(info.filename, size=info.file_size), regular))
    return _archive(found, _ZipReader(path.absolute()), path)


def _tar(path: Path, packing: Packing) -> FileTree:
    temporary = None
    plain = path
    if packing != "none":
        temporary = tempfile.TemporaryDirectory(prefix="rvosbench-")
        plain = Path(temporary.name) / "expanded.tar"
        _expand(path, packing, plain)
    found, last = [], -1
    with tarfile.open(plain, "r:") as archive:
        for info in archive:
            # A damaged header can send the reader back to where it was.
            if info.offset <= last:
                raise tarfile.ReadError("its members overlap")
            last = info.offset
            if not info.isdir():
                member = Member(info.name, info.offset_data, info.size)
                found.append((info.name, member, info.isreg() and not info.issparse()))
            _check_count(len(found), path)
    return _archive(found, _TarReader(plain.absolute()), path, temporary)


def _expand(path: Path, packing: Packing, to: Path) -> None:
    opened: Compressed
    if packing == "bz2":
        opened = bz2.open(path)  # noqa: SIM115 - closed below, whichever it is
    elif packing == "xz":
        opened = lzma.open(path)  # noqa: SIM115
    else:
        opened = gzip.open(path)  # noqa: SIM115
    with opened, storage_errors(to), to.open("wb") as out:
        out.writelines(bounded(opened, path.stat().st_size, str(path)))


def _archive(
    found: list[tuple[str, Member, bool]],
    reader: FileReader,
    path: Path,
    temporary: tempfile.TemporaryDirectory[str] | None = None,
) -> FileTree:
    _check_count(len(found), path)
    files: dict[str, Member] = {}
    twice, ignored = [], []
    for name, member, regular in found:
        parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
        if not regular or ".." in parts or "" in parts or "\0" in name or len(parts) > MAX_DEPTH:
            ignored.append(name)
            continue
        if any(map(_junk, parts)):
            continue
        key = "/".join(parts)
        if key in files:
            twice.append(key)
        files[key] = member
    return FileTree(dict(sorted(files.items())), reader, tuple(twice), tuple(ignored), temporary)


def _junk(name: str) -> bool:
    return name.startswith(".") or name in _JUNK_FOLDERS or name in _JUNK_FILES


def _check_count(files: int, path: Path) -> None:
    if files > MAX_FILES:
        raise PrerequisiteError(f"{path} holds more than {MAX_FILES} files.", "Give the folder of the masks alone.")
