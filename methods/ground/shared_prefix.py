"""Rollouts of many prompts on one video, whose visual tokens are run once for all of them.

A chat begins with the same tokens whatever the prompt: its head and the visual tokens. In a causal model their keys,
values and attention are then the same for every prompt on a view (the clip, or one frame). The prefix of a view is
everything through its last visual token. It is run once; every prompt's remaining tokens, its tail, are run over the
cached keys and values at the positions they have in the whole prompt, and rolled out together with the others
(``rvosbench.methods.attention.shared``).

Which tokens are shared is found from the tokens themselves, not from the family: the prefix is the one of a fixed
probe text, and a prompt whose first tokens are not the probe's (text in front of the visual tokens, say) is run whole.
Nothing depends on which prompts are run together: the prefix is the probe's, every tail is run alone over the same
batch of views, and products keep their shape. So a prompt's maps are the same to the last bit in any company.

Soft prompts in front of the visual tokens are part of the prefix, those behind them begin every tail.

Shape legend: B views run together, L sequence, P prefix, s tail, T frames, t h w visual grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import SampleError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import LayerQK
from rvosbench.methods.attention.shared import shared_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import MapThw, ModelInputs
from rvosbench.methods.models.lvlm.embedding import padded, positions
from rvosbench.methods.models.lvlm.model import Lvlm, maps_of
from rvosbench.methods.models.lvlm.soft import SoftPrompts, by_token, vision_span, with_soft

View = Callable[[str], ModelInputs]
"""Makes the inputs of a prompt on one view."""
Tail = Mapping[str, Tensor]
"""A prompt's inputs after the prefix, by name, (1, s) each."""
ClipAndFrames = tuple[MapThw, MapThw]
"""Maps of one prompt: the clip's (t, h, w), and the frames' (T, h, w)."""
PROBE = "What is it?"
"""The text whose prompt every prefix is taken from."""


def clip_and_frame_rollouts(
    lvlm: Lvlm,
    frames: Sequence[FrameHW3],
    prompts: Sequence[str],
    spec: RolloutSpec,
    soft: SoftPrompts | None = None,
    *,
    share: bool = True,
) -> dict[str, ClipAndFrames | SampleError]:
    """By prompt: its rollout on the clip and on every frame alone, or what is wrong with that prompt.

    Prompts share the prefix of a view. One that cannot is run whole, and so are all where one view's prefix takes
    more than ``prefix_bytes``.

    Args:
        lvlm: the model.
        frames: of the clip, all of one size.
        prompts: the texts; equal ones are run once.
        spec: of the rollout.
        soft: soft prompts of clip calls and of frame calls.
        share: False runs every prompt whole; the same maps up to rounding.

    Raises:
        SampleError: the frames cannot be shown, whatever the prompt, or the device ran out of memory.
        PrerequisiteError: the soft prompts are of another model.
    """
    if not prompts:
        return {}
    soft = soft or SoftPrompts()
    grid = lvlm.clip(frames, PROBE).grid
    assert grid is not None, "a clip has visual tokens"

    def clip(shown: Sequence[FrameHW3], prompt: str) -> ModelInputs:
        return with_soft(lvlm, lvlm.clip(shown, prompt), soft.clip)

    def frame(shown: FrameHW3, prompt: str) -> ModelInputs:
        return with_soft(lvlm, lvlm.frame(shown, prompt, grid), soft.frame)

    views = [partial(frame, shown) for shown in frames]
    # The tokens around the visual ones are those of a clip of one frame, which is quickly prepared.
    sample = partial(clip, frames[:1])
    on_clip = _on_views(lvlm, [partial(clip, frames)], sample, prompts, spec, share=share)
    usable = [prompt for prompt, maps in on_clip.items() if not isinstance(maps, SampleError)]
    on_frames = _on_views(lvlm, views, views[0], usable, spec, share=share)
    results: dict[str, ClipAndFrames | SampleError] = {}
    for prompt, of_clip in on_clip.items():
        of_frames = on_frames.get(prompt)
        if isinstance(of_clip, SampleError):
            results[prompt] = of_clip
        elif isinstance(of_frames, SampleError):
            results[prompt] = of_frames
        else:
            assert of_frames is not None, "every usable prompt was run on the frames"
            results[prompt] = of_clip[0], np.concatenate(of_frames)
    return results


