"""Attention rollout of single rows, without ever holding an L x L matrix.

The rolled-out matrix is a product of layers, newest on the left; only its rows at response positions are wanted.
Each is carried down from the last layer:

    r <- residual * r + (1 - residual) / A * sum_a w_a (r . attn_a),     r = unit vector of the position at first

with attn_a = softmax(Q K^T / sqrt(D)) under a causal mask, recomputed from captured Q and K a block of query rows at
a time. Source: DecAF (arXiv 2510.19592) Eq. 2-5; as in its released code heads are summed with weights and divided by
their number, rows are not normalised again, and the weights average over all query rows.

Pure functions of Q and K, torch operations only; float32 (float64 for float64 inputs) whatever the model computes in.
They are differentiable once with respect to Q, K and the row, with blocks recomputed in the backward pass
(``methods.attention.gradients``). Both maxima, over columns and over heads, share their gradient equally among equals.

Shape legend: B batch, A attention heads, K key heads, G = A / K heads that share a key, L sequence, D head dim,
N layers rolled out, R response positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rvosbench.methods.attention.gradients import LayerPass
from rvosbench.methods.attention.passes import Geometry, forward_pass
from rvosbench.methods.attention.passes import Run as Run
from rvosbench.methods.attention.spec import RolloutSpec


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

    rows_BRL: Tensor
    """Float32 (float64 for float64 inputs); 0 at padding."""
    head_weights_BNA: Tensor
    """Before division by the largest head; ones for "mean"."""

    @property
    def rows_BL(self) -> Tensor:  # noqa: N802  shape suffix
        """The rows of the first, usually the only, response position."""
        return self.rows_BRL[:, 0]


def rollout_rows(
    layers: Sequence[LayerQK],
    visual_BL: Tensor,
    spec: RolloutSpec,
    attention_mask_BL: Tensor | None = None,
    *,
    positions: Sequence[int] = (-1,),
    weight_gradient: bool = True,
) -> Rows:
    """The rolled-out rows of every batch item's response tokens, by default of its last token.

    Args:
        layers: the layers to roll out (``spec.layers`` of the model), first one first.
        visual_BL: True at visual tokens; used for "vmax" weights only.
        spec: head weights, residual weight, block size.
        attention_mask_BL: 0 at padding, left or right of the tokens. It is cut off item by item, which is exact: no
            token of a causal model sees right padding, and the model's own mask hides left padding.
        positions: response tokens of every item, counted among its tokens without padding, from 0 or (negative) from
            the end. The blocks of attention are formed once for all of them.
        weight_gradient: False takes head weights as constants in the backward pass.

    Raises:
        ValueError: no layers or positions, a position outside an item, inputs of different lengths, padding between
            tokens, unequal padding under "reference_span", or an item without visual tokens under "vmax".
    """
    if not layers:
        raise ValueError("rollout needs at least one layer")
    if not positions:
        raise ValueError("rollout needs at least one response position")
    batch, length = visual_BL.shape
    for qk in layers:
        found = (qk.query_BALD.shape[0], qk.query_BALD.shape[2])
        if found != (batch, length) or (qk.key_BKLD.shape[0], qk.key_BKLD.shape[2]) != found:
            raise ValueError(f"queries and keys are of {found} items and tokens, the visual mask of {(batch, length)}")
    spans = [(0, length)] * batch
    if attention_mask_BL is not None:
        if attention_mask_BL.shape != visual_BL.shape:
            raise ValueError("attention mask and visual mask differ in shape")
        spans = [_tokens(mask_L) for mask_L in attention_mask_BL]
    if spec.visual_columns == "reference_span" and len(set(spans)) > 1:
        raise ValueError("'reference_span' takes the first item's columns for all: use 'own' where padding differs")
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    with torch.autocast(visual_BL.device.type, enabled=False):
        for item, (start, end) in enumerate(spans):
            visual_L = visual_BL[0 if spec.visual_columns == "reference_span" else item, start:end]
            rows_RL, weight_NA = _rows_of_item(
                [(qk.query_BALD[item, :, start:end], qk.key_BKLD[item, :, start:end], qk.scale) for qk in layers],
                visual_runs(visual_L, spec),
                spec,
                positions,
                weight_gradient=weight_gradient,
            )
            rows.append(torch.nn.functional.pad(rows_RL, (start, length - end)))
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


def _tokens(mask_L: Tensor) -> Run:
    """Where an item's tokens start and end."""
    tokens = mask_L.nonzero().flatten()
    if not len(tokens):
        raise ValueError("a batch item is all padding")
    start, end = int(tokens[0]), int(tokens[-1]) + 1
    if end - start != len(tokens):
        raise ValueError("rollout takes padding on the left or on the right of an item, not between its tokens")
    return start, end


def _rows_of_item(
    layers: Sequence[tuple[Tensor, Tensor, float]],
    runs: tuple[Run, ...] | None,
    spec: RolloutSpec,
    positions: Sequence[int],
    *,
    weight_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Rows (R, L) and raw head weights (N, A) of one item, from each layer's queries, keys and scale."""
    last_ALD = layers[-1][0]
    length = last_ALD.shape[1]
    dtype = torch.promote_types(last_ALD.dtype, torch.float32)
    rows_RL = torch.zeros(len(positions), length, dtype=dtype, device=last_ALD.device)
    at = []
    for index, position in enumerate(positions):
        if not -length <= position < length:
            raise ValueError(f"response position {position} of an item with {length} tokens")
        at.append(position % length)
        rows_RL[index, at[-1]] = 1.0
    first = min(at)
    block = spec.block or (32 if last_ALD.device.type == "cpu" else 256)
    weights: list[Tensor] = []
    for query_ALD, key_KLD, scale in reversed(layers):
        mass_ARL, weight_A = layer_pass(query_ALD, key_KLD, scale, rows_RL, runs, block=block, first=first)
        weight_A = weight_A if weight_gradient else weight_A.detach()
        relative_A = weight_A / weight_A.amax()
        gathered_RL = torch.tensordot(relative_A, mass_ARL, dims=1)
        rows_RL = spec.residual * rows_RL + (1.0 - spec.residual) * gathered_RL / relative_A.shape[0]
        weights.append(weight_A)
        first = 0
    return rows_RL, torch.stack(weights[::-1])


def layer_pass(
    query_ALD: Tensor,
    key_KLD: Tensor,
    scale: float,
    rows_RL: Tensor,
    runs: Sequence[Run] | None,
    *,
    block: int,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """One layer for one item: ``row . attn_a`` of every head and row (A, R, L), and the raw head weights (A,).

    Columns after a block's rows are never computed, and without head weights neither are rows before ``first``.

    Args:
        query_ALD: queries, any float type.
        key_KLD: keys; query head a uses key head a // G.
        scale: of the scores.
        rows_RL: the rows carried so far; their type is the type computed in.
        runs: columns whose maximum is averaged into the weight; None: weights are 1.
        block: query rows at a time.
        first: ``rows_RL`` is zero before this position.
    """
    geometry = Geometry(scale, None if runs is None else tuple(runs), block, first)
    if torch.is_grad_enabled() and (query_ALD.requires_grad or key_KLD.requires_grad or rows_RL.requires_grad):
        mass_ARL, weight_A = LayerPass.apply(query_ALD, key_KLD, rows_RL, geometry)  # type: ignore[no-untyped-call]
        return mass_ARL, weight_A
    done = forward_pass(query_ALD, key_KLD, rows_RL, geometry)
    return done.mass_ARL, done.weight_A
