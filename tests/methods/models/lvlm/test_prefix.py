"""Prompts over a shared prefix: the maps of whole prompts, the same bits in any company, and what cannot share.

Shape legend: L sequence, T frames, t h w visual grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy.tiny_qwen import write_small

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground import shared_prefix as prefix
from rvosbench.methods.ground.shared_prefix import ClipAndFrames, clip_and_frame_rollouts, prefix_bytes
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.messages import Message
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import FAMILIES, noise

PROMPTS = (
    "the dog. \nWhat is it? ",
    "Describe the background scene of the video, excluding any dog.",
    "the dog on the left that runs fast. \nWhat is it? Focus on the **primary subject** involved in the action.",
)
SPEC = RolloutSpec(start_layer=1)


def separate(model: Lvlm, frames: Sequence[FrameHW3], prompt: str, spec: RolloutSpec = SPEC) -> ClipAndFrames:
    """Every view's prompt as a whole, one at a time."""
    clip = model.clip(frames, prompt)
    assert clip.grid is not None
    maps = [model.rollout(model.frame(frame, prompt, clip.grid), spec) for frame in frames]
    return model.rollout(clip, spec), np.concatenate(maps)


def shared(
    model: Lvlm, frames: Sequence[FrameHW3], prompts: Sequence[str], spec: RolloutSpec = SPEC
) -> dict[str, ClipAndFrames]:
    found = clip_and_frame_rollouts(model, frames, prompts, spec)
    results = {prompt: maps for prompt, maps in found.items() if not isinstance(maps, SampleError)}
    assert list(results) == list(found)
    return results


@contextmanager
def counted(model: Lvlm) -> Iterator[list[tuple[int, int]]]:
    """(batch, tokens) of every pass through the language model."""
    passes: list[tuple[int, int]] = []

    def count(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        passes.append(tuple((ids if ids is not None else embeds).shape[:2]))

    hook = model.text_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
def test_maps_are_those_of_whole_prompts(model: Lvlm, head_weights: str, frames: int) -> None:
    spec = RolloutSpec(start_layer=1, head_weights=head_weights)  # type: ignore[arg-type]
    maps = shared(model, noise(frames), PROMPTS, spec)
    for prompt in PROMPTS:
        for ours, alone in zip(maps[prompt], separate(model, noise(frames), prompt, spec), strict=True):
            assert ours.shape == alone.shape and ours.dtype == np.float32
            np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5 * alone.max())
            assert alone.std() > 0.05 * alone.mean()
    first, second = (maps[prompt][0] for prompt in PROMPTS[:2])
    assert np.abs(first - second).max() > 1e-2 * first.max()


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family: str, settings: Callable[..., LvlmSettings]) -> None:
    model = load_lvlm(settings(family, dtype="bfloat16"))
    maps = shared(model, noise(3), PROMPTS)
    for prompt in PROMPTS:
        for ours, alone in zip(maps[prompt], separate(model, noise(3), prompt), strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-2 * alone.max())


