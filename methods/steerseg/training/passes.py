"""Rollout maps with gradients, for prompts of unequal length in one pass.

Shape legend: B batch, L sequence, t h w a map's grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.lvlm.base import Prompted
from methods.lvlm.running import RunningLvlm
from methods.lvlm.soft import by_token, soft_embeddings
from methods.rollout.capture import capture
from methods.rollout.recursion import rollout_rows
from methods.rollout.spec import RolloutSpec


def soft_maps(
    lvlm: RunningLvlm, batch: Sequence[Prompted], spec: RolloutSpec, *, weight_gradient: bool = False
) -> list[Tensor]:
    """The rolled-out maps (t, h, w) of prompts that can stand together (see ``together``), float32.

    The same numbers as ``RunningLvlm.rollouts``, up to rounding; gradients reach the soft vectors and nothing else.
    """
    lvlm.forget()
    inputs, mask_BL = padded(batch)
    device = lvlm.model.device
    length = mask_BL.shape[1]
    visual_BL = torch.stack([pad(item.visual_L, (0, length - item.length)) for item in batch])
    with (
        soft_embeddings(lvlm.text_model, batch[0].soft),
        capture(lvlm.text_model, spec.layers(lvlm.layers)) as captured,
    ):
        lvlm.model.model(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False)
    rows = rollout_rows(
        captured.layers(),
        visual_BL.to(device),
        spec,
        None if bool(mask_BL.all()) else mask_BL.to(device),
        weight_gradient=weight_gradient,
    )
    lvlm.forget()
    return [item.on_grid(row_L[: item.length]) for item, row_L in zip(batch, rows.rows_BL, strict=True)]


def padded(batch: Sequence[Prompted]) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of all prompts, shorter ones padded behind their end, and where tokens are (B, L).

    What stands behind is never seen in a causal model, so the model is not told, and its kernel needs no mask.
    """
    length = max(item.length for item in batch)
    inputs: dict[str, Tensor] = {}
    for name in batch[0].inputs:
        if name in by_token(batch[0]):
            filling = 1 if name == "attention_mask" else 0
            rows = [pad(item.inputs[name], (0, length - item.length), value=filling) for item in batch]
            inputs[name] = torch.cat(rows)
        else:
            inputs[name] = torch.cat([item.inputs[name] for item in batch])
    mask_BL = torch.stack([torch.arange(length) < item.length for item in batch])
    return inputs, mask_BL


def together(items: Mapping[int, Prompted], size: int) -> Iterator[list[int]]:
    """Keys of items that can stand in one pass, at most ``size`` each.

    They have one soft prompt, and pictures that stand behind each other along the first axis: frames of different
    sizes may, where a family lays patches or tiles out that way.
    """
    groups: dict[object, list[int]] = {}
    for key, item in items.items():
        tokens = by_token(item)
        shapes = tuple(
            (name, tuple(value.shape[1:])) for name, value in sorted(item.inputs.items()) if name not in tokens
        )
        groups.setdefault((id(item.soft), shapes), []).append(key)
    for keys in groups.values():
        for start in range(0, len(keys), size):
            yield keys[start : start + size]
