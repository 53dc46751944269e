"""Running a model: parity with eager float32, answers, batches, no state between calls, loading errors.

Shape legend: B batch, A attention heads, L sequence.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import FAMILIES, noise
from .parity import require_parity

PROMPT = "the dog. \nWhat is it? "


def views(model: Lvlm, frames: int = 3) -> list[ModelInputs]:
    clip = model.clip(noise(frames), PROMPT)
    assert clip.grid is not None
    return [clip, *(model.frame(frame, PROMPT, clip.grid) for frame in noise(frames))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_capture_is_the_same_in_front_of_the_flash_kernel(
    family: str, kernel: SDPBackend, models: dict[str, Lvlm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's sdpa is held to one kernel, as it picks flash on CUDA; the vision tower of the clip has its own."""
    model, spec = models[family], RolloutSpec(start_layer=1)
    forward = model.text_model.forward

    def held(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernel):
            return forward(*args, **kwargs)

    for prompted in views(model):
        free = model.rollout(prompted, spec)
        with monkeypatch.context() as patch:
            patch.setattr(model.text_model, "forward", held)
            np.testing.assert_allclose(model.rollout(prompted, spec), free, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_parity_with_eager_float32(
    family: str,
    models: dict[str, Lvlm],
    settings: Callable[..., LvlmSettings],
    record_property: Callable[[str, object], None],
) -> None:
    model = models[family]
    eager = load_lvlm(settings(family, attention="eager"))
    require_parity(model, eager, views(model), record_property)


@torch.no_grad()
def test_answers_are_greedy(model: Lvlm) -> None:
    # One token at a time, without a cache, positions computed anew from the whole sequence.
    for prompted in (*views(model)[:2], model.text(PROMPT)):
        inputs = dict(prompted.inputs)
        ends = model.model.generation_config.eos_token_id
        new: list[int] = []
        for _ in range(model.settings.max_new_tokens):
            model.reset_rope_state()
            token = int(model.model(**inputs, use_cache=False).logits[0, -1].argmax())
            new.append(token)
            if token in ends:
                break
            for name, value in (("input_ids", token), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], 1)
        assert model.answer(prompted) == model.tokenizer.decode(new, skip_special_tokens=True)


def test_batches_equal_singles(model: Lvlm) -> None:
    prompted = views(model, frames=5)
    spec = RolloutSpec()
    batched = model.rollouts(prompted, spec)
    singles = [model.rollout(item, spec) for item in prompted]
    for together, alone in zip(batched, singles, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-7)
    assert not np.allclose(singles[1], singles[2], rtol=1e-3)
    assert model.answers(prompted) == [model.answer(item) for item in prompted]


def test_calls_leave_no_trace(model: Lvlm) -> None:
    clip, frame, *_ = views(model)
    text = model.text(PROMPT)
    spec = RolloutSpec()
    before = model.answer(clip), model.rollout(clip, spec), model.answer(text)
    model.answer(frame)
    model.rollout(frame, spec)
    with pytest.raises(ValueError, match="text prompt"):
        model.rollout(text, spec)
    after = model.answer(clip), model.rollout(clip, spec), model.answer(text)
    assert (before[0], before[2]) == (after[0], after[2])
    np.testing.assert_array_equal(before[1], after[1])
    assert model.model.model.rope_deltas is None
    assert model.text_model.config._attn_implementation == "sdpa"


def test_the_map_is_the_last_tokens_row(model: Lvlm) -> None:
    # Another ending changes the map; the grid of a longer prompt stays.
    clip = model.clip(noise(4), PROMPT)
    other = model.clip(noise(4), PROMPT + "and where? ")
    maps = [model.rollout(prompted, RolloutSpec()) for prompted in (clip, other)]
    assert maps[0].shape == maps[1].shape and np.abs(maps[0] - maps[1]).max() > 1e-5
    assert clip.last_token == clip.length - 1


