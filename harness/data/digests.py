"""Content digests of videos and checkpoint folders, remembered between runs.

The memory is a folder of small JSON files, one per folder of hashed files, each replaced whole by a rename:
any number of processes may share it, on network file systems too, and the worst that a race can cost is
hashing a file again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError

THREADS = 8
FRESH_NS = 2_000_000_000
"""A file changed this recently is hashed but not remembered: it may change again within one clock tick."""

_Entry = tuple[int, int, str]
"""Size, mtime in nanoseconds, SHA-256."""


class MediaIndex:
    """Digests by content, cached by (path, size, mtime).

    Args:
        path: the folder of the memory; made when first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def video(self, video: Video) -> str:
        """SHA-256 over the frames' SHA-256 in order; names and places do not enter.

        Raises:
            SampleError: a frame is missing or unreadable; names it.
        """
        try:
            digests = self._files(video.frame_paths)
        except OSError as error:
            raise SampleError(f"{error.filename} cannot be read: {error.strerror or error}") from error
        return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()

    def folder(self, path: Path) -> str:
        """SHA-256 over relative names and contents of the files in a checkpoint folder.

        Links are followed. Hidden files and folders (download caches) and model cards (``*.md``) do not count.

        Raises:
            PrerequisiteError: not a folder, empty, or a file is unreadable.
        """
        if not path.is_dir():
            raise PrerequisiteError(f"{path} is not a folder.", "Give the folder of the checkpoint.")
        files = sorted(name for name in _visible_files(path) if not name.endswith(".md"))
        if not files:
            raise PrerequisiteError(f"The folder {path} is empty.", "Give the folder of the checkpoint.")
        try:
            digests = self._files([path / name for name in files])
        except OSError as error:
            raise PrerequisiteError(
                f"{error.filename} cannot be read: {error.strerror or error}.", "Check the checkpoint folder."
            ) from error
        whole = hashlib.sha256()
        for name, digest in zip(files, digests, strict=True):
            whole.update(f"{name}\0{digest}\n".encode())
        return whole.hexdigest()

    def _files(self, paths: Sequence[Path]) -> list[str]:
        by_folder: dict[Path, dict[str, _Entry]] = {}
        changed: set[Path] = set()
        todo: list[int] = []
        digests = [""] * len(paths)
        stats = [path.stat() for path in paths]
        for index, (path, stat) in enumerate(zip(paths, stats, strict=True)):
            if path.parent not in by_folder:
                by_folder[path.parent] = self._read(path.parent)
            known = by_folder[path.parent].get(path.name)
            if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
                digests[index] = known[2]
            else:
                todo.append(index)
        with ThreadPoolExecutor(THREADS) as pool:
            for index, digest in zip(todo, pool.map(lambda i: _hash_file(paths[i]), todo), strict=True):
                digests[index] = digest
                path, stat = paths[index], stats[index]
                if stat.st_mtime_ns < time.time_ns() - FRESH_NS:
                    by_folder[path.parent][path.name] = (stat.st_size, stat.st_mtime_ns, digest)
                    changed.add(path.parent)
        for folder in changed:
            self._write(folder, by_folder[folder])
        return digests

    def _slot(self, folder: Path) -> Path:
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()
        return self.path / name[:2] / f"{name}.json"

    def _read(self, folder: Path) -> dict[str, _Entry]:
        # A memory that cannot be used is the same as none: everything in it can be computed again.
        try:
            stored = json.loads(self._slot(folder).read_text(encoding="utf-8"))
            if stored["folder"] != str(folder.absolute()):
                return {}
            return {name: _entry(*entry) for name, entry in stored["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(self, folder: Path, files: dict[str, _Entry]) -> None:
        # A folder that cannot be written to costs no more than hashing again.
        with suppress(OSError):
            self._replace(folder, files)

    def _replace(self, folder: Path, files: dict[str, _Entry]) -> None:
        slot = self._slot(folder)
        slot.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=slot.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"folder": str(folder.absolute()), "files": files}, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(slot)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _entry(size: object, mtime: object, sha: object) -> _Entry:
    """One remembered file. Raises ValueError when it is none."""
    if type(size) is not int or type(mtime) is not int or not isinstance(sha, str) or len(bytes.fromhex(sha)) != 32:
        raise ValueError("not a remembered digest")
    return size, mtime, sha


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as the tool ``sha256sum`` prints it. Raises OSError."""
    return _hash_file(path)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _visible_files(root: Path) -> list[str]:
    found = []
    entered = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        # A link to a folder above would never end.
        real = os.path.realpath(folder)
        folders[:] = [] if real in entered else [name for name in folders if not name.startswith(".")]
        if real not in entered:
            found += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
        entered.add(real)
    return found
