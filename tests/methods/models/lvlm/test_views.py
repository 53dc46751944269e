"""Token counts from a configuration, against the prompts that models are really given and the paper's sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy.tiny_qwen import small_families, write_small

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.decaf import METHOD, DecafSettings
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.family import family_names, find_family
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.views import View

from .conftest import noise

PROMPT = "the dog. \nWhat is it? "
OPTIONS = LvlmOptions(clip_max_tokens=24)
OTHER_OPTIONS = [LvlmOptions(clip_max_tokens=24, frame_scale=1), LvlmOptions(clip_max_tokens=24, extra_tokens="drop")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = write_small(family, root / family, seed=0)
        return made[family]

    return of


def loaded(folder: Path, chosen: LvlmOptions = OPTIONS) -> Lvlm:
    options = {**vars(chosen), "dtype": "float32", "device": "cpu"}
    model = load_lvlm(LvlmSettings(checkpoint=str(folder), digest="x", **options))
    return model


def as_prompted(model: Lvlm, prompted: ModelInputs) -> View:
    """What a real prompt holds."""
    config = model.model.config
    ids_L = prompted.inputs["input_ids"][0]
    pictures = {config.image_token_id, getattr(config, "video_token_id", config.image_token_id)}
    tokens = sum(int(token) in pictures for token in ids_L)
    (pixels,) = (value for name, value in prompted.inputs.items() if name.startswith("pixel_values"))
    patches = pixels.shape[0]
    if pixels.dim() > 2:
        *counts, _, height, width = pixels.shape
        patch = config.vision_config.patch_size
        side = patch if isinstance(patch, int) else patch[0]
        class_token = int(model.family in ("internvl", "llava"))
        patches = int(math.prod(counts)) * ((height // side) * (width // side) + class_token)
    assert prompted.grid is not None
    return View(prompted.grid, tokens, patches)


@pytest.mark.parametrize("size", [(90, 150), (150, 90), (64, 64), (300, 500)])
@pytest.mark.parametrize("family", ["internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"])
def test_real_prompts(folders: Callable[[str], Path], family: str, size: tuple[int, int]) -> None:
    require_counts(loaded(folders(family)), OPTIONS, size)


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=["one scale", "cells alone"])
@pytest.mark.parametrize("family", ["internvl", "llava_onevision", "qwen2_5_vl"])
def test_real_prompts_in_other_ways(folders: Callable[[str], Path], family: str, options: LvlmOptions) -> None:
    require_counts(loaded(folders(family), options), options, (90, 150))


def require_counts(model: Lvlm, options: LvlmOptions, size: tuple[int, int]) -> None:
    family = model.family
    frames = noise(3, *size)
    expected = model.definition.views(model.model.config, options, 3, *size)
    clip = model.clip(frames, PROMPT)
    assert clip.grid is not None
    # Three frames; Qwen3-VL shows them in two slots.
    beside_clip, beside_frame = {"internvl": (24, 3), "qwen3_vl": (18, 0)}.get(family, (0, 0))
    seen = as_prompted(model, clip)
    assert View(seen.grid, seen.tokens + beside_clip, seen.patches) == expected.clip
    seen = as_prompted(model, model.frame(frames[0], PROMPT, clip.grid))
    assert View(seen.grid, seen.tokens + beside_frame, seen.patches) == expected.frame


def test_a_family_without_clips(folders: Callable[[str], Path]) -> None:
    model = loaded(folders("llava"))
    expected = model.definition.views(model.model.config, OPTIONS, 3, 90, 150)
    assert as_prompted(model, model.frame(noise(1)[0], PROMPT, (1, 1, 1))) == expected.frame == expected.clip


RELEASED = {
    "qwen2_5_vl": SimpleNamespace(
        model_type="qwen2_5_vl",
        vision_config=SimpleNamespace(patch_size=14, spatial_merge_size=2, temporal_patch_size=2),
    ),
    "internvl": SimpleNamespace(
        model_type="internvl",
        downsample_ratio=0.5,
        vision_config=SimpleNamespace(image_size=[448, 448], patch_size=[14, 14]),
    ),
    "llava_onevision": SimpleNamespace(
        model_type="llava_onevision",
        image_grid_pinpoints=[[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        vision_aspect_ratio="anyres_max_9",
        vision_config=SimpleNamespace(image_size=384, patch_size=14),
    ),
}

# The grids of a frame call at the benchmarks' sizes, worked out with the reference's processors and formulas.
GRIDS = [
    ((480, 854), (28, 52), (16, 32), (46, 81)),
    ((480, 910), (28, 54), (16, 32), (42, 81)),
    ((720, 1280), (28, 52), (32, 64), (54, 96)),
    ((1080, 1920), (28, 52), (32, 64), (60, 108)),
    ((360, 640), (26, 46), (16, 32), (27, 48)),
    ((640, 360), (46, 26), (32, 16), (48, 27)),
    ((480, 480), (34, 34), (16, 16), (54, 54)),
    ((240, 426), (18, 30), (16, 32), (27, 48)),
]


@pytest.mark.parametrize(("size", "qwen", "internvl", "llava"), GRIDS)
def test_the_papers_sizes(
    size: tuple[int, int], qwen: tuple[int, int], internvl: tuple[int, int], llava: tuple[int, int]
) -> None:
    grids = {"qwen2_5_vl": qwen, "internvl": internvl, "llava_onevision": llava}
    clips = {"qwen2_5_vl": (8, qwen[0] // 2, qwen[1] // 2), "internvl": (16, 16, 16), "llava_onevision": (16, 14, 14)}
    for family, config in RELEASED.items():
        seen = find_family(family).views(config, LvlmOptions(), 16, *size)
        assert (seen.clip.grid, seen.frame.grid) == (clips[family], (1, *grids[family])), family


def test_unknown_family() -> None:
    with pytest.raises(PrerequisiteError, match="no model family 'blip'"):
        find_family("blip")


@pytest.mark.parametrize("family", small_families())
def test_plans_can_be_made_with_every_family(folders: Callable[[str], Path], family: str) -> None:
    assert family in family_names()
    line = METHOD.memory(DecafSettings(), str(folders(family)), (480, 854))
    assert "visual tokens" in line and "about" in line
