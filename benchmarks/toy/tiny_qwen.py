"""Writes small random checkpoints in the real architectures, complete enough for ``from_pretrained``.

Everything above the weights is as in a released checkpoint: config, processors, tokenizer with the family's special
tokens, chat template. Weights are drawn with standard deviation 1/sqrt(fan in), because the libraries' own
initialisation gives near-uniform attention, on which nothing about attention can be tested.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from rvosbench.harness.errors import PrerequisiteError, nearest_name

_SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# Renders what the released Qwen template renders for system, user and assistant turns with images and videos.
_QWEN_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# Qwen3-VL's template inserts no system turn.
QWEN3_TEMPLATE = _QWEN_TEMPLATE.replace(
    """{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
""",
    "",
)

# Words the byte-pair merges are learnt from: questions about objects in videos, and what moves in them.
CORPUS = """\
What is the main object (or objects) referred to in the given expression or question? Which object does it mean?
Focus on the primary subject or agent involved in the described action or behavior.
Respond with a single word that best describes the target object(s). Answer the question using a word or phrase.
Describe the background scene of the video, excluding any object. Identify the class label of the object.
Given: Expression: Candidate object class list: Goal: Instructions: Output the most likely referred object class.
If the expression is clear, rely on it directly. If it is vague, use the object class list to support your decision.
Avoid defaulting to the most frequent class unless the expression lacks clarity. check frequency and plausibility
system user assistant You are a helpful assistant. the label just
a person a dog a cat a horse a man a woman a car a ball the red green blue yellow white purple orange
circle square triangle star diamond cross ring shape moves left right up down fast slow small large stays still
which shape is the one that moves first behind in front of above below largest smallest while
"""


@dataclass(frozen=True)
class SmallShape:
    """Sizes of a small checkpoint."""

    layers: int = 4
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    vision_depth: int = 2
    vision_hidden: int = 64
    vision_heads: int = 2
    patch: int = 14
    """Vision patch in pixels; a visual token covers (2 patch)^2."""
    vocabulary: int = 704
    max_positions: int = 4096
    tied: bool = False
    """Whether input and output embeddings are one tensor, as in the released 2B and 3B models."""
    tile_patches: int | None = None
    """Patches along one side of the square pictures of LLaVA and InternVL; None: 5 and 8."""
    window: int = 8
    """Side of Qwen2.5-VL's vision windows in patches."""
    corpus: str = CORPUS
    """Text that the byte-pair merges are learnt from."""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def write_small(family: str, folder: Path, seed: int, *, shape: SmallShape | None = None) -> Path:
    """Writes a random checkpoint of ``family`` into ``folder`` (made if needed) and returns the folder.

    The same family, seed and shape give the same bytes.

    Raises:
        PrerequisiteError: there is no small checkpoint of that family.
    """
    writer = _WRITERS.get(family)
    if writer is None:
        raise PrerequisiteError(f"There is no small checkpoint of family '{family}'.", nearest_name(family, _WRITERS))
    module, _, function = writer.partition(":")
    write: Callable[[Path, int, SmallShape], None] = getattr(importlib.import_module(module), function)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, seed, shape or SmallShape())
    return folder


def write_qwen2_5_vl(folder: Path, seed: int, shape: SmallShape) -> None:
    """A small Qwen2.5-VL."""
    tokenizer = small_tokenizer(shape)
    config = Qwen2_5_VLConfig(
        text_config=_text_config(shape, tokenizer),
        vision_config={
            **_vision_config(shape),
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 2 * shape.vision_hidden,
            "out_hidden_size": shape.hidden,
            "window_size": shape.window * shape.patch,
            "fullatt_block_indexes": [shape.vision_depth - 1],
            "tokens_per_second": 2,
        },
        **_shared_config(shape, tokenizer),
    )
    model: Any = Qwen2_5_VLForConditionalGeneration
    save(folder, seed, model(config), _qwen_processor(Qwen2_5_VLProcessor, shape, tokenizer))


def write_qwen2_vl(folder: Path, seed: int, shape: SmallShape) -> None:
    """A small Qwen2-VL."""
    tokenizer = small_tokenizer(shape)
    config = Qwen2VLConfig(
        text_config=_text_config(shape, tokenizer),
        vision_config={
            **_vision_config(shape),
            "embed_dim": shape.vision_hidden,
            "hidden_size": shape.hidden,
            "mlp_ratio": 2,
        },
        **_shared_config(shape, tokenizer),
    )
    model: Any = Qwen2VLForConditionalGeneration
    save(folder, seed, model(config), _qwen_processor(Qwen2VLProcessor, shape, tokenizer))


