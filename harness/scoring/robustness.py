"""ReVOS robustness: how many false positive pixels a prediction has, in relation to the video's foreground.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.rules import Extra, Recorded, SampleCounts, ScoredMask
from rvosbench.harness.scoring.statistics import mean_of_groups
from rvosbench.harness.scoring.truths import FrameTruths

NO_TARGET = "no_target"
"""The subset of expressions that refer to nothing."""
AREAS = "areas"
"""Name of the recorded array: (false positive pixels, foreground pixels) by frame, (T, 2) int64."""


class AreaRecorder:
    """Records false positive and foreground pixels; the foreground is the union of all objects the video names.

    A frame without a usable mask is recorded as one whose false positives are as many as the foreground, or 1, so that
    its robustness is 0. Where a ground-truth mask of the video cannot be read the foreground is not known, and nothing
    is recorded of the expressions that are scored on that frame.
    """

    def __init__(self, video: Video) -> None:
        self._video = video
        self._rows: dict[str, list[tuple[int, int]]] = {}
        self._unknown: set[str] = set()

    def add(self, truths: FrameTruths, scored: Mapping[str, ScoredMask]) -> None:
        """The next frame."""
        foreground = self._foreground(truths)
        if foreground is None:
            self._unknown.update(scored)
            return
        for expression in self._video.expressions:
            if expression.id not in scored:
                continue
            truth, mask = truths.of(expression), scored[expression.id]
            assert not isinstance(truth, SampleError)
            wrong = max(foreground, 1) if mask.mask_HW is None else mask.counts.U - truth.area
            self._rows.setdefault(expression.id, []).append((wrong, foreground))

    def result(self) -> Recorded:
        """The arrays of the expressions whose every frame has a known foreground."""
        return Recorded(
            {
                name: {AREAS: np.array(rows, dtype=np.int64).reshape(-1, 2)}
                for name, rows in self._rows.items()
                if name not in self._unknown
            }
        )

    def _foreground(self, truths: FrameTruths) -> int | None:
        known = []
        for targets in {expression.targets: expression for expression in self._video.expressions}.values():
            truth = truths.of(targets)
            if isinstance(truth, SampleError):
                return None
            known.append(truth)
        if len({truth.shape for truth in known}) != 1:
            return None
        return int(np.logical_or.reduce([truth.mask_HW for truth in known]).sum())


def robustness(samples: Sequence[SampleCounts], groups: Sequence[str], notes: list[str]) -> Extra:
    """R_bool on expressions with and without a target, and how often nothing was predicted for the latter.

    A sample without integers has R 0. A value that cannot be computed is left out, and a note says why.
    """
    without = [sample for sample in samples if sample.subset == NO_TARGET]
    out: Extra = {}
    if without:
        silent = [s.counts_T6 is not None and not s.missing_frames and not s.counts_T6[:, 1].any() for s in without]
        out["empty_predictions_type2"] = float(np.mean(silent))
    unknown = 0
    for name, wanted, members in (
        ("R_bool_types01", groups, [sample for sample in samples if sample.subset in groups]),
        ("R_bool_type2", (NO_TARGET,), without),
    ):
        lacking = sum(sample.counts_T6 is not None and AREAS not in sample.recorded for sample in members)
        unknown += lacking
        if members and not lacking:
            values = [r_bool(sample.recorded[AREAS]) if sample.counts_T6 is not None else 0.0 for sample in members]
            mean = mean_of_groups(values, [sample.subset or "" for sample in members], wanted)
            if mean is not None:
                out[name] = mean
    if unknown:
        notes.append(f"R_bool is left out: the foreground of {unknown} samples is not known.")
    return out


def r_bool(areas_T2: NDArray[np.int64]) -> float:
    """Mean over frames of max(0, 1 - false positive pixels / foreground pixels).

    A frame without foreground scores 1 when nothing is predicted, else 0.
    """
    wrong_T, foreground_T = areas_T2.T
    fraction_T = np.where(foreground_T > 0, wrong_T / np.maximum(foreground_T, 1), wrong_T > 0)
    return float(np.maximum(0.0, 1.0 - fraction_T).mean())
