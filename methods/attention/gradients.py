"""The backward of a rollout's pass through one layer, recomputed a block of query rows at a time.

With P = attn of one head, r a row carried, g the gradient that arrives at ``r . P`` and u the one at the head's
weight, divided by the number of query rows:

    c_i = P_i . g                           (also what this head adds to the gradient of r_i)
    dS_ij = P_ij (sum over rows of r_i (g_j - c_i) - u m_i + u [j in T_i] / |T_i|),
                                            m_i = max over weighed columns of P_ij
    dQ = scale dS K,   dK = scale dS^T Q

where T_i are the weighed columns that hold the maximum: a maximum's gradient is shared equally among those that
attain it, the subgradient that ``torch.amax`` has. Between forward and backward only the inputs and two numbers per
head and row are kept (the row's largest score and the sum of its exponentials).

Shape legend: A attention heads, K key heads, G = A / K heads that share a key, L sequence, D head dim, b rows of a
block, e columns that a block sees, R rows carried, n = G * b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rvosbench.methods.attention.passes import Geometry, Run, block_scores, by_key_head, forward_pass, largest


class LayerPass(torch.autograd.Function):
    """``forward_pass`` with gradients for queries, keys and rows. It can be differentiated once."""

    @staticmethod
    def forward(
        ctx: Any, query_ALD: Tensor, key_KLD: Tensor, rows_RL: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        done = forward_pass(query_ALD, key_KLD, rows_RL, geometry)
        ctx.save_for_backward(query_ALD, key_KLD, rows_RL, done.top_KGL, done.total_KGL)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return done.mass_ARL, done.weight_A

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_mass_ARL: Tensor | None, grad_weight_A: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        query_ALD, key_KLD, rows_RL, top_KGL, total_KGL = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        key_heads, length, depth = key_KLD.shape
        by_head = (key_heads, query_ALD.shape[0] // key_heads, length)
        grad_mass_KGRL = None if grad_mass_ARL is None else grad_mass_ARL.reshape(*by_head[:2], *rows_RL.shape)
        grad_peak_KG1 = None
        if grad_weight_A is not None and geometry.runs is not None:
            grad_peak_KG1 = grad_weight_A.reshape(*by_head[:2], 1) / length
        query_KGLD, keys_KLD = by_key_head(query_ALD, key_heads), key_KLD.to(rows_RL.dtype)
        grad_query_KGLD = rows_RL.new_zeros(*by_head, depth)
        grad_key_KLD = torch.zeros_like(keys_KLD)
        grad_rows_RL = torch.zeros_like(rows_RL)
        with torch.autocast(rows_RL.device.type, enabled=False):
            for start, end in geometry.blocks(length):
                grad_KGRe = None if grad_mass_KGRL is None or end <= geometry.first else grad_mass_KGRL[..., :end]
                seen = [] if grad_peak_KG1 is None else geometry.seen(end)
                if grad_KGRe is None and not seen:
                    continue
                query_KnD, scores_KGbe = block_scores(query_KGLD, keys_KLD.mT, geometry.scale, start, end)
                likely_KGbe = scores_KGbe.sub_(top_KGL[..., start:end].unsqueeze(-1)).exp_()
                slope_KGbe, grad_rows_RL[:, start:end] = _slopes(
                    likely_KGbe, total_KGL[..., start:end], rows_RL[:, start:end], grad_KGRe, grad_peak_KG1, seen
                )
                slope_Kne = slope_KGbe.view(key_heads, -1, end)
                grad_query_KnD = torch.bmm(slope_Kne, keys_KLD[:, :end]).mul_(geometry.scale)
                grad_query_KGLD[:, :, start:end] = grad_query_KnD.view(*by_head[:2], end - start, depth)
                grad_key_KLD[:, :end].baddbmm_(slope_Kne.mT, query_KnD)
        # Rows before ``first`` are zero by agreement, not by their inputs.
        grad_rows_RL[:, : geometry.first] = 0.0
        grad_query_ALD = grad_query_KGLD.view(query_ALD.shape).to(query_ALD.dtype)
        return grad_query_ALD, grad_key_KLD.to(key_KLD.dtype), grad_rows_RL, None


def _slopes(
    likely_KGbe: Tensor,
    total_KGb: Tensor,
    rows_Rb: Tensor,
    grad_KGRe: Tensor | None,
    grad_peak_KG1: Tensor | None,
    seen: Sequence[Run],
) -> tuple[Tensor, Tensor]:
    """The gradient dS (K, G, b, e) of a block's scores, and the sum of c_i over heads (R, b).

    Args:
        likely_KGbe: exp(score - top); with ``total_KGb``, its sums over columns, the probabilities.
        rows_Rb: the rows carried.
        grad_KGRe: g; None: nothing arrives at ``r . P``.
        grad_peak_KG1: u; None: nothing arrives at the head weights.
        seen: the weighed columns.
    """
    grad_rows_Rb = torch.zeros_like(rows_Rb)
    fixed_KGb = torch.zeros_like(total_KGb)
    if grad_KGRe is not None:
        caught_KGRb = torch.matmul(likely_KGbe, grad_KGRe.mT).mT / total_KGb.unsqueeze(-2)
        grad_rows_Rb = caught_KGRb.sum((0, 1))
        share_KGRb = rows_Rb / total_KGb.unsqueeze(-2)
        fixed_KGb -= (share_KGRb * caught_KGRb).sum(-2)
    if grad_peak_KG1 is not None and seen:
        pull_KGb = grad_peak_KG1 / total_KGb
        peak_KGb1 = largest(likely_KGbe, seen).unsqueeze(-1)
        fixed_KGb -= pull_KGb * peak_KGb1.squeeze(-1) / total_KGb
    if grad_KGRe is None:
        slope_KGbe = fixed_KGb.unsqueeze(-1).expand_as(likely_KGbe).clone()
    else:
        slope_KGbe = torch.matmul(share_KGRb.mT, grad_KGRe).add_(fixed_KGb.unsqueeze(-1))
    if grad_peak_KG1 is not None and seen:
        tied = [(likely_KGbe[..., low:high] == peak_KGb1).to(likely_KGbe.dtype) for low, high in seen]
        each_KGb = pull_KGb / torch.stack([part_KGbc.sum(-1) for part_KGbc in tied]).sum(0)
        for (low, high), part_KGbc in zip(seen, tied, strict=True):
            slope_KGbe[..., low:high].addcmul_(part_KGbc, each_KGb.unsqueeze(-1))
    return slope_KGbe.mul_(likely_KGbe), grad_rows_Rb