@pytest.mark.parametrize("family", ["internvl", "llava_onevision"])
def test_other_families_share_too(family: str, tmp_path: Path) -> None:
    # InternVL has text between the frames of a clip, LLaVA-OneVision line ends behind the last visual token.
    folder = write_small(family, tmp_path, seed=0)
    model = load_lvlm(LvlmSettings(checkpoint=str(folder), digest="0", dtype="float32", device="cpu"))
    frames = noise(2, height=120, width=200)
    with counted(model) as passes:
        maps = shared(model, frames, PROMPTS)
    assert len(passes) == 2 * (1 + len(PROMPTS))
    for prompt in PROMPTS:
        for ours, alone in zip(maps[prompt], separate(model, frames, prompt), strict=True):
            np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5 * alone.max())
    alone = shared(model, frames, PROMPTS[2:])
    np.testing.assert_array_equal(maps[PROMPTS[2]][1], alone[PROMPTS[2]][1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_company_and_order_change_no_bit(family: str, dtype: str, settings: Callable[..., LvlmSettings]) -> None:
    model = load_lvlm(settings(family, dtype=dtype, frame_batch=2, prefix_stack=8))
    alone = {prompt: shared(model, noise(3), [prompt])[prompt] for prompt in PROMPTS}
    others = [f"{word} moves?" for word in ("dog", "the cat", "a red ball", "person", "a horse", "it", "blue")]
    for company in (PROMPTS, PROMPTS[::-1], (*others, *PROMPTS), (PROMPTS[1], *others[:3], PROMPTS[0])):
        together = shared(model, noise(3), company)
        for prompt in set(company) & set(PROMPTS):
            for ours, expected in zip(together[prompt], alone[prompt], strict=True):
                np.testing.assert_array_equal(ours, expected)


def test_the_visual_tokens_are_run_once(model: Lvlm) -> None:
    frames = noise(5)
    clip = model.clip(frames, prefix.PROBE)
    assert clip.grid is not None
    frame = model.frame(frames[0], prefix.PROBE, clip.grid)
    heads = [int(view.visual_L.nonzero()[-1]) + 1 for view in (clip, frame)]
    tails = [model.clip(frames, prompt).length - heads[0] for prompt in PROMPTS]
    with counted(model) as passes:
        shared(model, frames, (*PROMPTS, PROMPTS[0]))
    # Frames run four together, so in two batches, each with every prompt's tail.
    expected = [(1, heads[0]), *((1, tail) for tail in tails)]
    for batch in (4, 1):
        expected += [(batch, heads[1]), *((batch, tail) for tail in tails)]
    assert passes == expected


def test_a_small_budget_means_fewer_frames_together_then_none_shared(
    model: Lvlm, settings: Callable[..., LvlmSettings]
) -> None:
    frames = noise(3)
    clip = model.clip(frames, prefix.PROBE)
    assert clip.grid is not None
    views = (clip, model.frame(frames[0], prefix.PROBE, clip.grid))
    clip_bytes, frame_bytes = (prefix_bytes(model, int(view.visual_L.nonzero()[-1]) + 1, SPEC) for view in views)
    plenty = shared(model, frames, PROMPTS[:2])
    assert clip_bytes < 2 * frame_bytes
    for budget, batches in (
        (2 * frame_bytes, [2, 1]),
        (frame_bytes, [1, 1, 1]),
        (min(clip_bytes, frame_bytes) - 1, []),
    ):
        small = load_lvlm(settings(model.family, prefix_bytes=budget))
        with counted(small) as passes:
            maps = shared(small, frames, PROMPTS[:2])
        heads = [batch for batch, tokens in passes if tokens == int(views[1].visual_L.nonzero()[-1]) + 1]
        assert heads == batches
        for prompt in PROMPTS[:2]:
            for ours, expected in zip(maps[prompt], plenty[prompt], strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_the_budget_counts_what_is_kept(model: Lvlm) -> None:
    # 4 layers with 2 key heads, queries of 3 layers with 4 heads, depth 32, 4 bytes.
    assert prefix_bytes(model, 10, SPEC) == 10 * (2 * 4 * 2 + 3 * 4) * 32 * 4


class TextFirst(Lvlm):
    """A chat in which the question stands before what it is about."""

    def inputs(self, messages: Sequence[Message]) -> ModelInputs:
        return super().inputs([replace(turn, parts=turn.parts[::-1]) for turn in messages])


def test_text_before_the_visual_tokens_is_run_whole(model: Lvlm) -> None:
    other = TextFirst(model.definition, model.model, model.processor, model.settings)
    with counted(other) as passes:
        maps = shared(other, noise(2), PROMPTS[:2])
    assert len(passes) == 4
    for prompt in PROMPTS[:2]:
        for ours, alone in zip(maps[prompt], separate(other, noise(2), prompt), strict=True):
            np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5 * alone.max())


class Counting(Lvlm):
    """Its prompts say how many frames they show, behind them."""

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> ModelInputs:
        return super().clip(frames, f"{len(frames)} frames: {prompt}")


def test_a_tail_that_depends_on_the_view_is_not_taken_from_another(model: Lvlm) -> None:
    other = Counting(model.definition, model.model, model.processor, model.settings)
    maps = shared(other, noise(4), PROMPTS[:1])[PROMPTS[0]]
    np.testing.assert_allclose(maps[0], separate(other, noise(4), PROMPTS[0])[0], rtol=1e-5, atol=1e-9)


def test_a_bad_prompt_leaves_the_others_alone(model: Lvlm) -> None:
    long, marked = "dog " * 4100, "what is <|video_pad|> here?"
    results = clip_and_frame_rollouts(model, noise(3), [PROMPTS[0], long, marked, PROMPTS[1]], SPEC)
    assert "the model takes 4096" in str(results[long])
    assert "takes for an image" in str(results[marked])
    alone = shared(model, noise(3), [PROMPTS[0]])[PROMPTS[0]]
    ours = results[PROMPTS[0]]
    assert not isinstance(ours, SampleError) and not isinstance(results[PROMPTS[1]], SampleError)
    np.testing.assert_array_equal(ours[1], alone[1])


def test_a_prompt_whose_numbers_overflow_leaves_the_others_alone(model: Lvlm) -> None:
    alone = shared(model, noise(2), [PROMPTS[0]])[PROMPTS[0]]
    bad = PROMPTS[0] + "blue"
    ids = [set(model.text(prompt).inputs["input_ids"][0].tolist()) for prompt in (bad, PROMPTS[0])]
    token = min(ids[0] - ids[1])

    def overflow(_: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((args[0] == token)[..., None], torch.inf)

    hook = model.text_model.embed_tokens.register_forward_hook(overflow)
    try:
        results = clip_and_frame_rollouts(model, noise(2), [bad, PROMPTS[0]], SPEC)
    finally:
        hook.remove()
    assert "not finite" in str(results[bad])
    ours = results[PROMPTS[0]]
    assert not isinstance(ours, SampleError)
    np.testing.assert_array_equal(ours[1], alone[1])


def test_frames_that_cannot_be_shown_fail_every_prompt(model: Lvlm) -> None:
    with pytest.raises(SampleError, match="differ in size"):
        clip_and_frame_rollouts(model, [*noise(1), *noise(1, height=80)], PROMPTS, SPEC)
    assert clip_and_frame_rollouts(model, noise(1), [], SPEC) == {}


def test_out_of_memory_is_the_samples_failure(model: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(prefix, "shared_rows", exhausted)
    with pytest.raises(SampleError, match="out of memory"):
        clip_and_frame_rollouts(model, noise(2), PROMPTS, SPEC)
    assert model.model.model.rope_deltas is None


def test_calls_leave_no_trace(model: Lvlm) -> None:
    clip = model.clip(noise(3), PROMPTS[0])
    before = model.answer(clip), model.rollout(clip, SPEC)
    shared(model, noise(3), PROMPTS)
    assert model.answer(clip) == before[0]
    np.testing.assert_array_equal(model.rollout(clip, SPEC), before[1])
    assert model.text_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("wrong", [{"prefix_bytes": 0}, {"prefix_stack": 0}, {"prefix_stack": 12}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PrerequisiteError, match=next(iter(wrong))):
        LvlmSettings(checkpoint="x", digest="x", **wrong)
