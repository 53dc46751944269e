"""Binary cross-entropy and Dice between a rollout map and a mask's share of its cells.

    z = (S - mean S) / std S,  p = sigmoid(2 (z - 1))              over the whole map: a clip, or one frame
    BCE  = mean of -(g log p + (1 - g) log(1 - p)),                p clamped to [1e-4, 1 - 1e-4]
    Dice = 1 - (2 sum p g + 1) / (sum p + sum g + 1)

Source: SteerSeg (arXiv 2605.14908) states the sum of the two terms; how a map becomes p is ours. With min-max instead,
an attention sink in the background that holds the maximum has p = 1 whatever it does, and is pushed down only through
the others' denominator; the maximum must then keep its gradient.

Shape legend: t h w a map's grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.steerseg.training.recipe import LossChoice

_CLAMP = 1e-4
_TINY = 1e-12
"""Least spread of a map, so that a constant one has p of no meaning but no NaN."""


def map_loss(map_thw: Tensor, target_thw: Tensor, choice: LossChoice) -> tuple[Tensor, Tensor]:
    """BCE and Dice, not weighted. Gradients reach the map.

    Args:
        map_thw: float32, not normalised.
        target_thw: the mask's share of each cell.
        choice: how the map becomes p, and whether the target is rounded.
    """
    if choice.target == "binary":
        target_thw = (target_thw >= 0.5).to(target_thw.dtype)
    likely_thw = _likely(map_thw, choice)
    sure_thw = likely_thw.clamp(_CLAMP, 1.0 - _CLAMP)
    bce = -(target_thw * sure_thw.log() + (1.0 - target_thw) * (1.0 - sure_thw).log()).mean()
    both, each = (likely_thw * target_thw).sum(), likely_thw.sum() + target_thw.sum()
    return bce, 1.0 - (2.0 * both + 1.0) / (each + 1.0)


def _likely(map_thw: Tensor, choice: LossChoice) -> Tensor:
    if choice.normalisation == "min_max":
        low = map_thw.amin()
        return (map_thw - low) / (map_thw.amax() - low).clamp_min(_TINY)
    spread = map_thw.std(correction=0).clamp_min(_TINY)
    return torch.sigmoid(2.0 * ((map_thw - map_thw.mean()) / spread - 1.0))
