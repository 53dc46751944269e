"""HOTA: how well objects are found and kept apart over time, for predictions that carry identities.

Luiten et al., "HOTA: A higher order metric for evaluating multi-object tracking", IJCV 2021, by its definition:

* On each frame ground-truth and predicted objects are matched one to one, where their similarity is at least alpha.
  Among all such matchings the one with most pairs is taken; of those, the one with the highest sum of association
  accuracies that the pairs' tracks would have if they were matched wherever alpha allows; then of similarities.
* TP, FN and FP are matched pairs, and unmatched objects of either side, over all frames. ``DetA = TP / (TP+FN+FP)``.
* A matched pair of tracks (g, p) has ``A(g, p) = TPA / (TPA + FNA + FPA)``: frames on which g and p are matched to each
  other, over frames on which either of them is. ``AssA`` is the mean of A over all TP, 0 where there is none.
* ``HOTA_alpha = sqrt(DetA x AssA)``; HOTA, DetA and AssA are means over alpha = 0.05, 0.10, ..., 0.95.

Without identities there is nothing to associate: a union mask, or points without ids, has no HOTA, and calling the
root of its DetA by that name hides every swap. No method of this package predicts identities today, so ``rvosbench
score`` does not call this. Entry point: ``hota``, with ``mask_similarity`` for masks.

Shape legend: G ground-truth objects and P predicted objects on a frame, A thresholds, H W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW

FloatGP = NDArray[np.float64]
FloatA = NDArray[np.float64]
ALPHAS: FloatA = np.arange(1, 20) / 20

_ROUNDING = 1e-12
"""A similarity this little below alpha reaches it: 0.3 and 6 / 20 differ in their last bit."""


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """One frame: who is there, and how similar they are.

    Raises:
        ValueError: an identity appears twice, or the similarities do not fit, or are not within 0 and 1.
    """

    truths: tuple[Hashable, ...]
    """Identities of the ground-truth objects that are visible."""
    predictions: tuple[Hashable, ...]
    """Identities of the predicted objects."""
    similarity_GP: FloatGP
    """In [0, 1], e.g. the IoU of their masks."""

    def __post_init__(self) -> None:
        if len(set(self.truths)) < len(self.truths) or len(set(self.predictions)) < len(self.predictions):
            raise ValueError("an identity appears twice on a frame")
        if self.similarity_GP.shape != (len(self.truths), len(self.predictions)):
            raise ValueError(f"similarities of shape {self.similarity_GP.shape}")
        if not ((self.similarity_GP >= 0) & (self.similarity_GP <= 1)).all():
            raise ValueError("a similarity is not within 0 and 1")


@dataclass(frozen=True, slots=True)
class Hota:
    """Means over alpha, and the values at each."""

    hota: float
    det_a: float
    ass_a: float
    hota_A: FloatA
    det_a_A: FloatA
    ass_a_A: FloatA


def hota(frames: Sequence[TrackedFrame]) -> Hota | None:
    """Scores one video, or several whose identities differ.

    Returns:
        None where there is neither a ground-truth nor a predicted object on any frame: nothing is defined.
    """
    if not any(frame.truths or frame.predictions for frame in frames):
        return None
    pairs = [_at(float(alpha), frames) for alpha in ALPHAS]
    det_a_A, ass_a_A = (np.array(values) for values in zip(*pairs, strict=True))
    hota_A = np.sqrt(det_a_A * ass_a_A)
    return Hota(float(hota_A.mean()), float(det_a_A.mean()), float(ass_a_A.mean()), hota_A, det_a_A, ass_a_A)


def mask_similarity(truths: Sequence[BoolHW], predictions: Sequence[BoolHW]) -> FloatGP:
    """IoU of every pair of masks, (G, P) float64; 0 where both are empty.

    Empty masks are not visible objects and should be left out of a ``TrackedFrame``.
    """
    iou_GP = np.zeros((len(truths), len(predictions)))
    for g, truth_HW in enumerate(truths):
        for p, predicted_HW in enumerate(predictions):
            union = int((truth_HW | predicted_HW).sum())
            iou_GP[g, p] = int((truth_HW & predicted_HW).sum()) / union if union else 0.0
    return iou_GP


def _at(alpha: float, frames: Sequence[TrackedFrame]) -> tuple[float, float]:
    """DetA and AssA at one threshold."""
    of_truth = Counter(truth for frame in frames for truth in frame.truths)
    of_prediction = Counter(prediction for frame in frames for prediction in frame.predictions)

    def accuracy(together: int, truth: Hashable, prediction: Hashable) -> float:
        return together / (of_truth[truth] + of_prediction[prediction] - together)

    possible = Counter(pair for frame in frames for pair in _possible_pairs(frame, alpha))
    highest = {pair: accuracy(together, *pair) for pair, together in possible.items()}
    matched = Counter(pair for frame in frames for pair in _matching(frame, alpha, highest))
    true_positives = matched.total()
    others = of_truth.total() + of_prediction.total() - true_positives
    associated = sum(together * accuracy(together, *pair) for pair, together in matched.items())
    return true_positives / others, associated / true_positives if true_positives else 0.0


def _possible_pairs(frame: TrackedFrame, alpha: float) -> Iterator[tuple[Hashable, Hashable]]:
    for g, p in np.argwhere(frame.similarity_GP >= alpha - _ROUNDING):
        yield frame.truths[g], frame.predictions[p]


def _matching(
    frame: TrackedFrame, alpha: float, highest: dict[tuple[Hashable, Hashable], float]
) -> Iterator[tuple[Hashable, Hashable]]:
    """The pairs of one frame."""
    # scipy takes longer to import than most commands run.
    from scipy.optimize import linear_sum_assignment

    allowed_GP = frame.similarity_GP >= alpha - _ROUNDING
    # Each term outweighs the sum of all that follow: pairs, then association, then similarity.
    step = 4.0 * (min(allowed_GP.shape, default=0) + 1)
    score_GP = np.zeros(allowed_GP.shape)
    for g, p in np.argwhere(allowed_GP):
        association = highest[frame.truths[g], frame.predictions[p]]
        score_GP[g, p] = step + association + frame.similarity_GP[g, p] * 1e-6
    for g, p in zip(*linear_sum_assignment(score_GP, maximize=True), strict=True):
        if allowed_GP[g, p]:
            yield frame.truths[g], frame.predictions[p]
