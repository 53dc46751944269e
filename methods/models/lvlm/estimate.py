"""How much memory a model takes, from its configuration alone: no weights are read or allocated.

Parameters are counted on torch's meta device, so the count is exact for every family. Memory of a call is an estimate:
weights, keys and values of the prefill, captured queries and keys, the largest layer's temporaries.

Shape legend: T frames, H W pixels, h w merged visual tokens, L sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import config_of, describing_a_model, supported_family
from rvosbench.methods.models.lvlm.family import find_family

TYPICAL_TEXT = 105
"""Tokens of DecAF's object prompt with its chat frame, for an expression of usual length."""
BLOCK_ROWS = 256
"""Query rows that a rollout on a GPU holds at a time."""


@dataclass(frozen=True)
class Estimate:
    """Memory of one clip call and one batch of frame calls, in bytes."""

    parameters: int
    weight_bytes: int
    clip_grid: tuple[int, int, int]
    """Visual tokens (t, h, w) of the clip call."""
    clip_length: int
    """L of a clip call with ``text_tokens`` of text."""
    frame_length: int
    kv_bytes: int
    """Keys and values of all layers, in the larger of the two calls."""
    captured_bytes: int
    """Queries and keys of the rolled-out layers, in the larger of the two calls."""
    working_bytes: int
    """Largest temporaries: a vision layer, a text layer, or a block of rollout rows."""

    @property
    def total_bytes(self) -> int:
        """What the device should have free."""
        return self.weight_bytes + self.kv_bytes + self.captured_bytes + self.working_bytes


@describing_a_model()
def estimate(
    config: Mapping[str, Any],
    settings: LvlmSettings,
    spec: RolloutSpec,
    *,
    frames: int,
    height: int,
    width: int,
    text_tokens: int = TYPICAL_TEXT,
) -> Estimate:
    """What a model needs for a clip of ``frames`` H x W frames and for its frame calls.

    Args:
        config: as in config.json.
        settings: number type, visual sizes, frame batch.
        spec: which layers are captured.
        frames, height, width: of the sampled clip, in pixels.
        text_tokens: everything that is not visual.
    """
    model = meta_model(config)
    text, vision = model.config.get_text_config(), model.config.vision_config
    width_bytes = getattr(torch, settings.dtype).itemsize
    parameters = sum(parameter.numel() for parameter in model.parameters())

    seen = find_family(str(config["model_type"])).views(model.config, settings, frames, height, width)
    clip_length = seen.clip.tokens + text_tokens
    frame_length = seen.frame.tokens + text_tokens
    batch = min(frames, settings.frame_batch)
    tokens = max(clip_length, batch * frame_length)
    patches = max(seen.clip.patches, batch * seen.frame.patches)

    layers = text.num_hidden_layers
    depth = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_bytes = 2 * layers * text.num_key_value_heads * depth * tokens * width_bytes
    rows = text.num_attention_heads + text.num_key_value_heads
    captured_bytes = len(spec.layers(layers)) * rows * depth * tokens * width_bytes
    tower = getattr(vision, "embed_dim", None) or vision.hidden_size
    wide = getattr(vision, "intermediate_size", None) or int(tower * vision.mlp_ratio)
    # A gated MLP holds three tensors of its inner width; beside it stand the residual, the norm, q, k, v and output.
    vision_bytes = patches * (3 * wide + 6 * tower) * width_bytes
    text_bytes = tokens * (3 * text.intermediate_size + 6 * text.hidden_size) * width_bytes
    block = spec.block or BLOCK_ROWS
    rollout_bytes = 2 * text.num_attention_heads * block * max(clip_length, frame_length) * 4
    return Estimate(
        parameters=parameters,
        weight_bytes=parameters * width_bytes,
        clip_grid=seen.clip.grid,
        clip_length=clip_length,
        frame_length=frame_length,
        kv_bytes=kv_bytes,
        captured_bytes=captured_bytes,
        working_bytes=max(vision_bytes, text_bytes, rollout_bytes),
    )


def meta_model(config: Mapping[str, Any]) -> Any:
    """The model a config.json describes, without weights."""
    return find_family(str(config["model_type"])).empty_model(config)


def clip_memory(
    lvlm: str, options: LvlmOptions, rollout: RolloutSpec, keyframes: int, size: tuple[int, int], extra: int = 0
) -> str:
    """A model's memory for a clip of the keyframes of ``size`` (H, W), in one sentence.

    Args:
        extra: tokens of the sequence besides the clip and a usual prompt.

    Raises:
        PrerequisiteError: the model's configuration is not to be had.
    """
    config = config_of(lvlm)
    supported_family(config, lvlm)
    model = LvlmSettings(checkpoint=lvlm, digest="", **vars(options))
    height, width = size
    text = TYPICAL_TEXT + extra
    need = estimate(config, model, rollout, frames=keyframes, height=height, width=width, text_tokens=text)
    t, h, w = need.clip_grid
    return (
        f"{lvlm}: {need.parameters / 1e6:,.0f} M parameters, {in_words(need.weight_bytes)} of weights in "
        f"{model.dtype}. A clip of {keyframes} frames of {width}x{height} is {t}x{h}x{w} visual tokens "
        f"(L {need.clip_length}): {in_words(need.kv_bytes)} keys and values, {in_words(need.captured_bytes)} "
        f"captured, {in_words(need.working_bytes)} temporaries, about {in_words(need.total_bytes)} in all."
    )


def in_words(count: int) -> str:
    """A number of bytes for readers, in MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
