"""How much memory a step of soft-prompt training takes, from a model's configuration alone.

The model is frozen, so there are its weights but no gradients or optimiser states of them; what grows is what the
backward pass needs. With activation checkpointing that is every layer's input, the captured queries and keys of the
rolled-out layers with their gradients, and one layer at a time with everything in it. ``benchmarks/
soft_prompt_memory.py`` sets a measurement beside this.

Shape legend: H W pixels, L sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.checkpoints import describing_a_model
from rvosbench.methods.models.lvlm.estimate import BLOCK_ROWS, TYPICAL_TEXT, meta_model
from rvosbench.methods.models.lvlm.family import find_family

_FLOAT32 = 4


@dataclass(frozen=True)
class StepMemory:
    """Of one forward and backward pass over some calls of one kind. Bytes."""

    length: int
    """L of a call, soft tokens included."""
    calls: int
    """In the pass."""
    weight_bytes: int
    kept_bytes: int
    """What the language model's forward pass leaves for the backward pass."""
    rollout_bytes: int
    """Captured queries and keys, their gradients, and what the rollout keeps of each row."""
    working_bytes: int
    """Largest temporaries of the backward pass: a text layer computed again with its gradients, or a block of rollout
    rows with its gradients."""
    vision_bytes: int
    """Largest temporaries of the vision tower, which runs before anything is kept."""

    @property
    def total_bytes(self) -> int:
        """What the device should have free."""
        backward = self.kept_bytes + self.rollout_bytes + self.working_bytes
        return self.weight_bytes + max(self.vision_bytes, backward)


@describing_a_model()
def step_memory(
    config: Mapping[str, Any],
    options: LvlmOptions,
    spec: RolloutSpec,
    view: Literal["clip", "frame"],
    *,
    calls: int,
    tokens: int,
    frames: int,
    height: int,
    width: int,
    checkpointing: bool = True,
    text_tokens: int = TYPICAL_TEXT,
) -> StepMemory:
    """What a pass needs; a step of the optimiser may be several, one after the other.

    Args:
        config: as in config.json.
        options: number type and visual sizes; at most ``frame_batch`` calls go into a pass.
        spec: which layers are rolled out, and the block.
        view: clip calls or frame calls.
        calls: of a step.
        tokens: of the soft prompt.
        frames, height, width: of a sampled clip.
        checkpointing: whether layers are computed again in the backward pass.
        text_tokens: everything that is neither visual nor soft.
    """
    model = meta_model(config)
    text, vision = model.config.get_text_config(), model.config.vision_config
    number = getattr(torch, options.dtype).itemsize
    seen = find_family(str(config["model_type"])).views(model.config, options, frames, height, width)
    shown = seen.clip if view == "clip" else seen.frame
    length, calls = shown.tokens + text_tokens + tokens, min(calls, options.frame_batch)
    count = calls * length

    layers, hidden, inner = text.num_hidden_layers, text.hidden_size, text.intermediate_size
    heads, key_heads = text.num_attention_heads, text.num_key_value_heads
    depth = getattr(text, "head_dim", None) or hidden // heads
    queries, keys = heads * depth, key_heads * depth
    # A layer: its input, both norms (in float32 and as they go on), queries and keys before and after rotation, values,
    # attention's output, the projection's, the gated MLP's three inner tensors and their product.
    inside = count * (number * (4 * hidden + 3 * queries + 3 * keys + 4 * inner) + _FLOAT32 * 2 * hidden)
    kept = layers * (count * hidden * number if checkpointing else inside)
    rolled = len(spec.layers(layers))
    captured = rolled * count * (queries + keys) * number
    # The gradients of all captured tensors arrive before the first layer's backward pass begins.
    rows = rolled * count * (2 * heads + 2) * _FLOAT32

    tower = getattr(vision, "embed_dim", None) or vision.hidden_size
    wide = getattr(vision, "intermediate_size", None) or int(tower * vision.mlp_ratio)
    seeing = calls * shown.patches * (3 * wide + 6 * tower) * number
    block = spec.block or BLOCK_ROWS
    # Scores, probabilities, slopes and a product of a block; queries, keys and their gradients in float32.
    rolling = _FLOAT32 * (4 * heads * block * length + 3 * length * (queries + keys))
    # Computed again, with as much for gradients.
    again = 2 * inside if checkpointing else inside // layers
    return StepMemory(
        length=length,
        calls=calls,
        weight_bytes=sum(parameter.numel() for parameter in model.parameters()) * number,
        kept_bytes=kept,
        rollout_bytes=2 * captured + rows,
        working_bytes=max(rolling, again),
        vision_bytes=seeing,
    )
