"""Reads maps and prompts out of an artefact by the shapes of its arrays, whatever the method.

An array of numbers with three dimensions is a map, (t, h, w): one slot for each keyframe, one for each pair of
keyframes, or one for all. With four, (n, t, h, w), it is n maps, say of attention heads or tokens. Arrays of one slot
that differ only in a number at the end of their names (``view_000``, ``view_001``, ...) are one map where there are as
many as keyframes. ``points`` has rows ``[frame index, y, x, ...]``, ``boxes`` rows ``[frame index, y, x, y, x, ...]``
(upper left and lower right corner), in fractions of the frame's height and width.

Shape legend: T keyframes, t slots of a map, h w map cells, n maps or points, m boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import SampleError
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact

Float64 = NDArray[np.float64]
MOST_MAPS = 4
"""An array with more maps than these is shown by their mean."""
_NUMBERED = re.compile(r"(.+?)_?[0-9]+")
_NUMBERS = "fiub"
"""Kinds of data types: floats, integers, booleans."""


@dataclass(frozen=True, eq=False)
class KeyframeMaps:
    """One map per keyframe, as stored: neither smoothed nor normalised."""

    name: str
    maps: tuple[Float64 | None, ...]
    """(h, w) each; None on a keyframe without a map."""


@dataclass(frozen=True, eq=False)
class FramePrompts:
    """What prompted the segmenter on one frame, in fractions of its width and height."""

    xy_n2: Float64
    chosen_n: BoolHW
    """(n,) bool: points whose tracklet is in the result."""
    boxes_m4: Float64
    """x and y of the upper left and of the lower right corner."""


NO_PROMPTS = FramePrompts(np.zeros((0, 2)), np.zeros(0, dtype=bool), np.zeros((0, 4)))


def read_keyframes(artefacts: Mapping[str, Artefact]) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Indices of the frames that the method's model saw, by the first stage that lists them, and what is wrong with
    other lists; None where there is no list."""
    problems: list[str] = []
    for stage, artefact in artefacts.items():
        if "keyframes" in artefact.meta:
            try:
                return typed.keyframes(artefact), tuple(problems)
            except SampleError as error:
                problems.append(f"The keyframes of {stage} are not used: {error}")
    return None, tuple(problems)


