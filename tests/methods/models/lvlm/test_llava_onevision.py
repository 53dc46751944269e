"""LLaVA-OneVision inputs: the chat, the grids of the reference, which token shows which cell, refusals.

Shape legend: L sequence, t h w visual grid, n image tokens in sequence order.
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
from toy import tiny_llava as small_llava
from toy.tiny_qwen import SmallShape, write_small
from transformers.image_processing_utils import select_best_resolution

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.llava import patches_per_side
from rvosbench.methods.models.lvlm.llava_onevision import cells_per_clip_side, frame_grid
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise
from .test_qwen_inputs import without_pixels

PROMPT = "the dog. \nWhat is it? "
ANY = (1, 1, 1)

# (H, W) of the frames -> (h, w) of the reference's frame grid.
REFERENCE = {
    (480, 854): (46, 81),
    (480, 910): (42, 81),
    (720, 1280): (54, 96),
    (1080, 1920): (60, 108),
    (360, 640): (27, 48),
    (640, 360): (48, 27),
    (480, 480): (54, 54),
    (240, 426): (27, 48),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("llava_onevision", tmp_path_factory.mktemp("onevision"), seed=0)


@pytest.fixture(scope="module")
def model(folder: Path) -> Lvlm:
    return loaded(folder)


def loaded(folder: Path, **changes: Any) -> Lvlm:
    settings = LvlmSettings(checkpoint=str(folder), digest="x", dtype="float32", device="cpu", **changes)
    model = load_lvlm(settings)
    return model


@pytest.fixture(scope="module")
def released_size(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    """A model with the released picture sizes: 384 pixels, 27x27 patches, 384 i x 384 j resolutions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_llava, "_PATCHES", 27)
        shape = SmallShape(layers=1, vision_depth=1, max_positions=32768)
        return loaded(write_small("llava_onevision", tmp_path_factory.mktemp("released"), seed=0, shape=shape))


@pytest.mark.parametrize("call", ["clip", "frame", "choice"])
def test_chat_structure_of_the_reference(samples: Path, model: Lvlm, call: Any) -> None:
    golden = json.loads((samples / "golden" / "decaf" / "text" / "messages.json").read_text())[f"llava_{call}"]
    expected = without_pixels(golden["messages"][:1])
    assert template_form(model, call, expected[1]["content"][-1]["text"]) == expected


def test_chat_text(model: Lvlm) -> None:
    start = "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
    end = f"\n{PROMPT}<|im_end|><|im_start|>assistant\n"
    clip = model.clip(noise(3), PROMPT)
    # 5x5 patches are pooled to 3x3; one newline token ends the clip.
    assert decoded(model, clip) == start + "<video>" * (3 * 9 + 1) + end
    frame = model.frame(noise(1)[0], PROMPT, ANY)
    assert frame.grid is not None
    _, h, w = frame.grid
    assert decoded(model, frame) == start + "<image>" * (25 + h * (w + 1)) + end
    text = model.text(PROMPT)
    assert decoded(model, text) == start + end
    assert text.grid is None and not text.visual_L.any()


def decoded(model: Lvlm, prompted: ModelInputs) -> str:
    assert prompted.length == prompted.inputs["input_ids"].shape[1] == prompted.visual_L.shape[0]
    return str(model.tokenizer.decode(prompted.inputs["input_ids"][0]))


def test_released_sizes(released_size: Lvlm) -> None:
    model = released_size
    config = model.model.config
    sizes = (config.vision_config.image_size, patches_per_side(config), cells_per_clip_side(config))
    assert sizes == (384, 27, 14)
    resolutions = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
    assert model.processor.image_processor.image_grid_pinpoints == resolutions
    clip = model.clip(noise(5, 480, 854), PROMPT)
    assert clip.grid == (5, 14, 14)
    assert clip.inputs["pixel_values_videos"].shape == (1, 5, 3, 384, 384)


@pytest.mark.parametrize("size", list(REFERENCE))
def test_frame_grids_of_the_reference(released_size: Lvlm, size: tuple[int, int]) -> None:
    model = released_size
    assert frame_grid(model.model.config, *size)[1] == REFERENCE[size]
    # The model's own joining of tiles leaves as many rows and columns.
    cells_hw2 = placed(model, *size)[27 * 27 :].view(REFERENCE[size][0], -1, 2)
    assert cells_hw2.shape[1] == REFERENCE[size][1] + 1
    assert (cells_hw2[:, -1] == -2).all() and (cells_hw2[:, :-1] >= 0).all()


