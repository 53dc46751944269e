"""Attention rollout of one row, without ever holding an L x L matrix.

The rolled-out matrix is a product of layers, newest on the left; only its row at the response position is wanted.
That row is carried down from the last layer:

    r <- residual * r + (1 - residual) / A * sum_a w_a (r . attn_a),     r = unit vector of the position at first

with attn_a = softmax(Q K^T / sqrt(D)) under a causal mask, recomputed from captured Q and K a block of query rows at
a time. Source: DecAF (arXiv 2510.19592) Eq. 2-5; as in its released code heads are summed with weights and divided by
their number, rows are not normalised again, and the weights average over all query rows.

Pure functions of Q and K, torch operations only and differentiable; float32 (float64 for float64 inputs) whatever the
model computes in.

Shape legend: B batch, A attention heads, K key heads, G = A / K heads that share a key, L sequence, D head dim,
N layers rolled out, b rows of a block, e columns that a block sees, V visual columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.rollout.spec import RolloutSpec

Run = tuple[int, int]
"""Neighbouring columns [start, end)."""


@dataclass(frozen=True, eq=False)
class LayerQK:
    """What attention saw in one layer, after rotary embedding."""

    query_BALD: Tensor
    key_BKLD: Tensor
    scale: float
    """Usually 1 / sqrt(D)."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rolled-out rows and the head weights that made them."""

    rows_BL: Tensor
    """Float32 (float64 for float64 inputs); 0 at padding."""
    head_weights_BNA: Tensor
    """Before division by the largest head; ones for "mean"."""


def rollout_rows(
    layers: Sequence[LayerQK], visual_BL: Tensor, spec: RolloutSpec, attention_mask_BL: Tensor | None = None
) -> Rows:
    """The last position's rolled-out row of every batch item.

    Args:
        layers: the layers to roll out (``spec.layers`` of the model), first one first.
        visual_BL: True at visual tokens; looked at for "vmax" weights only.
        spec: head weights, residual weight, block size.
        attention_mask_BL: 0 at padding. Left padding is cut off item by item, which is exact.

    Raises:
        ValueError: no layers, padding elsewhere than on the left, or an item without visual tokens under "vmax".
    """
    if not layers:
        raise ValueError("rollout needs at least one layer")
    batch, length = visual_BL.shape
    paddings = [0] * batch if attention_mask_BL is None else [_left_padding(mask_L) for mask_L in attention_mask_BL]
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    for item, padding in enumerate(paddings):
        visual_L = visual_BL[0 if spec.visual_columns == "reference_span" else item, padding:]
        row_L, weight_NA = _one_row(
            [(qk.query_BALD[item, :, padding:], qk.key_BKLD[item, :, padding:], qk.scale) for qk in layers],
            visual_runs(visual_L, spec),
            spec,
        )
        rows.append(torch.nn.functional.pad(row_L, (length - row_L.shape[0], 0)))
        weights.append(weight_NA)
    return Rows(torch.stack(rows), torch.stack(weights))


def visual_runs(visual_L: Tensor, spec: RolloutSpec) -> tuple[Run, ...] | None:
    """The columns whose maximum weighs a head, as runs; None when heads are not weighed.

    Raises:
        ValueError: "vmax" without a visual token.
    """
    if spec.head_weights == "mean":
        return None
    if spec.head_weights == "max":
        return ((0, visual_L.shape[0]),)
    columns = visual_L.nonzero().flatten().tolist()
    if not columns:
        raise ValueError("vmax head weights need at least one visual token")
    if spec.visual_columns == "reference_span":
        return ((columns[0], columns[-1] + 1),)
    runs: list[Run] = []
    start = previous = columns[0]
    for column in columns[1:]:
        if column != previous + 1:
            runs.append((start, previous + 1))
            start = column
        previous = column
    return (*runs, (start, previous + 1))