def prefix_bytes(lvlm: Lvlm, tokens: int, spec: RolloutSpec) -> int:
    """Number of bytes kept of one view's prefix: keys and values of all layers, queries of the rolled-out ones."""
    config = lvlm.text_model.config
    heads = int(config.num_attention_heads)
    depth = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    rows = 2 * lvlm.layers * int(config.num_key_value_heads) + len(spec.layers(lvlm.layers)) * heads
    return int(tokens * rows * depth * lvlm.model.dtype.itemsize)


def _on_views(
    lvlm: Lvlm, views: Sequence[View], sample: View, prompts: Sequence[str], spec: RolloutSpec, *, share: bool
) -> dict[str, list[MapThw] | SampleError]:
    """Every prompt's maps, view by view, or its error. ``sample`` is a view whose prompts have the same tails."""
    results: dict[str, list[MapThw] | SampleError] = {}
    shared = _SharedPrefix.of(lvlm, views, sample, spec) if share and prompts else None
    tails: dict[str, Tail] = {}
    for prompt in dict.fromkeys(prompts):
        try:
            tail = None if shared is None else shared.tail(sample(prompt))
            if tail is None:
                results[prompt] = _whole(lvlm, views, prompt, spec)
            else:
                tails[prompt] = tail
        except SampleError as error:
            results[prompt] = error
    if shared is not None and tails:
        results.update(shared.rollouts(tails))
    return results


def _whole(lvlm: Lvlm, views: Sequence[View], prompt: str, spec: RolloutSpec) -> list[MapThw]:
    """The prompt's maps with nothing shared; views are prepared a batch at a time, for their pixels fill memory."""
    size = lvlm.settings.frame_batch
    maps: list[MapThw] = []
    for start in range(0, len(views), size):
        maps += lvlm.rollouts([view(prompt) for view in views[start : start + size]], spec)
    return maps


