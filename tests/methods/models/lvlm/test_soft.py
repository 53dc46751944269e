"""Soft prompts against an explicit sequence of embeddings, in every family and at every position.

Shape legend: B batch, L sequence, n soft tokens, D hidden size, T frames, t h w visual grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy.tiny_qwen import write_small

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.shared_prefix import clip_and_frame_rollouts
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import (
    POSITIONS,
    SOFT_ID,
    Position,
    SoftPrompt,
    SoftPrompts,
    vision_span,
    with_soft,
)

from .conftest import noise
from .parity import row_from_attentions

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_onevision", "internvl")
PROMPT = "the dog. \nWhat is it? "
SPEC = RolloutSpec(start_layer=1)
COUNT = 5


class Pair:
    """A family's small model behind its usual kernel, and the same weights with eager attention."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.eager = (self.load(attention=kernel) for kernel in ("sdpa", "eager"))
        self.frames = noise(3, height=100, width=180)

    def load(self, **changes: Any) -> Lvlm:
        values: dict[str, Any] = {"dtype": "float32", "device": "cpu", "clip_max_tokens": 24, **changes}
        model = load_lvlm(LvlmSettings(checkpoint=str(self.folder), digest="0", **values))
        return model

    def views(self, prompt: str = PROMPT) -> list[ModelInputs]:
        clip = self.model.clip(self.frames, prompt)
        assert clip.grid is not None
        return [clip, self.model.frame(self.frames[0], prompt, clip.grid)]

    def vectors(self, count: int = COUNT, seed: int = 3) -> Tensor:
        table_VD = self.model.text_model.get_input_embeddings().weight
        drawn_nD = torch.randn(count, table_VD.shape[1], generator=torch.Generator().manual_seed(seed))
        return drawn_nD * table_VD.std()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    root = tmp_path_factory.mktemp("soft")
    return {family: Pair(write_small(family, root / family, seed=0)) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]


def expected_place(pair: Pair, prompted: ModelInputs, position: Position) -> int:
    """By the family's own tokens, read from the text."""
    ids = prompted.inputs["input_ids"][0].tolist()
    words = [pair.model.tokenizer.convert_ids_to_tokens(token) for token in ids]
    columns = prompted.visual_L.nonzero().flatten().tolist()
    around_qwen = ("<|vision_start|>", "<|vision_end|>")
    marks = {"llava_onevision": None, "internvl": ("<img>", "</img>")}.get(pair.model.family, around_qwen)
    if position == "front":
        return 0
    if marks is not None:
        return words.index(marks[0]) if position == "before_vision" else len(words) - words[::-1].index(marks[1])
    # LLaVA-OneVision: the frame's base picture comes first, a newline token last, all with the picture's id.
    same = [index for index, token in enumerate(ids) if token == ids[columns[0]]]
    return same[0] if position == "before_vision" else same[-1] + 1


def embedded(pair: Pair, prompted: ModelInputs) -> tuple[Tensor, Tensor, list[Tensor] | None]:
    """What the language model is given for a prompt without soft tokens: (1, L, D), its positions (3, 1, L), and what
    Qwen3-VL adds to the visual tokens behind the first layers."""
    given: dict[str, Any] = {}

    def look(_module: Any, _args: Any, arguments: dict[str, Any]) -> None:
        given.update(arguments)

    hook = pair.eager.text_model.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        pair.eager.reset_rope_state()
        pair.eager.model.model(**prompted.inputs, use_cache=False)
    hook.remove()
    positions = torch.arange(prompted.length).expand(3, 1, -1)
    if hasattr(pair.eager.model.model, "get_rope_index"):
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        inputs = {name: prompted.inputs[name] for name in names if name in prompted.inputs}
        positions = pair.eager.model.model.get_rope_index(**inputs)[0]
        assert (positions[0] != positions[1]).any()
    return given["inputs_embeds"], positions, given.get("deepstack_visual_embeds")


