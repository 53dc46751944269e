"""Chats of any order of text, images and a video, and the three things that can be had of them.

Shape legend: L sequence, t h w visual grid, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy.tiny_qwen import write_small

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.messages import (
    Answer,
    AnswerTokens,
    Clip,
    Hidden,
    Image,
    ImageSize,
    LastToken,
    Maps,
    Message,
    Text,
    TextTokens,
    system,
    user,
)
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.text_span import named_spans

from .conftest import noise
from .parity import row_from_attentions

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_onevision", "internvl")
SPEC = RolloutSpec(start_layer=1)
FRAMES = noise(4)
Load = Callable[..., Lvlm]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folders: dict[str, Path] = {}

    def of(family: str, **changes: Any) -> Lvlm:
        if family not in folders:
            folders[family] = write_small(family, tmp_path_factory.mktemp(family), seed=0)
        defaults = {"dtype": "float32", "clip_max_tokens": 24, "max_new_tokens": 6, "device": "cpu"}
        return load_lvlm(lvlm_settings(str(folders[family]), **{**defaults, **changes}))

    return of


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, load: Load) -> Lvlm:
    return load(request.param)


def mixed() -> list[Message]:
    """A system turn, then text, an image, text, a video, text, an image and text."""
    return [
        system(Text("Be brief.")),
        user(
            Text("First look at this:\n", name="before"),
            Image(FRAMES[0]),
            Text("\nthen at this video:\n", name="between"),
            Clip(FRAMES[1:3]),
            Text("\nand\n"),
            Image(FRAMES[3]),
            Text("\nthe dog. What is it?", name="question"),
        ),
    ]


def read(model: Lvlm, ids_L: torch.Tensor) -> str:
    return str(model.tokenizer.decode(ids_L))


def test_parts_stand_in_the_chats_order(model: Lvlm) -> None:
    inputs = model.inputs(mixed())
    first, video, last = inputs.visuals
    assert [visual.grid[0] for visual in (first, video, last)] == [
        1,
        {"internvl": 2, "llava_onevision": 2}.get(model.family, 1),
        1,
    ]
    assert int(first.cells_n.max()) < int(video.cells_n.min()) < int(video.cells_n.max()) < int(last.cells_n.min())
    for visual in inputs.visuals:
        assert len(visual.cells_n) == np.prod(visual.grid) == len(set(visual.cells_n.tolist()))
    text = read(model, inputs.inputs["input_ids"][0][~inputs.visual_L])
    order = [text.index(words) for words in ("Be brief.", "First look", "then at", "the dog. What")]
    assert order == sorted(order)
    assert "helpful assistant" not in text and "书生" not in text, "the given system turn takes the family's place"


def test_named_texts_are_found_wherever_they_stand(model: Lvlm) -> None:
    messages = mixed()
    inputs = model.inputs(messages)
    ids_L = inputs.inputs["input_ids"][0]
    spans = named_spans(model, messages, inputs)
    words = {"before": "First look at this:", "between": "then at this video:", "question": "the dog. What is it?"}
    assert {name: read(model, ids_L[list(span)]).strip() for name, span in spans.items()} == words
    first, video, last = inputs.visuals
    assert spans["before"][-1] < int(first.cells_n.min()) and int(first.cells_n.max()) < spans["between"][0]
    assert spans["between"][-1] < int(video.cells_n.min()) and int(last.cells_n.max()) < spans["question"][0]


@torch.no_grad()
def test_maps_of_a_mixed_chat_are_those_of_its_attention_matrices(model: Lvlm, load: Load) -> None:
    eager = load(model.family, attention="eager")
    inputs = model.inputs(mixed())
    eager.reset_rope_state()
    expected = eager.model(**inputs.inputs, output_attentions=True, use_cache=False)
    row_L = row_from_attentions(expected.attentions[1:], inputs.visual_L)
    maps = model.chat(mixed(), Maps(SPEC))
    assert len(maps) == 3
    for visual, map_thw in zip(inputs.visuals, maps, strict=True):
        by_hand = row_L[visual.cells_n].reshape(visual.grid).numpy()
        np.testing.assert_allclose(map_thw, by_hand, rtol=0, atol=1e-6)
        assert map_thw.std() > 0


def test_the_calls_of_one_view_are_chats(model: Lvlm) -> None:
    clip = model.clip(FRAMES[:3], "the dog.")
    assert model.chat([user(Clip(FRAMES[:3]), Text("the dog."))]) == model.answer(clip)
    (map_thw,) = model.chat([user(Clip(FRAMES[:3]), Text("the dog."))], Maps(SPEC))
    np.testing.assert_array_equal(map_thw, model.rollout(clip, SPEC))


def test_answers_have_the_length_that_the_call_states(model: Lvlm) -> None:
    messages = [user(Image(FRAMES[0]), Text("What is it?"))]
    long = model.chat(messages, Answer(max_new_tokens=12))
    assert model.chat(messages) == model.answers([model.inputs(messages)], max_new_tokens=6)[0]
    assert long.startswith(model.chat(messages, Answer(max_new_tokens=3)).rstrip("\ufffd"))


@torch.no_grad()
def test_hidden_states_are_the_last_layers_at_the_named_positions(model: Lvlm) -> None:
    messages = mixed()
    found = model.chat(
        messages,
        Hidden({"last": LastToken(), "question": TextTokens("question"), "all": AnswerTokens()}, max_new_tokens=4),
    )
    inputs = model.inputs(messages)
    model.reset_rope_state()
    hidden_LD = model.model.model(**inputs.inputs, use_cache=False).last_hidden_state[0]
    np.testing.assert_allclose(found.states["last"], hidden_LD[-1:], rtol=0, atol=1e-4)
    span = named_spans(model, messages, inputs)["question"]
    np.testing.assert_allclose(found.states["question"], hidden_LD[list(span)], rtol=0, atol=1e-4)
    assert found.answer == model.chat(messages, Answer(max_new_tokens=4))
    # What an answer token's predecessor has in it is what the token was chosen by.
    answer = model.generate([inputs], 4)[0, inputs.length :].tolist()
    predicting = model.chat(messages, Hidden({"x": AnswerTokens(state="before_token")}, max_new_tokens=4)).states["x"]
    scores = model.model.get_output_embeddings()(torch.from_numpy(predicting))
    assert scores.argmax(-1).tolist() == answer
    assert found.states["all"].shape == (len(answer), hidden_LD.shape[1])


def test_one_token_of_the_answer_can_be_asked_for(load: Load) -> None:
    model = load("qwen2_5_vl")
    messages = [user(Clip(FRAMES), Text("Where?"))]
    inputs = model.inputs(messages)
    model.reset_rope_state()
    answer = model.generate([inputs], 8)[0, inputs.length :].tolist()
    token, spelling = answer[0], model.tokenizer.convert_ids_to_tokens(answer[0])
    asked = Hidden({"it": AnswerTokens(spelling), "all": AnswerTokens()}, max_new_tokens=8)
    states = model.chat(messages, asked).states
    np.testing.assert_array_equal(
        states["it"], states["all"][[index for index, one in enumerate(answer) if one == token]]
    )
    absent = next(
        i
        for i in range(50, 300)
        if i not in answer and model.tokenizer(model.tokenizer.decode([i]))["input_ids"] == [i]
    )
    none = Hidden({"no": AnswerTokens(model.tokenizer.decode([absent]))}, max_new_tokens=8)
    assert model.chat(messages, none).states["no"].shape == (0, states["all"].shape[1])
    with pytest.raises(PrerequisiteError, match="tokens of"):
        model.chat(messages, Hidden({"x": AnswerTokens("[SEG]")}, max_new_tokens=2))
    with pytest.raises(ValueError, match="named 'query'"):
        model.chat(messages, Hidden({"x": TextTokens("query")}))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_every_image_and_video_has_its_own_size(load: Load, family: str) -> None:
    model = load(family)
    inputs = model.inputs(
        [
            user(
                Image(FRAMES[0], ImageSize(grid=(2, 4))),
                Image(FRAMES[0], ImageSize(max_tokens=8)),
                Clip(FRAMES[:2], max_tokens=12),
                Text("Which?"),
            )
        ]
    )
    # 90x150 is 1 to 1.67: at most 8 tokens are 2x3, at most 12 are 2x4.
    assert [visual.grid for visual in inputs.visuals] == [(1, 2, 4), (1, 2, 3), (1, 2, 4)]


@pytest.mark.parametrize("family", ["internvl", "llava_onevision"])
def test_tiles_can_be_left_out_by_the_call(load: Load, family: str) -> None:
    model = load(family)
    one, tiled = (
        model.inputs([user(Image(FRAMES[0], ImageSize(tiles=tiles)), Text("x"))]).grid for tiles in (False, True)
    )
    assert one is not None and tiled is not None
    assert one[1] == one[2] and tiled != one


def test_what_a_chat_cannot_hold(load: Load) -> None:
    model = load("qwen2_5_vl")
    with pytest.raises(ValueError, match="one video"):
        model.chat([user(Clip(FRAMES[:2]), Clip(FRAMES[:2]), Text("x"))])
    with pytest.raises(SampleError, match="takes for an image"):
        model.chat([system(Text("<|image_pad|>")), user(Text("x"))])
    with pytest.raises(ValueError, match="no visual tokens"):
        model.chat([user(Text("x"))], Maps(SPEC))
    two = model.inputs([user(Image(FRAMES[0]), Image(FRAMES[1]), Text("x"))])
    with pytest.raises(ValueError, match="2 images and videos"):
        model.rollout(two, SPEC)
    bare = load("llava_onevision", extra_tokens="drop")
    with pytest.raises(PrerequisiteError, match="one image"):
        bare.chat([user(Image(FRAMES[0]), Image(FRAMES[1]), Text("x"))])


def test_images_alone_are_a_chat_of_llava(load: Load) -> None:
    model = load("llava")
    maps = model.chat([user(Image(FRAMES[0]), Text("and"), Image(FRAMES[1]), Text("\nWhich?"))], Maps(SPEC))
    assert [map_thw.shape for map_thw in maps] == [(1, 5, 5)] * 2
    with pytest.raises(PrerequisiteError, match="no clip view"):
        model.chat([user(Clip(FRAMES[:2]), Text("x"))])


def test_settings_are_not_changed_by_a_chat(load: Load) -> None:
    model = load("qwen2_5_vl")
    before: LvlmSettings = model.settings
    model.chat([user(Text("x"))], Answer(max_new_tokens=2))
    assert model.settings is before and model.model.model.rope_deltas is None
