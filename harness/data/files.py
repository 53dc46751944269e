"""Reads metadata and mask dictionaries: JSON, and pickles that may hold plain data only.

Every complaint is one sentence that names the file, the key and what was expected.
"""

from __future__ import annotations

import json
import os
import pickle
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from rvosbench.harness.errors import PrerequisiteError

INTACT = "Replace the file with an intact copy."
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""In order of preference when a folder holds two images of one name."""

RleTable = dict[str, list[dict[str, Any] | None]]
"""Key -> one COCO RLE or None per frame."""


def malformed(path: Path, where: str, expected: str, found: object) -> NoReturn:
    """Raises the one sentence about a value that is not what it must be."""
    shown = "null" if found is None else type(found).__name__
    raise PrerequisiteError(f"{path}: {where} must be {expected}, found {shown}.", INTACT)


def load_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        PrerequisiteError: missing, unreadable, not UTF-8, or not JSON (with line and column).
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", INTACT) from error
    except UnicodeDecodeError as error:
        raise PrerequisiteError(f"{path} is not UTF-8 text (byte {error.start}).", INTACT) from error
    except json.JSONDecodeError as error:
        problem = f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise PrerequisiteError(problem, INTACT) from error
    except RecursionError as error:
        raise PrerequisiteError(f"{path} is not valid metadata: it nests too deeply.", INTACT) from error


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    # How pickle protocols 0 to 2 write bytes; any other use of this call is refused.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a call that is not plain data")
    return text.encode("latin-1")


def _empty_bytes(*arguments: object) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("a call that is not plain data")
    return b""


class _PlainUnpickler(pickle.Unpickler):
    """Never imports: containers, text, bytes and numbers need no import."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in {("builtins", "bytes"), ("__builtin__", "bytes")}:
            return _empty_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_plain_pickle(path: Path) -> Any:
    """The unpickled file, if it holds only dict, list, tuple, set, str, bytes, int, float, bool and None.

    Nothing is imported or called on behalf of the file, so a hostile pickle cannot run code.

    Raises:
        PrerequisiteError: missing, truncated, not a pickle, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", INTACT) from error
    except pickle.UnpicklingError as error:
        raise PrerequisiteError(f"{path} is not a pickle of plain data: {error}.", INTACT) from error
    # What the unpickler raises on garbage is not documented; these are the ones its source can raise.
    except (EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise PrerequisiteError(f"{path} is not a readable pickle ({error!r}).", INTACT) from error


_LOCK = Lock()


def load_rle_table(path: Path) -> RleTable:
    """A mask dictionary (``.json`` or ``.pkl``), read once per process and shared; keys become strings.

    Raises:
        PrerequisiteError: unreadable, or a value is not a list of COCO RLE and null.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", INTACT) from error
    # The lock keeps threads from parsing several hundred megabytes twice.
    with _LOCK:
        return _rle_table(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _rle_table(path: Path, size: int, mtime_ns: int) -> RleTable:
    raw = load_plain_pickle(path) if path.suffix == ".pkl" else load_json(path)
    if not isinstance(raw, dict):
        malformed(path, "the file", "a mapping from annotation id to masks", raw)
    table: RleTable = {}
    for key, masks in raw.items():
        if not isinstance(masks, list | tuple):
            malformed(path, f"'{key}'", "a list with one mask or null per frame", masks)
        for index, rle in enumerate(masks):
            if rle is not None:
                _check_rle(path, f"'{key}'[{index}]", rle)
        table[str(key)] = list(masks)
    return table


def _check_rle(path: Path, where: str, rle: object) -> None:
    if not isinstance(rle, dict):
        malformed(path, where, 'null or a COCO RLE {"size": [H, W], "counts": text}', rle)
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        malformed(path, f"{where}.size", "[H, W], two positive integers", size)
    if not isinstance(counts, str | bytes):
        malformed(path, f"{where}.counts", "text (compressed COCO RLE)", counts)


def images_by_stem(folder: Path) -> dict[str, str]:
    """Name without extension -> file name, for the images in a folder; empty when there is no such folder."""
    found: dict[str, str] = {}
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - one call per folder; Path objects cost more than the listing
    except (FileNotFoundError, NotADirectoryError):
        return found
    for suffix in reversed(IMAGE_SUFFIXES):
        for name in names:
            stem, extension = os.path.splitext(name)  # noqa: PTH122 - as above
            if extension.lower() == suffix:
                found[stem] = name
    return found
