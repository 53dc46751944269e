"""Rollout maps with gradients, for prompts of unequal length in one pass.

Shape legend: B batch, L sequence, n image tokens, D hidden size, t h w a map's grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import ModelInputs
from rvosbench.methods.models.lvlm.embedding import Seen, padded, positions
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import soft_embeddings, vision_tokens


def soft_maps(
    lvlm: Lvlm,
    batch: Sequence[ModelInputs],
    seen: Sequence[Seen],
    spec: RolloutSpec,
    *,
    weight_gradient: bool = False,
) -> list[Tensor]:
    """The rolled-out maps (t, h, w) of prompts with one soft prompt, float32.

    The same numbers as ``Lvlm.rollouts``, up to rounding; gradients reach the soft vectors and nothing else.

    Args:
        lvlm: the model.
        batch: the prompts, all of clips or all of frames.
        seen: what the model sees in the images or the video of each, as ``models.lvlm.embedding.see`` gives it.
        spec: of the rollout.
        weight_gradient: whether gradients go through the head weights.
    """
    device = lvlm.model.device
    inputs, mask_BL = padded(batch)
    length = mask_BL.shape[1]
    visual_BL, picture_BL = (
        torch.stack([pad(which_L, (0, length - len(which_L))) for which_L in rows]).to(device)
        for rows in ([item.visual_L for item in batch], [vision_tokens(item) for item in batch])
    )
    with (
        soft_embeddings(lvlm.text_model, batch[0].soft),
        capture(lvlm.text_model, spec.layers(lvlm.layers)) as captured,
    ):
        embedded_BLD = lvlm.text_model.get_input_embeddings()(inputs["input_ids"].to(device))
        seen_nD = torch.cat([item.embeddings_nD.to(embedded_BLD) for item in seen])
        deeper = [torch.cat(layer) for layer in zip(*(item.deeper for item in seen), strict=True)]
        lvlm.text_model(
            inputs_embeds=embedded_BLD.masked_scatter(picture_BL.unsqueeze(-1), seen_nD),
            position_ids=positions(lvlm, inputs),
            use_cache=False,
            **({"visual_pos_masks": picture_BL, "deepstack_visual_embeds": deeper} if deeper else {}),
        )
    rows = rollout_rows(
        captured.layers(),
        visual_BL,
        spec,
        None if bool(mask_BL.all()) else mask_BL.to(device),
        weight_gradient=weight_gradient,
    )
    return [item.to_grid(row_L[: item.length]) for item, row_L in zip(batch, rows.rows_BL, strict=True)]


def together(items: Sequence[ModelInputs], size: int) -> Iterator[list[int]]:
    """Indices of items for one pass each, at most ``size``; those of like length stand together."""
    order = sorted(range(len(items)), key=lambda index: items[index].length)
    for start in range(0, len(order), size):
        yield order[start : start + size]
