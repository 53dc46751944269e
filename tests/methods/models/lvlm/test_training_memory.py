"""Memory of a training step from a configuration alone, against hand arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from released_configs import RELEASED

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.training_memory import StepMemory, step_memory

CONFIG = RELEASED["Qwen/Qwen2.5-VL-7B-Instruct"]


def need(**changes: Any) -> StepMemory:
    given: dict[str, Any] = {"view": "clip", "calls": 1, "tokens": 64, "frames": 16, "height": 480, "width": 854}
    options, spec = LvlmOptions(frame_batch=changes.pop("frame_batch", 4)), changes.pop("spec", RolloutSpec())
    return step_memory(CONFIG, options, spec, **{**given, **changes})


def test_qwen2_5_vl_7b_on_a_480p_clip() -> None:
    of = need()
    assert of.weight_bytes == 2 * 8_292_166_656
    # 8 x 14 x 26 visual tokens, 105 of text, 64 soft ones.
    assert of.length == 2912 + 105 + 64
    # The inputs of 28 layers, 3584 wide, 2 bytes.
    assert of.kept_bytes == 28 * 3081 * 3584 * 2
    # 14 layers of 28 + 4 heads x 128 with their gradients, and two float32 numbers a head and row and the row itself.
    assert of.rollout_bytes == 14 * 3081 * (2 * 32 * 128 * 2 + (2 * 28 + 2) * 4)
    assert 18 < of.total_bytes / 2**30 < 22


def test_what_it_depends_on() -> None:
    one = need()
    four = need(calls=4)
    assert (four.calls, four.kept_bytes) == (4, 4 * one.kept_bytes)
    assert need(calls=9) == four, "more calls than frame_batch are more passes"
    kept = need(checkpointing=False)
    assert kept.kept_bytes > 8 * one.kept_bytes and kept.total_bytes > 1.4 * one.total_bytes
    assert need(spec=RolloutSpec(start_layer=21)).rollout_bytes == one.rollout_bytes // 2
    frame = need(view="frame")
    assert frame.length == 28 * 52 + 105 + 64
    assert need(tokens=0).length == one.length - 64


@pytest.mark.parametrize("view", ["clip", "frame"])
def test_the_vision_tower_counts_where_it_is_the_most(view: str) -> None:
    small = need(view=view, frame_batch=64, calls=64)
    total = small.kept_bytes + small.rollout_bytes + small.working_bytes
    assert small.total_bytes == small.weight_bytes + max(total, small.vision_bytes)