class _SharedPrefix:
    """Views with the same tokens, whose prompts are run over a common prefix."""

    def __init__(self, lvlm: Lvlm, views: Sequence[View], shown: ModelInputs, size: int, spec: RolloutSpec) -> None:
        self.lvlm = lvlm
        self.views = views
        self.shown = shown
        """The probe on the sample view."""
        self.size = size
        """Views run together."""
        self.spec = spec
        self.layers = spec.layers(lvlm.layers)

    @classmethod
    def of(cls, lvlm: Lvlm, views: Sequence[View], sample: View, spec: RolloutSpec) -> _SharedPrefix | None:
        """None where one prefix is beyond the budget, or the sample's tail is not the views'."""
        shown, first = sample(PROBE), views[0](PROBE)
        settings = lvlm.settings
        size = min(settings.frame_batch, settings.prefix_bytes // prefix_bytes(lvlm, _end(first), spec))
        tails = [_ids(prompted)[_end(prompted) :] for prompted in (shown, first)]
        return cls(lvlm, views, shown, size, spec) if size and torch.equal(*tails) else None

    def tail(self, inputs: ModelInputs) -> Tail | None:
        """What a prompt adds to the prefix; None where it changes the prefix. Both are seen on the sample view."""
        end = _end(self.shown)
        if _end(inputs) != end or not torch.equal(_ids(inputs)[:end], _ids(self.shown)[:end]):
            return None
        return {name: value[:, end:] for name, value in by_token(inputs).items()}

    def rollouts(self, tails: Mapping[str, Tail]) -> dict[str, list[MapThw] | SampleError]:
        """Every prompt's maps on all views.

        Raises:
            SampleError: the device ran out of memory.
        """
        maps: dict[str, list[MapThw]] = {prompt: [] for prompt in tails}
        failed: dict[str, list[MapThw] | SampleError] = {}
        stack = self.lvlm.settings.prefix_stack
        for start in range(0, len(self.views), self.size):
            heads = [view(PROBE) for view in self.views[start : start + self.size]]
            with self.lvlm.inference(heads):
                prefix = _Prefix.of(self.lvlm, heads, self.layers)
                for group in _chunks([prompt for prompt in tails if prompt not in failed], stack):
                    batches: dict[str, list[ModelInputs]] = {}
                    for prompt in group:
                        try:
                            batches[prompt] = [completed(self.lvlm, head, tails[prompt]) for head in heads]
                        except SampleError as error:
                            failed[prompt] = error
                    suffixes = [prefix.suffix(batch) for batch in batches.values()]
                    visual_P = heads[0].visual_L[: prefix.end].to(self.lvlm.model.device)
                    rows = shared_rows(prefix.layers, suffixes, visual_P, self.spec, stack=stack)
                    for (prompt, batch), of_prompt in zip(batches.items(), rows, strict=True):
                        try:
                            maps[prompt] += maps_of(batch, of_prompt)
                        except SampleError as error:
                            failed[prompt] = error
        return {**maps, **failed}


class _Prefix:
    """What a model keeps of the prefix of some views."""

    def __init__(self, lvlm: Lvlm, end: int, rolled: range, cache: Any, layers: list[LayerQK]) -> None:
        self.lvlm = lvlm
        self.end = end
        """P."""
        self.layers = layers
        """Queries and keys of the layers to roll out."""
        self._rolled = rolled
        self._cache = cache
        self._kept = [(layer.keys, layer.values) for layer in cache.layers]

    @classmethod
    def of(cls, lvlm: Lvlm, heads: Sequence[ModelInputs], layers: range) -> _Prefix:
        """Runs the prefixes of prompts with the same tokens."""
        end = _end(heads[0])
        inputs = lvlm.batched(heads)
        placed = positions(lvlm, inputs)
        if placed is not None:
            inputs["position_ids"] = placed[..., :end]
        cut = {name: inputs[name][:, :end] for name in by_token(heads[0])}
        cache = DynamicCache()
        with capture(lvlm.text_model, layers) as captured:
            lvlm.model.model(**{**inputs, **cut}, past_key_values=cache, use_cache=True)
        return cls(lvlm, end, layers, cache, captured.layers())

    def suffix(self, batch: Sequence[ModelInputs]) -> list[LayerQK]:
        """Runs one prompt's remaining tokens on all views; the prefix stays as it was."""
        ids_Bs = torch.cat([prompted.inputs["input_ids"][:, self.end :] for prompted in batch])
        places = positions(self.lvlm, padded(batch)[0])
        placed = {} if places is None else {"position_ids": places[..., self.end :]}
        self.lvlm.reset_rope_state()
        for layer, (keys, values) in zip(self._cache.layers, self._kept, strict=True):
            layer.keys, layer.values = keys, values
        with capture(self.lvlm.text_model, self._rolled, earlier=self.end) as captured:
            self.lvlm.text_model(
                input_ids=ids_Bs.to(self.lvlm.model.device), past_key_values=self._cache, use_cache=True, **placed
            )
        return captured.layers()


def completed(lvlm: Lvlm, head: ModelInputs, tail: Tail) -> ModelInputs:
    """The view's prompt with the tail of another in place of its own.

    Raises:
        SampleError: that is longer than the model's limit.
    """
    end = _end(head)
    text = {name: torch.cat([value[:, :end], tail[name]], 1) for name, value in by_token(head).items()}
    return lvlm.checked(replace(head, inputs={**head.inputs, **text}, chat=""))


def _end(prompted: ModelInputs) -> int:
    """P: number of tokens through the last one of an image or a video."""
    return vision_span(prompted)[1]


def _ids(prompted: ModelInputs) -> Tensor:
    return prompted.inputs["input_ids"][0]


def _chunks(prompts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]
