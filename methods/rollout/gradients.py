"""The backward of a rollout's pass through one layer, recomputed a block of query rows at a time.

With P = attn of one head, r the row carried, g the gradient that arrives at ``r . P`` and u the one at the head's
weight, divided by the number of rows:

    c_i = P_i . g                           (also what this head adds to the gradient of r_i)
    dS_ij = P_ij (r_i (g_j - c_i) - u m_i + u [j in T_i] / |T_i|),    m_i = max over weighed columns of P_ij
    dQ = scale dS K,   dK = scale dS^T Q

where T_i are the weighed columns that hold the maximum: a maximum's gradient is shared equally among those that
attain it, the subgradient that ``torch.amax`` has. Between forward and backward only the inputs and two numbers per
head and row are kept (the row's largest score and the sum of its exponentials).

Shape legend: A attention heads, K key heads, G = A / K heads that share a key, L sequence, D head dim, b rows of a
block, e columns that a block sees, R = G * b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.rollout.passes import Geometry, Run, block_scores, by_key_head, forward_pass, largest


class LayerPass(torch.autograd.Function):
    """``forward_pass`` with gradients for queries, keys and row. It can be differentiated once."""

    @staticmethod
    def forward(
        ctx: Any, query_ALD: Tensor, key_KLD: Tensor, row_L: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        done = forward_pass(query_ALD, key_KLD, row_L, geometry)
        ctx.save_for_backward(query_ALD, key_KLD, row_L, done.top_KGL, done.total_KGL)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return done.mass_AL, done.weight_A

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_mass_AL: Tensor | None, grad_weight_A: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        query_ALD, key_KLD, row_L, top_KGL, total_KGL = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        key_heads, length, depth = key_KLD.shape
        by_head = (key_heads, query_ALD.shape[0] // key_heads, length)
        grad_mass_KGL = None if grad_mass_AL is None else grad_mass_AL.reshape(by_head)
        grad_peak_KG1 = None
        if grad_weight_A is not None and geometry.runs is not None:
            grad_peak_KG1 = grad_weight_A.reshape(*by_head[:2], 1) / length
        query_KGLD, keys_KLD = by_key_head(query_ALD, key_heads), key_KLD.to(row_L.dtype)
        grad_query_KGLD = row_L.new_zeros(*by_head, depth)
        grad_key_KLD = torch.zeros_like(keys_KLD)
        grad_row_L = torch.zeros_like(row_L)
        with torch.autocast(row_L.device.type, enabled=False):
            for start, end in geometry.blocks(length):
                grad_KGe = None if grad_mass_KGL is None or end <= geometry.first else grad_mass_KGL[..., :end]
                seen = [] if grad_peak_KG1 is None else geometry.seen(end)
                if grad_KGe is None and not seen:
                    continue
                query_KRD, scores_KGbe = block_scores(query_KGLD, keys_KLD.mT, geometry.scale, start, end)
                likely_KGbe = scores_KGbe.sub_(top_KGL[..., start:end].unsqueeze(-1)).exp_()
                slope_KGbe, grad_row_L[start:end] = _slopes(
                    likely_KGbe, total_KGL[..., start:end], row_L[start:end], grad_KGe, grad_peak_KG1, seen
                )
                slope_KRe = slope_KGbe.view(key_heads, -1, end)
                grad_query_KRD = torch.bmm(slope_KRe, keys_KLD[:, :end]).mul_(geometry.scale)
                grad_query_KGLD[:, :, start:end] = grad_query_KRD.view(*by_head[:2], end - start, depth)
                grad_key_KLD[:, :end].baddbmm_(slope_KRe.mT, query_KRD)
        # Rows before ``first`` are zero by agreement, not by their inputs.
        grad_row_L[: geometry.first] = 0.0
        grad_query_ALD = grad_query_KGLD.view(query_ALD.shape).to(query_ALD.dtype)
        return grad_query_ALD, grad_key_KLD.to(key_KLD.dtype), grad_row_L, None


def _slopes(
    likely_KGbe: Tensor,
    total_KGb: Tensor,
    row_b: Tensor,
    grad_KGe: Tensor | None,
    grad_peak_KG1: Tensor | None,
    seen: Sequence[Run],
) -> tuple[Tensor, Tensor]:
    """The gradient dS (K, G, b, e) of a block's scores, and the sum of c_i over heads (b,).

    Args:
        likely_KGbe: exp(score - top); with ``total_KGb``, its sums over columns, the probabilities.
        row_b: the row carried.
        grad_KGe: g; None: nothing arrives at ``r . P``.
        grad_peak_KG1: u; None: nothing arrives at the head weights.
        seen: the weighed columns.
    """
    grad_row_b = torch.zeros_like(row_b)
    fixed_KGb = torch.zeros_like(total_KGb)
    if grad_KGe is not None:
        caught_KGb = torch.matmul(likely_KGbe, grad_KGe.unsqueeze(-1)).squeeze(-1) / total_KGb
        grad_row_b = caught_KGb.sum((0, 1))
        share_KGb = row_b / total_KGb
        fixed_KGb -= share_KGb * caught_KGb
    if grad_peak_KG1 is not None and seen:
        pull_KGb = grad_peak_KG1 / total_KGb
        peak_KGb1 = largest(likely_KGbe, seen).unsqueeze(-1)
        fixed_KGb -= pull_KGb * peak_KGb1.squeeze(-1) / total_KGb
    if grad_KGe is None:
        slope_KGbe = fixed_KGb.unsqueeze(-1).expand_as(likely_KGbe).clone()
    else:
        slope_KGbe = torch.addcmul(fixed_KGb.unsqueeze(-1), share_KGb.unsqueeze(-1), grad_KGe.unsqueeze(-2))
    if grad_peak_KG1 is not None and seen:
        tied = [(likely_KGbe[..., low:high] == peak_KGb1).to(likely_KGbe.dtype) for low, high in seen]
        each_KGb = pull_KGb / torch.stack([part_KGbc.sum(-1) for part_KGbc in tied]).sum(0)
        for (low, high), part_KGbc in zip(seen, tied, strict=True):
            slope_KGbe[..., low:high].addcmul_(part_KGbc, each_KGb.unsqueeze(-1))
    return slope_KGbe.mul_(likely_KGbe), grad_row_b
