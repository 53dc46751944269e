"""Single heads' rows, and the position they are read at, on every family with a frame view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.recursion import LayerQK
from rvosbench.methods.lochead.attention import (
    BEFORE,
    all_head_maps,
    build_inputs,
    head_maps,
    head_row,
    query_position,
    rows_of_layer,
)
from rvosbench.methods.lochead.settings import Prompt, Query, resolved_prompt
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.family import find_family
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.text_span import text_span

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "llava")
EXPRESSION = "The Café's dog 🐕 on the left"
SENTENCE = "the café's dog 🐕 on the left."
FRAMES = list(np.random.default_rng(0).integers(0, 256, (3, 90, 150, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, str]) -> dict[str, Lvlm]:
    loaded: dict[str, Any] = {}
    for family in FAMILIES:
        settings = LvlmSettings(
            checkpoint=checkpoints[family], digest="0", dtype="float32", attention="eager", device="cpu",
            clip_max_tokens=24,
        )  # fmt: skip
        loaded[family] = load_lvlm(settings)
    return loaded


@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 4), (3, 1)])
def test_rows_are_those_of_the_whole_attention(heads: int, key_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, 9, 8, dtype=torch.float64, generator=generator)
    key = torch.randn(2, key_heads, 9, 8, dtype=torch.float64, generator=generator)
    layer = LayerQK(query, key, 0.3)
    scores = query @ key.repeat_interleave(heads // key_heads, 1).transpose(-1, -2) * 0.3
    scores.masked_fill_(torch.ones(9, 9, dtype=torch.bool).triu(1), float("-inf"))
    whole = scores.softmax(-1)
    for position in (0, 4, 8):
        torch.testing.assert_close(rows_of_layer(layer, position), whole[:, :, position], rtol=1e-12, atol=1e-14)
        assert not rows_of_layer(layer, position)[..., position + 1 :].any()
        for head in range(heads):
            torch.testing.assert_close(head_row(layer, head, position), whole[:, head, position], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_the_model_s_own_attention(models: dict[str, Lvlm], family: str) -> None:
    lvlm = models[family]
    grid = lvlm.clip_grid(FRAMES[0])
    batch = [build_inputs(lvlm, frame, grid, "expression", EXPRESSION) for frame in FRAMES]
    position = query_position(lvlm, batch[0], "expression", "last_expression_token", EXPRESSION)
    heads = [(3, 1), (1, 0), (3, 2)]
    maps = head_maps(lvlm, batch, heads, position)
    for prompted, of_frame in zip(batch, maps, strict=True):
        with torch.inference_mode():
            out = lvlm.model(**prompted.inputs, output_attentions=True, use_cache=False)
        for (layer, head), found in zip(heads, of_frame, strict=True):
            expected = prompted.to_grid(out.attentions[layer][0, head, position].float()).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
            assert found.shape == prompted.grid and found.dtype == np.float32 and 0 < found.sum() < 1
    every = all_head_maps(lvlm, batch[1], position, first_layer=1)
    assert every.shape == (3, 4, *(batch[1].grid or ())[1:])
    for (layer, head), found in zip(heads, maps[1], strict=True):
        np.testing.assert_allclose(every[layer - 1, head], found[0], rtol=1e-4, atol=1e-7)
    assert not np.allclose(every[0, 0], every[0, 1], rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["expression", "object"])
def test_the_query_is_the_expression_s_last_token(models: dict[str, Lvlm], family: str, prompt: Prompt) -> None:
    lvlm = models[family]
    grid = lvlm.clip_grid(FRAMES[0])
    prompted = build_inputs(lvlm, FRAMES[0], grid, prompt, EXPRESSION)
    ids = prompted.inputs["input_ids"][0]
    position = query_position(lvlm, prompted, prompt, "last_expression_token", EXPRESSION)
    assert lvlm.tokenizer.decode(ids[: position + 1]).endswith(SENTENCE)
    assert not lvlm.tokenizer.decode(ids[:position]).endswith(SENTENCE)
    behind = lvlm.tokenizer.decode(ids[position + 1 :])
    assert ("What is the main object" in behind) == (prompt == "object")
    assert query_position(lvlm, prompted, prompt, "last_prefill_token", EXPRESSION) == prompted.length - 1 > position
    # Whole prompts are found too, from the first token of the text on.
    text = SENTENCE if prompt == "expression" else None
    if text:
        span = text_span(lvlm, prompted, text)
        assert lvlm.tokenizer.decode(ids[span.start : span.stop]).strip() == SENTENCE and span[-1] == position
        assert not prompted.visual_L[span.start :].any()


def test_a_sentence_that_stands_twice_is_the_prompt_s(models: dict[str, Lvlm]) -> None:
    """ "user" and "assistant" are in the chat around the text as well."""
    lvlm = models["qwen2_5_vl"]
    grid = lvlm.clip_grid(FRAMES[0])
    for text in ("user", "assistant.", "a", "."):
        prompted = build_inputs(lvlm, FRAMES[0], grid, "expression", text)
        position = query_position(lvlm, prompted, "expression", "last_expression_token", text)
        assert prompted.length - 1 - position == len(lvlm.tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"])


def test_the_prompt_without_roles(models: dict[str, Lvlm]) -> None:
    lvlm = models["llava"]
    prompted = build_inputs(lvlm, FRAMES[0], (1, 1, 1), "role_free", EXPRESSION)
    ids = prompted.inputs["input_ids"][0]
    read = lvlm.tokenizer.decode(ids[~prompted.visual_L])
    assert read.removeprefix("<s>").strip() == f"{BEFORE}\n\n{SENTENCE}"
    assert int(prompted.visual_L.sum()) == 25 and prompted.grid == (1, 5, 5)
    for query in ("last_expression_token", "last_prefill_token"):
        kind: Query = query  # type: ignore[assignment]
        assert query_position(lvlm, prompted, "role_free", kind, EXPRESSION) == prompted.length - 1
    same = build_inputs(lvlm, FRAMES[0], (1, 1, 1), "expression", EXPRESSION)
    torch.testing.assert_close(prompted.inputs["pixel_values"], same.inputs["pixel_values"], rtol=0, atol=0)
    with pytest.raises(SampleError, match="takes for an image"):
        build_inputs(lvlm, FRAMES[0], (1, 1, 1), "role_free", "an <image> of a dog")


def test_what_auto_means() -> None:
    assert resolved_prompt("auto", find_family("llava")) == "role_free"
    assert {resolved_prompt("auto", find_family(family)) for family in FAMILIES[:4]} == {"expression"}
    assert resolved_prompt("object", find_family("llava")) == "object"
    with pytest.raises(PrerequisiteError, match="role_free, which Qwen2-VL does not have"):
        resolved_prompt("role_free", find_family("qwen2_vl"))


def test_a_part_that_is_not_there_and_a_blank_text(models: dict[str, Lvlm]) -> None:
    lvlm = models["qwen2_5_vl"]
    prompted = lvlm.frame(FRAMES[0], "a dog.", (1, 2, 2))
    with pytest.raises(SampleError, match="does not hold 'cat'"):
        text_span(lvlm, prompted, "a dog.", "cat")
    with pytest.raises(SampleError, match="no text"):
        text_span(lvlm, prompted, " ")
    with pytest.raises(PrerequisiteError, match="changes the text"):
        text_span(lvlm, prompted, "a cat.")
    with pytest.raises(SampleError, match="empty"):
        build_inputs(lvlm, FRAMES[0], (1, 2, 2), "expression", "  ")
