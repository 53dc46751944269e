"""Attention rollout of many prompts over one visual prefix, computed once for all of them.

Attention is causal, so in prompts that begin with the same P tokens those tokens have the same queries, keys and
attention rows; only the text behind them, the suffix, differs. The recursion of ``methods.attention.recursion`` then
splits. With r the row carried down for one prompt, w_a its head weights and L its length,

    r . attn_a = r[:P] . attn_a[:P]  (a product with rows that all prompts share; it reaches columns before P only)
               + r[P:] . attn_a[P:]  (the prompt's own rows)
    w_a        = (sum over prefix rows of the row's visual maximum (shared) + sum over suffix rows) / L

A block of shared rows is formed once per layer and multiplied with the rows of all prompts stacked, head by head:
head weights scale heads differently for every prompt, so products are summed over heads afterwards. The stack always
has the same number of rows, those without a prompt being 0: every product keeps its shape whatever the number of
prompts, and a prompt's numbers do not depend on which others it is computed with.

Pure functions of Q and K; float32 (float64 for float64 inputs) whatever the model computes in.

Shape legend: B batch, A attention heads, K key heads, G = A / K heads that share a key, P prefix tokens, s suffix
tokens, L = P + s, D head dim, N layers rolled out, R stacked rows, b rows of a block, e columns that a block is
computed for, E = P rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from rvosbench.methods.attention.recursion import LayerQK, Rows, Run, visual_runs
from rvosbench.methods.attention.spec import RolloutSpec

_COLUMNS = 32


def shared_rows(
    prefix: Sequence[LayerQK], suffixes: Sequence[Sequence[LayerQK]], visual_P: Tensor, spec: RolloutSpec, *, stack: int
) -> list[Rows]:
    """The last position's rolled-out rows of several prompts, for every batch item (view) of the prefix.

    The same numbers as ``rollout_rows`` of each whole prompt, up to rounding.

    Args:
        prefix: Q and K of the prefix in the layers to roll out, first layer first.
        suffixes: of each prompt, Q and K of its suffix alone, layer by layer, with the prefix's batch.
        visual_P: True at the prefix's visual tokens; a suffix has none.
        spec: head weights, residual weight, block size.
        stack: rows of the stack, R, a multiple of 8; the largest number of prompts.

    Raises:
        ValueError: no layers, other layers in a suffix, a stack that is no multiple of 8 or has fewer rows than there
            are prompts, or no visual token under "vmax".
    """
    if not prefix or any(len(layers) != len(prefix) for layers in suffixes):
        raise ValueError("prefix and suffixes need the same layers, at least one")
    if stack % 8:
        raise ValueError(f"a stack of {stack} rows is no multiple of 8")
    if len(suffixes) > stack:
        raise ValueError(f"{len(suffixes)} prompts do not fit a stack of {stack}")
    items = [_one_item(prefix, suffixes, visual_P, spec, stack, item) for item in range(prefix[0].query_BALD.shape[0])]
    return [
        Rows(
            torch.stack([rows[index].unsqueeze(0) for rows, _ in items]),
            torch.stack([weights[index] for _, weights in items]),
        )
        for index in range(len(suffixes))
    ]


def _one_item(
    prefix: Sequence[LayerQK],
    suffixes: Sequence[Sequence[LayerQK]],
    visual_P: Tensor,
    spec: RolloutSpec,
    stack: int,
    item: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Each prompt's row (L,) and raw head weights (N, A) of one batch item."""
    first_APD = prefix[0].query_BALD[item]
    heads, length = first_APD.shape[:2]
    dtype = torch.promote_types(first_APD.dtype, torch.float32)
    block = spec.block or (32 if first_APD.device.type == "cpu" else 256)
    runs = visual_runs(visual_P, spec)
    rows_RP = torch.zeros(stack, length, dtype=dtype, device=first_APD.device)
    tails = [torch.zeros(layers[0].query_BALD.shape[2], dtype=dtype, device=first_APD.device) for layers in suffixes]
    for tail_s in tails:
        tail_s[-1] = 1.0
    weights: list[list[Tensor]] = [[] for _ in suffixes]
    for depth in reversed(range(len(prefix))):
        layer = prefix[depth]
        key_KDE = pad(layer.key_BKLD[item].to(dtype).transpose(1, 2), (0, -length % _COLUMNS))
        # At the last layer no row has reached the prefix yet.
        carried_RP = rows_RP if depth < len(prefix) - 1 else None
        mass_ARP, peak_A = prefix_pass(layer.query_BALD[item], key_KDE, layer.scale, carried_RP, runs, block=block)
        for index, tail_s in enumerate(tails):
            own = suffixes[index][depth]
            seen = ((0, length + len(tail_s)),) if spec.head_weights == "max" else runs
            mass_AL, own_A = suffix_pass(
                own.query_BALD[item],
                own.key_BKLD[item],
                key_KDE[..., :length],
                own.scale,
                tail_s,
                seen,
                block=block,
            )
            weight_A = torch.ones_like(own_A) if runs is None else (peak_A + own_A) / mass_AL.shape[1]
            weights[index].append(weight_A)
            if mass_ARP is not None:
                mass_AL[:, :length] += mass_ARP[:, index]
            change_L = (1.0 - spec.residual) * ((weight_A / weight_A.amax()) @ mass_AL) / heads
            rows_RP[index] = spec.residual * rows_RP[index] + change_L[:length]
            tails[index] = spec.residual * tail_s + change_L[length:]
    rows = [torch.cat([rows_RP[index], tail_s]) for index, tail_s in enumerate(tails)]
    return rows, [torch.stack(raw[::-1]) for raw in weights]


