"""The network in training: a transformers model whose prefix is embedded once for all questions about a view.

Shape legend: C views, P prefix, S questions and answers behind it, L = P + S, D hidden, V vocabulary, n tokens asked
for or cells, G glances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from rvosbench.methods.attention.capture import capture
from rvosbench.methods.models.lvlm.embedding import embedding_only
from toy.lvlm.inputs import IGNORED, Bucket, label_counts

GLANCING = 0
"""The head, and the key head it reads."""
_LEAST = 1e-6
"""Attention below it counts as this much."""


@dataclass(frozen=True, eq=False)
class Packed:
    """The questions about each view, one after the other, padded at the end with a question of its own."""

    token_CS: Tensor
    question_CS: Tensor
    """Which question a token belongs to, counted from 0."""
    place_CS: Tensor
    """Its place within the question."""
    answer_CS: Tensor
    """True at tokens of an answer."""
    weight_CS: Tensor
    """Of an answer's tokens: 1 / sqrt of their number, so that long answers do not drown short ones."""

    def to(self, device: torch.device) -> Packed:
        moved = (self.token_CS, self.question_CS, self.place_CS, self.answer_CS, self.weight_CS)
        return Packed(*(tensor.to(device, non_blocking=True) for tensor in moved))


@dataclass(frozen=True, eq=False)
class Glances:
    """Where the model should look when it begins to answer: G questions about objects that are to be seen."""

    view_G: Tensor
    """Which of a batch's views each is about."""
    place_G: Tensor
    """The token behind the prefix that predicts the answer's first one."""
    fraction_Gn: Tensor
    """How much of each cell, in row-major order, its objects fill, in [0, 1]."""

    def to(self, device: torch.device) -> Glances:
        return Glances(*(tensor.to(device) for tensor in (self.view_G, self.place_G, self.fraction_Gn)))


