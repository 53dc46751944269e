"""Object matching for protocol ``refdavis17/anno4``: fuse an annotator's masks, then assign them to objects.

Shape legend: T frames, H W pixels, O objects, P predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW, Expression, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.scoring.kernel import f, j
from rvosbench.harness.scoring.rules import PairCounts, Recorded, ScoredMask
from rvosbench.harness.scoring.statistics import Item
from rvosbench.harness.scoring.truths import FrameTruths

_ZERO = (0, 1, 0, 1, 0, 0)
"""One wrong pixel: J and F are 0."""
_LISTED = 5
"""Objects named in a note."""


class ObjectMatcher:
    """Compares, frame by frame, every object of a video with every prediction of an annotator.

    The objects are those that any annotator's expression names. An object whose ground truth cannot be read on a frame
    scores 0. Masks that exist on keyframes only are compared on the frames that all of them cover.

    Raises:
        PrerequisiteError: an expression has no annotator.
    """

    def __init__(self, video: Video) -> None:
        self._video = video
        self._predictions = _by_annotator(video)
        self._objects = _objects(video)
        self._rows_OP: dict[int, list[list[list[tuple[int, ...]]]]] = {
            annotator: [[[] for _ in expressions] for _ in self._objects]
            for annotator, expressions in self._predictions.items()
        }
        self._unreadable: set[str] = set()
        self._frames = 0

    def add(self, truths: FrameTruths, scored: Mapping[str, ScoredMask]) -> None:
        """The next frame; one that only some of the expressions are scored on is not compared."""
        prepared = {}
        for expression in self._objects:
            truth = truths.without_void(expression)
            if isinstance(truth, SampleError):
                self._unreadable.add(_name(expression))
            else:
                prepared[_name(expression)] = truth
        wanted = {expression.id for expression in self._video.expressions if _name(expression) in prepared}
        if not wanted or not wanted <= scored.keys():
            return
        for annotator, expressions in self._predictions.items():
            masks = [scored[expression.id].mask_HW if expression.id in scored else None for expression in expressions]
            for p, mask in enumerate(fuse(masks)):
                for o, expression in enumerate(self._objects):
                    known = prepared.get(_name(expression))
                    row = known.counts(mask) if mask is not None and known is not None else _ZERO
                    self._rows_OP[annotator][o][p].append(tuple(row))
        self._frames += 1

    def result(self) -> Recorded:
        """The integers of every pair, by annotator."""
        return Recorded(
            pairs=PairCounts(
                tuple(_name(expression) for expression in self._objects),
                {
                    str(annotator): np.array(self._rows_OP[annotator], dtype=np.int64).reshape(
                        len(self._objects), len(expressions), self._frames, 6
                    )
                    for annotator, expressions in self._predictions.items()
                },
                frozenset(self._unreadable),
            )
        )


def annotated_objects(
    videos: Sequence[Video], by_video: Mapping[str, PairCounts]
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """One item per annotator and object of all videos, and what a reader must know of them.

    An annotator of other videos who has no expression at all in one gets a 0 for each of its objects.
    """
    annotators = sorted({str(expression.annotator) for video in videos for expression in video.expressions})
    items: list[Item] = []
    lacking: list[str] = []
    for video in videos:
        pairs = by_video[video.name]
        described = {(str(expression.annotator), _name(expression)) for expression in video.expressions}
        for annotator in annotators:
            items += _items(video.name, annotator, pairs)
            for name in pairs.objects:
                if (annotator, name) not in described:
                    lacking.append(f"object {name} of {video.name} (annotator {annotator})")
    notes = []
    if lacking:
        more = f" and {len(lacking) - _LISTED} more" if len(lacking) > _LISTED else ""
        listed = ", ".join(lacking[:_LISTED]) + more
        notes.append(f"{len(lacking)} objects have no expression of an annotator and count as 0 for it: {listed}.")
    return tuple(items), tuple(notes)


def _items(video: str, annotator: str, pairs: PairCounts) -> Iterator[Item]:
    """An annotator's objects after matching; 0 for those that cannot be compared on any frame."""
    j_O = f_O = np.zeros(len(pairs.objects))
    counts_OPT6 = pairs.counts_OPT6.get(annotator)
    if counts_OPT6 is not None and counts_OPT6.size:
        j_OT, f_OT = match(counts_OPT6)
        j_O, f_O = j_OT.mean(axis=1), f_OT.mean(axis=1)
    for name, j_, f_ in zip(pairs.objects, j_O, f_O, strict=True):
        score = (0.0, 0.0) if name in pairs.unreadable else (float(j_), float(f_))
        yield Item(video, name, annotator, *score)


def fuse(masks: Sequence[BoolHW | None]) -> list[BoolHW | None]:
    """Masks without overlap: a pixel that several claim goes to the first."""
    out: list[BoolHW | None] = []
    taken_HW: BoolHW | None = None
    for mask_HW in masks:
        if mask_HW is None:
            out.append(None)
            continue
        out.append(mask_HW if taken_HW is None else mask_HW & ~taken_HW)
        taken_HW = mask_HW if taken_HW is None else taken_HW | mask_HW
    return out


def match(counts_OPT6: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """J and F of each object against the prediction assigned to it, both (O, T).

    The assignment is one to one and maximises the mean of (J + F) / 2 over frames. An object that is left over because
    there are fewer predictions has 0 on every frame.

    Args:
        counts_OPT6: the six integers of every pair of object and prediction.
    """
    # Half of the package's import time, and only this protocol needs it.
    from scipy.optimize import linear_sum_assignment

    objects, predictions, frames, _ = counts_OPT6.shape
    flat_N6 = counts_OPT6.reshape(-1, 6)
    j_OPT, f_OPT = (value(flat_N6).reshape(objects, predictions, frames) for value in (j, f))
    mean_OP = (j_OPT.mean(axis=2) + f_OPT.mean(axis=2)) / 2
    rows, columns = linear_sum_assignment(mean_OP, maximize=True)
    j_OT, f_OT = np.zeros((objects, frames)), np.zeros((objects, frames))
    j_OT[rows], f_OT[rows] = j_OPT[rows, columns], f_OPT[rows, columns]
    return j_OT, f_OT


def _by_annotator(video: Video) -> dict[int, list[Expression]]:
    """An annotator's expressions in the order of their objects' ids."""
    out: dict[int, list[Expression]] = {}
    for expression in video.expressions:
        if expression.annotator is None:
            raise PrerequisiteError(
                f"Expression '{expression.id}' of '{video.name}' names no annotator, which refdavis17/anno4 needs.",
                "Use a protocol of the dataset: see its card.",
            )
        out.setdefault(expression.annotator, []).append(expression)
    for objects in out.values():
        objects.sort(key=_object_order)
    return dict(sorted(out.items()))


def _objects(video: Video) -> list[Expression]:
    """One expression for each object of a video, with all keys into the ground truth that stand for the object."""
    by_name: dict[str, list[Expression]] = {}
    for expression in video.expressions:
        by_name.setdefault(_name(expression), []).append(expression)
    return [
        replace(same[0], targets=tuple(dict.fromkeys(target for expression in same for target in expression.targets)))
        for same in sorted(by_name.values(), key=lambda same: _object_order(same[0]))
    ]


def _object_order(expression: Expression) -> list[tuple[int, str]]:
    """Sorts ids as numbers."""
    return [(len(id_), id_) for id_ in expression.objects or expression.targets]


def _name(expression: Expression) -> str:
    return "+".join(expression.objects or expression.targets)
