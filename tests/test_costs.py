"""GPU-hours, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rvosbench.harness.costs import (
    Cost,
    Priced,
    Size,
    ViewTokens,
    Work,
    assumptions,
    decoding_steps,
    gpu_hours,
    prefill_tokens,
)
from rvosbench.harness.recipes import load_recipe, method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.requirements import ListsRequirements

COST = Cost(
    gpu="a GPU",
    prefill_tokens_per_second=100,
    decoding_steps_per_second=10,
    sam2_frames_per_second=5,
    sam2_masks_per_second=20,
    text_tokens=10,
    short_answer_tokens=3,
    long_answer_tokens=40,
    candidates=4,
    kept=1.5,
    views={"small": ViewTokens(clip=100, frame=50)},
)
SIZE = Size(videos=2, samples=6, frames=40)


def work(method: str, **settings: Any) -> Work:
    found = load_method(method)
    assert isinstance(found, Priced)
    return found.work(method_settings(found.settings_type, settings, method))


@pytest.mark.parametrize(
    ("method", "settings", "calls", "tokens", "steps"),
    [
        # Both views hold 100 + 2 x 50 = 200. Named: 200 + 4 x 10 of text; rolled out: 2 prompts x 3 views x 10 of text,
        # and 200 once a video. Steps: the clip, one batch of frames and the choice, 3 tokens each.
        ("decaf", {}, 7, 6 * (240 + 60) + 2 * 200, 6 * 9),
        # Version 3 of the background prompt needs no name.
        ("decaf", {"background_prompt": "v3"}, 6, 6 * 60 + 2 * 200, 0),
        # Nothing shared: both prompts run the views again for every sample.
        ("decaf", {"background_prompt": "v3", "prefix": "separate"}, 6, 6 * (60 + 2 * 200), 0),
        # Reasoned: the clip and its text; rolled out: 3 views x 10 of text, and 200 once a video.
        ("steerseg", {}, 4, 6 * (110 + 30) + 2 * 200, 6 * 40),
        ("steerseg", {"cot": False}, 3, 6 * 30 + 2 * 200, 0),
        # DecAF's calls.
        ("steerseg", {"cot": False, "soft": False, "background_prompt": "v0"}, 7, 6 * 300 + 2 * 200, 6 * 9),
        ("lochead", {}, 2, 6 * 2 * 60, 0),
        ("tam", {}, 1, 6 * 110, 6 * 3),
        ("tam", {"view": "frame"}, 2, 6 * 2 * 60, 6 * 2 * 3),
    ],
)
def test_work_by_hand(method: str, settings: dict[str, Any], calls: int, tokens: int, steps: int) -> None:
    found = work(method, keyframes=2, lvlm={"frame_batch": 2}, **settings)
    assert found.calls == calls
    assert prefill_tokens(found, COST.views["small"], SIZE, COST) == tokens
    assert decoding_steps(found, SIZE, COST) == steps


def test_calls_at_the_published_number_of_keyframes() -> None:
    calls = {name: work(name).calls for name in ("decaf", "steerseg", "lochead")}
    assert calls == {"decaf": 35, "steerseg": 18, "lochead": 16}


@pytest.mark.parametrize("name", ["decaf", "lochead", "steerseg", "tam"])
def test_every_method_of_the_package_says_what_it_asks_for_and_needs(name: str) -> None:
    assert isinstance(load_method(name), Priced) and isinstance(load_method(name), ListsRequirements)


def test_hours_by_hand() -> None:
    # 2200 tokens at 100, 54 steps at 10, 40 frames at 5; 6 samples of 4 tracklets on 2 keyframes and 1.5 on 20 frames.
    seconds = 22 + 5.4 + 8 + 6 * (4 * 2 + 1.5 * 20) / 20
    two = {"keyframes": 2, "lvlm": {"frame_batch": 2}}
    assert gpu_hours(work("decaf", **two), COST.views["small"], SIZE, COST) == pytest.approx(seconds / 3600)
    attention = work("decaf", **two, masks="attention")
    assert gpu_hours(attention, COST.views["small"], SIZE, COST) == pytest.approx((22 + 5.4) / 3600)


def test_the_released_table_knows_every_model_and_names_what_it_assumes() -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "recipes" / "reproduce" / "steerseg_table.yaml")
    assert recipe.cost is not None
    lvlms = {lvlm for choice in recipe.methods for lvlm in choice.lvlms or recipe.lvlms}
    assert set(recipe.cost.views) == lvlms and set(recipe.cost.sizes) == {data.name for data in recipe.datasets}
    davis = recipe.cost.sizes["ref_davis17"]
    assert (davis.videos, davis.samples, davis.frames) == (30, 244, 1999)
    text = assumptions(recipe.cost)
    assert "20,000 tokens" in text and "not measured" in text