def test_a_released_size_frame_as_a_prompt(released_size: Lvlm) -> None:
    prompted = released_size.frame(noise(1, 480, 854)[0], PROMPT, ANY)
    assert prompted.grid == (1, 46, 81)
    assert int(prompted.visual_L.sum()) == 3726
    # 2 x 3 tiles and the base picture.
    assert prompted.inputs["pixel_values"].shape == (1, 7, 3, 384, 384)


def placed(model: Lvlm, height: int, width: int) -> torch.Tensor:
    """What the model puts at each image token of an H x W frame, (n, 2): the (y, x) of the patch before the padding
    is removed; -1 for the base picture, -2 for newlines."""
    side, tile = patches_per_side(model.model.config), model.model.config.vision_config.image_size
    best = select_best_resolution((height, width), model.model.config.image_grid_pinpoints)
    tiles_y, tiles_x = best[0] // tile, best[1] // tile
    y, x = torch.meshgrid(torch.arange(tiles_y * side), torch.arange(tiles_x * side), indexing="ij")
    grid = torch.stack([y, x], -1).float().view(tiles_y, side, tiles_x, side, 2)
    tiles = grid.transpose(1, 2).reshape(-1, side * side, 2)
    features = torch.cat([torch.full((1, side * side, 2), -1.0), tiles])
    packed, _ = model.model.model.pack_image_features(
        [features],
        torch.tensor([[height, width]]),
        image_newline=torch.tensor([-2.0, -2.0]),
        vision_aspect_ratio=model.model.config.vision_aspect_ratio,
    )
    return torch.as_tensor(packed[0])


SIZES = [(90, 150), (151, 97), (76, 76), (7, 7), (480, 854), (1, 400), (400, 1), (3, 200), (33, 501), (500, 510)]


@pytest.mark.parametrize("size", SIZES)
def test_visual_tokens_are_the_cells_in_order(model: Lvlm, size: tuple[int, int]) -> None:
    prompted = model.frame(noise(1, *size)[0], PROMPT, ANY)
    assert prompted.grid is not None and prompted.cell_order is None
    image_L = prompted.inputs["input_ids"][0] == model.model.config.image_token_id
    assert not (prompted.visual_L & ~image_L).any()
    shown_n2 = placed(model, *size)
    assert len(shown_n2) == int(image_L.sum())
    cells_hw2 = shown_n2[prompted.visual_L[image_L]].view(*prompted.grid[1:], 2)
    assert (cells_hw2 >= 0).all()
    # y changes with the row alone and x with the column alone, in even steps of at least one patch, about the middle.
    best = select_best_resolution(size, model.model.config.image_grid_pinpoints)
    for axis, across in ((0, 1), (1, 0)):
        lines = cells_hw2[..., axis]
        torch.testing.assert_close(lines, lines.select(across, 0).unsqueeze(across).expand_as(lines))
        steps = lines.select(across, 0).diff()
        assert (steps > 0.99).all()
        middle = (
            best[axis] // model.model.config.vision_config.image_size * patches_per_side(model.model.config) - 1
        ) / 2
        assert lines.mean().item() == pytest.approx(middle, abs=1e-3)
    # What is left out: base picture and newlines, nothing else.
    left_n2 = shown_n2[~prompted.visual_L[image_L]]
    assert left_n2.unique().tolist() == [-2.0, -1.0]


def test_large_frames_shrink(model: Lvlm) -> None:
    # 500x510 takes 6x6 tiles of 5x5 patches: 30x30, more than 1.1^2 x 9 x 25, becomes 15x15.
    assert model.frame(noise(1, 500, 510)[0], PROMPT, ANY).grid == (1, 15, 15)


@torch.no_grad()
def test_clip_cells_are_the_pooled_frames_and_the_last_token_is_the_newline(model: Lvlm) -> None:
    clip = model.clip(noise(3), PROMPT)
    assert clip.grid == (3, 3, 3)
    seen: dict[str, torch.Tensor] = {}
    hook = model.text_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(embeds=kwargs["inputs_embeds"]), with_kwargs=True
    )
    model.model.model(**clip.inputs, use_cache=False)
    hook.remove()
    cells = seen["embeds"][0, clip.visual_L].view(3, 9, -1)
    for index, frame in enumerate(noise(3)):
        alone = model.clip([frame], PROMPT)
        assert alone.grid == (1, 3, 3)
        features = model.model.model.get_video_features(alone.inputs["pixel_values_videos"]).pooler_output[0]
        torch.testing.assert_close(cells[index], features[:9], rtol=1e-5, atol=1e-5)
    newline = int(clip.visual_L.nonzero()[-1]) + 1
    assert clip.inputs["input_ids"][0, newline] == model.model.config.video_token_id
    torch.testing.assert_close(seen["embeds"][0, newline], model.model.model.image_newline)


