"""A loaded vision-language model: chats, answers, rollout maps and hidden states, the same for every family.

Shape legend: B batch, L sequence, t h w visual grid, n positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.capture import Captured, capture
from rvosbench.methods.attention.recursion import Rows, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import Grid, LvlmSettings, MapThw, ModelInputs, VisualTokens
from rvosbench.methods.models.lvlm.messages import (
    Answer,
    Clip,
    Hidden,
    HiddenStates,
    Image,
    ImageSize,
    Maps,
    Message,
    Part,
    Text,
    user,
    visual_parts,
)
from rvosbench.methods.models.lvlm.soft import soft_embeddings

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.family import Family


class Lvlm:
    """A transformers model on its device with its processor. Greedy and deterministic; used by one thread at a time.

    ``chat`` is the whole interface; ``inputs`` and the calls that take ``ModelInputs`` are its two halves, for many
    chats at a time. Those that take several compute inputs of equal shape together, at most ``frame_batch`` at a time,
    so that no padding ever enters.

    Raises:
        PrerequisiteError: model and processor disagree about sizes or tokens.
    """

    def __init__(self, definition: Family, model: Any, processor: Any, settings: LvlmSettings) -> None:
        definition.check(model, processor)
        self.definition = definition
        """What the family's file defines."""
        self.model = model
        self.text_model = model.model.language_model
        """The language model alone, with ``layers[i].self_attn``."""
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.settings = settings
        self.vision_marks = definition.vision_marks(model, processor)
        """Ids of the tokens that stand right before and right behind an image, where the family has such."""

    @property
    def family(self) -> str:
        """The checkpoint's ``model_type``."""
        return self.definition.model_type

    @property
    def layers(self) -> int:
        """Number of layers of the language model."""
        return int(self.text_model.config.num_hidden_layers)

    @overload
    def chat(self, messages: Sequence[Message], want: Answer = ...) -> str: ...

    @overload
    def chat(self, messages: Sequence[Message], want: Maps) -> list[MapThw]: ...

    @overload
    def chat(self, messages: Sequence[Message], want: Hidden) -> HiddenStates: ...

    def chat(
        self,
        messages: Sequence[Message],
        want: Answer | Maps | Hidden = Answer(),  # noqa: B008  frozen, without state
    ) -> str | list[MapThw] | HiddenStates:
        """What the model gives for a chat.

        Args:
            messages: turns of text, images and at most one video, in any order; the last one is usually the user's.
            want: the answer, a rollout map (t, h, w) of every image and video in order, or hidden states.

        Raises:
            SampleError: something cannot be shown, the sequence is longer than the model's limit, the device ran out of
                memory, or the numbers are not finite.
            PrerequisiteError: the family takes no videos.
            ValueError: more than one video, or maps of a chat of text alone.
        """
        inputs = self.inputs(messages)
        if isinstance(want, Answer):
            return self.answers([inputs], max_new_tokens=want.max_new_tokens)[0]
        if isinstance(want, Maps):
            return self.all_maps([inputs], want.rollout)[0]
        # Here, because that module builds on this one.
        from rvosbench.methods.models.lvlm.hidden import hidden_states

        return hidden_states(self, messages, inputs, want)

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> ModelInputs:
        """All frames as one video, then the prompt; see ``inputs``."""
        return self.inputs([user(Clip(frames), Text(prompt))])

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> ModelInputs:
        """One frame as an image, as ``frame_scale`` says beside the grid its clip has, then the prompt; see
        ``inputs``."""
        scale = self.settings.frame_scale
        size = ImageSize(grid=(scale * clip_grid[1], scale * clip_grid[2]))
        return self.inputs([user(Image(frame, size), Text(prompt))])

    def text(self, prompt: str) -> ModelInputs:
        """The prompt alone; see ``inputs``."""
        return self.inputs([user(Text(prompt))])

    def clip_grid(self, frame: FrameHW3) -> Grid:
        """The grid (t, h, w) of a clip of one such frame; (1, 1, 1) in a family that takes no videos."""
        if not self.definition.takes_videos:
            return (1, 1, 1)
        grid = self.clip([frame], "What is it?").grid
        assert grid is not None, "a clip has visual tokens"
        return grid

    def inputs(self, messages: Sequence[Message]) -> ModelInputs:
        """A chat as the model takes it, through the checkpoint's chat template; a chat without a system turn has the
        family's.

        Raises:
            SampleError: something cannot be shown, a text holds a placeholder of images, or the sequence is longer than
                the model's limit.
            PrerequisiteError: the family takes no videos.
            ValueError: more than one video.
        """
        self._check(part for message in messages for part in message.parts)
        chat: str = self.processor.apply_chat_template(
            self.template_messages(messages), add_generation_prompt=True, tokenize=False
        )
        return self._prepared(chat, messages)

    def inputs_without_roles(self, parts: Sequence[Part]) -> ModelInputs:
        """Texts and images one after the other as the model takes them, with no chat template around them.

        Raises:
            SampleError: as for ``inputs``.
        """
        self._check(parts)
        chat = "".join(part.text if isinstance(part, Text) else self.processor.image_token for part in parts)
        return self._prepared(chat, [user(*parts)])

    def template_messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The chat in the form that chat templates take; without a system turn it is given the family's."""
        turns: list[dict[str, Any]] = [
            {"role": message.role, "content": self.definition.template_content(message.parts, self.processor)}
            for message in messages
        ]
        own = self.definition.system_turn
        if own is not None and not any(message.role == "system" for message in messages):
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": own}]})
        return turns

    def answer(self, inputs: ModelInputs) -> str:
        """The greedy answer, special tokens removed, otherwise as generated."""
        return self.answers([inputs])[0]

    def answers(self, inputs: Sequence[ModelInputs], *, max_new_tokens: int | None = None) -> list[str]:
        """The greedy answers, special tokens removed, otherwise as generated.

        Args:
            inputs: the chats.
            max_new_tokens: longest answer in tokens; None: ``LvlmOptions.max_new_tokens``.

        Raises:
            SampleError: the device ran out of memory.
            ValueError: a chat with soft tokens.
        """
        answers: list[str] = [""] * len(inputs)
        for indices in self._batches(inputs):
            batch = [inputs[index] for index in indices]
            with self.inference(batch):
                new_BL = self.generate(batch, max_new_tokens)[:, batch[0].length :]
                texts = self.tokenizer.batch_decode(
                    new_BL, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text
        return answers

    def rollout(self, inputs: ModelInputs, spec: RolloutSpec) -> MapThw:
        """The rolled-out attention of the last token to the only image or video, (t, h, w) float32; prefill only.

        Raises:
            ValueError: a chat of text alone, or several images or videos.
        """
        return self.rollouts([inputs], spec)[0]

    def rollouts(self, inputs: Sequence[ModelInputs], spec: RolloutSpec) -> list[MapThw]:
        """``rollout`` of several chats."""
        if any(item.grid is None for item in inputs):
            raise ValueError("a text prompt has no visual tokens to roll out to")
        return [maps[0] for maps in self.all_maps(inputs, spec)]

    def all_maps(self, inputs: Sequence[ModelInputs], spec: RolloutSpec) -> list[list[MapThw]]:
        """By chat, the rolled-out attention of the last token to every image and video, (t, h, w) float32 each.

        Raises:
            SampleError: the device ran out of memory, or a map is not finite.
            ValueError: a chat of text alone.
        """
        maps: dict[int, list[MapThw]] = {}
        for indices in self._batches(inputs):
            batch = [inputs[index] for index in indices]
            with self.inference(batch):
                with capture(self.text_model, spec.layers(self.layers)) as captured:
                    self.model.model(**self.batched(batch), use_cache=False)
                maps.update(zip(indices, _maps(batch, captured, spec), strict=True))
        return [maps[index] for index in range(len(inputs))]

    def checked(self, inputs: ModelInputs) -> ModelInputs:
        """The same inputs.

        Raises:
            SampleError: the sequence is longer than the model's limit.
        """
        limit = int(self.text_model.config.max_position_embeddings)
        if inputs.length > limit:
            raise SampleError(f"the prompt is {inputs.length} tokens long with its frames; the model takes {limit}")
        for visual in inputs.visuals:
            t, h, w = visual.grid
            if len(visual.cells_n) != t * h * w:
                raise SampleError(
                    f"the prompt holds {len(visual.cells_n)} visual tokens where its grid {visual.grid} was expected"
                )
        return inputs

    def batched(self, batch: Sequence[ModelInputs]) -> dict[str, Tensor]:
        """The inputs of chats of equal shape, one after the other, on the device."""
        names = batch[0].inputs
        return {name: torch.cat([item.inputs[name] for item in batch]).to(self.model.device) for name in names}

    def generate(self, batch: Sequence[ModelInputs], max_new_tokens: int | None = None) -> Tensor:
        """Token ids (B, L + new) of chats of equal shape with their greedy answers; inside ``inference`` only.

        Raises:
            ValueError: a chat with soft tokens.
        """
        if batch[0].soft is not None:
            raise ValueError("soft prompts steer attention; answers are those of the model without them")
        generated_BL: Tensor = self.model.generate(
            **self.batched(batch),
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.settings.max_new_tokens if max_new_tokens is None else max_new_tokens,
        )
        return generated_BL

    @contextmanager
    def inference(self, batch: Sequence[ModelInputs]) -> Iterator[None]:
        """Around everything that computes: no gradients, nothing left over in the model before or after, and the soft
        prompt of the batch, the same for all of it, embedded.

        Raises:
            SampleError: the device ran out of memory.
        """
        self.reset_rope_state()
        try:
            with torch.inference_mode(), soft_embeddings(self.text_model, batch[0].soft):
                yield
        except torch.OutOfMemoryError as error:
            raise SampleError(
                f"the device ran out of memory with {len(batch)} prompts of {batch[0].length} tokens; lower frame_batch"
            ) from error
        finally:
            self.reset_rope_state()

    def reset_rope_state(self) -> None:
        """Drops the position offset that some models keep of the last prompt and would apply to the next one's
        continuation."""
        if hasattr(self.model.model, "rope_deltas"):
            self.model.model.rope_deltas = None

    def _check(self, parts: Iterable[Part]) -> None:
        placeholders = self.definition.placeholders(self)
        videos = 0
        for part in parts:
            if isinstance(part, Text):
                for placeholder in placeholders:
                    if placeholder in part.text:
                        raise SampleError(f"the prompt contains {placeholder}, which the model takes for an image")
            elif isinstance(part, Clip):
                videos += 1
                if not self.definition.takes_videos:
                    raise PrerequisiteError(
                        f"{self.definition.title} has no clip view: it sees single images, not videos.",
                        "Use a method that makes frame calls only, or a model that takes videos.",
                    )
                if not len(part.frames):
                    raise SampleError("a clip needs at least one frame")
                if any(frame.shape != part.frames[0].shape for frame in part.frames):
                    raise SampleError("the frames of a clip differ in size")
        if videos > 1:
            raise ValueError("a chat holds one video at most")

    def _prepared(self, chat: str, messages: Sequence[Message]) -> ModelInputs:
        made = self.definition.prepare(self, chat, visual_parts(messages))
        return self.checked(ModelInputs(dict(made.inputs), made.visuals, chat))

    def _batches(self, inputs: Sequence[ModelInputs]) -> Iterator[list[int]]:
        groups: dict[tuple[int, tuple[tuple[str, tuple[int, ...]], ...]], list[int]] = {}
        for index, item in enumerate(inputs):
            shape = tuple((name, tuple(value.shape)) for name, value in sorted(item.inputs.items()))
            groups.setdefault((id(item.soft), shape), []).append(index)
        size = self.settings.frame_batch
        for indices in groups.values():
            for start in range(0, len(indices), size):
                yield indices[start : start + size]


def token_places(inputs: Mapping[str, Tensor], token: int) -> Tensor:
    """Positions in the sequence of a token id, (n,) int64."""
    return (inputs["input_ids"][0] == token).nonzero().flatten()


def visual_tokens(inputs: Mapping[str, Tensor], visuals: Sequence[tuple[int, Grid]]) -> tuple[VisualTokens, ...]:
    """The cells of images and videos whose tokens stand cell by cell.

    Args:
        inputs: of the chat, with ``input_ids``.
        visuals: the id of the tokens and the grid of every image and video, in the chat's order.

    Raises:
        SampleError: the sequence holds another number of such tokens.
    """
    found = {token: token_places(inputs, token) for token, _ in visuals}
    counts = dict.fromkeys(found, 0)
    made = []
    for token, grid in visuals:
        start = counts[token]
        counts[token] += grid[0] * grid[1] * grid[2]
        made.append(VisualTokens(found[token][start : counts[token]], grid))
    for token, count in counts.items():
        if len(found[token]) != count:
            grids = [grid for other, grid in visuals if other == token]
            raise SampleError(
                f"the prompt holds {len(found[token])} visual tokens where grids of {grids} were expected"
            )
    return tuple(made)


def _maps(batch: Sequence[ModelInputs], captured: Captured, spec: RolloutSpec) -> list[list[MapThw]]:
    if any(not item.visuals for item in batch):
        raise ValueError("a text prompt has no visual tokens to roll out to")
    layers = captured.layers()
    visual_BL = torch.stack([item.visual_L for item in batch])
    rows = rollout_rows(layers, visual_BL.to(layers[0].query_BALD.device), spec)
    return [_on_grids(item, row_L) for item, row_L in zip(batch, rows.rows_BL.float().cpu(), strict=True)]


def maps_of(batch: Sequence[ModelInputs], rows: Rows) -> list[MapThw]:
    """Rolled-out rows on the grid of the only image or video of their chats.

    Raises:
        SampleError: a row is not finite.
    """
    return [_on_grids(item, row_L)[0] for item, row_L in zip(batch, rows.rows_BL.float().cpu(), strict=True)]


def _on_grids(inputs: ModelInputs, row_L: Tensor) -> list[MapThw]:
    maps: list[MapThw] = [map_thw.numpy() for map_thw in inputs.to_grids(row_L)]
    if not all(np.isfinite(map_thw).all() for map_thw in maps):
        raise SampleError("the rollout is not finite: attention overflowed in this model's number type")
    return maps
