"""Non-maximum suppression of new masks against each other and against earlier tracklets (DecAF, arXiv 2510.19592).

The rules and their order are those of the released code, with one difference, the ``DeletionRule``.

Shape legend: N new masks, M earlier tracklets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.packed import PackedMasks

DeletionRule = Literal["by_kept", "by_any"]
"""Which new masks may delete an earlier tracklet.

``by_kept``: only a new mask that survives itself, so that an object covered by a tracklet never loses its last mask.
``by_any``: the released code, where a new mask that beats one tracklet and then loses against another has already
deleted the first (the same tracklet may be reported several times).
"""


@dataclass(frozen=True, slots=True)
class Suppression:
    """What is left of the new masks, and which earlier tracklets they replace."""

    keep: tuple[int, ...]
    """Indices of the surviving new masks, by descending score."""
    delete_previous: tuple[int, ...]
    """Indices of the replaced tracklets, in order of discovery; repeats only under ``by_any``."""


def suppress(
    masks: PackedMasks,
    scores_N: NDArray[np.float32],
    previous: PackedMasks,
    previous_scores_M: NDArray[np.float32],
    *,
    iou_threshold: float,
    deletion: DeletionRule,
) -> Suppression:
    """Suppresses overlapping masks of one frame.

    New masks go by descending score (equal scores: lower index first). Each one that no better new mask has
    suppressed suppresses the lower ones it overlaps, then meets the earlier tracklets in list order: it replaces
    those it overlaps and outscores, and is dropped at the first it overlaps without outscoring (a tie keeps the
    earlier one). A dropped mask has still suppressed its neighbours. Overlap means IoU strictly above
    ``iou_threshold``; two empty masks do not overlap. The survivors are the same under both deletion rules.

    Args:
        masks: (N,) masks of this frame.
        scores_N: their scores.
        previous: (M,) this frame's masks of the earlier tracklets.
        previous_scores_M: the tracklets' scores.
        iou_threshold: in [0, 1].
        deletion: see ``DeletionRule``.
    """
    overlap_NN = masks.iou(masks) > iou_threshold
    overlap_NM = masks.iou(previous) > iou_threshold
    suppressed_N = np.zeros(len(scores_N), dtype=bool)
    keep: list[int] = []
    delete: list[int] = []
    order = [int(i) for i in np.argsort(-scores_N, kind="stable")]
    for rank, i in enumerate(order):
        if suppressed_N[i]:
            continue
        lower = order[rank + 1 :]
        suppressed_N[lower] |= overlap_NN[i, lower]
        beaten: list[int] = []
        dropped = False
        for k in np.flatnonzero(overlap_NM[i]):
            if scores_N[i] <= previous_scores_M[k]:
                dropped = True
                break
            beaten.append(int(k))
        if not dropped:
            keep.append(i)
        if deletion == "by_any":
            delete += beaten
        elif not dropped:
            delete += [k for k in beaten if k not in delete]
    return Suppression(tuple(keep), tuple(delete))