@torch.no_grad()
def test_vision_features_are_read_before_the_last_norm(model: Lvlm) -> None:
    tower, seen = model.model.model.vision_tower, list[torch.Tensor]()
    hook = tower.encoder.layers[-1].register_forward_hook(
        lambda _module, _args, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    pixels = model.clip(noise(1), PROMPT).inputs["pixel_values_videos"]
    out = tower(pixels[0], output_hidden_states=True)
    hook.remove()
    torch.testing.assert_close(out.hidden_states[-1], seen[0])
    assert not torch.allclose(out.last_hidden_state, seen[0])


def test_clip_frames_are_squashed_whole(model: Lvlm) -> None:
    frame = np.zeros((60, 200, 3), dtype=np.uint8)
    frame[:, :20], frame[:, -20:] = 255, 255
    pixels = model.clip([frame], PROMPT).inputs["pixel_values_videos"][0, 0]
    assert pixels.shape == (3, 76, 76)
    # Both ends of the wide frame are there: a tenth of the width each.
    assert (pixels[:, :, :6] > 0.9).all() and (pixels[:, :, -6:] > 0.9).all() and (pixels[:, :, 10:-10] < -0.9).all()


def test_frames_are_resized_as_in_the_papers_version(model: Lvlm) -> None:
    # transformers 4.52.1 resizes with Pillow; torchvision rounds otherwise.
    from PIL import Image

    frame = noise(1, 97, 151)[0]
    base = model.frame(frame, PROMPT, ANY).inputs["pixel_values"][0, 0]
    expected = np.asarray(Image.fromarray(frame).resize((76, 76), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(base.numpy(), (expected / 255 - 0.5).transpose(2, 0, 1) / 0.5, atol=1e-6)


def test_refusals(model: Lvlm) -> None:
    with pytest.raises(SampleError, match="at least one frame"):
        model.clip([], PROMPT)
    with pytest.raises(SampleError, match="differ in size"):
        model.clip([noise(1)[0], noise(1, 80)[0]], PROMPT)
    for call in (lambda text: model.clip(noise(2), text), model.text):
        for marker in ("<video>", "<image>"):
            with pytest.raises(SampleError, match=f"contains {marker}, which the model takes for an image"):
                call(f"what is {marker}?")
    with pytest.raises(SampleError, match=r"prompt is \d+ tokens long with its frames; the model takes 4096"):
        model.clip(noise(2), "xyz " * 3000)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings.update(num_image_tokens=36), "number of patches 36, its model 25"),
        (lambda settings: settings.update(vision_aspect_ratio="anyres_max_4"), "any-res limit anyres_max_4"),
        (lambda settings: settings["image_processor"]["image_grid_pinpoints"].pop(), "resolutions"),
        (lambda settings: settings["image_processor"].update(size={"height": 70, "width": 76}), r"image size \(70, 76"),
        (lambda settings: settings["video_processor"].update(size={"shortest_edge": 76}), r"video size \(None, None"),
        (lambda settings: settings.update(vision_feature_select_strategy="default"), "feature selection default"),
    ],
)
def test_processor_and_model_must_agree(
    folder: Path, tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit(copy / "processor_config.json", change)
    with pytest.raises(PrerequisiteError, match=f"processor has {message}") as caught:
        loaded(copy)
    assert "Download the checkpoint again" in caught.value.fix


def test_released_folder_layout(folder: Path, model: Lvlm, tmp_path: Path) -> None:
    # One preprocessor_config.json for images and videos, and the chat template as JSON.
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = json.loads((copy / "processor_config.json").read_text())
    images = settings.pop("image_processor")
    del settings["video_processor"]
    (copy / "processor_config.json").write_text(json.dumps(settings))
    (copy / "preprocessor_config.json").write_text(json.dumps({**images, "processor_class": "LlavaOnevisionProcessor"}))
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    again = loaded(copy)
    for prompted, other in (
        (model.clip(noise(2), PROMPT), again.clip(noise(2), PROMPT)),
        (model.frame(noise(1)[0], PROMPT, ANY), again.frame(noise(1)[0], PROMPT, ANY)),
    ):
        assert prompted.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(value, other.inputs[name]) for name, value in prompted.inputs.items())
