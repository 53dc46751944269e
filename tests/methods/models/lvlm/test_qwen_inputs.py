"""Qwen inputs: the chat as the reference passes it, sizes, padding of odd clips, positions, refusals.

Shape legend: L sequence, t h w merged visual grid.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats import template_form
from toy.tiny_qwen import SmallShape, write_small

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise

PROMPT = "the dog. \nWhat is it? "


def without_pixels(messages: Any) -> Any:
    """The golden messages without file names and pixel limits, which our settings hold."""
    if isinstance(messages[0], list):
        (messages,) = messages
    kept = ("type", "text")
    return [
        {**turn, "content": [{key: part[key] for key in kept if key in part} for part in turn["content"]]}
        for turn in messages
    ]


@pytest.mark.parametrize("call", ["clip", "frame", "choice"])
def test_chat_structure_of_the_reference(samples: Path, model: Lvlm, call: Any) -> None:
    golden = json.loads((samples / "golden" / "decaf" / "text" / "messages.json").read_text())[f"qwen_{call}"]
    expected = without_pixels(golden["messages"])
    prompt = expected[0]["content"][-1]["text"]
    assert template_form(model, call, prompt) == expected
    assert golden["template_arguments"] == {"add_generation_prompt": True, "tokenize": False}


def test_pixel_settings_of_the_reference(samples: Path) -> None:
    golden = json.loads((samples / "golden" / "decaf" / "text" / "messages.json").read_text())
    settings = LvlmSettings("x", "x")
    clip = golden["qwen_clip"]["messages"][0]["content"][0]
    assert clip["max_pixels"] == settings.clip_max_tokens * 28 * 28
    # 480x854 gives a clip grid of 14x26, and its frames are shown at twice that.
    frame = golden["qwen_frame"]["messages"][0]["content"][0]
    assert (frame["resized_height"], frame["resized_width"]) == (settings.frame_scale * 14 * 28, 2 * 26 * 28)


def test_chat_text(model: Lvlm) -> None:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    # Qwen3-VL's template inserts no system turn.
    start = ("" if model.family == "qwen3_vl" else system) + "<|im_start|>user\n"
    end = f"{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    clip = model.clip(noise(3), PROMPT)
    video = f"<|vision_start|>{'<|video_pad|>' * int(clip.visual_L.sum())}<|vision_end|>"
    if model.family == "qwen3_vl":
        # Two slots of two frames half a second apart, the last one repeated; a slot has its middle's time.
        slot = f"<|vision_start|>{'<|video_pad|>' * 15}<|vision_end|>"
        video = f"<0.2 seconds>{slot}<1.2 seconds>{slot}"
    assert decoded(model, clip) == start + video + end
    assert clip.grid is not None
    frame = model.frame(noise(1)[0], PROMPT, clip.grid)
    image = f"<|vision_start|>{'<|image_pad|>' * int(frame.visual_L.sum())}<|vision_end|>"
    assert decoded(model, frame) == start + image + end
    text = model.text(PROMPT)
    assert decoded(model, text) == start + end
    assert text.grid is None and not text.visual_L.any()


def decoded(model: Lvlm, prompted: ModelInputs) -> str:
    assert prompted.length == prompted.inputs["input_ids"].shape[1] == prompted.visual_L.shape[0]
    return str(model.tokenizer.decode(prompted.inputs["input_ids"][0]))


def test_grids(model: Lvlm) -> None:
    # 90x150 at 24 tokens of 28x28: 3x5 = 15 tokens fit.
    clip = model.clip(noise(4), PROMPT)
    assert clip.grid == (2, 3, 5)
    assert clip.inputs["video_grid_thw"].tolist() == [[2, 6, 10]]
    frame = model.frame(noise(1)[0], PROMPT, clip.grid)
    assert frame.grid == (1, 6, 10)
    assert frame.inputs["image_grid_thw"].tolist() == [[1, 12, 20]]
    big = model.clip(noise(2, 300, 500), PROMPT)
    assert big.grid == (1, 3, 6)
    for prompted in (clip, frame, big):
        columns = prompted.visual_L.nonzero().flatten()
        assert columns.tolist() == prompted.visuals[0].cells_n.tolist()
        gaps = int((columns.diff() != 1).sum())
        assert gaps == (prompted.grid[0] - 1 if model.family == "qwen3_vl" else 0)


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (2, 1), (5, 3), (6, 3)])
def test_odd_clips_repeat_their_last_frame(model: Lvlm, frames: int, steps: int) -> None:
    shown = noise(frames)
    clip = model.clip(shown, PROMPT)
    assert clip.grid is not None and clip.grid[0] == steps
    padded = model.clip([*shown, *[shown[-1]] * (frames % 2)], PROMPT)
    for name, value in clip.inputs.items():
        assert torch.equal(value, padded.inputs[name]), name


def test_pixels_are_resized_once_and_normalised_with_the_checkpoints_numbers(model: Lvlm) -> None:
    colour = np.array([10, 120, 250], dtype=np.uint8)
    frame = np.broadcast_to(colour, (90, 150, 3)).copy()
    pixels = model.clip([frame, frame], PROMPT).inputs["pixel_values_videos"]
    processor = model.processor.video_processor
    expected = (colour / 255 - np.array(processor.image_mean)) / np.array(processor.image_std)
    # A patch is laid out channel, time, height, width.
    by_channel = pixels.reshape(-1, 3, 2 * 14 * 14)
    np.testing.assert_allclose(by_channel.numpy(), np.broadcast_to(expected[:, None], by_channel.shape), atol=2e-6)


def test_temporal_positions(models: dict[str, Lvlm], settings: Callable[..., LvlmSettings]) -> None:
    # One second a step at 2 positions a second (Qwen2.5-VL); one position a step (Qwen2-VL).
    for family, apart in (("qwen2_5_vl", 2), ("qwen2_vl", 1)):
        positions_3tn = visual_positions(models[family])
        assert (positions_3tn[0] - positions_3tn[0, 0, 0])[:, 0].tolist() == [0, apart, 2 * apart]
        # Height and width count the merged grid, from the position after the text before it.
        first = int(positions_3tn[0, 0, 0])
        assert (positions_3tn[1:, 0] - first).amax(-1).tolist() == [2, 4]
    slower = load_lvlm(settings("qwen2_5_vl", seconds_per_grid=2.5))
    assert visual_positions(slower)[0, :, 0].diff().tolist() == [5, 5]


def visual_positions(model: Lvlm) -> torch.Tensor:
    clip = model.clip(noise(6), PROMPT)
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    inputs = {name: clip.inputs[name] for name in names if name in clip.inputs}
    positions, _ = model.model.model.get_rope_index(**inputs)
    return torch.as_tensor(positions[:, 0, clip.visual_L].view(3, 3, -1))


def test_refusals(model: Lvlm) -> None:
    with pytest.raises(SampleError, match="at least one frame"):
        model.clip([], PROMPT)
    with pytest.raises(SampleError, match="differ in size"):
        model.clip([noise(1)[0], noise(1, 80)[0]], PROMPT)
    with pytest.raises(SampleError, match="too narrow"):
        model.clip(noise(1, 2, 401), PROMPT)
    with pytest.raises(SampleError, match=r"contains <\|video_pad\|>"):
        model.clip(noise(2), "what is <|video_pad|>?")
    with pytest.raises(SampleError, match=r"contains <\|image_pad\|>"):
        model.text("what is <|image_pad|>?")


def test_text_beyond_the_models_limit(model: Lvlm) -> None:
    with pytest.raises(SampleError, match=r"prompt is \d+ tokens long with its frames; the model takes 4096"):
        model.clip(noise(2), "xyz " * 3000)


def test_small_patches(tmp_path: Path) -> None:
    folder = write_small("qwen2_5_vl", tmp_path, 0, shape=SmallShape(layers=2, patch=7))
    model = load_lvlm(LvlmSettings(str(folder), "x", dtype="float32", clip_max_tokens=60, device="cpu"))
    clip = model.clip(noise(2, 90, 150), PROMPT)
    # 14 pixels to a token: 6x11 = 66 would be too many.
    assert clip.grid == (1, 6, 10)
    assert model.frame(noise(1)[0], PROMPT, clip.grid).grid == (1, 12, 20)


@pytest.fixture
def released_layout(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[[int, int], Path]:
    """The small checkpoint with its processor described as in the released folders: one preprocessor_config.json."""

    def write(least: int, most: int) -> Path:
        folder = Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / f"{least}-{most}"))
        (folder / "processor_config.json").unlink()
        config = {
            "min_pixels": least,
            "max_pixels": most,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
        return folder

    return write


def test_limits_come_from_the_checkpoint_not_the_class(released_layout: Callable[[int, int], Path]) -> None:
    # The class default, 1280 tokens, would shrink the paper's frame images of up to 1600.
    folder = released_layout(3136, 12845056)
    settings = LvlmSettings(str(folder), "x", dtype="float32", device="cpu")
    model = load_lvlm(settings)
    assert model.processor.image_processor.size["longest_edge"] == 12845056
    assert model.processor.video_processor.size["shortest_edge"] == 3136
    assert model.frame(noise(1, 560, 560)[0], PROMPT, (1, 20, 20)).grid == (1, 40, 40)


def test_limits_that_bind_are_refused(released_layout: Callable[[int, int], Path]) -> None:
    folder = released_layout(56 * 56, 1280 * 28 * 28)
    model = load_lvlm(LvlmSettings(str(folder), "x", dtype="float32", device="cpu"))
    with pytest.raises(PrerequisiteError, match=r"1120x1120, 1254400 pixels.*takes 3136 to 1003520") as caught:
        model.frame(noise(1, 560, 560)[0], PROMPT, (1, 20, 20))
    assert "frame_scale" in caught.value.fix
