"""Mean, standard error and degrees of freedom of scores that come in clusters: the videos.

Expressions of one video share its frames and often its target, so they are not independent, and videos hold different
numbers of them. The mean of a group is the mean over its items; the estimate is the mean of the groups' means. With few
videos the usual large-sample formulas claim too much, therefore:

* The variance is that of the delete-one-video jackknife (CR3): sum over videos of the squared change of the estimate.
  Cameron and Miller, "A practitioner's guide to cluster-robust inference", 2015.
* It is multiplied by the factor that makes it unbiased under a working model: all items have one variance, and two
  items of a video the correlation that the data show.
* The degrees of freedom are those of Satterthwaite under the same model (Bell and McCaffrey, "Bias reduction in
  standard errors for linear regression with multi-stage samples", 2002; the estimated correlation as in Imbens and
  Kolesar, "Robust standard errors in small samples", 2016). Videos of one size give V - 1; one video that holds most
  items, or a group that few videos have, give less.
* Limits of a score, which lies in [0, 1], are taken on the logit scale: means near 0 or 1 come from skewed scores, and
  their limits are not symmetric. Limits of a difference are symmetric.

Everything is closed form, so the same scores give the same numbers. ``python benchmarks/interval_coverage.py`` measures
what the limits cover.

Shape legend: ``...`` any leading axes, each place a data set of its own; V videos, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatVG = NDArray[np.float64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClusterEstimate:
    """The mean of the groups' means and its precision, arrays over the leading axes."""

    mean: FloatArray
    error: FloatArray
    """The standard error; 0 where all videos agree, which says nothing about other videos."""
    degrees_of_freedom: FloatArray

    def difference_limits(self, level: float) -> tuple[FloatArray, FloatArray]:
        """Symmetric limits at a confidence level in (0, 1)."""
        half = self._quantile(level) * self.error
        return self.mean - half, self.mean + half

    def score_limits(self, level: float) -> tuple[FloatArray, FloatArray]:
        """Limits within [0, 1] at a confidence level in (0, 1), symmetric on the logit scale.

        The mean must lie between 0 and 1, neither included.
        """
        from scipy.special import expit, logit

        middle = logit(self.mean)
        half = self._quantile(level) * self.error / (self.mean * (1 - self.mean))
        return expit(middle - half), expit(middle + half)

    def _quantile(self, level: float) -> FloatArray:
        # scipy takes longer to import than most commands run, and only intervals need it.
        from scipy.special import stdtrit

        return np.asarray(stdtrit(self.degrees_of_freedom, (1 + level) / 2), dtype=np.float64)


def cluster_estimate(sums: FloatVG, squares: FloatVG, sizes: FloatVG) -> ClusterEstimate:
    """Estimates the mean of the groups' means from what each video adds to each group.

    Args:
        sums: (..., V, G), the sum of the items of a video in a group.
        squares: (..., V, G), the sum of their squares.
        sizes: (..., V, G), how many they are. Every group needs at least two videos.
    """
    groups = sizes.shape[-1]
    totals = sizes.sum(axis=-2, keepdims=True)
    means = sums.sum(axis=-2, keepdims=True) / totals
    # The change of a group's mean when a video is left out is its weighted residual divided by (1 - weight).
    weights = sizes / totals
    residuals = sums - sizes * means
    changes = (residuals / totals / (1 - weights)).sum(axis=-1) / groups
    correlation = _correlation(residuals, squares - 2 * means * sums + sizes * means**2, sizes)
    model = _working_model(weights, sizes, correlation)
    variance = (changes**2).sum(axis=-1) * model.true_variance / model.expected_variance
    return ClusterEstimate(
        means.mean(axis=(-2, -1)), np.sqrt(variance), model.expected_variance**2 / model.half_variance_of_variance
    )


@dataclass(frozen=True, slots=True)
class _WorkingModel:
    """What the jackknife variance is under the working model, in units of the items' variance."""

    true_variance: FloatArray
    """Of the estimate."""
    expected_variance: FloatArray
    """The mean of the jackknife variance."""
    half_variance_of_variance: FloatArray
    """Half the variance of the jackknife variance, for normal items."""


def _correlation(residuals: FloatVG, squares: FloatVG, sizes: FloatVG) -> FloatArray:
    """The correlation of two items of a video in [0, 1], groups' means removed; 0 where every video has one item."""
    size_V = sizes.sum(axis=-1)
    pairs = (size_V * (size_V - 1)).sum(axis=-1)
    products = (residuals.sum(axis=-1) ** 2 - squares.sum(axis=-1)).sum(axis=-1)
    variance = squares.sum(axis=(-2, -1)) / size_V.sum(axis=-1)
    scale = pairs * variance
    ratio = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.asarray(np.clip(ratio, 0.0, 1.0))


def _working_model(weights: FloatVG, sizes: FloatVG, correlation: FloatArray) -> _WorkingModel:
    """Moments of the jackknife variance.

    With e_v the means of a video in each group, W_v its weights and B_v = W_v / (1 - W_v) / G, the change that leaving
    the video out makes is B_v . (e_v - sum_u W_u e_u). The covariance of the changes is a diagonal plus a matrix of
    rank 2 G, and the trace of its square follows without forming it.
    """
    groups = weights.shape[-1]
    identity = np.eye(groups)
    rho = correlation[..., None, None, None]
    # Covariance of a video's means in its groups; a group it has no items in has weight 0, regardless of its value.
    own = (1 - rho) / np.maximum(sizes, 1)[..., None]
    covariance_VGG = rho + own * identity
    factors_VG = weights / (1 - weights) / groups
    cross_VG = np.einsum("...vg,...vgh,...vh->...vh", factors_VG, covariance_VGG, weights)
    diagonal_V = np.einsum("...vg,...vgh,...vh->...v", factors_VG, covariance_VGG, factors_VG)
    of_means_GG = np.einsum("...vg,...vgh,...vh->...gh", weights, covariance_VGG, weights)
    columns_VC = np.concatenate([factors_VG, cross_VG], axis=-1)
    shape = (*of_means_GG.shape[:-2], groups, groups)
    minus_GG = np.broadcast_to(-identity, shape)
    core_CC = np.concatenate(
        [
            np.concatenate([of_means_GG, minus_GG], axis=-1),
            np.concatenate([minus_GG, np.zeros(shape)], axis=-1),
        ],
        axis=-2,
    )
    gram_CC = core_CC @ np.einsum("...vc,...vd->...cd", columns_VC, columns_VC)
    weighted_CC = core_CC @ np.einsum("...vc,...v,...vd->...cd", columns_VC, diagonal_V, columns_VC)
    expected = diagonal_V.sum(axis=-1) + _trace(gram_CC)
    half = (diagonal_V**2).sum(axis=-1) + 2 * _trace(weighted_CC) + _trace(gram_CC @ gram_CC)
    return _WorkingModel(of_means_GG.mean(axis=(-2, -1)), expected, half)


def _trace(matrix: FloatArray) -> FloatArray:
    trace: FloatArray = np.trace(matrix, axis1=-2, axis2=-1)
    return trace
