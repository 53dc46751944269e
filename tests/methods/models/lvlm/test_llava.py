"""LLaVA-1.5 inputs: the chat, the whole frame on the grid, no clip view, refusals. Shape legend: H W pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy import tiny_llava as small_llava
from toy.tiny_qwen import SmallShape, write_small
from transformers import SiglipVisionConfig

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise

PROMPT = "the dog on the left."
ANY = (1, 1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("llava", tmp_path_factory.mktemp("llava"), seed=0)


@pytest.fixture(scope="module")
def model(folder: Path) -> Lvlm:
    return loaded(folder)


def loaded(folder: Path) -> Lvlm:
    model = load_lvlm(LvlmSettings(checkpoint=str(folder), digest="x", dtype="float32", device="cpu"))
    return model


def test_chat_text(model: Lvlm) -> None:
    frame = model.frame(noise(1)[0], PROMPT, ANY)
    text = model.text(PROMPT)
    decode = model.tokenizer.decode
    assert decode(frame.inputs["input_ids"][0]) == f"<s>USER: {'<image>' * 25}\n{PROMPT} ASSISTANT:"
    assert decode(text.inputs["input_ids"][0]) == f"<s>USER: {PROMPT} ASSISTANT:"
    assert text.grid is None and not text.visual_L.any()
    assert frame.grid == (1, 5, 5)
    columns = frame.visual_L.nonzero().flatten().tolist()
    assert columns == list(range(columns[0], columns[0] + 25))


def test_released_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_llava, "_PATCHES", 24)
    model = loaded(write_small("llava", tmp_path, 0, shape=SmallShape(layers=1, vision_depth=1)))
    frame = model.frame(noise(1, 480, 854)[0], PROMPT, ANY)
    assert (model.model.config.vision_config.image_size, frame.grid, int(frame.visual_L.sum())) == (
        336,
        (1, 24, 24),
        576,
    )
    assert frame.inputs["pixel_values"].shape == (1, 3, 336, 336)


@pytest.mark.parametrize("size", [(90, 150), (151, 97), (70, 70), (1, 300), (300, 1), (3, 8), (480, 854)])
def test_every_frame_fills_the_square_whole(model: Lvlm, size: tuple[int, int]) -> None:
    frame = noise(1, *size)[0]
    prompted = model.frame(frame, PROMPT, ANY)
    processor = model.processor.image_processor
    squashed = np.asarray(Image.fromarray(frame).resize((70, 70), Image.Resampling.BICUBIC))
    expected = (squashed / 255 - np.array(processor.image_mean)) / np.array(processor.image_std)
    np.testing.assert_allclose(prompted.inputs["pixel_values"][0].numpy(), expected.transpose(2, 0, 1), atol=2e-6)


def test_the_processor_alone_would_lose_the_ends_of_a_wide_frame(model: Lvlm) -> None:
    frame = np.zeros((60, 200, 3), dtype=np.uint8)
    frame[:, :20], frame[:, -20:] = 255, 255
    processor = model.processor.image_processor
    cropped = processor(Image.fromarray(frame), return_tensors="pt")["pixel_values"]
    whole = model.frame(frame, PROMPT, ANY).inputs["pixel_values"]
    assert cropped.shape == whole.shape
    assert cropped.max() < 0 < 1 < whole.max()
    # A tenth of the width at each end is a tenth of the square.
    assert (whole[0, :, :, :5] > 1).all() and (whole[0, :, :, -5:] > 1).all() and (whole[0, :, :, 10:-10] < 0).all()


def test_the_clips_grid_has_no_effect(model: Lvlm) -> None:
    frame = noise(1)[0]
    one, other = model.frame(frame, PROMPT, ANY), model.frame(frame, PROMPT, (8, 14, 26))
    assert one.grid == other.grid
    assert all(torch.equal(value, other.inputs[name]) for name, value in one.inputs.items())


def test_refusals(model: Lvlm) -> None:
    with pytest.raises(PrerequisiteError, match=r"LLaVA-1\.5 has no clip view") as caught:
        model.clip(noise(2), PROMPT)
    assert "frame calls only" in caught.value.fix
    with pytest.raises(SampleError, match="contains <image>"):
        model.frame(noise(1)[0], "what is <image>?", ANY)
    with pytest.raises(SampleError, match="the model takes 4096"):
        model.text("xyz " * 5000)


def edited(folder: Path, target: Path, name: str, change: Callable[[Any], object]) -> Path:
    copy = Path(shutil.copytree(folder, target / "copy"))
    content = json.loads((copy / name).read_text())
    change(content)
    (copy / name).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings.update(patch_size=16), "patch size 16, its model 14"),
        (lambda settings: settings["image_processor"].update(crop_size={"height": 84, "width": 84}), "image size"),
        (lambda settings: settings["image_processor"].update(crop_size=None), "image size"),
        (lambda settings: settings.update(vision_feature_select_strategy="full"), "feature selection full"),
        (lambda settings: settings.update(num_additional_image_tokens=0), "number of additional tokens 0"),
        # As in old copies of the released checkpoints.
        (lambda settings: settings.pop("patch_size"), "patch size None"),
    ],
)
def test_processor_and_model_must_agree(
    folder: Path, tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(PrerequisiteError, match=f"processor has {message}") as caught:
        loaded(edited(folder, tmp_path, "processor_config.json", change))
    assert "Download the checkpoint again" in caught.value.fix


def test_other_models_under_the_same_name_are_refused(model: Lvlm) -> None:
    # Pixtral, LLaVA-Interleave and others are of model_type "llava" too.
    vision = model.model.config.vision_config
    model.model.config.vision_config = SiglipVisionConfig()
    try:
        with pytest.raises(PrerequisiteError, match=r"is a siglip_vision_model; .* only those with CLIP"):
            Lvlm(model.definition, model.model, model.processor, model.settings)
    finally:
        model.model.config.vision_config = vision


def test_released_folder_layout(folder: Path, model: Lvlm, tmp_path: Path) -> None:
    copy = edited(folder, tmp_path, "processor_config.json", lambda settings: None)
    settings = json.loads((copy / "processor_config.json").read_text())
    images = settings.pop("image_processor")
    (copy / "processor_config.json").write_text(json.dumps(settings))
    (copy / "preprocessor_config.json").write_text(json.dumps({**images, "crop_size": {"height": 70, "width": 70}}))
    one, other = (m.frame(noise(1)[0], PROMPT, ANY) for m in (model, loaded(copy)))
    assert all(torch.equal(value, other.inputs[name]) for name, value in one.inputs.items())
