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
from transformers import AutoConfig, AutoModelForImageTextToText

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import config_of
from rvosbench.methods.models.lvlm.views import views

TYPICAL_TEXT = 105
"""Tokens of DecAF's object prompt with its chat frame, for an expression of usual length."""
BLOCK_ROWS = 256
"""Of a rollout on a GPU."""
"""Of a rollout on a GPU."""

_QWEN_7B_TEXT: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
_QWEN2_VISION: dict[str, Any] = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}
_QWEN2_5_VISION: dict[str, Any] = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420}

RELEASED: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": {
        "model_type": "qwen2_vl",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "vision_config": {**_QWEN2_VISION, "hidden_size": 1536},
    },
    "Qwen/Qwen2-VL-7B-Instruct": {
        "model_type": "qwen2_vl",
        **_QWEN_7B_TEXT,
        "vision_config": {**_QWEN2_VISION, "hidden_size": 3584},
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "vision_config": {**_QWEN2_5_VISION, "out_hidden_size": 2048},
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        **_QWEN_7B_TEXT,
        "vision_config": {**_QWEN2_5_VISION, "out_hidden_size": 3584},
    },
    "OpenGVLab/InternVL3-8B-hf": {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen2", **_QWEN_7B_TEXT, "vocab_size": 151674},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
    },
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": {
        "model_type": "llava_onevision",
        "text_config": {"model_type": "qwen2", **_QWEN_7B_TEXT, "vocab_size": 152000},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        "vision_aspect_ratio": "anyres_max_9",
        "tie_word_embeddings": False,
    },
}
"""The sizes of released models (what their config.json says), for plans made without them."""


@dataclass(frozen=True)
class Estimate:
    """Memory of one clip call and one batch of frame calls. Bytes."""

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


def count_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of the model a config.json describes; tied tensors count once."""
    return sum(parameter.numel() for parameter in meta_model(config).parameters())


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
        config: as in config.json, e.g. a value of ``RELEASED``.
        settings: number type, visual sizes, frame batch.
        spec: which layers are captured.
        frames, height, width: of the sampled clip, in pixels.
        text_tokens: everything that is not visual.
    """
    model = meta_model(config)
    text, vision = model.config.get_text_config(), model.config.vision_config
    width_bytes = getattr(torch, settings.dtype).itemsize
    parameters = sum(parameter.numel() for parameter in model.parameters())

    seen = views(model.config, settings, frames, height, width)
    clip_length = seen.clip.tokens + text_tokens
    frame_length = seen.frame.tokens + text_tokens
    batch = min(frames, settings.frame_batch)
    tokens = max(clip_length, batch * frame_length)
    patches = max(seen.clip.patches, batch * seen.frame.patches)

    layers = text.num_hidden_layers
    depth = text.hidden_size // text.num_attention_heads
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
    values = dict(config)
    described: Any = AutoConfig.for_model(values.pop("model_type"), **values)
    factory: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        return factory.from_config(described)


def clip_memory(
    lvlm: str, options: LvlmOptions, rollout: RolloutSpec, keyframes: int, size: tuple[int, int], extra: int = 0
) -> str:
    """A model's memory for a clip of the keyframes of ``size`` (H, W), in one sentence.

    Args:
        extra: tokens of the sequence besides the clip and a usual prompt.

    Raises:
        PrerequisiteError: the model's configuration is not to be had.
    """
    config = RELEASED.get(lvlm.partition("@")[0]) or config_of(lvlm)
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
    """Bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
