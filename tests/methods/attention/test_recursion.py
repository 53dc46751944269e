"""Row recursion against the plain definition, the golden files, and worked cases.

Shape legend: B batch, A attention heads, K key heads, L sequence, D head dim, N layers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.attention.recursion import LayerQK, layer_pass, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec

MODEL_FREE = [
    "gqa_contiguous",
    "mha_contiguous",
    "mqa_gaps",
    "visual_first",
    "one_visual_token",
    "one_layer_one_head",
    "single_head_stack",
    "peaky",
    "bf16_values",
]


def plain_definition(
    layers: list[LayerQK], visual_BL: Tensor, spec: RolloutSpec, *, weight_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Rolled-out rows (B, L) and raw head weights (B, N, A) with every L x L matrix spelt out, in float64."""
    batch, length = visual_BL.shape
    rows, weights = [], []
    for item in range(batch):
        rolled = torch.eye(length, dtype=torch.float64)
        item_weights = []
        for layer in layers:
            query, key = layer.query_BALD[item].double(), layer.key_BKLD[item].double()
            key = key.repeat_interleave(query.shape[0] // key.shape[0], dim=0)
            scores = query @ key.transpose(1, 2) * layer.scale
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            attn_ALL = scores.softmax(-1)
            columns = visual_BL[item] if spec.head_weights == "vmax" else torch.ones(length, dtype=torch.bool)
            weight = attn_ALL[:, :, columns].amax(-1).mean(-1)
            if spec.head_weights == "mean":
                weight = torch.ones_like(weight)
            if not weight_gradient:
                weight = weight.detach()
            mean_LL = ((weight / weight.max())[:, None, None] * attn_ALL).sum(0) / attn_ALL.shape[0]
            hat_LL = spec.residual * torch.eye(length, dtype=torch.float64) + (1 - spec.residual) * mean_LL
            rolled = hat_LL @ rolled
            item_weights.append(weight)
        rows.append(rolled[-1])
        weights.append(torch.stack(item_weights))
    return torch.stack(rows), torch.stack(weights)


def random_layers(
    length: int, *, batch: int = 1, layers: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[LayerQK]:
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerQK(
            (2 * torch.randn(batch, 6, length, 16, generator=generator)).to(dtype),
            torch.randn(batch, 2, length, 16, generator=generator).to(dtype),
            0.25,
        )
        for _ in range(layers)
    ]


def visual_mask(length: int, *spans: tuple[int, int], batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, length, dtype=torch.bool)
    for start, end in spans:
        mask[:, start:end] = True
    return mask


@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
@pytest.mark.parametrize("block", [1, 7, 32, 200])
def test_equals_the_plain_definition(head_weights: str, block: int) -> None:
    layers = random_layers(75, batch=2)
    visual_BL = visual_mask(75, (5, 20), (24, 60), batch=2)
    visual_BL[1, 30:40] = False
    spec = RolloutSpec(head_weights=head_weights, block=block, residual=0.3)  # type: ignore[arg-type]
    expected_BL, weights_BNA = plain_definition(layers, visual_BL, spec)

    rows = rollout_rows(layers, visual_BL, spec)

    assert rows.rows_BL.dtype == torch.float32
    torch.testing.assert_close(rows.rows_BL.double(), expected_BL, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(rows.head_weights_BNA.double(), weights_BNA, rtol=1e-5, atol=1e-8)
    # In float64 the two agree to the last digits.
    double = [LayerQK(layer.query_BALD.double(), layer.key_BKLD.double(), layer.scale) for layer in layers]
    exact = rollout_rows(double, visual_BL, spec)
    torch.testing.assert_close(exact.rows_BL, expected_BL, rtol=1e-10, atol=1e-15)


def test_two_tokens_by_hand() -> None:
    # One head; row 1 attends with probability 3/4 to token 0, so r = residual e1 + (1 - residual) (3/4, 1/4).
    query = torch.tensor([[[[1.0], [1.0]]]])
    key = torch.tensor([[[[np.log(3.0)], [0.0]]]], dtype=torch.float32)
    rows = rollout_rows([LayerQK(query, key, 1.0)], visual_mask(2, (0, 1)), RolloutSpec(residual=0.5))
    torch.testing.assert_close(rows.rows_BL, torch.tensor([[0.375, 0.625]]))
    # Row maxima over the one visual column: 1 in row 0, 3/4 in row 1.
    torch.testing.assert_close(rows.head_weights_BNA, torch.tensor([[[0.875]]]))


def test_row_mass_is_the_product_over_layers() -> None:
    rows = rollout_rows(random_layers(50), visual_mask(50, (3, 40)), RolloutSpec())
    relative = rows.head_weights_BNA[0] / rows.head_weights_BNA[0].amax(-1, keepdim=True)
    expected = torch.prod(0.5 + 0.5 * relative.mean(-1))
    torch.testing.assert_close(rows.rows_BL.sum(), expected)


@pytest.mark.parametrize("case", MODEL_FREE)
def test_golden_model_free(samples: Path, case: str) -> None:
    golden = np.load(samples / "golden" / "decaf" / "rollout" / f"qk_{case}.npz")
    visual_BL = torch.from_numpy(golden["visual_token_mask"])[None]
    variants = {
        "row_vmax": RolloutSpec(),
        "row_vmax_span": RolloutSpec(visual_columns="reference_span"),
        "row_max_all_keys": RolloutSpec(head_weights="max"),
        "row_plain_mean": RolloutSpec(head_weights="mean"),
    }
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        layers = golden_layers(golden, dtype)
        for name, spec in variants.items():
            row_L = rollout_rows(layers, visual_BL, spec).rows_BL[0]
            np.testing.assert_allclose(row_L.numpy(), golden[name], rtol=0, atol=tolerance, err_msg=name)
    weights = rollout_rows(golden_layers(golden, torch.float64), visual_BL, RolloutSpec()).head_weights_BNA[0].numpy()
    np.testing.assert_allclose(weights, golden["head_weight_raw_vmax"], atol=1e-10)
    relative = weights / weights.max(-1, keepdims=True)
    np.testing.assert_allclose(relative, golden["head_weight_vmax"], atol=1e-10)
    weights = rollout_rows(golden_layers(golden, torch.float64), visual_BL, RolloutSpec(head_weights="max"))
    raw = weights.head_weights_BNA[0].numpy()
    np.testing.assert_allclose(raw / raw.max(-1, keepdims=True), golden["head_weight_max_all_keys"], atol=1e-10)
    rows = rollout_rows(golden_layers(golden, torch.float32), visual_BL, RolloutSpec()).rows_BL[0].numpy()
    np.testing.assert_allclose(rows, golden["row_reference_vmax"], rtol=0, atol=1e-6)


def golden_layers(golden: np.lib.npyio.NpzFile, dtype: torch.dtype) -> list[LayerQK]:
    return [
        LayerQK(torch.from_numpy(query)[None].to(dtype), torch.from_numpy(key)[None].to(dtype), float(golden["scale"]))
        for query, key in zip(golden["Q"], golden["K"], strict=True)
    ]


def test_bfloat16_inputs_are_computed_in_float32(samples: Path) -> None:
    # The case's Q and K are exact in bfloat16, so nothing may be lost but float32 rounding.
    golden = np.load(samples / "golden" / "decaf" / "rollout" / "qk_bf16_values.npz")
    visual_BL = torch.from_numpy(golden["visual_token_mask"])[None]
    rows = rollout_rows(golden_layers(golden, torch.bfloat16), visual_BL, RolloutSpec())
    assert rows.rows_BL.dtype == torch.float32
    np.testing.assert_allclose(rows.rows_BL[0].numpy(), golden["row_vmax"], rtol=0, atol=1e-6)


def test_the_span_takes_in_the_gaps_of_the_first_item() -> None:
    layers = random_layers(40, batch=2)
    gaps = visual_mask(40, (4, 10), (20, 30), batch=2)
    gaps[1, 25:30] = False
    span = rollout_rows(layers, gaps, RolloutSpec(visual_columns="reference_span")).rows_BL
    filled = rollout_rows(layers, visual_mask(40, (4, 30), batch=2), RolloutSpec()).rows_BL
    torch.testing.assert_close(span, filled, rtol=0, atol=0)
    own = rollout_rows(layers, gaps, RolloutSpec()).rows_BL
    assert (own - span).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_is_exact(side: str) -> None:
    layers = random_layers(60, batch=3)
    visual_BL = visual_mask(60, (20, 50), batch=3)
    visual_BL[2, 45:] = False
    lengths = {
        "left": [(0, 60), (7, 60), (15, 60)],
        "right": [(0, 60), (0, 53), (0, 46)],
        "both": [(3, 60), (0, 55), (2, 58)],
    }
    spans = lengths[side]
    mask_BL = torch.zeros(3, 60, dtype=torch.long)
    for item, (start, end) in enumerate(spans):
        mask_BL[item, start:end] = 1
    padded = rollout_rows(layers, visual_BL, RolloutSpec(), mask_BL)
    for item, (start, end) in enumerate(spans):
        alone = [
            LayerQK(qk.query_BALD[item : item + 1, :, start:end], qk.key_BKLD[item : item + 1, :, start:end], qk.scale)
            for qk in layers
        ]
        single = rollout_rows(alone, visual_BL[item : item + 1, start:end], RolloutSpec())
        expected_BL, _ = plain_definition(alone, visual_BL[item : item + 1, start:end], RolloutSpec())
        assert torch.equal(padded.rows_BL[item, start:end], single.rows_BL[0])
        torch.testing.assert_close(single.rows_BL.double(), expected_BL, rtol=1e-6, atol=1e-9)
        assert padded.rows_BL[item, :start].abs().sum() == padded.rows_BL[item, end:].abs().sum() == 0
        assert torch.equal(padded.head_weights_BNA[item], single.head_weights_BNA[0])


@pytest.mark.parametrize("zeros", [[slice(10, 12)], [slice(0, 5), slice(50, 51)], [slice(0, 60)]])
def test_other_padding_is_refused(zeros: list[slice]) -> None:
    mask_BL = torch.ones(1, 60, dtype=torch.long)
    for part in zeros:
        mask_BL[0, part] = 0
    with pytest.raises(ValueError, match="padding"):
        rollout_rows(random_layers(60), visual_mask(60, (20, 40)), RolloutSpec(), mask_BL)


def test_inputs_that_do_not_fit_each_other_are_refused() -> None:
    layers = random_layers(60, batch=2)
    with pytest.raises(ValueError, match=r"queries and keys are of \(2, 60\)"):
        rollout_rows(layers, visual_mask(56, (20, 40), batch=2), RolloutSpec())
    with pytest.raises(ValueError, match="queries and keys"):
        rollout_rows(layers, visual_mask(60, (20, 40)), RolloutSpec())
    with pytest.raises(ValueError, match="differ in shape"):
        rollout_rows(layers, visual_mask(60, (20, 40), batch=2), RolloutSpec(), torch.ones(1, 60))
    mask_BL = torch.ones(2, 60)
    mask_BL[1, :4] = 0
    span = RolloutSpec(visual_columns="reference_span")
    with pytest.raises(ValueError, match="use 'own' where padding differs"):
        rollout_rows(layers, visual_mask(60, (20, 40), batch=2), span, mask_BL)
    mask_BL[0, :4] = 0
    assert rollout_rows(layers, visual_mask(60, (20, 40), batch=2), span, mask_BL).rows_BL.shape == (2, 60)


def test_rows_without_visual_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one visual token"):
        rollout_rows(random_layers(20), visual_mask(20), RolloutSpec())
    assert rollout_rows(random_layers(20), visual_mask(20), RolloutSpec(head_weights="mean")).rows_BL.sum() > 0.99


def test_visual_tokens_before_the_first_row_that_sees_them_add_nothing() -> None:
    query, key = random_layers(30, layers=1)[0].query_BALD[0], random_layers(30, layers=1)[0].key_BKLD[0]
    _, weight_A = layer_pass(query, key, 0.25, torch.zeros(1, 30), [(29, 30)], block=4)
    scores = (query[:, -1:] @ key.repeat_interleave(3, 0).transpose(1, 2) * 0.25).softmax(-1)
    torch.testing.assert_close(weight_A, scores[:, 0, 29] / 30)


@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
def test_several_response_tokens_are_the_rows_of_the_whole_product(head_weights: str) -> None:
    layers, visual_BL = random_layers(40, layers=3, batch=2), visual_mask(40, (5, 25), batch=2)
    spec = RolloutSpec(head_weights=head_weights, block=8)
    found = rollout_rows(layers, visual_BL, spec, positions=(-1, 30, 26))
    assert found.rows_BRL.shape == (2, 3, 40)
    for index, position in enumerate((39, 30, 26)):
        alone = rollout_rows(layers, visual_BL, spec, positions=(position,))
        torch.testing.assert_close(found.rows_BRL[:, index], alone.rows_BL, rtol=1e-6, atol=1e-9)
        whole_BLL = torch.stack([whole_product(layers, visual_BL, spec, item) for item in range(2)])
        torch.testing.assert_close(found.rows_BRL[:, index].double(), whole_BLL[:, position], rtol=2e-6, atol=1e-9)
    for wrong in ((), (40,), (-41,)):
        with pytest.raises(ValueError, match="position"):
            rollout_rows(layers, visual_BL, spec, positions=wrong)


def whole_product(layers: list[LayerQK], visual_BL: torch.Tensor, spec: RolloutSpec, item: int) -> torch.Tensor:
    """The plain definition in float64: every layer's whole matrix, multiplied newest on the left, (L, L)."""
    length = visual_BL.shape[1]
    product_LL = torch.eye(length, dtype=torch.float64)
    for qk in layers:
        query_ALD, key_KLD = qk.query_BALD[item].double(), qk.key_BKLD[item].double()
        key_ALD = key_KLD.repeat_interleave(query_ALD.shape[0] // key_KLD.shape[0], 0)
        scores_ALL = query_ALD @ key_ALD.transpose(1, 2) * qk.scale
        future_LL = torch.ones(length, length, dtype=torch.bool).triu(1)
        attn_ALL = scores_ALL.masked_fill(future_LL, float("-inf")).softmax(-1)
        if spec.head_weights == "mean":
            weight_A = torch.ones(len(attn_ALL), dtype=torch.float64)
        else:
            columns_L = visual_BL[item] if spec.head_weights == "vmax" else torch.ones(length, dtype=torch.bool)
            weight_A = attn_ALL[:, :, columns_L].amax(-1).mean(-1)
        mean_LL = (weight_A / weight_A.max() / len(attn_ALL))[:, None, None].mul(attn_ALL).sum(0)
        product_LL = (0.5 * torch.eye(length, dtype=torch.float64) + 0.5 * mean_LL) @ product_LL
    return product_LL


def test_layer_range() -> None:
    assert RolloutSpec().layers(28) == range(14, 28)
    assert RolloutSpec().layers(36) == range(18, 36)
    assert RolloutSpec(start_layer=0, end_layer=3).layers(28) == range(0, 3)
    for spec in (RolloutSpec(start_layer=28), RolloutSpec(end_layer=29), RolloutSpec(start_layer=-1)):
        with pytest.raises(PrerequisiteError, match="layers 0 to 27"):
            spec.layers(28)


@pytest.mark.parametrize("wrong", [{"residual": 1.0}, {"residual": -0.1}, {"block": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrerequisiteError, match=next(iter(wrong))):
        replace(RolloutSpec(), **wrong)  # type: ignore[arg-type]