def write_qwen3_vl(folder: Path, seed: int, shape: SmallShape) -> None:
    """A small Qwen3-VL, which has its own template, without a default system turn."""
    tokenizer = small_tokenizer(shape)
    tokenizer.chat_template = QWEN3_TEMPLATE
    text = _text_config(shape, tokenizer)
    text.pop("max_window_layers")
    text["rope_parameters"]["mrope_interleaved"] = True
    config = Qwen3VLConfig(
        text_config={**text, "head_dim": shape.head_dim},
        vision_config={
            **_vision_config(shape),
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 2 * shape.vision_hidden,
            "out_hidden_size": shape.hidden,
            # The released models learn 48 x 48 positions; any square number is interpolated to an image's shape.
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": list(range(shape.vision_depth)),
        },
        **_shared_config(shape, tokenizer),
    )
    model: Any = Qwen3VLForConditionalGeneration
    sizes = _sizes(shape)
    videos: Any = Qwen3VLVideoProcessor
    processor: Any = Qwen3VLProcessor
    made = processor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        video_processor=videos(**sizes, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=QWEN3_TEMPLATE,
    )
    save(folder, seed, model(config), made)


_WRITERS: Mapping[str, str] = {
    "internvl": "toy.tiny_internvl:write_internvl",
    "qwen2_5_vl": "toy.tiny_qwen:write_qwen2_5_vl",
    "llava": "toy.tiny_llava:write_llava",
    "llava_onevision": "toy.tiny_llava:write_llava_onevision",
    "qwen2_vl": "toy.tiny_qwen:write_qwen2_vl",
    "qwen3_vl": "toy.tiny_qwen:write_qwen3_vl",
}
"""Family -> ``module:function`` with the signature (folder, seed, shape)."""


def small_families() -> list[str]:
    """Families that ``write_small`` knows."""
    return sorted(_WRITERS)


def byte_level_bpe(vocabulary: int, specials: Sequence[str], corpus: str) -> Tokenizer:
    """Trained on ``corpus``, of at most ``vocabulary`` tokens: any text encodes, without unknown tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus.splitlines(), trainer)
    return bpe


def small_tokenizer(shape: SmallShape) -> Any:
    """A tokenizer with Qwen's special tokens."""
    bpe = byte_level_bpe(shape.vocabulary, _SPECIALS, shape.corpus)
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=shape.max_positions,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
    tokenizer.chat_template = _QWEN_TEMPLATE
    return tokenizer


def _text_config(shape: SmallShape, tokenizer: Any) -> dict[str, Any]:
    # Qwen gives time 1/4 and height and width 3/8 each of the rotary pairs.
    pairs = shape.head_dim // 2
    side = 3 * pairs // 8
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": 2 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.max_positions,
        "max_window_layers": shape.layers,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [pairs - 2 * side, side, side],
        },
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision_config(shape: SmallShape) -> dict[str, Any]:
    return {
        "depth": shape.vision_depth,
        "num_heads": shape.vision_heads,
        "patch_size": shape.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }


def _shared_config(shape: SmallShape, tokenizer: Any) -> dict[str, Any]:
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
        "tie_word_embeddings": shape.tied,
    }


def _sizes(shape: SmallShape) -> dict[str, Any]:
    # The released limits are 4 and 16384 tokens; here in this checkpoint's token size.
    token_pixels = (2 * shape.patch) ** 2
    return {
        "patch_size": shape.patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * token_pixels, "longest_edge": 16384 * token_pixels},
    }


def _qwen_processor(processor: Any, shape: SmallShape, tokenizer: Any) -> Any:
    sizes = _sizes(shape)
    return processor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        video_processor=Qwen2VLVideoProcessor(**sizes, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=_QWEN_TEMPLATE,
    )


def save(folder: Path, seed: int, model: Any, processor: Any) -> None:
    """Draws the model's weights from ``seed`` and writes it and its processor as a checkpoint folder."""
    _draw(model, seed)
    generation = model.generation_config
    generation.eos_token_id = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    generation.pad_token_id = processor.tokenizer.pad_token_id
    model.eval().save_pretrained(folder)
    # Weight files are written for their owner alone; a checkpoint is for every worker.
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)
    processor.save_pretrained(folder)
    # The released folders name the processor here too; loaders of other libraries look for it.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["processor_class"] = type(processor).__name__
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def _draw(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() < 2:
            mean = 1.0 if "norm" in name or "ln_q" in name else 0.0
            drawn = mean + 0.1 * torch.randn(parameter.shape, generator=generator)
        elif "embed_tokens" in name:
            drawn = 0.5 * torch.randn(parameter.shape, generator=generator)
        else:
            fan_in = parameter[0].numel()
            drawn = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        parameter.copy_(drawn)
