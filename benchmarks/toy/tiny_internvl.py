"""Writes a small random InternVL3 checkpoint, laid out like the released ones.

Its tiles have the patch size asked for and, unless the shape says otherwise, 4 x 4 visual tokens instead of 16 x 16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from toy.tiny_qwen import SmallShape, save, small_tokenizer

_TILE_PATCHES = 8
_DOWNSAMPLE = 0.5

_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}

# Renders what the released template renders.
_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}
{%- elif part.type == 'video' -%}{{ '<video>\\n' }}
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def write_internvl(folder: Path, seed: int, shape: SmallShape) -> None:
    """A small InternVL3."""
    tokenizer = _tokenizer(shape)
    patches = shape.tile_patches or _TILE_PATCHES
    tile, tokens = patches * shape.patch, int(patches * _DOWNSAMPLE) ** 2
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": 2 * shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": shape.max_positions,
            "max_window_layers": shape.layers,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": shape.tied,
        },
        vision_config={
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 2 * shape.vision_hidden,
            "num_hidden_layers": shape.vision_depth,
            "num_attention_heads": shape.vision_heads,
            "attention_bias": True,
            "image_size": [tile, tile],
            "patch_size": [shape.patch, shape.patch],
        },
        image_token_id=tokenizer.convert_tokens_to_ids(_TOKENS["context_image_token"]),
        image_seq_length=tokens,
        downsample_ratio=_DOWNSAMPLE,
        tie_word_embeddings=shape.tied,
    )
    model: Any = InternVLForConditionalGeneration
    save(folder, seed, model(config), small_processor(tile, tokens, tokenizer))


def _tokenizer(shape: SmallShape) -> Any:
    """Qwen's tokenizer with the image tokens behind it, as in the released checkpoints."""
    qwen = small_tokenizer(replace(shape, vocabulary=shape.vocabulary - len(_TOKENS)))
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=qwen.backend_tokenizer,
        eos_token=qwen.eos_token,
        pad_token=qwen.pad_token,
        padding_side="left",
        model_max_length=shape.max_positions,
        extra_special_tokens=_TOKENS,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def small_processor(tile: int, tokens: int, tokenizer: Any) -> Any:
    """A processor for tiles of ``tile`` x ``tile`` pixels that are shown as ``tokens`` visual tokens."""
    sizes: dict[str, Any] = {
        "size": {"height": tile, "width": tile},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    processor: Any = InternVLProcessor
    return processor(
        image_processor=GotOcr2ImageProcessor(**sizes, crop_to_patches=False, min_patches=1, max_patches=12),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**sizes),
        image_seq_length=tokens,
        chat_template=_TEMPLATE,
    )
