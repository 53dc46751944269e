"""Attention of single heads from one position to the visual tokens, from captured queries and keys.

One query row a head is all that is formed; no L x L matrix. Values are float32 softmax probabilities over everything
the position sees, as attention itself has them.

Shape legend: B batch, A attention heads, K key heads, G = A / K heads that share a key, L sequence, D head dim,
n chosen heads, N layers, t h w visual grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import SampleError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import LayerQK
from rvosbench.methods.lochead.settings import Head, Prompt, Query
from rvosbench.methods.models.lvlm.base import Grid, MapThw, ModelInputs
from rvosbench.methods.models.lvlm.messages import Image, Text
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.text_span import text_span
from rvosbench.methods.reason.expression_prompts import object_prompt, sentence

BEFORE = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""What stands before the image in the role-free prompt (Loc-Head's code, "referseg")."""


def prompt_text(prompt: Prompt, expression: str) -> str:
    """The text put to the model: the expression in lower case and with a full stop, as DecAF prepares it, or DecAF's
    object prompt, which begins with that.

    Raises:
        SampleError: the expression is empty.
    """
    return object_prompt("v0", expression) if prompt == "object" else sentence(expression)


def build_inputs(lvlm: Lvlm, frame: FrameHW3, grid: Grid, prompt: Prompt, expression: str) -> ModelInputs:
    """The prompt put to one frame, whose clip has ``grid``.

    Raises:
        SampleError: the expression is empty, or the frame cannot be shown.
    """
    text = prompt_text(prompt, expression)
    if prompt == "role_free":
        return lvlm.inputs_without_roles([Text(f"{BEFORE}\n"), Image(frame), Text(f"\n{text}")])
    return lvlm.frame(frame, text, grid)


def query_position(lvlm: Lvlm, prompted: ModelInputs, prompt: Prompt, query: Query, expression: str) -> int:
    """Where the row is read; the same for every frame of a video that is asked the same.

    Raises:
        SampleError: the expression is empty.
        PrerequisiteError: the checkpoint's template changes the text.
    """
    if query == "last_prefill_token" or prompt == "role_free":
        return prompted.last_token
    text = prompt_text(prompt, expression)
    return text_span(lvlm, prompted, text, sentence(expression))[-1]


def head_maps(lvlm: Lvlm, batch: Sequence[ModelInputs], heads: Sequence[Head], position: int) -> list[list[MapThw]]:
    """Each prompt's attention maps (t, h, w), head by head in the order given; not normalised.

    Args:
        lvlm: the model.
        batch: prompts of equal shape, run together.
        heads: which to read; only their layers are captured.
        position: whose attention, among the L tokens.

    Raises:
        SampleError: the device ran out of memory, or attention is not finite.
    """
    layers = sorted({layer for layer, _ in heads})
    with lvlm.inference(batch):
        with capture(lvlm.text_model, layers) as captured:
            lvlm.model.model(**lvlm.batched(batch), use_cache=False)
        found = dict(zip(layers, captured.layers(), strict=True))
        rows_nBL = torch.stack([head_row(found[layer], head, position) for layer, head in heads]).cpu()
    return [_on_grid(item, rows_nBL[:, index]) for index, item in enumerate(batch)]


def all_head_maps(lvlm: Lvlm, prompted: ModelInputs, position: int, first_layer: int) -> MapThw:
    """Maps of every head of the layers from ``first_layer`` on: (N, A, h, w) float32 of a frame.

    Raises:
        SampleError: the device ran out of memory, or attention is not finite.
    """
    layers = range(first_layer, lvlm.layers)
    with lvlm.inference([prompted]):
        with capture(lvlm.text_model, layers) as captured:
            lvlm.model.model(**lvlm.batched([prompted]), use_cache=False)
        rows_NAL = torch.stack([rows_of_layer(layer, position)[0] for layer in captured.layers()]).cpu()
    maps = _on_grid(prompted, rows_NAL.flatten(0, 1))
    return np.stack(maps)[:, 0].reshape(*rows_NAL.shape[:2], *maps[0].shape[1:])


def head_row(layer: LayerQK, head: int, position: int) -> Tensor:
    """One head's attention row at ``position``: (B, L), float32 (float64 for float64 inputs), 0 behind it."""
    groups = layer.query_BALD.shape[1] // layer.key_BKLD.shape[1]
    one = LayerQK(
        layer.query_BALD[:, head : head + 1], layer.key_BKLD[:, head // groups : head // groups + 1], layer.scale
    )
    return rows_of_layer(one, position)[:, 0]


def rows_of_layer(layer: LayerQK, position: int) -> Tensor:
    """All heads' attention rows at ``position``: (B, A, L), float32 (float64 for float64 inputs), 0 behind it."""
    query_BAD = layer.query_BALD[:, :, position]
    dtype = torch.promote_types(query_BAD.dtype, torch.float32)
    batch, heads, depth = query_BAD.shape
    key_heads, length = layer.key_BKLD.shape[1:3]
    key_BKlD = layer.key_BKLD[:, :, : position + 1].to(dtype)
    query_BKGD = query_BAD.reshape(batch, key_heads, heads // key_heads, depth).to(dtype)
    scores_BKGl = query_BKGD @ key_BKlD.transpose(-1, -2) * layer.scale
    rows_BAl = scores_BKGl.softmax(-1).flatten(1, 2)
    return torch.nn.functional.pad(rows_BAl, (0, length - position - 1))


def _on_grid(prompted: ModelInputs, rows_nL: Tensor) -> list[MapThw]:
    maps_nthw = prompted.to_grid(rows_nL).float().numpy()
    if not np.isfinite(maps_nthw).all():
        raise SampleError("the attention is not finite: it overflowed in this model's number type")
    return list(maps_nthw)