def _left_padding(mask_L: Tensor) -> int:
    padding = int((mask_L == 0).sum())
    if padding and bool((mask_L[padding:] == 0).any()):
        raise ValueError("rollout takes left padding only: the last position must be a token, without gaps before it")
    if padding == mask_L.shape[0]:
        raise ValueError("a batch item is all padding")
    return padding


def _one_row(
    layers: Sequence[tuple[Tensor, Tensor, float]], runs: tuple[Run, ...] | None, spec: RolloutSpec
) -> tuple[Tensor, Tensor]:
    """Row (L,) and raw head weights (N, A) of one item, from each layer's queries, keys and scale."""
    last_ALD = layers[-1][0]
    length = last_ALD.shape[1]
    dtype = torch.promote_types(last_ALD.dtype, torch.float32)
    row_L = torch.zeros(length, dtype=dtype, device=last_ALD.device)
    row_L[-1] = 1.0
    first = length - 1
    block = spec.block or (32 if last_ALD.device.type == "cpu" else 256)
    weights: list[Tensor] = []
    for query_ALD, key_KLD, scale in reversed(layers):
        mass_AL, weight_A = layer_pass(query_ALD, key_KLD, scale, row_L, runs, block=block, first=first)
        relative_A = weight_A / weight_A.amax()
        row_L = spec.residual * row_L + (1.0 - spec.residual) * (relative_A @ mass_AL) / relative_A.shape[0]
        weights.append(weight_A)
        first = 0
    return row_L, torch.stack(weights[::-1])


def layer_pass(
    query_ALD: Tensor,
    key_KLD: Tensor,
    scale: float,
    row_L: Tensor,
    runs: Sequence[Run] | None,
    *,
    block: int,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """One layer for one item: ``row . attn_a`` of every head (A, L), and the raw head weights (A,).

    Columns after a block's rows are never computed, and without head weights neither are rows before ``first``.

    Args:
        query_ALD: queries, any float type.
        key_KLD: keys; query head a uses key head a // G.
        scale: of the scores.
        row_L: the row carried so far; its type is the type computed in.
        runs: columns whose maximum is averaged into the weight; None: weights are 1.
        block: query rows at a time.
        first: ``row_L`` is zero before this position.
    """
    heads, length, depth = query_ALD.shape
    key_heads = key_KLD.shape[0]
    groups = heads // key_heads
    query_KGLD = query_ALD.reshape(key_heads, groups, length, depth)
    key_KDL = key_KLD.to(row_L.dtype).transpose(1, 2)
    mass_KGL = row_L.new_zeros(key_heads, groups, length)
    weight_KG = row_L.new_zeros(key_heads, groups)
    for start in range(0 if runs is not None else first, length, block):
        end = min(start + block, length)
        rows = end - start
        query_KRD = (query_KGLD[:, :, start:end].to(row_L.dtype) * scale).reshape(key_heads, groups * rows, depth)
        scores_KGbe = torch.bmm(query_KRD, key_KDL[:, :, :end]).view(key_heads, groups, rows, end)
        future_bb = torch.ones(rows, rows, dtype=torch.bool, device=row_L.device).triu(1)
        scores_KGbe[..., start:].masked_fill_(future_bb, float("-inf"))
        # The maximum only keeps exp in range; it cancels, so no gradient goes through it.
        likely_KGbe = scores_KGbe.sub_(scores_KGbe.detach().amax(-1, keepdim=True)).exp_()
        total_KGb = likely_KGbe.sum(-1)
        seen = [(low, min(high, end)) for low, high in runs or () if low < end]
        if seen:
            peaks = [likely_KGbe[..., low:high].amax(-1) for low, high in seen]
            weight_KG = weight_KG + (torch.stack(peaks).amax(0) / total_KGb).sum(-1)
        if end > first:
            share_KGb = row_L[start:end] / total_KGb
            mass_KGL[..., :end] += torch.matmul(share_KGb.unsqueeze(-2), likely_KGbe).squeeze(-2)
    weight_A = torch.ones_like(weight_KG).flatten() if runs is None else weight_KG.flatten() / length
    return mass_KGL.flatten(0, 1), weight_A