def prefix_pass(
    query_APD: Tensor,
    key_KDE: Tensor,
    scale: float,
    rows_RP: Tensor | None,
    runs: Sequence[Run] | None,
    *,
    block: int,
) -> tuple[Tensor | None, Tensor]:
    """The shared rows of one layer: ``row . attn_a`` of all stacked rows and heads (A, R, P), and the sum over rows of
    their maximum over ``runs`` (A,).

    Args:
        query_APD: queries, any float type.
        key_KDE: keys, in the type to compute in, and any columns behind them up to a multiple of 32; query head a
            uses key head a // G.
        scale: of the scores.
        rows_RP: the rows carried so far, in the type of the keys; None: all are 0, and no product is formed.
        runs: columns whose maximum is summed; None: the sums are 0.
        block: query rows at a time.
    """
    heads, length, depth = query_APD.shape
    key_heads, _, columns = key_KDE.shape
    query_KGPD = query_APD.reshape(key_heads, heads // key_heads, length, depth)
    mass_ARE = None if rows_RP is None else key_KDE.new_zeros(heads, rows_RP.shape[0], columns)
    peak_A = key_KDE.new_zeros(heads)
    if rows_RP is None and runs is None:
        return None, peak_A
    for start in range(0, length, block):
        rows = min(block, length - start)
        end = min(-(-(start + rows) // _COLUMNS) * _COLUMNS, columns)
        query_KRD = _scaled(query_KGPD[:, :, start : start + rows], key_KDE.dtype, scale)
        likely_Abe = torch.bmm(query_KRD, key_KDE[:, :, :end]).view(heads, rows, end)
        likely_Abe[..., start:].masked_fill_(_future(rows, end - start, key_KDE), float("-inf"))
        likely_Abe.sub_(likely_Abe.amax(-1, keepdim=True)).exp_()
        total_Ab = likely_Abe.sum(-1)
        peaks = _peaks(likely_Abe, runs, 0)
        if peaks:
            peak_A += (torch.stack(peaks).amax(0) / total_Ab).sum(-1)
        if mass_ARE is not None and rows_RP is not None:
            share_ARb = rows_RP[:, start : start + rows] / total_Ab.unsqueeze(1)
            mass_ARE[..., :end] += torch.bmm(share_ARb, likely_Abe)
    return None if mass_ARE is None else mass_ARE[..., :length], peak_A


def suffix_pass(
    query_AsD: Tensor,
    key_KsD: Tensor,
    key_KDP: Tensor,
    scale: float,
    row_s: Tensor,
    runs: Sequence[Run] | None,
    *,
    block: int,
) -> tuple[Tensor, Tensor]:
    """A prompt's own rows of one layer: ``row . attn_a`` of every head (A, L), and the sum over rows of their maximum
    over ``runs`` (A,).

    Args:
        query_AsD, key_KsD: of the suffix, any float type.
        key_KDP: keys of the prefix, in the type to compute in.
        scale: of the scores.
        row_s: the suffix's part of the row carried so far.
        runs: columns of 0..L whose maximum is summed; None: the sums are 0.
        block: query rows at a time.
    """
    heads, length, depth = query_AsD.shape
    key_heads, _, before = key_KDP.shape
    query_KGsD = query_AsD.reshape(key_heads, heads // key_heads, length, depth)
    key_KDs = key_KsD.to(key_KDP.dtype).transpose(1, 2)
    mass_AL = key_KDP.new_zeros(heads, before + length)
    peak_A = key_KDP.new_zeros(heads)
    for start in range(0, length, block):
        end = min(start + block, length)
        query_KRD = _scaled(query_KGsD[:, :, start:end], key_KDP.dtype, scale)
        far_AbP = torch.bmm(query_KRD, key_KDP).view(heads, end - start, before)
        near_Abe = torch.bmm(query_KRD, key_KDs[:, :, :end]).view(heads, end - start, end)
        near_Abe[..., start:].masked_fill_(_future(end - start, end - start, key_KDP), float("-inf"))
        top_Ab1 = torch.maximum(far_AbP.amax(-1, keepdim=True), near_Abe.amax(-1, keepdim=True))
        far_AbP.sub_(top_Ab1).exp_()
        near_Abe.sub_(top_Ab1).exp_()
        total_Ab = far_AbP.sum(-1) + near_Abe.sum(-1)
        peaks = _peaks(far_AbP, runs, 0) + _peaks(near_Abe, runs, before)
        if peaks:
            peak_A += (torch.stack(peaks).amax(0) / total_Ab).sum(-1)
        share_A1b = (row_s[start:end] / total_Ab).unsqueeze(1)
        mass_AL[:, :before] += torch.bmm(share_A1b, far_AbP).squeeze(1)
        mass_AL[:, before : before + end] += torch.bmm(share_A1b, near_Abe).squeeze(1)
    return mass_AL, peak_A


def _scaled(query_KGbD: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """One key head's queries as the rows of one matrix (K, G b, D)."""
    return (query_KGbD.to(dtype) * scale).flatten(1, 2)


def _future(rows: int, columns: int, like: Tensor) -> Tensor:
    """True above the diagonal, (rows, columns)."""
    return torch.ones(rows, columns, dtype=torch.bool, device=like.device).triu(1)


def _peaks(likely_Abe: Tensor, runs: Sequence[Run] | None, offset: int) -> list[Tensor]:
    """Each row's maximum over every run that touches the columns ``offset`` to ``offset + e``: (A, b) each."""
    end = likely_Abe.shape[-1]
    inside = [(max(low - offset, 0), min(high - offset, end)) for low, high in runs or ()]
    return [likely_Abe[..., low:high].amax(-1) for low, high in inside if low < high]
