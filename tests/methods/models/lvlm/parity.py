"""A model's logits and rolled-out maps beside those of eager float32, from its own attention matrices.

Shape legend: A attention heads, L sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import ModelInputs
from rvosbench.methods.models.lvlm.model import Lvlm

SPEC = RolloutSpec(start_layer=1)


def row_from_attentions(attentions: tuple[torch.Tensor, ...], visual_L: torch.Tensor) -> torch.Tensor:
    """The definition, from a model's own attention matrices (1, A, L, L)."""
    length = visual_L.shape[0]
    rolled = torch.eye(length, dtype=torch.float64)
    for attention in attentions:
        attn_ALL = attention[0].double()
        weight_A = attn_ALL[:, :, visual_L].amax(-1).mean(-1)
        mean_LL = ((weight_A / weight_A.max())[:, None, None] * attn_ALL).mean(0)
        rolled = (0.5 * torch.eye(length) + 0.5 * mean_LL) @ rolled
    return rolled[-1]


@torch.no_grad()
def require_parity(
    model: Lvlm,
    eager: Lvlm,
    views: Iterable[ModelInputs],
    record_property: Callable[[str, object], None],
    on_grid: Callable[[torch.Tensor, ModelInputs], np.ndarray] = lambda row_L, prompted: (
        row_L[prompted.visual_L].numpy().reshape(prompted.grid)
    ),
) -> None:
    """Fails when they are apart; records how far they are. ``on_grid`` puts a row (L,) on the map by hand."""
    logits_apart = rows_apart = 0.0
    for prompted in views:
        expected = eager.model(**prompted.inputs, output_attentions=True, use_cache=False)
        logits = model.model(**prompted.inputs, use_cache=False).logits
        logits_apart = max(logits_apart, float((logits - expected.logits).abs().max()))
        row_L = row_from_attentions(expected.attentions[1:], prompted.visual_L)
        by_hand = (
            row_L[prompted.visual_L].numpy().reshape(prompted.grid) if on_grid is None else on_grid(row_L, prompted)
        )
        map_thw = model.rollout(prompted, SPEC)
        assert map_thw.shape == prompted.grid and map_thw.dtype == np.float32
        rows_apart = max(rows_apart, float(np.abs(map_thw - by_hand).max()))
        np.testing.assert_allclose(eager.rollout(prompted, SPEC), map_thw, rtol=0, atol=1e-6)
        assert map_thw.std() > 0.05 * map_thw.mean()
    record_property(f"{model.family}: logits, largest difference to eager float32", logits_apart)
    record_property(f"{model.family}: rollout, largest difference to eager float32", rows_apart)
    print(f"{model.family}: sdpa against eager float32: logits {logits_apart:.1e}, rollout row {rows_apart:.1e}")
    assert logits_apart < 1e-4
    assert rows_apart < 1e-6
