"""Reads mask dictionaries (JSON, and pickles that may hold plain data only) and lists folders of images.

Every complaint is one sentence that names the file, the key and what was expected.
"""

from __future__ import annotations

import os
import pickle
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from rvosbench.harness.data.parsing import INTACT, brief, load_json, malformed, refuse_other_files
from rvosbench.harness.errors import PrerequisiteError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""In order of preference when a folder holds two images of one name."""

RleTable = dict[str, list[dict[str, Any] | None]]
"""Key -> one COCO RLE or None per frame."""
_MAX_SIDE = 1 << 16
_MAX_PIXELS = 1 << 28
"""Of one mask: eight times an 8K frame. A larger size would be allocated before anything else is looked at."""


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


# What the unpickler raises on garbage is not documented; these are the ones its source can raise.
_PICKLE_DAMAGE = (
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def load_plain_pickle(path: Path) -> Any:
    """The unpickled file, if it holds only dict, list, tuple, set, str, bytes, int, float, bool and None.

    Nothing is imported or called on behalf of the file, so a hostile pickle cannot run code.

    Raises:
        PrerequisiteError: missing, truncated, not a pickle, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            refuse_other_files(file.peek(512), path, "a pickle")
            return _PlainUnpickler(file).load()
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", INTACT) from error
    except pickle.UnpicklingError as error:
        raise PrerequisiteError(f"{path} is not a pickle of plain data: {error}.", INTACT) from error
    except _PICKLE_DAMAGE as error:
        raise PrerequisiteError(f"{path} is not a readable pickle ({brief(error)}).", INTACT) from error


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
        if isinstance(key, bool) or not isinstance(key, int | str) or (isinstance(key, int) and abs(key) >= 2**63):
            malformed(path, "a key", "an annotation id (text or an integer)", key)
        if not isinstance(masks, list | tuple):
            malformed(path, brief(str(key)), "a list with one mask or null per frame", masks)
        for index, rle in enumerate(masks):
            if rle is not None:
                _check_rle(path, f"{brief(str(key))}[{index}]", rle)
        table[str(key)] = list(masks)
    return table


def _check_rle(path: Path, where: str, rle: object) -> None:
    if not isinstance(rle, dict):
        malformed(path, where, 'null or a COCO RLE {"size": [H, W], "counts": text}', rle)
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        malformed(path, f"{where}.size", "[H, W], two positive integers", size)
    if max(size) > _MAX_SIDE or size[0] * size[1] > _MAX_PIXELS:
        raise PrerequisiteError(f"{path}: {where}.size is larger than any frame.", INTACT)
    if not isinstance(counts, str | bytes):
        malformed(path, f"{where}.counts", "text (compressed COCO RLE)", counts)


def images_by_stem(folder: Path) -> dict[str, str]:
    """Name without extension -> file name, for the images in a folder; empty when there is no such folder.

    Raises:
        PrerequisiteError: the folder is there and cannot be listed.
    """
    found: dict[str, str] = {}
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - one call per folder; Path objects cost more than the listing
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        problem = f"{folder} cannot be listed: {error.strerror or error}."
        raise PrerequisiteError(problem, "Check the permissions of the data root.") from error
    for suffix in reversed(IMAGE_SUFFIXES):
        for name in names:
            stem, extension = os.path.splitext(name)  # noqa: PTH122 - as above
            if extension.lower() == suffix:
                found[stem] = name
    return found
