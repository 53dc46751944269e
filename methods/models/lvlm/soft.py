"""Soft prompts: learned vectors that stand in the sequence like the embeddings of tokens.

They enter at the input only. A prompt that holds one has ``SOFT_ID`` where its vectors stand, an id that no tokenizer
gives; the embedding table is given another id there, and its output is replaced. So whatever cuts, joins or batches
token ids moves the soft tokens with them. For everything else they are text tokens: attention sees them, and the
families that place visual tokens in time, height and width give them plain text positions, equal on all axes, and move
everything behind on by n.

They are query rows like others. Head weights are means over all query rows of the row's largest entry at a visual
column: rows in front of the visual tokens, soft or not, add 0 to every head's mean and change nothing once weights
are divided by the largest; soft rows behind the visual tokens count, as the text's rows there do.

Source: SteerSeg (arXiv 2605.14908) prepends vectors to the input; the position is ours (its code is not public).

Shape legend: B batch, L sequence, n soft tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.base import ModelInputs

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm

Position = Literal["front", "before_vision", "after_vision"]
"""Where the vectors stand: before everything, the system turn included; right before the first visual token; right
behind the last one. The marks around an image or a frame, where a family has them, stay with it; a text that the family
puts in front of a frame (InternVL3: its number, Qwen3-VL: its time) stays in front of the vectors."""
POSITIONS: tuple[Position, ...] = get_args(Position)
SOFT_ID = -1


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """The vectors of one prompt, and where they stand."""

    vectors_nD: Tensor
    """Any float type and device; embedded in the model's own."""
    position: Position = "front"

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise PrerequisiteError(
                f"A soft prompt cannot stand at '{self.position}'.", f"Choose one of: {', '.join(POSITIONS)}."
            )

    @property
    def count(self) -> int:
        """n."""
        return int(self.vectors_nD.shape[0])


@dataclass(frozen=True, eq=False)
class SoftPrompts:
    """The prompts of a clip call and of a frame call; None: the call is made without."""

    clip: SoftPrompt | None = None
    frame: SoftPrompt | None = None


def with_soft(lvlm: Lvlm, prompted: ModelInputs, soft: SoftPrompt | None) -> ModelInputs:
    """The prompt with the soft tokens in it; None leaves it as it is.

    Raises:
        PrerequisiteError: the vectors are not as wide as the model's embeddings.
        SampleError: the sequence is longer than the model's limit.
        ValueError: it holds soft tokens already, or is a text prompt and they should stand beside an image.
    """
    if soft is None:
        return prompted
    if prompted.soft is not None:
        raise ValueError("the prompt holds soft tokens already")
    width = int(lvlm.text_model.get_input_embeddings().weight.shape[1])
    if soft.vectors_nD.dim() != 2 or soft.vectors_nD.shape[1] != width:
        raise PrerequisiteError(
            f"The soft prompt has shape {tuple(soft.vectors_nD.shape)}, but the model's embeddings are {width} wide.",
            "Use a prompt that was trained for this model.",
        )
    at, count = _place(lvlm, prompted, soft.position), soft.count
    inputs = dict(prompted.inputs)
    for name, value in by_token(prompted).items():
        filling = {"input_ids": SOFT_ID, "attention_mask": 1}.get(name, 0)
        inputs[name] = torch.cat([value[:, :at], value.new_full((1, count), filling), value[:, at:]], 1)
    visuals = tuple(
        replace(visual, cells_n=visual.cells_n + count * (visual.cells_n >= at)) for visual in prompted.visuals
    )
    return lvlm.checked(replace(prompted, inputs=inputs, visuals=visuals, soft=soft))


@contextmanager
def soft_embeddings(text_model: Any, soft: SoftPrompt | None) -> Iterator[None]:
    """Inside, soft tokens are embedded as their vectors, with gradients where those have them.

    A call embeds all of an item's soft tokens or none of them.
    """
    if soft is None:
        yield
        return
    table = text_model.get_input_embeddings()
    places: list[Tensor] = []

    def mask_ids(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ids_BL = args[0]
        places.append(ids_BL == SOFT_ID)
        return (ids_BL.masked_fill(places[-1], 0), *args[1:])

    def fill_in(_module: Any, _args: Any, embedded_BLD: Tensor) -> Tensor:
        soft_BL = places.pop()
        vectors_nD = soft.vectors_nD.to(embedded_BLD.device, embedded_BLD.dtype)
        return embedded_BLD.masked_scatter(soft_BL.unsqueeze(-1), vectors_nD.repeat(soft_BL.shape[0], 1))

    hooks = [table.register_forward_pre_hook(mask_ids), table.register_forward_hook(fill_in)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_token(prompted: ModelInputs) -> dict[str, Tensor]:
    """The inputs with one value a token, (1, L)."""
    shape = (1, prompted.length)
    return {name: value for name, value in prompted.inputs.items() if value.shape == shape}


def vision_tokens(prompted: ModelInputs) -> Tensor:
    """True at the tokens of images and videos, those that are no cell of a map included, (L,) bool.

    Raises:
        ValueError: a text prompt.
    """
    if not prompted.visuals:
        raise ValueError("a text prompt has no visual tokens")
    ids_L = prompted.inputs["input_ids"][0]
    return torch.isin(ids_L, ids_L[prompted.visual_L])


def vision_span(prompted: ModelInputs) -> tuple[int, int]:
    """From the first token of an image or a video to behind the last one.

    Some of those may be no cell of the map (LLaVA-OneVision's line ends), but have the id of those that are; and text
    may stand between them.

    Raises:
        ValueError: a text prompt.
    """
    places = vision_tokens(prompted).nonzero()
    return int(places[0]), int(places[-1]) + 1


def _place(lvlm: Lvlm, prompted: ModelInputs, position: Position) -> int:
    if position == "front":
        return 0
    start, end = vision_span(prompted)
    ids: Sequence[int] = prompted.inputs["input_ids"][0].tolist()
    if position == "before_vision":
        return start - 1 if start and ids[start - 1] in lvlm.vision_marks else start
    return end + 1 if end < len(ids) and ids[end] in lvlm.vision_marks else end