@torch.no_grad()
def by_hand(pair: Pair, prompted: ModelInputs, vectors_nD: Tensor, position: Position) -> np.ndarray:
    """The map from an explicit sequence: vectors put in, positions written out, eager attention matrices."""
    embeds_BLD, positions_3BL, deeper = embedded(pair, prompted)
    at, count = expected_place(pair, prompted, position), len(vectors_nD)
    first = int(positions_3BL[0, 0, at])
    # The token they stand in front of is a text token, with one position on all axes.
    assert (positions_3BL[:, 0, at] == first).all()
    own = (first + torch.arange(count)).expand(3, 1, -1)
    placed = torch.cat([positions_3BL[..., :at], own, positions_3BL[..., at:] + count], -1)
    sequence = torch.cat([embeds_BLD[:, :at], vectors_nD[None], embeds_BLD[:, at:]], 1)
    visual_L = torch.cat([prompted.visual_L[:at], torch.zeros(count, dtype=torch.bool), prompted.visual_L[at:]])
    if not hasattr(pair.eager.model.model, "get_rope_index"):
        placed = placed[0]
    pair.eager.reset_rope_state()
    added = {} if deeper is None else {"visual_pos_masks": visual_L[None], "deepstack_visual_embeds": deeper}
    out = pair.eager.text_model(
        inputs_embeds=sequence, position_ids=placed, output_attentions=True, use_cache=False, **added
    )
    row_L = row_from_attentions(out.attentions[1:], visual_L)
    values_n = row_L[visual_L]
    if prompted.cell_order is not None:
        values_n = values_n[prompted.cell_order]
    return values_n.reshape(prompted.grid).numpy()


@pytest.mark.parametrize("position", POSITIONS)
def test_the_map_is_that_of_an_explicit_sequence(pair: Pair, position: Position) -> None:
    vectors_nD = pair.vectors()
    for prompted in pair.views():
        soft = with_soft(pair.model, prompted, SoftPrompt(vectors_nD, position))
        map_thw = pair.model.rollout(soft, SPEC)
        expected = by_hand(pair, prompted, vectors_nD, position)
        assert map_thw.shape == prompted.grid
        np.testing.assert_allclose(map_thw, expected, rtol=0, atol=1e-6)
        # The vectors matter, far beyond rounding.
        assert np.abs(map_thw - pair.model.rollout(prompted, SPEC)).max() > 1e-3 * expected.max()


@pytest.mark.parametrize("position", POSITIONS)
def test_everything_moves_on_by_n(pair: Pair, position: Position) -> None:
    for prompted in pair.views():
        at = expected_place(pair, prompted, position)
        soft = with_soft(pair.model, prompted, SoftPrompt(pair.vectors(), position))
        before, after = prompted.inputs["input_ids"][0], soft.inputs["input_ids"][0]
        assert after.tolist() == [*before[:at].tolist(), *[SOFT_ID] * COUNT, *before[at:].tolist()]
        old, new = (item.visual_L.nonzero().flatten() for item in (prompted, soft))
        assert torch.equal(new, old + COUNT * (old >= at))
        assert soft.last_token == prompted.last_token + COUNT == soft.length - 1
        assert soft.inputs["attention_mask"].tolist() == [[1] * soft.length]
        assert soft.grid == prompted.grid
        for before, after in zip(prompted.visuals, soft.visuals, strict=True):
            assert torch.equal(after.cells_n, before.cells_n + COUNT * (before.cells_n >= at))


@pytest.mark.parametrize("position", POSITIONS)
def test_vectors_of_words_are_the_words(pair: Pair, position: Position) -> None:
    ids_n = torch.tensor(pair.model.tokenizer("a red ball", add_special_tokens=False)["input_ids"])
    words_nD = pair.model.text_model.get_input_embeddings().weight[ids_n]
    for prompted in pair.views():
        soft = with_soft(pair.model, prompted, SoftPrompt(words_nD, position))
        ids_BL = soft.inputs["input_ids"].clone()
        ids_BL[ids_BL == SOFT_ID] = ids_n
        words = ModelInputs({**soft.inputs, "input_ids": ids_BL}, soft.visuals)
        np.testing.assert_array_equal(pair.model.rollout(soft, SPEC), pair.model.rollout(words, SPEC))


def test_none_and_no_vectors_change_no_bit(pair: Pair) -> None:
    for prompted in pair.views():
        plain = pair.model.rollout(prompted, SPEC)
        assert with_soft(pair.model, prompted, None) is prompted
        empty = with_soft(pair.model, prompted, SoftPrompt(pair.vectors(0)))
        np.testing.assert_array_equal(pair.model.rollout(empty, SPEC), plain)
        pair.model.rollout(with_soft(pair.model, prompted, SoftPrompt(pair.vectors())), SPEC)
        np.testing.assert_array_equal(pair.model.rollout(prompted, SPEC), plain)


