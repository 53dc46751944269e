"""Running the LLaVA families: parity with eager float32, capture, answers, batches, no state, bfloat16, small folders.

Shape legend: A attention heads, K key heads, L sequence, D head dim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy.tiny_qwen import small_families, write_small
from transformers import AutoProcessor

from rvosbench.harness.errors import SampleError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise
from .parity import require_parity, row_from_attentions

PROMPT = "the dog. \nWhat is it? "
FAMILIES = ("llava_onevision", "llava")
LOAD = Callable[..., Lvlm]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_small(family, root / family, seed=0) for family in FAMILIES}


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> LOAD:
    def of(family: str, **changes: Any) -> Lvlm:
        defaults: dict[str, Any] = {"dtype": "float32", "max_new_tokens": 6, "device": "cpu"}
        model = load_lvlm(LvlmSettings(checkpoint=str(folders[family]), digest="x", **{**defaults, **changes}))
        assert model.family == family
        return model

    return of


@pytest.fixture(scope="module")
def models(load: LOAD) -> dict[str, Lvlm]:
    return {family: load(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, models: dict[str, Lvlm]) -> Lvlm:
    return models[request.param]


def views(model: Lvlm, frames: int = 3) -> list[ModelInputs]:
    """Every frame as an image, one of another size, and the clip where there is a clip view."""
    seen = [model.frame(frame, PROMPT, (1, 1, 1)) for frame in (*noise(frames), noise(1, 70, 76)[0])]
    return seen if model.family == "llava" else [model.clip(noise(frames), PROMPT), *seen]


def test_parity_with_eager_float32(model: Lvlm, load: LOAD, record_property: Callable[[str, object], None]) -> None:
    eager = load(model.family, attention="eager")
    require_parity(model, eager, views(model), record_property)


@torch.no_grad()
def test_the_references_columns_take_in_the_newlines_of_a_frame(models: dict[str, Lvlm], load: LOAD) -> None:
    spec = RolloutSpec(visual_columns="reference_span")
    for family, differs in (("llava_onevision", True), ("llava", False)):
        eager = load(family, attention="eager")
        prompted = models[family].frame(noise(1)[0], PROMPT, (1, 1, 1))
        columns = prompted.visual_L.nonzero().flatten()
        span_L = torch.zeros_like(prompted.visual_L)
        span_L[columns[0] : columns[-1] + 1] = True
        assert bool((span_L != prompted.visual_L).any()) is differs
        attentions = eager.model(**prompted.inputs, output_attentions=True, use_cache=False).attentions[2:]
        row_L = row_from_attentions(attentions, span_L)
        map_thw = models[family].rollout(prompted, spec)
        np.testing.assert_allclose(map_thw.ravel(), row_L[prompted.visual_L].numpy(), rtol=0, atol=1e-6)
        own_thw = models[family].rollout(prompted, RolloutSpec())
        assert bool(np.abs(own_thw - map_thw).max() > 1e-7) is differs


@torch.no_grad()
def test_capture_sees_the_language_model_alone(model: Lvlm) -> None:
    prompted = views(model)[0]
    with capture(model.text_model, range(1, 4)) as captured:
        model.model.model(**prompted.inputs, use_cache=False)
    layers = captured.layers()
    assert len(layers) == 3
    for layer in layers:
        assert layer.query_BALD.shape == (1, 4, prompted.length, 32)
        assert layer.key_BKLD.shape == (1, 2, prompted.length, 32)
        assert layer.scale == pytest.approx(32**-0.5)
        # Far from uniform, so that the tests of attention say something.
        key_ALD = layer.key_BKLD[0].repeat_interleave(2, 0)
        last_AL = (layer.query_BALD[0, :, -1:] @ key_ALD.transpose(1, 2) * layer.scale).softmax(-1)[:, 0]
        assert last_AL.amax(-1).mean() > 3 / prompted.length
    assert model.text_model.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_answers_are_greedy(model: Lvlm) -> None:
    # One token at a time, without a cache.
    for prompted in (*views(model)[:2], model.text(PROMPT)):
        inputs = dict(prompted.inputs)
        ends = model.model.generation_config.eos_token_id
        new: list[int] = []
        for _ in range(model.settings.max_new_tokens):
            token = int(model.model(**inputs, use_cache=False).logits[0, -1].argmax())
            new.append(token)
            if token in ends:
                break
            for name, value in (("input_ids", token), ("attention_mask", 1)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], 1)
        assert model.answer(prompted) == model.tokenizer.decode(new, skip_special_tokens=True)


def test_batches_equal_singles(model: Lvlm) -> None:
    prompted = [*views(model, frames=5), model.frame(noise(1)[0], "and where? ", (1, 1, 1))]
    spec = RolloutSpec()
    singles = [model.rollout(item, spec) for item in prompted]
    for together, alone in zip(model.rollouts(prompted, spec), singles, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-7)
    assert not np.allclose(singles[1], singles[2], rtol=1e-3)
    answers = [model.answer(item) for item in prompted]
    assert model.answers(prompted) == answers


def test_frames_of_one_grid_and_different_sizes_share_a_batch(models: dict[str, Lvlm]) -> None:
    model = models["llava_onevision"]
    frames = [noise(1, *size)[0] for size in ((76, 228), (75, 225), (228, 76))]
    prompted = [model.frame(frame, PROMPT, (1, 1, 1)) for frame in frames]
    assert [item.grid for item in prompted] == [(1, 5, 15), (1, 5, 15), (1, 15, 5)]
    assert prompted[0].inputs["image_sizes"].tolist() != prompted[1].inputs["image_sizes"].tolist()
    for item, map_thw in zip(prompted, model.rollouts(prompted, RolloutSpec()), strict=True):
        np.testing.assert_allclose(map_thw, model.rollout(item, RolloutSpec()), rtol=1e-4, atol=1e-7)


def test_calls_leave_no_trace(model: Lvlm) -> None:
    first, second, *_ = views(model)
    text = model.text(PROMPT)
    spec = RolloutSpec()
    before = model.answer(first), model.rollout(first, spec), model.answer(text)
    model.answer(second)
    with pytest.raises(ValueError, match="text prompt"):
        model.rollout(text, spec)
    after = model.answer(first), model.rollout(first, spec), model.answer(text)
    assert (before[0], before[2]) == (after[0], after[2])
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family: str, models: dict[str, Lvlm], load: LOAD) -> None:
    half = load(family, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    for prompted in views(half)[:2]:
        map_thw = half.rollout(prompted, RolloutSpec())
        exact = models[family].rollout(prompted, RolloutSpec())
        assert map_thw.dtype == np.float32
        assert np.corrcoef(map_thw.ravel(), exact.ravel())[0, 1] > 0.98
        assert isinstance(half.answer(prompted), str)


def test_overflow_is_the_samples_failure(model: Lvlm) -> None:
    prompted = views(model)[0]
    name = next(name for name in prompted.inputs if name.startswith("pixel_values"))
    broken = replace(prompted, inputs={**prompted.inputs, name: torch.full_like(prompted.inputs[name], torch.inf)})
    with pytest.raises(SampleError, match="not finite"):
        model.rollout(broken, RolloutSpec())


def test_small_folders(model: Lvlm, folders: dict[str, Path], tmp_path: Path) -> None:
    family = model.family
    assert family in small_families()
    assert 5e5 < sum(parameter.numel() for parameter in model.model.parameters()) < 2e6
    assert json.loads((folders[family] / "config.json").read_text())["model_type"] == family
    assert type(AutoProcessor.from_pretrained(folders[family])) is type(model.processor)
    for text in ("Which dog? ‘naïve’ → 狗 \n", "  two  spaces  "):
        assert model.tokenizer.decode(model.tokenizer(text, add_special_tokens=False).input_ids) == text
    first = contents(folders[family])
    assert contents(write_small(family, tmp_path / "again", seed=0)) == first
    other = contents(write_small(family, tmp_path / "other", seed=1))
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
