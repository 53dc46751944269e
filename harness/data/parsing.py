"""JSON and YAML from outside, parsed in one place, and the names in them.

Whatever the bytes are, a reader gets a value or one sentence that names the file and what it most likely is.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.text import one_line
from rvosbench.harness.yaml_files import read_yaml

INTACT = "Replace the file with an intact copy."
MAX_JSON_BYTES = 4 * 2**30
"""No metadata or mask dictionary in the field is larger than half a gigabyte."""
_MAX_NAME_BYTES = 255
"""Of one part of a name: the limit of common file systems."""
_MAX_PATH_BYTES = 1024


def load_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The parsed file.

    Raises:
        PrerequisiteError: missing, unreadable, too large, or not JSON; see `parse_json`.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            problem = f"{path} has {size:,} bytes, more than the {max_bytes:,} that are read."
            raise PrerequisiteError(problem, "Check that it is the right file.")
        data = path.read_bytes()
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", INTACT) from error
    except MemoryError as error:
        raise PrerequisiteError(f"{path} does not fit into memory.", "Use a machine with more memory.") from error
    return parse_json(data, path)


def load_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file of plain values.

    Args:
        what: what messages call it, e.g. "card".

    Raises:
        PrerequisiteError: see `read_yaml`; or it is not a mapping.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        problem = f"The {what} {path} must be a mapping, found {type(raw).__name__}."
        raise PrerequisiteError(problem, f"Correct the {what}.")
    return raw


def parse_json(data: bytes, source: Path | str) -> Any:
    """The value in the bytes of a JSON text.

    Refused, beside what no parser accepts: a key that occurs twice in one mapping, NaN and infinities, integers of
    thousands of digits, nesting of thousands of levels.

    Args:
        data: UTF-8, with or without a byte order mark.
        source: what messages call it.

    Raises:
        PrerequisiteError: one sentence with the source, the reason, and the place where there is one.
    """
    refuse_other_files(data, source, "JSON")
    try:
        return json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_mapping, parse_constant=_refuse_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise PrerequisiteError(f"{source} is not UTF-8 text (byte {error.start}).", INTACT) from error
    except json.JSONDecodeError as error:
        problem = f"{source} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise PrerequisiteError(problem, INTACT) from error
    except RecursionError as error:
        raise PrerequisiteError(f"{source} is not valid JSON: it nests too deeply.", INTACT) from error
    except MemoryError as error:
        raise PrerequisiteError(f"{source} does not fit into memory.", "Use a machine with more memory.") from error
    except _RefusedError as error:
        raise PrerequisiteError(f"{source} is not valid JSON: {error}.", INTACT) from error
    except ValueError as error:
        # What is left is Python's limit on the digits of an integer.
        raise PrerequisiteError(f"{source} is not valid JSON: it holds a number that is too long.", INTACT) from error


def refuse_other_files(head: bytes, source: Path | str, wanted: str) -> None:
    """Raises PrerequisiteError when a file's first bytes are those of what commonly lies in the wanted one's place."""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    what, fix = "", INTACT
    if not start:
        what = "empty"
    elif start.startswith(b"version https://git-lfs.github.com/spec/"):
        what, fix = "a pointer of Git LFS", "Fetch the file itself with git lfs pull, or download it from its owner."
    elif start[:1] == b"<":
        what, fix = "a web page (an error, or a login)", "Download the file again, by its direct link."
    elif start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!")):
        what, fix = "an archive", "Unpack it, and put what it holds in its place."
    if what:
        raise PrerequisiteError(f"{source} is {what}, not {wanted}.", fix)


def malformed(path: Path, where: str, expected: str, found: object, *, fix: str = INTACT) -> NoReturn:
    """Raises the one sentence about a value that is not what it must be."""
    kind = "null" if found is None else type(found).__name__
    raise PrerequisiteError(f"{path}: {where} must be {expected}, found {kind}.", fix)


def why_no_name(name: str, *, folders: bool = False) -> str | None:
    """Why a text cannot name a file or folder below the one it belongs to, in a few words; None when it can.

    Args:
        folders: whether slashes may separate folders.
    """
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "holds control characters"
    parts = name.split("/")
    if "\\" in name or (len(parts) > 1 and not folders) or any(part in ("", ".", "..") for part in parts):
        return "is not a relative path inside the folder" if folders else "cannot name a file"
    if size > _MAX_PATH_BYTES or any(len(part.encode("utf-8")) > _MAX_NAME_BYTES for part in parts):
        return f"is too long for a file name ({size} bytes)"
    return None


def brief(name: object, most: int = 60) -> str:
    """A value from a file as a message quotes it: escaped, on one line, cut where it is long."""
    text = one_line(repr(name) if not isinstance(name, str) else f"'{name}'")
    return text if len(text) <= most else f"{text[:most]}..."


class _RefusedError(ValueError):
    """JSON that parsers accept and this reader does not."""


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _RefusedError(f"the key {brief(twice)} occurs twice in one mapping")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"it holds {name}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"the number {brief(text)} is too large")
    return value
