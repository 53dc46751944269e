"""BCE and Dice against the plain formulas, and what each normalisation does to an attention sink.

Shape legend: t h w a map's grid.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.training.losses import map_loss
from rvosbench.methods.steerseg.training.recipe import LossChoice


def plain(map_thw: np.ndarray, target: np.ndarray, normalisation: str) -> tuple[float, float]:
    """The definition, cell by cell."""
    values, targets = map_thw.ravel().astype(float), target.ravel().astype(float)
    mean, spread = values.mean(), math.sqrt(((values - values.mean()) ** 2).mean())
    bce, both, total = 0.0, 0.0, 0.0
    for value, fraction in zip(values, targets, strict=True):
        if normalisation == "standardised":
            p = 1 / (1 + math.exp(-2 * ((value - mean) / spread - 1)))
        elif normalisation == "min_max":
            p = (value - values.min()) / (values.max() - values.min())
        else:
            p = value / values.sum() * targets.sum()
        sure = p if normalisation == "standardised" else min(max(p, 1e-4), 1 - 1e-4)
        bce -= (fraction * math.log(sure) + (1 - fraction) * math.log(1 - sure)) / len(values)
        both, total = both + p * fraction, total + p + fraction
    return bce, 1 - (2 * both + 1) / (total + 1)


@pytest.mark.parametrize("normalisation", ["standardised", "min_max", "share"])
def test_the_plain_formulas(normalisation: str) -> None:
    rng = np.random.default_rng(0)
    map_thw, target = rng.random((3, 4, 5)) * 1e-4, rng.random((3, 4, 5)).round(1)
    choice = LossChoice(normalisation=normalisation)  # type: ignore[arg-type]
    found = map_loss(torch.from_numpy(map_thw), torch.from_numpy(target), choice)
    np.testing.assert_allclose([float(part) for part in found], plain(map_thw, target, normalisation), rtol=1e-9)
    # Only the shape of the map matters, not its size; what is added to it matters to its shares.
    moved = 0 if normalisation == "share" else 3
    scaled = map_loss(torch.from_numpy(1000 * map_thw + moved), torch.from_numpy(target), choice)
    np.testing.assert_allclose([float(part) for part in scaled], [float(part) for part in found], rtol=1e-6)


def test_a_rounded_target() -> None:
    map_thw, target = torch.rand(1, 3, 3, dtype=torch.float64), torch.tensor([[[0.5, 0.49, 0], [1, 0, 0], [0, 0, 0]]])
    rounded = map_loss(map_thw, target.double(), LossChoice(target="binary"))
    expected = map_loss(map_thw, (target >= 0.5).double(), LossChoice())
    assert torch.equal(torch.stack(rounded), torch.stack(expected))


def sink_slope(normalisation: str, sink: float = 1.0) -> tuple[float, float]:
    """How BCE and Dice change with a background cell that holds the maximum."""
    map_thw, target = torch.full((1, 28, 52), 0.1), torch.zeros(1, 28, 52)
    object_n = torch.randperm(28 * 52 - 2, generator=torch.Generator().manual_seed(0))[:73] + 2
    map_thw.view(-1)[object_n], target.view(-1)[object_n] = 0.3, 1.0
    map_thw[0, 0, 0], map_thw[0, 0, 1] = sink, 0.0
    slopes = []
    for part in (0, 1):
        leaf = map_thw.clone().requires_grad_(True)
        loss = map_loss(leaf, target, LossChoice(normalisation=normalisation))[part]  # type: ignore[arg-type]
        slopes.append(float(torch.autograd.grad(loss, leaf)[0][0, 0, 0]))
    return slopes[0], slopes[1]


def test_a_sink_is_pushed_down_but_by_min_max() -> None:
    bce, dice = sink_slope("standardised")
    assert bce > 1e-3 and dice > 1e-3
    # One of 37 standard deviations too.
    assert sink_slope("standardised", sink=10.0)[0] > 1e-3
    # Min-max: BCE pulls the sink up about as much as Dice pushes it down.
    bce, dice = sink_slope("min_max")
    assert bce < -0.01 and dice > 0.01 and abs(bce + dice) < 0.1 * dice
    # Shares: both push it down, also where p is far above 1.
    for sink in (1.0, 10.0):
        bce, dice = sink_slope("share", sink)
        assert bce > 0 and dice > 5e-4


def test_dice_of_shares_is_the_mass_off_the_target() -> None:
    map_thw = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=torch.float64)
    dice = map_loss(map_thw, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]).double(), LossChoice(normalisation="share"))[1]
    # 0.6 of the mass is on the target's 2 cells: both = 1.2, each = 4.
    assert float(dice) == pytest.approx(1 - (2 * 1.2 + 1) / (4 + 1))


@pytest.mark.parametrize("normalisation", ["standardised", "min_max", "share"])
def test_a_constant_map_has_a_loss_and_no_bad_gradient(normalisation: str) -> None:
    leaf = torch.full((1, 3, 3), 0.2, requires_grad=True)
    loss = sum(map_loss(leaf, torch.eye(3)[None], LossChoice(normalisation=normalisation)))  # type: ignore[arg-type]
    assert isinstance(loss, torch.Tensor) and bool(loss.isfinite())
    assert bool(torch.autograd.grad(loss, leaf)[0].isfinite().all())


def test_weights_are_checked() -> None:
    with pytest.raises(PrerequisiteError, match="not both 0"):
        LossChoice(bce=0.0, dice=0.0)
