"""Memory from a configuration alone, against counted models and hand arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from released_configs import RELEASED

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.estimate import estimate, meta_model
from rvosbench.methods.models.lvlm.model import Lvlm


def count_parameters(config: Mapping[str, Any]) -> int:
    return sum(parameter.numel() for parameter in meta_model(config).parameters())


# Parameter counts that the released weight files state.
COUNTS = {
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
}


# What the pages of other models state, in billions.
ROUNDED = {"OpenGVLab/InternVL3-8B-hf": 7.94, "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03}


def test_released_models() -> None:
    counts = {name: count_parameters(config) for name, config in RELEASED.items()}
    rounded = {name: round(counts.pop(name) / 1e9, 2) for name in ROUNDED}
    assert (counts, rounded) == (COUNTS, ROUNDED)


@pytest.mark.parametrize(
    ("name", "clip", "length"),
    [
        # 16 tiles of 256 tokens and 8 around each; 16 frames of 196 and the newline.
        ("OpenGVLab/InternVL3-8B-hf", (16, 16, 16), 16 * 264 + 105),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", (16, 14, 14), 16 * 196 + 1 + 105),
    ],
)
def test_other_families_on_a_480p_clip(name: str, clip: tuple[int, int, int], length: int) -> None:
    of = estimate(RELEASED[name], LvlmSettings("x", "x"), RolloutSpec(), frames=16, height=480, width=854)
    assert (of.clip_grid, of.clip_length) == (clip, length)
    assert 16 < of.total_bytes / 2**30 < 24


def test_the_count_is_the_loaded_models(model: Lvlm, checkpoints: dict[str, Path]) -> None:
    config = json.loads((checkpoints[model.family] / "config.json").read_text())
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.model.parameters())


def test_qwen2_5_vl_7b_on_a_480p_clip() -> None:
    config = RELEASED["Qwen/Qwen2.5-VL-7B-Instruct"]
    settings = LvlmSettings("x", "x", frame_batch=1)
    of = estimate(config, settings, RolloutSpec(), frames=16, height=480, width=854)
    assert of.weight_bytes == 2 * of.parameters
    assert (of.clip_grid, of.clip_length, of.frame_length) == ((8, 14, 26), 3017, 1561)
    # 28 layers x 4 key heads x 128, keys and values; 14 layers x (28 + 4) heads x 128.
    assert of.kv_bytes == 2 * 28 * 4 * 128 * 3017 * 2
    assert of.captured_bytes == 14 * 32 * 128 * 3017 * 2
    assert of.captured_bytes / 2**20 == pytest.approx(330, abs=1)
    assert 16 < of.total_bytes / 2**30 < 20


def test_what_memory_depends_on() -> None:
    config = RELEASED["Qwen/Qwen2.5-VL-7B-Instruct"]
    clip = {"frames": 16, "height": 480, "width": 854}
    base = estimate(config, LvlmSettings("x", "x", frame_batch=1), RolloutSpec(), **clip)
    exact = estimate(config, LvlmSettings("x", "x", frame_batch=1, dtype="float32"), RolloutSpec(), **clip)
    assert (exact.weight_bytes, exact.kv_bytes) == (2 * base.weight_bytes, 2 * base.kv_bytes)
    batch = estimate(config, LvlmSettings("x", "x", frame_batch=4), RolloutSpec(), **clip)
    assert batch.kv_bytes / base.kv_bytes == pytest.approx(4 * 1561 / 3017)
    shallow = estimate(config, LvlmSettings("x", "x", frame_batch=1), RolloutSpec(start_layer=21), **clip)
    assert shallow.captured_bytes * 2 == base.captured_bytes
    long = estimate(config, LvlmSettings("x", "x", frame_batch=1), RolloutSpec(), **clip, text_tokens=205)
    assert long.clip_length == base.clip_length + 100