def read_maps(artefact: Artefact, keyframes: int) -> tuple[tuple[KeyframeMaps, ...], tuple[str, ...]]:
    """All maps of an artefact, in the order of their names, and a sentence on each that cannot be shown."""
    arrays = {
        name: array
        for name, array in artefact.arrays.items()
        if array.dtype.kind in _NUMBERS and array.ndim in (3, 4) and 0 not in array.shape[-3:]
    }
    found: list[KeyframeMaps] = []
    problems: list[str] = []
    groups = _numbered_groups(arrays, keyframes)
    grouped = {name for names in groups.values() for name in names}
    for stem, names in groups.items():
        means = [_mean(arrays[name]) for name in names]
        found.append(KeyframeMaps(stem, tuple(None if mean is None else mean[0] for mean in means)))
    for name in sorted(set(arrays) - grouped):
        for label, map_thw in _single_maps(name, arrays[name]):
            slots = len(map_thw)
            if slots not in (1, keyframes, (keyframes + 1) // 2):
                problems.append(f"The map {label} is not shown: it has {slots} slots for {keyframes} keyframes")
                continue
            at = [k if slots == keyframes else k // 2 if slots > 1 else 0 for k in range(keyframes)]
            found.append(KeyframeMaps(label, tuple(map_thw[slot] for slot in at)))
    finite = [one for one in found if all(m is None or np.isfinite(m).all() for m in one.maps)]
    problems += [f"The map {one.name} is not shown: it holds values that are not finite" for one in found
                 if one not in finite]  # fmt: skip
    return tuple(sorted(finite, key=lambda one: one.name)), tuple(problems)


def read_prompts(artefact: Artefact) -> tuple[dict[int, FramePrompts], tuple[str, ...]]:
    """Points and boxes by index of their frame, and a sentence on each array that cannot be shown.

    Where there is no array of points, they are those of the ``tracklets`` in ``meta``.
    """
    chosen, listed_n3 = _tracklet_points(artefact)
    problems = []
    rows = {"points": listed_n3, "boxes": np.zeros((0, 5))}
    for name, columns in (("points", 3), ("boxes", 5)):
        array = artefact.arrays.get(name)
        if array is None:
            continue
        if array.ndim != 2 or array.shape[1] < columns or array.dtype.kind not in _NUMBERS:
            problems.append(f"The {name} are not shown: rows begin with frame index and {columns - 1} coordinates")
            continue
        values = np.asarray(array[:, :columns], dtype=np.float64)
        if not (values[:, 0] >= 0).all() or not ((values[:, 1:] >= 0) & (values[:, 1:] <= 1)).all():
            problems.append(f"The {name} are not shown: their coordinates are no fractions of the frame")
            continue
        rows[name] = values
    points_n3, boxes_m5 = rows["points"], rows["boxes"]
    prompts = {}
    for frame in sorted({int(index) for index in (*points_n3[:, 0], *boxes_m5[:, 0])}):
        xy_n2 = points_n3[points_n3[:, 0] == frame][:, [2, 1]]
        prompts[frame] = FramePrompts(
            xy_n2,
            np.array([(frame, float(x), float(y)) in chosen for x, y in xy_n2], dtype=bool),
            boxes_m5[boxes_m5[:, 0] == frame][:, [2, 1, 4, 3]],
        )
    return prompts, tuple(problems)


def tracklets(artefact: Artefact) -> tuple[Mapping[str, object], ...]:
    """The tracklets that a segment artefact lists: ``frame``, ``point``, ``selected`` and scores of each."""
    listed = artefact.meta.get("tracklets")
    return tuple(one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


def _tracklet_points(artefact: Artefact) -> tuple[set[tuple[int, float, float]], Float64]:
    """The points (frame, x, y) of selected tracklets, and the rows [frame, y, x] of all."""
    chosen, rows = set(), []
    for one in tracklets(artefact):
        frame, point = one.get("frame"), one.get("point")
        if not isinstance(frame, int) or not isinstance(point, list) or len(point) != 2:
            continue
        x, y = float(point[0]), float(point[1])
        rows.append((float(frame), y, x))
        if one.get("selected"):
            chosen.add((frame, x, y))
    return chosen, np.array(rows, dtype=np.float64).reshape(-1, 3)


def _numbered_groups(arrays: Mapping[str, NDArray[np.generic]], keyframes: int) -> dict[str, list[str]]:
    """Names of arrays that together are one map, by what their names begin with."""
    groups: dict[str, list[str]] = {}
    for name in sorted(arrays):
        numbered = _NUMBERED.fullmatch(name)
        if numbered is not None and arrays[name].shape[-3] == 1:
            groups.setdefault(numbered[1], []).append(name)
    return {stem: names for stem, names in groups.items() if len(names) == keyframes > 1}


def _single_maps(name: str, array: NDArray[np.generic]) -> Iterator[tuple[str, Float64]]:
    """The maps (t, h, w) of an array, with their labels."""
    label = name.replace("_", " ")
    if array.ndim == 3:
        yield label, np.asarray(array, dtype=np.float64)
    elif len(array) > MOST_MAPS:
        mean_thw = _mean(array)
        assert mean_thw is not None
        yield f"{label} (mean of {len(array)})", mean_thw
    else:
        for number, map_thw in enumerate(array, start=1):
            yield f"{label} {number} of {len(array)}", np.asarray(map_thw, dtype=np.float64)


def _mean(array: NDArray[np.generic]) -> Float64 | None:
    """The mean over the maps of an array, (t, h, w); None where it holds none."""
    if array.ndim == 3:
        return np.asarray(array, dtype=np.float64)
    return np.asarray(array, dtype=np.float64).mean(0) if len(array) else None