@pytest.mark.parametrize("position", POSITIONS)
def test_shared_equals_separate(pair: Pair, position: Position) -> None:
    prompts = [PROMPT, "the red ball on the left. \nWhat is it? "]
    clip, frame = SoftPrompt(pair.vectors(), position), SoftPrompt(pair.vectors(7, seed=4), position)
    soft = SoftPrompts(clip, frame)
    shared = clip_and_frame_rollouts(pair.model, pair.frames, prompts, SPEC, soft)
    separate = clip_and_frame_rollouts(pair.model, pair.frames, prompts, SPEC, soft, share=False)
    for prompt in prompts:
        ours, alone = shared[prompt], separate[prompt]
        assert not isinstance(ours, SampleError) and not isinstance(alone, SampleError)
        views = pair.views(prompt)
        whole = [
            pair.model.rollout(with_soft(pair.model, view, own), SPEC)
            for view, own in zip(views, (clip, frame), strict=True)
        ]
        np.testing.assert_array_equal(alone[0], whole[0])
        np.testing.assert_allclose(alone[1][:1], whole[1], rtol=1e-5, atol=1e-6 * whole[1].max())
        for one, other in zip(ours, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * other.max())


def test_a_prompt_of_one_view_leaves_the_other_alone(pair: Pair) -> None:
    plain = clip_and_frame_rollouts(pair.model, pair.frames, [PROMPT], SPEC)[PROMPT]
    soft = SoftPrompt(pair.vectors())
    for view, given in ((0, SoftPrompts(clip=soft)), (1, SoftPrompts(frame=soft))):
        steered = clip_and_frame_rollouts(pair.model, pair.frames, [PROMPT], SPEC, given)[PROMPT]
        assert not isinstance(steered, SampleError) and not isinstance(plain, SampleError)
        np.testing.assert_array_equal(steered[1 - view], plain[1 - view])
        assert np.abs(steered[view] - plain[view]).max() > 1e-3 * plain[view].max()


def test_items_with_different_prompts_in_one_call(pairs: dict[str, Pair]) -> None:
    model, [clip, _] = pairs["qwen2_5_vl"].model, pairs["qwen2_5_vl"].views()
    first, second = (SoftPrompt(pairs["qwen2_5_vl"].vectors(seed=seed)) for seed in (1, 2))
    items = [with_soft(model, clip, soft) for soft in (first, second, first)] + [clip]
    maps = model.rollouts(items, SPEC)
    for item, map_thw in zip(items, maps, strict=True):
        np.testing.assert_allclose(map_thw, model.rollout(item, SPEC), rtol=1e-5, atol=1e-8)
    assert np.abs(maps[0] - maps[1]).max() > 1e-4


def test_soft_tokens_enter_in_the_models_type(pairs: dict[str, Pair]) -> None:
    pair = pairs["qwen2_5_vl"]
    half = pair.load(dtype="bfloat16")
    soft = SoftPrompt(pair.vectors())
    maps = [model.rollout(with_soft(model, pair.views()[0], soft), SPEC) for model in (half, pair.model)]
    np.testing.assert_allclose(maps[0], maps[1], rtol=0, atol=2e-2 * maps[1].max())


def test_what_is_refused(pairs: dict[str, Pair]) -> None:
    pair = pairs["qwen2_5_vl"]
    model, [clip, _] = pair.model, pair.views()
    with pytest.raises(PrerequisiteError, match="embeddings are 128 wide"):
        with_soft(model, clip, SoftPrompt(torch.zeros(4, 64)))
    with pytest.raises(PrerequisiteError, match="cannot stand at 'middle'"):
        SoftPrompt(torch.zeros(4, 128), "middle")  # type: ignore[arg-type]
    with pytest.raises(SampleError, match="the model takes 4096"):
        with_soft(model, clip, SoftPrompt(torch.zeros(4096, 128)))
    with pytest.raises(ValueError, match="no visual tokens"):
        with_soft(model, model.text(PROMPT), SoftPrompt(torch.zeros(4, 128), "after_vision"))
    soft = with_soft(model, clip, SoftPrompt(torch.zeros(4, 128)))
    with pytest.raises(ValueError, match="already"):
        with_soft(model, soft, SoftPrompt(torch.zeros(4, 128)))
    with pytest.raises(ValueError, match="without them"):
        model.answer(soft)


def test_the_picture_is_where_its_tokens_are(pair: Pair) -> None:
    for prompted in pair.views():
        start, end = vision_span(prompted)
        columns = prompted.visual_L.nonzero().flatten()
        assert start <= int(columns[0]) and int(columns[-1]) < end
