"""Small random checkpoints of LLaVA-OneVision and LLaVA-1.5; see ``toy.tiny_qwen``.

The vision towers see 5x5 patches: an odd number, as in the released LLaVA-OneVision (27x27), so pooling has to round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from toy.tiny_qwen import SmallShape, byte_level_bpe, save

_PATCHES = 5
"""Along one side of the picture, unless the shape says otherwise."""
_TILES = 6
"""Resolutions are 1 to this many tiles high and wide, as in the released LLaVA-OneVision."""

# These render what the released templates render for system, user and assistant turns with images and videos.
_ONEVISION_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + ' ' }}
{%- for part in message.content if part.type == 'image' -%}{{ '<image>' }}{%- endfor -%}
{%- for part in message.content if part.type == 'video' -%}{{ '<video>' }}{%- endfor -%}
{%- for part in message.content if part.type == 'text' -%}{{ '\\n' + part.text }}{%- endfor -%}
{{ '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
_LLAVA_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role != 'system' -%}{{ message.role.upper() + ': ' }}{%- endif -%}
{%- for part in message.content if part.type == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in message.content if part.type == 'text' -%}{{ part.text + ' ' }}{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""


def write_llava_onevision(folder: Path, seed: int, shape: SmallShape) -> None:
    """A small LLaVA-OneVision: SigLIP and Qwen2."""
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = _tokenizer(shape, specials, tokens, {"image_token": "<image>", "video_token": "<video>"})
    # Less than half a patch is left over, as in the released 384 = 27 x 14 + 6.
    patches = shape.tile_patches or _PATCHES
    side = patches * shape.patch + shape.patch // 2 - 1
    resolutions = [[side * i, side * j] for i in range(1, _TILES + 1) for j in range(1, _TILES + 1)]
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**_text_config(shape, tokenizer), max_window_layers=shape.layers),
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_vision_config(shape, side)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=resolutions,
        tie_word_embeddings=shape.tied,
    )
    size = {"height": side, "width": side}
    # The released normalisation is SigLIP's.
    pixels = {"size": size, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    make: Any = LlavaOnevisionProcessor
    processor = make(
        image_processor=LlavaOnevisionImageProcessor(**pixels, image_grid_pinpoints=resolutions),
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        tokenizer=tokenizer,
        num_image_tokens=patches**2,
        vision_feature_select_strategy="full",
        chat_template=_ONEVISION_TEMPLATE,
    )
    model: Any = LlavaOnevisionForConditionalGeneration
    save(folder, seed, model(config), processor)


def write_llava(folder: Path, seed: int, shape: SmallShape) -> None:
    """A small LLaVA-1.5: CLIP and Llama."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = _tokenizer(shape, ["<unk>", "<s>", "</s>", "<image>", "<pad>"], tokens, {"image_token": "<image>"})
    side = (shape.tile_patches or _PATCHES) * shape.patch
    config = LlavaConfig(
        text_config=LlamaConfig(**_text_config(shape, tokenizer)),
        vision_config=CLIPVisionConfig(**_vision_config(shape, side), projection_dim=shape.vision_hidden),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=shape.tied,
    )
    make: Any = LlavaProcessor
    processor = make(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA_TEMPLATE,
    )
    model: Any = LlavaForConditionalGeneration
    save(folder, seed, model(config), processor)


def _tokenizer(shape: SmallShape, specials: list[str], tokens: dict[str, str], extra: dict[str, str]) -> Any:
    """A byte-level BPE tokenizer; with a ``bos_token``, every text starts with it, as in Llama's."""
    bpe = byte_level_bpe(shape.vocabulary, specials, shape.corpus)
    if "bos_token" in tokens:
        start = tokens["bos_token"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, bpe.token_to_id(start))]
        )
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=bpe,
        **tokens,
        padding_side="left",
        model_max_length=shape.max_positions,
        extra_special_tokens=extra,
    )


def _text_config(shape: SmallShape, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": 2 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": 1e-6,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": shape.tied,
    }


def _vision_config(shape: SmallShape, side: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.vision_hidden,
        "intermediate_size": 2 * shape.vision_hidden,
        "num_hidden_layers": shape.vision_depth,
        "num_attention_heads": shape.vision_heads,
        "image_size": side,
        "patch_size": shape.patch,
    }
