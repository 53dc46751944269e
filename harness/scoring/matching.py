"""Object matching for protocol ``refdavis17/anno4``: fuse an annotator's masks, then assign them to objects.

Shape legend: T frames, H W pixels, O objects, P predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.ground_truth import VOID, PaletteGroundTruth
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import BoolHW, Expression, GroundTruth, MaskTrack, Video
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.kernel import GroundTruthFrame, f, j
from rvosbench.harness.scoring.sample import SampleResult
from rvosbench.harness.scoring.statistics import Item

FloatOPT = NDArray[np.float64]
AnnotatorItems = Callable[[str, str | None, Video], Sequence[Item]]
"""(method, lvlm, video) -> the video's items under ``refdavis17/anno4``."""
TrackLoader = Callable[[SampleResult], MaskTrack | None]
"""The mask track of a sample; None when it has none."""

_ZERO = (0, 1, 0, 1, 0, 0)
"""One wrong pixel: J and F are 0."""


class ObjectMatcher:
    """Scores one video frame by frame, then matches.

    Args:
        frames: how many frames will be added.

    Raises:
        PrerequisiteError: an expression has no annotator.
    """

    def __init__(self, video: Video, ground_truth: GroundTruth, frames: int) -> None:
        self._video = video
        self._ground_truth = ground_truth
        self._objects = _by_annotator(video)
        self._counts_OPT6 = {
            annotator: np.zeros((len(objects), len(objects), frames, 6), dtype=np.int64)
            for annotator, objects in self._objects.items()
        }
        self._added = 0

    def add(self, frame: int, masks: Mapping[str, BoolHW | None]) -> None:
        """Compares every object with every prediction of its annotator on the next frame.

        Args:
            frame: index into the video's frames.
            masks: by expression id, of the ground truth's size; None scores 0 against every object.

        Raises:
            SampleError: a ground-truth mask cannot be read.
        """
        void_HW = _void(self._ground_truth, self._video, frame)
        truths: dict[tuple[str, ...], GroundTruthFrame] = {}
        for annotator, objects in self._objects.items():
            for expression in objects:
                if expression.targets not in truths:
                    mask_HW = self._ground_truth.mask(self._video, expression, frame)
                    truths[expression.targets] = GroundTruthFrame(mask_HW, void_HW)
            for p, mask in enumerate(fuse([masks.get(expression.id) for expression in objects])):
                for o, expression in enumerate(objects):
                    row = _ZERO if mask is None else truths[expression.targets].counts(mask)
                    self._counts_OPT6[annotator][o, p, self._added] = row
        self._added += 1

    def items(self) -> list[Item]:
        """One item per annotator and object; none when the video has no scored frame."""
        items = []
        for annotator, objects in self._objects.items():
            counts_OPT6 = self._counts_OPT6[annotator][:, :, : self._added]
            if not self._added:
                continue
            for expression, j_T, f_T in zip(objects, *match(counts_OPT6), strict=True):
                name = "+".join(expression.targets)
                items.append(Item(self._video.name, name, str(annotator), float(j_T.mean()), float(f_T.mean())))
        return items


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

    The assignment is one to one and maximises the mean of (J + F) / 2 over frames.

    Args:
        counts_OPT6: the six integers of every pair; as many predictions as objects.
    """
    # Half of the package's import time, and only this protocol needs it.
    from scipy.optimize import linear_sum_assignment

    objects, predictions, frames, _ = counts_OPT6.shape
    flat_N6 = counts_OPT6.reshape(-1, 6)
    j_OPT, f_OPT = (value(flat_N6).reshape(objects, predictions, frames) for value in (j, f))
    mean_OP = (j_OPT.mean(axis=2) + f_OPT.mean(axis=2)) / 2
    rows, columns = linear_sum_assignment(mean_OP, maximize=True)
    return j_OPT[rows, columns], f_OPT[rows, columns]


def items_from_tracks(
    results: Sequence[SampleResult], ground_truth: GroundTruth, tracks: TrackLoader
) -> AnnotatorItems:
    """Matches the mask tracks of a run. Tracks on keyframes only are compared on the frames that all of them cover."""
    by_video: dict[tuple[str, str | None, str], list[SampleResult]] = {}
    for result in results:
        by_video.setdefault((result.method, result.lvlm, result.sample.video.name), []).append(result)

    def items(method: str, lvlm: str | None, video: Video) -> list[Item]:
        loaded: dict[str, _Track] = {}
        for result in by_video.get((method, lvlm, video.name), []):
            track = tracks(result) if result.status == "scored" else None
            if track is not None:
                masks = dict(zip(track.frames, track.rles, strict=True))
                loaded[result.sample.expression.id] = _Track(track.height, track.width, masks)
        scored = annotated_frames(video, ground_truth)
        covered = [frame for frame in scored if all(frame in track.rles for track in loaded.values())]
        matcher = ObjectMatcher(video, ground_truth, len(covered))
        for frame in covered:
            matcher.add(frame, {name: decode(t.rles[frame], t.height, t.width) for name, t in loaded.items()})
        return matcher.items()

    return items


def annotated_frames(video: Video, ground_truth: GroundTruth) -> list[int]:
    """Indices of the frames on which any expression of the video has ground truth, ascending."""
    return sorted({index for e in video.expressions for index in ground_truth.scored_frames(video, e)})


class _Track(NamedTuple):
    height: int
    width: int
    rles: dict[int, str | None]


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
        objects.sort(key=lambda expression: [(len(target), target) for target in expression.targets])
    return dict(sorted(out.items()))


def _void(ground_truth: GroundTruth, video: Video, frame: int) -> BoolHW | None:
    if not isinstance(ground_truth, PaletteGroundTruth):
        return None
    void_HW: BoolHW = ground_truth.labels(video, frame) == VOID
    return void_HW if void_HW.any() else None
