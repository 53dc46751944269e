"""Prompts over one prefix: each equals its whole rollout, and is the same to the last bit in any company.

Shape legend: B batch, A attention heads, K key heads, L sequence, P prefix, s suffix, D head dim, N layers.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rvosbench.methods.attention.recursion import LayerQK, Rows, rollout_rows
from rvosbench.methods.attention.shared import shared_rows
from rvosbench.methods.attention.spec import RolloutSpec

PREFIX = 61
BATCH, HEADS, KEY_HEADS, DEPTH, LAYERS = 2, 6, 2, 16, 3


def random_layers(length: int, seed: int, dtype: torch.dtype = torch.float32) -> list[LayerQK]:
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerQK(
            (2 * torch.randn(BATCH, HEADS, length, DEPTH, generator=generator)).to(dtype),
            torch.randn(BATCH, KEY_HEADS, length, DEPTH, generator=generator).to(dtype),
            0.25,
        )
        for _ in range(LAYERS)
    ]


def visual_columns(*spans: tuple[int, int]) -> Tensor:
    mask_P = torch.zeros(PREFIX, dtype=torch.bool)
    for start, end in spans:
        mask_P[start:end] = True
    return mask_P


VISUAL = visual_columns((5, 20), (24, 60))


def whole(prefix: list[LayerQK], suffix: list[LayerQK], visual_P: Tensor, spec: RolloutSpec) -> Rows:
    """The prompt as one sequence, through the recursion that shares nothing."""
    layers = [
        LayerQK(
            torch.cat([before.query_BALD, after.query_BALD], 2),
            torch.cat([before.key_BKLD, after.key_BKLD], 2),
            before.scale,
        )
        for before, after in zip(prefix, suffix, strict=True)
    ]
    length = layers[0].query_BALD.shape[2]
    visual_L = torch.nn.functional.pad(visual_P, (0, length - PREFIX))
    return rollout_rows(layers, visual_L.expand(BATCH, -1), spec)


@pytest.mark.parametrize("block", [1, 7, 32, 200])
@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
def test_every_prompt_equals_its_whole_rollout(head_weights: str, block: int) -> None:
    spec = RolloutSpec(head_weights=head_weights, block=block, residual=0.3)  # type: ignore[arg-type]
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-12)):
        prefix = random_layers(PREFIX, 0, dtype)
        suffixes = [random_layers(length, seed, dtype) for seed, length in enumerate((9, 1, 40, 9), start=1)]
        shared = shared_rows(prefix, suffixes, VISUAL, spec, stack=8)
        for rows, suffix in zip(shared, suffixes, strict=True):
            expected = whole(prefix, suffix, VISUAL, spec)
            assert rows.rows_BL.dtype == dtype
            torch.testing.assert_close(rows.rows_BL, expected.rows_BL, rtol=tolerance, atol=1e-9)
            torch.testing.assert_close(rows.head_weights_BNA, expected.head_weights_BNA, rtol=tolerance, atol=1e-9)


def test_the_span_takes_in_what_stands_between_visual_tokens() -> None:
    prefix, suffix = random_layers(PREFIX, 0), random_layers(12, 1)
    span = RolloutSpec(visual_columns="reference_span")
    [rows] = shared_rows(prefix, [suffix], VISUAL, span, stack=8)
    torch.testing.assert_close(rows.rows_BL, whole(prefix, suffix, VISUAL, span).rows_BL, rtol=2e-6, atol=1e-9)
    [filled] = shared_rows(prefix, [suffix], visual_columns((5, 60)), RolloutSpec(), stack=8)
    assert torch.equal(rows.rows_BL, filled.rows_BL)
    [own] = shared_rows(prefix, [suffix], VISUAL, RolloutSpec(), stack=8)
    assert (own.rows_BL - rows.rows_BL).abs().max() > 1e-6


def test_one_layer_by_hand() -> None:
    # Two prefix tokens, one suffix token that attends 1/2, 1/4, 1/4; residual 1/2.
    key = torch.tensor([[[[2.0], [1.0]]]]).log()
    prefix = [LayerQK(torch.ones(1, 1, 2, 1), key, 1.0)]
    suffix = [LayerQK(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 1.0)]
    [rows] = shared_rows(prefix, [suffix], torch.tensor([True, False]), RolloutSpec(), stack=8)
    torch.testing.assert_close(rows.rows_BL, torch.tensor([[0.25, 0.125, 0.625]]))
    # The visual column's share of rows 0, 1, 2: 1, 2/3, 1/2.
    torch.testing.assert_close(rows.head_weights_BNA, torch.tensor([[[(1 + 2 / 3 + 1 / 2) / 3]]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [3, 61, 200])
@pytest.mark.parametrize("stack", [8, 16, 32])
def test_company_and_order_change_no_bit(stack: int, length: int, dtype: torch.dtype) -> None:
    prefix, visual_P = random_layers(length, 0, dtype), torch.arange(length) > length // 3
    suffixes = [random_layers(tokens, seed, dtype) for seed, tokens in enumerate((9, 1, 40), start=1)]
    alone = [shared_rows(prefix, [suffix], visual_P, RolloutSpec(), stack=stack)[0] for suffix in suffixes]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0), (0, 0, 2), (2,) * stack):
        together = shared_rows(prefix, [suffixes[index] for index in order], visual_P, RolloutSpec(), stack=stack)
        for rows, index in zip(together, order, strict=True):
            assert torch.equal(rows.rows_BL, alone[index].rows_BL)
            assert torch.equal(rows.head_weights_BNA, alone[index].head_weights_BNA)


def test_a_prompt_that_overflows_leaves_the_others_alone() -> None:
    prefix = random_layers(PREFIX, 0)
    good, bad = random_layers(9, 1), random_layers(9, 2)
    bad[1].query_BALD.fill_(torch.inf)
    [alone] = shared_rows(prefix, [good], VISUAL, RolloutSpec(), stack=8)
    broken, beside = shared_rows(prefix, [bad, good], VISUAL, RolloutSpec(), stack=8)
    assert not broken.rows_BL.isfinite().any()
    assert torch.equal(beside.rows_BL, alone.rows_BL)


def test_what_cannot_be_stacked_is_refused() -> None:
    prefix, suffix = random_layers(PREFIX, 0), random_layers(9, 1)
    with pytest.raises(ValueError, match="9 prompts do not fit a stack of 8"):
        shared_rows(prefix, [suffix] * 9, VISUAL, RolloutSpec(), stack=8)
    with pytest.raises(ValueError, match="no multiple of 8"):
        shared_rows(prefix, [suffix], VISUAL, RolloutSpec(), stack=12)
    with pytest.raises(ValueError, match="same layers"):
        shared_rows(prefix, [suffix[:2]], VISUAL, RolloutSpec(), stack=8)
    with pytest.raises(ValueError, match="at least one"):
        shared_rows([], [], VISUAL, RolloutSpec(), stack=8)
    with pytest.raises(ValueError, match="at least one visual token"):
        shared_rows(prefix, [suffix], visual_columns(), RolloutSpec(), stack=8)
