"""The sequence as the language model takes it: what the vision tower makes of the frames, and where tokens stand.

Shape legend: B batch, L sequence, n tokens of images and videos, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.modeling_outputs import BaseModelOutputWithPast

from rvosbench.methods.models.lvlm.base import ModelInputs
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import by_token, vision_tokens


@dataclass(frozen=True, eq=False)
class Seen:
    """What the vision tower gives the language model of the images or the video of one chat."""

    embeddings_nD: Tensor
    """Embeddings of the visual tokens."""
    deeper: tuple[Tensor, ...] = ()
    """What is added to the visual tokens behind each of the first layers, (n, D) each, in families that do so."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return int(sum(tensor.nbytes for tensor in (self.embeddings_nD, *self.deeper)))


@contextmanager
def embedding_only(text_model: Any) -> Iterator[list[Tensor]]:
    """Inside, the language model returns what it is given: the embedded sequence with its visual tokens. The list
    fills with what would be added behind its first layers, (visual tokens, D) each."""
    deeper: list[Tensor] = []

    def return_embedded(
        inputs_embeds: Tensor | None = None, deepstack_visual_embeds: Sequence[Tensor] | None = None, **_: Any
    ) -> BaseModelOutputWithPast:
        assert inputs_embeds is not None
        deeper.extend(deepstack_visual_embeds or ())
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)  # type: ignore[arg-type]

    text_model.forward = return_embedded
    try:
        yield deeper
    finally:
        del text_model.forward


@torch.no_grad()
def see(lvlm: Lvlm, prompted: ModelInputs) -> Seen:
    """What the model sees in a chat's images or video; it depends on the pixels alone.

    Raises:
        ValueError: a text prompt, or one with soft tokens.
    """
    if prompted.soft is not None:
        raise ValueError("soft tokens are no part of an image")
    vision_L = vision_tokens(prompted)
    lvlm.reset_rope_state()
    with embedding_only(lvlm.text_model) as deeper:
        out = lvlm.model.model(**lvlm.batched([prompted]), use_cache=False)
    lvlm.reset_rope_state()
    return Seen(out.last_hidden_state[0, vision_L.to(out.last_hidden_state.device)], tuple(deeper))


def padded(batch: Sequence[ModelInputs]) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of all prompts but the pixels, shorter ones padded behind their end, and where tokens are (B, L).

    What stands behind is never seen in a causal model, so the model is given no mask, and its kernel needs none.
    """
    length = max(item.length for item in batch)
    inputs: dict[str, Tensor] = {}
    for name in batch[0].inputs:
        if name.startswith("pixel_values"):
            continue
        values = [item.inputs[name] for item in batch]
        if name in by_token(batch[0]):
            filling = 1 if name == "attention_mask" else 0
            values = [pad(value, (0, length - value.shape[1]), value=filling) for value in values]
        inputs[name] = torch.cat(values)
    mask_BL = torch.stack([torch.arange(length) < item.length for item in batch])
    return inputs, mask_BL


def positions(lvlm: Lvlm, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Where a model that places visual tokens in time, height and width puts a batch's tokens, (3, B, L); None: the
    model counts 0, 1, 2, ..."""
    index = getattr(lvlm.model.model, "get_rope_index", None)
    if index is None:
        return None
    names = [name for name in inspect.signature(index).parameters if name in inputs]
    positions_3BL: Tensor = index(**{name: inputs[name].to(lvlm.model.device) for name in names})[0]
    return positions_3BL
