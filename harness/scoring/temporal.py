"""tIoU and vIoU of Long-RVOS: when an object is found, and how well while it is.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rvosbench.harness.scoring.kernel import CountsT6, gt_present, j
from rvosbench.harness.scoring.rules import Extra, Rule, SampleCounts, select_frames
from rvosbench.harness.scoring.statistics import mean_of_groups


def temporal_overlap(rule: Rule, samples: Sequence[SampleCounts], groups: Sequence[str]) -> Extra:
    """tIoU and vIoU, averaged like J; a sample without integers has 0 of both."""
    names, values = [], []
    for sample in samples:
        group = rule.group(sample.subset)
        if group is None:
            continue
        if sample.counts_T6 is None:
            names.append(group)
            values.append((0.0, 0.0))
            continue
        counts_T6 = select_frames(rule, sample)
        if len(counts_T6):
            names.append(group)
            values.append(overlaps(counts_T6))
    tious, vious = [value[0] for value in values], [value[1] for value in values]
    return {"tIoU": mean_of_groups(tious, names, groups), "vIoU": mean_of_groups(vious, names, groups)}


def overlaps(counts_T6: CountsT6) -> tuple[float, float]:
    """(tIoU, vIoU) of one object.

    S are the frames in which both the ground truth and the prediction are not empty, E those in which either is not.
    tIoU is |S| / |E|; vIoU is the sum of J over S, divided by |E|; both are 1 where E is empty. Defined by Liang et
    al., Long-RVOS, and computed as in their evaluation script. A frame without a usable mask is in E and not in S.
    """
    truth_T = gt_present(counts_T6)
    predicted_T = (counts_T6[:, 3] > 0) | (counts_T6[:, 0] > 0)
    # A mask that fills the frame has no boundary; it meets nothing only where the other mask is empty.
    either_T = counts_T6[:, 1] > 0
    if not either_T.any():
        return 1.0, 1.0
    # How `missing_frame` writes a mask that is not there: a boundary of one pixel, far from everything.
    missing_T = (counts_T6[:, 0] == 0) & (counts_T6[:, 3:] == (1, 0, 0)).all(axis=1)
    both_T = truth_T & predicted_T & ~missing_T
    total = int(either_T.sum())
    return float(both_T.sum() / total), float(np.sum(j(counts_T6)[both_T]) / total)
