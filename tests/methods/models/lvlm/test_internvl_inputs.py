"""InternVL inputs: the chat as the reference passes it, tiles, the paper's sizes, where every cell's token stands.

Shape legend: L sequence, t h w visual grid, n visual tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from chats import template_form
from toy.tiny_internvl import small_processor
from toy.tiny_qwen import write_small
from transformers import InternVLProcessor

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.ground.fusion import smooth
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs, VisualTokens
from rvosbench.methods.models.lvlm.internvl import FAMILY, tile_order
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise

PROMPT = "the dog. \nWhat is it? "
SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
CELL = 28
"""Pixels to a visual token in the small checkpoint, whose tiles have 4 x 4 of them."""


def loaded(folder: Path) -> Lvlm:
    model = load_lvlm(LvlmSettings(checkpoint=str(folder), digest="x", dtype="float32", device="cpu"))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("internvl", tmp_path_factory.mktemp("checkpoints"), seed=0)


@pytest.fixture(scope="module")
def internvl(folder: Path) -> Lvlm:
    return loaded(folder)


@pytest.fixture(scope="module")
def full_size(internvl: Lvlm) -> Lvlm:
    """Inputs at the released size, 448 pixels and 256 tokens to a tile; there is no model behind it."""
    vision = SimpleNamespace(image_size=[448, 448], patch_size=[14, 14])
    config = SimpleNamespace(
        vision_config=vision, downsample_ratio=0.5, image_token_id=internvl.model.config.image_token_id
    )
    text = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=32768))
    model = SimpleNamespace(config=config, model=SimpleNamespace(language_model=text))
    return Lvlm(FAMILY, model, small_processor(448, 256, internvl.tokenizer), internvl.settings)


@pytest.mark.parametrize("call", ["clip", "frame", "choice"])
def test_chat_structure_of_the_reference(samples: Path, internvl: Lvlm, call: Any) -> None:
    golden = json.loads((samples / "golden" / "decaf" / "text" / "messages.json").read_text(encoding="utf-8"))
    expected = golden[f"internvl_{call}"]["messages"][0]
    for part in expected[1]["content"]:
        part.pop("video", None)
        part.pop("image", None)
    prompt = expected[1]["content"][-1]["text"]
    assert template_form(internvl, call, prompt) == expected
    assert golden[f"internvl_{call}"]["template_arguments"]["add_generation_prompt"] is True


def decoded(model: Lvlm, prompted: ModelInputs) -> str:
    assert prompted.length == prompted.inputs["input_ids"].shape[1] == prompted.visual_L.shape[0]
    assert bool(prompted.inputs["attention_mask"].all())
    return str(model.tokenizer.decode(prompted.inputs["input_ids"][0]))


def test_chat_text(internvl: Lvlm) -> None:
    start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    end = f"{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    tile = "<IMG_CONTEXT>" * 16
    clip = internvl.clip(noise(3), PROMPT)
    frames = "\n".join(f"Frame{number}: <img>{tile}</img>" for number in (1, 2, 3))
    assert decoded(internvl, clip) == f"{start}{frames}\n{end}"
    # 90x150 pixels in tiles of 112: 2x3 tiles.
    frame = internvl.frame(noise(1)[0], PROMPT, (3, 4, 4))
    assert decoded(internvl, frame) == f"{start}<img>{6 * tile}</img>\n{end}"
    text = internvl.text(PROMPT)
    assert decoded(internvl, text) == start + end
    assert text.grid is None and not text.visual_L.any() and "pixel_values" not in text.inputs


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_a_clip_has_a_time_step_for_every_frame(internvl: Lvlm, frames: int) -> None:
    clip = internvl.clip(noise(frames), PROMPT)
    assert clip.grid == (frames, 4, 4) and clip.cell_order is None
    assert clip.inputs["pixel_values"].shape == (frames, 3, 112, 112)
    assert int(clip.visual_L.sum()) == 16 * frames
    # Text stands between two frames and nowhere inside one.
    gaps_n = clip.visual_L.nonzero().flatten().diff()
    assert (gaps_n > 1).nonzero().flatten().tolist() == [16 * frame - 1 for frame in range(1, frames)]


# Height, width, tiles in rows and columns: what the reference's processor makes of the benchmarks' frame sizes.
SIZES = [
    (480, 854, 1, 2),
    (480, 910, 1, 2),
    (720, 1280, 2, 4),
    (1080, 1920, 2, 4),
    (360, 640, 1, 2),
    (640, 360, 2, 1),
    (480, 480, 1, 1),
    (240, 426, 1, 2),
]


@pytest.mark.parametrize(("height", "width", "rows", "columns"), SIZES)
def test_the_papers_sizes(full_size: Lvlm, height: int, width: int, rows: int, columns: int) -> None:
    frame = full_size.frame(noise(1, height, width)[0], PROMPT, (16, 16, 16))
    assert frame.grid == (1, 16 * rows, 16 * columns)
    assert int(frame.visual_L.sum()) == 256 * rows * columns
    assert frame.inputs["pixel_values"].shape == (rows * columns, 3, 448, 448)


def test_the_papers_clip(full_size: Lvlm) -> None:
    clip = full_size.clip(noise(16, 480, 854), PROMPT)
    assert clip.grid == (16, 16, 16) and int(clip.visual_L.sum()) == 4096
    assert clip.inputs["pixel_values"].shape == (16, 3, 448, 448)


@pytest.mark.parametrize(("height", "width", "tiles"), [(1200, 100, (12, 1)), (96, 128, (3, 4)), (400, 300, (4, 3))])
def test_at_most_twelve_tiles(internvl: Lvlm, height: int, width: int, tiles: tuple[int, int]) -> None:
    frame = internvl.frame(noise(1, height, width)[0], PROMPT, (1, 4, 4))
    assert frame.grid == (1, 4 * tiles[0], 4 * tiles[1])
    assert len(frame.inputs["pixel_values"]) == tiles[0] * tiles[1] == 12


def test_what_is_cut_off_is_the_thumbnail(internvl: Lvlm) -> None:
    # The processor alone gives the same tiles and one more.
    image = noise(1)[0]
    frame = internvl.frame(image, PROMPT, (1, 4, 4))
    whole = internvl.processor.image_processor(images=[image], crop_to_patches=True, return_tensors="pt")
    tiles = frame.inputs["pixel_values"]
    assert whole["pixel_values"].shape[0] == len(tiles) + 1 == 7
    torch.testing.assert_close(tiles, whole["pixel_values"][:6], rtol=0, atol=0)
    alone = internvl.processor.image_processor(images=[image], crop_to_patches=False, return_tensors="pt")
    torch.testing.assert_close(whole["pixel_values"][6:], alone["pixel_values"], rtol=0, atol=0)


def test_pixels_are_normalised_with_the_checkpoints_numbers(internvl: Lvlm) -> None:
    colour = np.array([10, 120, 250], dtype=np.uint8)
    frame = np.broadcast_to(colour, (90, 150, 3)).copy()
    for prompted in (internvl.clip([frame], PROMPT), internvl.frame(frame, PROMPT, (1, 4, 4))):
        pixels = prompted.inputs["pixel_values"]
        expected = (colour / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        np.testing.assert_allclose(pixels.numpy(), np.broadcast_to(expected[:, None, None], pixels.shape), atol=2e-6)


def test_order_by_hand() -> None:
    # 2 x 3 tiles of 2 x 2 tokens: token 4 k + 2 r + c is cell (r, c) of tile k.
    assert tile_order(2, 3, 2).view(4, 6).tolist() == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 11],
        [12, 13, 16, 17, 20, 21],
        [14, 15, 18, 19, 22, 23],
    ]
    assert tile_order(1, 1, 3).tolist() == list(range(9))
    assert tile_order(3, 1, 2).tolist() == list(range(12))


@pytest.mark.parametrize(("height", "width", "tiles"), [(90, 150, (2, 3)), (150, 90, (3, 2)), (112, 112, (1, 1))])
def test_a_row_that_spells_tile_and_cell(internvl: Lvlm, height: int, width: int, tiles: tuple[int, int]) -> None:
    rows, columns = tiles
    frame = internvl.frame(noise(1, height, width)[0], PROMPT, (1, 4, 4))
    # Row and column of the cell on the whole grid, written into the row in the order of the tokens.
    places = [
        100 * (4 * (tile // columns) + cell // 4) + 4 * (tile % columns) + cell % 4
        for tile in range(rows * columns)
        for cell in range(16)
    ]
    row_L = torch.full((frame.length,), -1.0)
    row_L[frame.visual_L] = torch.tensor(places, dtype=torch.float32)
    expected = 100 * np.arange(4 * rows)[:, None] + np.arange(4 * columns)
    np.testing.assert_array_equal(frame.to_grid(row_L)[0].numpy(), expected)
    # Leading axes, of heads say, are kept.
    np.testing.assert_array_equal(frame.to_grid(torch.stack([row_L, row_L + 1]))[1, 0].numpy(), expected + 1)


@pytest.mark.parametrize("name", ["internvl_tiles_2x3", "internvl_one_tile"])
@pytest.mark.parametrize("role", ["obj", "bg"])
def test_maps_of_the_reference(samples: Path, name: str, role: str) -> None:
    golden = np.load(samples / "golden" / "decaf" / "maps" / f"{name}.npz")
    rows, columns = (int(count) for count in golden[f"in_{role}_frame_tiling_hw"])
    _, side, _ = (int(length) for length in golden[f"in_{role}_frame_grid_thw"][0])
    order = tile_order(rows, columns, side)
    maps = []
    for row, mask in zip(golden[f"in_{role}_frame_row"], golden[f"in_{role}_frame_mask"], strict=True):
        cells_n = torch.from_numpy(mask).nonzero().flatten()[order]
        visual = VisualTokens(cells_n, (1, rows * side, columns * side))
        prompted = ModelInputs({"input_ids": torch.zeros(1, len(row))}, (visual,))
        maps.append(prompted.to_grid(torch.from_numpy(row)).numpy())
    expected = golden[f"smooth_{role}_frame"]
    np.testing.assert_allclose(smooth(np.concatenate(maps), 7, 1.0), expected, rtol=0, atol=2e-6 * expected.max())


@torch.no_grad()
@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 4), (4, 3), (2, 11), (7, 0), (5, 6), (7, 11)])
def test_a_cells_token_shows_the_cells_pixels(internvl: Lvlm, cell: tuple[int, int]) -> None:
    # 224x336 pixels are 2x3 tiles without any resizing, so a cell is a square of 28 pixels.
    frame = noise(1, 8 * CELL, 12 * CELL)[0]
    before, after = (features_on_grid(internvl, image) for image in (frame, painted(frame, cell)))
    changed = (after - before).norm(dim=0)
    assert divmod(int(changed.argmax()), 12) == cell


def painted(frame: FrameHW3, cell: tuple[int, int]) -> FrameHW3:
    top, left = cell[0] * CELL, cell[1] * CELL
    changed = frame.copy()
    changed[top : top + CELL, left : left + CELL] = 255
    return changed


def features_on_grid(model: Lvlm, image: FrameHW3) -> torch.Tensor:
    """What the language model is given at every visual token, (features, h, w)."""
    prompted = model.frame(image, PROMPT, (1, 4, 4))
    features = model.model.get_image_features(prompted.inputs["pixel_values"]).pooler_output
    row_L = torch.zeros(features.shape[-1], prompted.length)
    row_L[:, prompted.visual_L] = features.flatten(0, 1).T
    return prompted.to_grid(row_L)[:, 0]


def test_refusals(internvl: Lvlm) -> None:
    with pytest.raises(SampleError, match="at least one frame"):
        internvl.clip([], PROMPT)
    with pytest.raises(SampleError, match="differ in size"):
        internvl.clip([noise(1)[0], noise(1, 80)[0]], PROMPT)
    for marker in ("<IMG_CONTEXT>", "<video>", "<img>", "</img>"):
        with pytest.raises(SampleError, match=f"contains {marker}"):
            internvl.text(f"what is {marker}?")
    with pytest.raises(SampleError, match=r"prompt is \d+ tokens long with its frames; the model takes 4096"):
        internvl.clip(noise(2), "xyz " * 3000)
    with pytest.raises(ValueError, match="text prompt"):
        internvl.text(PROMPT).to_grid(torch.zeros(10))


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Callable[[Callable[[Path], Any]], Path]:
    def copy(change: Callable[[Path], Any]) -> Path:
        copied = Path(shutil.copytree(folder, tmp_path / "changed"))
        change(copied)
        return copied

    return copy


def replace_text(name: str, old: str, new: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    "change",
    [
        replace_text("processor_config.json", '"height": 112', '"height": 224'),
        replace_text("processor_config.json", '"image_seq_length": 16', '"image_seq_length": 64'),
        replace_text("config.json", '"image_token_id": ', '"image_token_id": 1'),
    ],
)
def test_processor_and_model_must_agree(
    changed: Callable[[Callable[[Path], Any]], Path], change: Callable[[Path], Any]
) -> None:
    with pytest.raises(PrerequisiteError, match="processor and model disagree") as caught:
        loaded(changed(change))
    assert "Download the checkpoint again" in caught.value.fix


def test_a_tokenizer_that_does_not_name_the_image_tokens(changed: Callable[[Callable[[Path], Any]], Path]) -> None:
    folder = changed(replace_text("tokenizer_config.json", '"start_image_token"', '"another_token"'))
    with pytest.raises(
        PrerequisiteError, match=r"does not name InternVL's image tokens: .*start_image_token"
    ) as caught:
        loaded(folder)
    assert "latest revision" in caught.value.fix


def as_released(folder: Path) -> None:
    """The layout of the released folders: one file for each processor, class names of their time."""
    config = json.loads((folder / "processor_config.json").read_text())
    image, video = config.pop("image_processor"), config.pop("video_processor")
    image["image_processor_type"] = "GotOcr2ImageProcessorFast"
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**video, "do_sample_frames": True}))
    (folder / "processor_config.json").write_text(json.dumps(config))
    # The configuration says nothing of tied embeddings and the weights hold both.
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))


def without_video_file(folder: Path) -> None:
    as_released(folder)
    (folder / "video_preprocessor_config.json").unlink()


@pytest.mark.parametrize("layout", [as_released, without_video_file])
def test_the_released_layout(
    internvl: Lvlm, changed: Callable[[Callable[[Path], Any]], Path], layout: Callable[[Path], None]
) -> None:
    folder = changed(layout)
    model = loaded(folder)
    assert isinstance(model.processor, InternVLProcessor)
    views = [(of.clip(noise(3), PROMPT), of.frame(noise(1)[0], PROMPT, (3, 4, 4))) for of in (internvl, model)]
    for ours, theirs in ((one.inputs, other.inputs) for one, other in zip(*views, strict=True)):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=0, atol=0)
    torch.testing.assert_close(model.model.lm_head.weight, internvl.model.lm_head.weight, rtol=0, atol=0)
    assert not torch.equal(model.model.lm_head.weight, model.text_model.embed_tokens.weight)