@torch.no_grad()
def test_left_padded_batches_equal_singles(model: Lvlm) -> None:
    # Prompts of different lengths in one padded batch, the way a caller outside this class may run the model.
    prompts = [model.clip(noise(2), text) for text in ("dog?", "the dog on the left, or is it a cat? ")]
    length = max(prompted.length for prompted in prompts)
    ids, masks, types, visuals = [], [], [], []
    for prompted in prompts:
        missing = (length - prompted.length, 0)
        pad = torch.nn.functional.pad
        ids.append(pad(prompted.inputs["input_ids"], missing, value=model.tokenizer.pad_token_id))
        masks.append(pad(prompted.inputs["attention_mask"], missing))
        types.append(pad(prompted.inputs["mm_token_type_ids"], missing))
        visuals.append(pad(prompted.visual_L, missing))
    names = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    rest = {name: torch.cat([item.inputs[name] for item in prompts]) for name in names if name in prompts[0].inputs}
    mask_BL, visual_BL = torch.cat(masks), torch.stack(visuals)
    model.reset_rope_state()
    with capture(model.text_model, range(2, 4)) as captured:
        model.model.model(input_ids=torch.cat(ids), attention_mask=mask_BL, mm_token_type_ids=torch.cat(types), **rest)
    rows_BL = rollout_rows(captured.layers(), visual_BL, RolloutSpec(), mask_BL).rows_BL
    for prompted, row_L, visual_L in zip(prompts, rows_BL, visual_BL, strict=True):
        alone = model.rollout(prompted, RolloutSpec())
        np.testing.assert_allclose(row_L[visual_L].numpy(), alone.ravel(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family: str, models: dict[str, Lvlm], settings: Callable[..., LvlmSettings]) -> None:
    half = load_lvlm(settings(family, dtype="bfloat16"))
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    clip = half.clip(noise(4), PROMPT)
    map_thw = half.rollout(clip, RolloutSpec())
    exact = models[family].rollout(clip, RolloutSpec())
    assert map_thw.dtype == np.float32
    assert np.corrcoef(map_thw.ravel(), exact.ravel())[0, 1] > 0.99
    assert isinstance(half.answer(clip), str)


def test_layers_beyond_the_model(model: Lvlm) -> None:
    with pytest.raises(PrerequisiteError, match="layers 0 to 3"):
        model.rollout(model.clip(noise(2), PROMPT), RolloutSpec(start_layer=4))


def test_out_of_memory_is_the_samples_failure(model: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = model.clip(noise(2), PROMPT)

    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model.model, "generate", exhausted)
    with pytest.raises(SampleError, match=r"out of memory with 1 prompts of .* lower frame_batch"):
        model.answer(clip)


def test_overflow_is_the_samples_failure(model: Lvlm) -> None:
    clip = model.clip(noise(2), PROMPT)
    name = next(name for name in clip.inputs if name.startswith("pixel_values"))
    broken = replace(clip, inputs={**clip.inputs, name: torch.full_like(clip.inputs[name], torch.inf)})
    with pytest.raises(SampleError, match="not finite"):
        model.rollout(broken, RolloutSpec())


def broken_checkpoint(checkpoints: dict[str, Path], tmp_path: Path, change: Callable[[Path], Any]) -> LvlmSettings:
    folder = Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "broken"))
    change(folder)
    return LvlmSettings(str(folder), "x", dtype="float32", device="cpu")


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith(".layers.1.self_attn.q_proj.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def resize_a_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 192
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_weight, "lacks 1 weights of its model .*q_proj"),
        (resize_a_layer, "cannot be loaded|lacks"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + bytes(30)), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "processor of .* cannot be loaded"),
        (lambda folder: (folder / "processor_config.json").unlink(), "processor of .* cannot be loaded"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
    ],
)
def test_damaged_checkpoints(
    checkpoints: dict[str, Path], tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    with pytest.raises(PrerequisiteError, match=message) as caught:
        load_lvlm(broken_checkpoint(checkpoints, tmp_path, change))
    assert "Download the checkpoint again" in caught.value.fix
    assert "\n" not in str(caught.value)


def test_processor_and_model_must_agree(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        path = folder / "processor_config.json"
        path.write_text(path.read_text().replace('"patch_size": 14', '"patch_size": 16'))

    with pytest.raises(PrerequisiteError, match=r"sizes \(16, 2, 2\), its vision model \(14, 2, 2\)"):
        load_lvlm(broken_checkpoint(checkpoints, tmp_path, change))


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_devices_that_do_not_exist(settings: Callable[..., LvlmSettings], device: str) -> None:
    with pytest.raises(PrerequisiteError, match=device):
        load_lvlm(settings("qwen2_vl", device=device))
