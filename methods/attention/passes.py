"""One layer's part of a rollout for one item, a block of query rows at a time, forward only.

Everything here runs without autograd; ``rvosbench.methods.attention.gradients`` has the backward of the same blocks.

Shape legend: A attention heads, K key heads, G = A / K heads that share a key, L sequence, D head dim, b rows of a
block, e columns that a block sees, R rows carried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Run = tuple[int, int]
"""Neighbouring columns [start, end)."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What a pass through one layer gives, and what its backward needs beside the inputs."""

    mass_ARL: Tensor
    """``row . attn_a`` of every head and row carried."""
    weight_A: Tensor
    """Mean over query rows of the largest probability among the runs' columns; ones without runs."""
    top_KGL: Tensor
    """Each row's largest score; 0 in rows that were not computed."""
    total_KGL: Tensor
    """Each row's sum of exp(score - top); 1 in rows that were not computed."""


@dataclass(frozen=True)
class Geometry:
    """How one pass is cut up."""

    scale: float
    runs: tuple[Run, ...] | None
    block: int
    first: int
    """The rows carried are zero before this position."""

    def blocks(self, length: int) -> Iterator[tuple[int, int]]:
        """Query rows [start, end) of every block; without head weights none that ends before ``first``."""
        for start in range(0 if self.runs is not None else self.first, length, self.block):
            yield start, min(start + self.block, length)

    def seen(self, end: int) -> list[Run]:
        """The runs as far as rows before ``end`` see them."""
        return [(low, min(high, end)) for low, high in self.runs or () if low < end]


def by_key_head(query_ALD: Tensor, key_heads: int) -> Tensor:
    """Queries (K, G, L, D); head a uses key head a // G."""
    heads, length, depth = query_ALD.shape
    return query_ALD.reshape(key_heads, heads // key_heads, length, depth)


def block_scores(query_KGLD: Tensor, key_KDL: Tensor, scale: float, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Scaled queries (K, G * b, D) of rows [start, end) and their scores (K, G, b, e), -inf in the future."""
    key_heads, groups, _, depth = query_KGLD.shape
    rows = end - start
    query_KnD = (query_KGLD[:, :, start:end].to(key_KDL.dtype) * scale).reshape(key_heads, groups * rows, depth)
    scores_KGbe = torch.bmm(query_KnD, key_KDL[:, :, :end]).view(key_heads, groups, rows, end)
    future_bb = torch.ones(rows, rows, dtype=torch.bool, device=key_KDL.device).triu(1)
    scores_KGbe[..., start:].masked_fill_(future_bb, float("-inf"))
    return query_KnD, scores_KGbe


def largest(likely_KGbe: Tensor, seen: Sequence[Run]) -> Tensor:
    """Each row's largest entry (K, G, b) among the columns of runs."""
    peaks = [likely_KGbe[..., low:high].amax(-1) for low, high in seen]
    return peaks[0] if len(peaks) == 1 else torch.stack(peaks).amax(0)


@torch.no_grad()
def forward_pass(query_ALD: Tensor, key_KLD: Tensor, rows_RL: Tensor, geometry: Geometry) -> Pass:
    """The pass in the type of ``rows_RL``, whatever type queries and keys have and whatever autocast asks for."""
    with torch.autocast(rows_RL.device.type, enabled=False):
        key_heads, length, _ = key_KLD.shape
        query_KGLD = by_key_head(query_ALD, key_heads)
        groups = query_KGLD.shape[1]
        key_KDL = key_KLD.to(rows_RL.dtype).transpose(1, 2)
        mass_KGRL = rows_RL.new_zeros(key_heads, groups, *rows_RL.shape)
        top_KGL = rows_RL.new_zeros(key_heads, groups, length)
        total_KGL = rows_RL.new_ones(key_heads, groups, length)
        weight_KG = rows_RL.new_zeros(key_heads, groups)
        for start, end in geometry.blocks(length):
            _, scores_KGbe = block_scores(query_KGLD, key_KDL, geometry.scale, start, end)
            top_KGb = scores_KGbe.amax(-1)
            likely_KGbe = scores_KGbe.sub_(top_KGb.unsqueeze(-1)).exp_()
            total_KGb = likely_KGbe.sum(-1)
            top_KGL[..., start:end] = top_KGb
            total_KGL[..., start:end] = total_KGb
            if seen := geometry.seen(end):
                weight_KG += (largest(likely_KGbe, seen) / total_KGb).sum(-1)
            if end > geometry.first:
                share_KGRb = rows_RL[:, start:end] / total_KGb.unsqueeze(-2)
                mass_KGRL[..., :end] += torch.matmul(share_KGRb, likely_KGbe)
        weight_A = torch.ones_like(weight_KG).flatten() if geometry.runs is None else weight_KG.flatten() / length
        return Pass(mass_KGRL.flatten(0, 1), weight_A, top_KGL, total_KGL)