class Learner(nn.Module):
    """A model with heads that name what each visual cell shows; the heads are dropped after training."""

    def __init__(self, lvlm: Any) -> None:
        super().__init__()
        self.model = lvlm.model
        self.text_model = lvlm.text_model
        hidden = int(self.text_model.config.hidden_size)
        self.heads = nn.ModuleList([nn.Linear(hidden, count) for count in label_counts()])
        for tower in ("visual", "vision_tower"):
            if hasattr(self.model.model, tower):
                _use_equal_chunks(getattr(self.model.model, tower))

    def read_loss(self, bucket: Bucket, views: Tensor, queries: Packed, glances: Glances, glance: float) -> Tensor:
        """``answer_loss`` plus ``glance`` times -log of the attention that lies on the objects asked about.

        Supervised for one head (``GLANCING``) in each layer of the upper half, at the token that predicts an answer's
        first
        one: where answers alone are to teach that, a hundred thousand views were not enough.
        """
        if not len(glances.view_G):
            return self.answer_loss(bucket, views, queries)
        layers = range(len(self.text_model.layers) // 2, len(self.text_model.layers))
        with capture(self.text_model, layers) as captured:
            loss = self.answer_loss(bucket, views, queries)
        prefix = len(bucket.prefix_P)
        row_G = prefix + glances.place_G
        seen_GL = _visible(prefix, queries.question_CS)[glances.view_G, 0, row_G]
        missed = loss.new_zeros(())
        for layer in captured.layers():
            query_GD = layer.query_BALD[glances.view_G, GLANCING, row_G].float()
            key_GLD = layer.key_BKLD[glances.view_G, GLANCING].float()
            score_GL = (key_GLD @ query_GD.unsqueeze(-1)).squeeze(-1) * layer.scale
            attention_GL = score_GL.masked_fill(~seen_GL, -torch.inf).softmax(-1)
            cells_Gn = attention_GL[:, :prefix][:, bucket.visual_P]
            if bucket.order_n is not None:
                cells_Gn = cells_Gn[:, bucket.order_n]
            missed = missed - (cells_Gn * glances.fraction_Gn).sum(-1).clamp_min(_LEAST).log().mean()
        return loss + glance * missed / len(layers)

    def answer_loss(self, bucket: Bucket, views: Tensor, queries: Packed) -> Tensor:
        """Weighted mean cross-entropy of the answers' tokens.

        All questions about a view stand behind its prefix in one sequence; none sees another, and each counts its
        positions from the end of the prefix, so the numbers are those of separate sequences.

        Args:
            views: which views of the bucket, (C,) int64 on the device.
            asked: their questions.
        """
        logits_nV, wanted_n = self._predictions(bucket, views, queries)
        each_n = nn.functional.cross_entropy(logits_nV.float(), wanted_n, reduction="none")
        weight_n = queries.weight_CS[queries.answer_CS]
        return (each_n * weight_n).sum() / weight_n.sum()

    def correct(self, bucket: Bucket, views: Tensor, queries: Packed) -> Tensor:
        """Where the model's first choice is the token that stands there, (C, S) bool; False outside answers."""
        logits_nV, wanted_n = self._predictions(bucket, views, queries)
        correct_CS = torch.zeros_like(queries.answer_CS)
        correct_CS[queries.answer_CS] = logits_nV.argmax(-1) == wanted_n
        return correct_CS

    def _predictions(self, bucket: Bucket, views: Tensor, queries: Packed) -> tuple[Tensor, Tensor]:
        """Logits (n, V) and tokens (n,) of all answers."""
        embedded_CSD = self.text_model.get_input_embeddings()(queries.token_CS)
        prefix = len(bucket.prefix_P)
        if prefix:
            embedded_CSD = torch.cat([self._prefix(bucket, views).to(embedded_CSD.dtype), embedded_CSD], 1)
        out = self.text_model(
            inputs_embeds=embedded_CSD,
            position_ids=_positions(bucket, queries),
            attention_mask={"full_attention": _visible(prefix, queries.question_CS)},
            use_cache=False,
        )
        # The token before an answer's token predicts it; a question is never empty, so the first token is none.
        before_CSD = out.last_hidden_state[:, prefix:-1]
        answer_CS = queries.answer_CS[:, 1:]
        return self.model.lm_head(before_CSD[answer_CS]), queries.token_CS[:, 1:][answer_CS]

    @torch.no_grad()
    def remember(self, bucket: Bucket, views: int) -> None:
        """Keeps what the tower sees in each view, ``views`` at a time, and lets the pixels go: it learns no more."""
        if not len(bucket.prefix_P):
            return
        index_N = torch.arange(len(bucket), device=bucket.prefix_P.device)
        seen = [self._prefix(bucket, some)[:, bucket.filled_P].bfloat16() for some in torch.split(index_N, views)]
        bucket.seen_NfD = torch.cat(seen)
        bucket.pixels = {}

    def _prefix(self, bucket: Bucket, views: Tensor) -> Tensor:
        """The prefix as the language model takes it, visual tokens filled in, (C, P, D)."""
        if bucket.seen_NfD is not None:
            embedded_CPD: Tensor = self.text_model.get_input_embeddings()(bucket.prefix_P).repeat(len(views), 1, 1)
            embedded_CPD[:, bucket.filled_P] = bucket.seen_NfD[views].to(embedded_CPD.dtype)
            return embedded_CPD
        pixels = bucket.inputs(views)
        ids_CP = bucket.prefix_P.expand(len(views), -1)
        position = None if bucket.position_3P is None else bucket.position_3P[:, None].expand(3, len(views), -1)
        with embedding_only(self.text_model):
            out = self.model.model(input_ids=ids_CP, position_ids=position, use_cache=False, **pixels)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def cell_loss(self, bucket: Bucket, views: Tensor) -> Tensor:
        """Cross-entropy of the cells' labels, summed over the labels."""
        prefix_CPD = self._prefix(bucket, views)
        cells_CnD = prefix_CPD[:, bucket.visual_P]
        if bucket.order_n is not None:
            cells_CnD = cells_CnD[:, bucket.order_n]
        wanted_Cnk = bucket.cells_Nthwk[views].flatten(1, 3).long()
        total = prefix_CPD.new_zeros(())
        for head, wanted_Cn in zip(self.heads, wanted_Cnk.unbind(-1), strict=True):
            logits = head(cells_CnD).flatten(0, 1).float()
            loss = nn.functional.cross_entropy(logits, wanted_Cn.flatten(), ignore_index=IGNORED, reduction="sum")
            total = total + loss / (wanted_Cn != IGNORED).sum().clamp(min=1)
        return total


def _positions(bucket: Bucket, queries: Packed) -> Tensor:
    """(C, L), or (3, C, L) where the family turns queries and keys along three axes."""
    prefix = len(bucket.prefix_P)
    if bucket.position_3P is None:
        before_CP = torch.arange(prefix, device=queries.token_CS.device).expand(len(queries.token_CS), -1)
        return torch.cat([before_CP, queries.place_CS + prefix], 1)
    before_3CP = bucket.position_3P[:, None].expand(3, len(queries.token_CS), -1)
    behind_3CS = (queries.place_CS + bucket.next_position).expand(3, -1, -1)
    return torch.cat([before_3CP, behind_3CS], 2)


def _visible(prefix: int, question_CS: Tensor) -> Tensor:
    """Which earlier tokens each token sees, (C, 1, L, L) bool: the prefix, and those of its own question."""
    question_CL = nn.functional.pad(question_CS, (prefix, 0), value=-1)
    same_CLL = question_CL[:, :, None] == question_CL[:, None, :]
    seen_CLL = (same_CLL | (question_CL == -1)[:, None, :]).tril()
    return seen_CLL[:, None]


def _equal_chunks(
    module: Any,
    query_1ALD: Tensor,
    key_1ALD: Tensor,
    value_1ALD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within chunks of equal length, all at once; the same numbers as chunk by chunk."""
    heads, length, depth = query_1ALD.shape[1:]
    assert cu_seq_lens_q is not None
    chunks = len(cu_seq_lens_q) - 1
    if length % chunks:
        raise ValueError("the views of a batch are cut into chunks of different lengths")

    def cut(x_1ALD: Tensor) -> Tensor:
        return x_1ALD.view(heads, chunks, length // chunks, depth).transpose(0, 1)

    out = nn.functional.scaled_dot_product_attention(cut(query_1ALD), cut(key_1ALD), cut(value_1ALD), scale=scaling)
    return out.transpose(1, 2).reshape(1, length, heads, depth), None


# transformers hands chunk borders over only to kernels of this name; all others are called chunk by chunk.
_CHUNKS = "rvosbench_flash_equal_chunks"
AttentionInterface.register(_CHUNKS, _equal_chunks)


def _use_equal_chunks(tower: Any) -> None:
    """Towers that attend within frames (Qwen) do so for all frames of a batch in one call."""
    if hasattr(tower, "blocks"):
        tower.config._attn_implementation = _CHUNKS


_ADDING = tuple(
    f"{name}.weight" for name in ("o_proj", "down_proj", "attn.proj", "fc2", "out_proj", "projection_layer")
)
"""Layers whose output is added to their input."""


@torch.no_grad()
def initialise(model: Any, seed: int) -> None:
    """Weights to start training from: standard deviation 1/sqrt(fan in), smaller where a layer adds to its input."""
    generator = torch.Generator().manual_seed(seed)
    depth = int(model.model.language_model.config.num_hidden_layers)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() < 2:
            gain = "norm" in name or "ln_q" in name or "layernorm" in name
            parameter.fill_(1.0 if gain and name.endswith("weight") else 0.0)
            if "lambda" in name:
                parameter.fill_(1.0)
            continue
        fan_in = parameter[0].numel()
        std = 0.05 if "embed_tokens" in name else fan_in**-0.5
        if name.endswith(_ADDING):
            std /= math.sqrt(2 * depth)
        if "position_embedding" in name or "cls_token" in name or "image_newline" in name:
            std = 0.05
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
