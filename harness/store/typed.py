"""Typed reading of artefacts: what a stage finds in another's output is checked here, and nowhere else.

An artefact whose bytes are intact may still be another stage's, or have been written by a method that does not do what
its readers expect. Whatever is missing, of another type, shape or range ends as one ``ForeignArtefactError``, which
fails the sample and no other.

Shape legend: T keyframes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.parsing import why_no_name
from rvosbench.harness.errors import SampleError
from rvosbench.harness.settings import Json
from rvosbench.harness.store.artefacts import Artefact

_LARGEST_SIDE, _MOST_FRAMES = 1 << 16, 1 << 20


class ForeignArtefactError(SampleError):
    """An artefact that does not hold what its reader needs."""


def _refuse(name: str, what: str) -> ForeignArtefactError:
    return ForeignArtefactError(f"an artefact's '{name}' is not {what}")


def text(artefact: Artefact, name: str) -> str:
    """A text of the artefact's meta."""
    value = artefact.meta.get(name)
    if not isinstance(value, str):
        raise _refuse(name, "a text")
    return value


def texts(artefact: Artefact, name: str) -> tuple[str, ...]:
    """A list of texts of the artefact's meta."""
    values = _list(artefact.meta, name)
    if not all(isinstance(value, str) for value in values):
        raise _refuse(name, "a list of texts")
    return tuple(values)


def names(artefact: Artefact, name: str) -> tuple[str, ...]:
    """A list of distinct names of files, none of them a path."""
    values = texts(artefact, name)
    if len(set(values)) != len(values) or any(why_no_name(value) for value in values):
        raise _refuse(name, "a list of distinct names")
    return values


def text_lists(artefact: Artefact, name: str) -> tuple[tuple[str, ...], ...]:
    """A list of lists of texts of the artefact's meta."""
    values = _list(artefact.meta, name)
    if not all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in values):
        raise _refuse(name, "a list of lists of texts")
    return tuple(tuple(value) for value in values)


def counts(artefact: Artefact, name: str) -> dict[str, int]:
    """A mapping from texts to numbers of 0 or more."""
    values: Any = artefact.meta.get(name)
    if not isinstance(values, dict) or not all(_whole(value, 2**53) for value in values.values()):
        raise _refuse(name, "a mapping to counts")
    return {str(key): int(value) for key, value in values.items()}


def size(artefact: Artefact, name: str = "size") -> tuple[int, int]:
    """(H, W) in pixels."""
    values = _list(artefact.meta, name)
    if len(values) != 2 or not all(_whole(value, _LARGEST_SIDE) and value > 0 for value in values):
        raise _refuse(name, "a height and a width in pixels")
    return values[0], values[1]


def frame_indices(artefact: Artefact, name: str) -> tuple[int, ...]:
    """Distinct indices into a video, ascending."""
    values = _list(artefact.meta, name)
    if not all(_whole(value, _MOST_FRAMES) for value in values) or sorted(set(values)) != values:
        raise _refuse(name, "a list of ascending frame indices")
    return tuple(values)


def run_lengths(artefact: Artefact, name: str, count: int) -> tuple[str | None, ...]:
    """``count`` compressed run-length encodings, null for an empty mask; their lengths are checked when decoded."""
    values = _list(artefact.meta, name)
    if len(values) != count or not all(value is None or isinstance(value, str) for value in values):
        raise _refuse(name, f"a list of {count} run-length encodings")
    return tuple(values)


def keyframes(artefact: Artefact) -> tuple[int, ...]:
    """The T keyframes that the artefact is about; at least one."""
    found = frame_indices(artefact, "keyframes")
    if not found:
        raise _refuse("keyframes", "a list of at least one frame index")
    return found


def floats(artefact: Artefact, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """A finite array of floating-point numbers, as float32; None in ``shape`` is any length of 1 or more."""
    array = artefact.arrays.get(name)
    if array is None or not np.issubdtype(array.dtype, np.floating) or not _fits(array.shape, shape):
        raise _refuse(name, f"an array of floating-point numbers of shape {_shown(shape)}")
    found = np.asarray(array, dtype=np.float32)
    if not np.isfinite(found).all():
        raise _refuse(name, "an array of finite numbers")
    return found


def integers(artefact: Artefact, name: str, shape: tuple[int | None, ...]) -> NDArray[np.int64]:
    """An array of whole numbers of 0 or more."""
    array = artefact.arrays.get(name)
    if array is None or not np.issubdtype(array.dtype, np.integer) or not _fits(array.shape, shape):
        raise _refuse(name, f"an array of whole numbers of shape {_shown(shape)}")
    found = np.asarray(array, dtype=np.int64)
    if found.size and found.min() < 0:
        raise _refuse(name, "an array of counts")
    return found


def array_names(artefact: Artefact, pattern: str) -> tuple[str, ...]:
    """Names of arrays that match a regular expression, sorted."""
    return tuple(sorted(name for name in artefact.arrays if re.fullmatch(pattern, name)))


def _list(meta: Mapping[str, Json], name: str) -> list[Any]:
    values = meta.get(name)
    if not isinstance(values, list):
        raise _refuse(name, "a list")
    return values


def _whole(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(
        one == side if side is not None else one > 0 for one, side in zip(found, shape, strict=True)
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"
