"""GPU-hours, worked out by hand."""

from __future__ import annotations

import pytest

from rvosbench.methods.reproduce.cost import Cost, Method, Size, ViewTokens, Work, assumptions, gpu_hours, work
from rvosbench.methods.reproduce.world import load_world

COST = Cost(
    gpu="a GPU",
    prefill_tokens_per_second=100,
    decoding_steps_per_second=10,
    sam2_frames_per_second=5,
    sam2_masks_per_second=20,
    keyframes=2,
    frame_batch=2,
    text_tokens=10,
    answer_tokens=3,
    reasoning_tokens=40,
    candidates=4,
    kept=1.5,
    views={"small": ViewTokens(clip=100, frame=50)},
)
SIZE = Size(videos=2, samples=6, frames=40)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Both views hold 100 + 2 x 50 = 200. Named: 200 + 4 x 10 of text; rolled out: 2 prompts x 3 views x 10 of text,
        # and 200 once a video. Steps: the clip, one batch of frames and the choice, 3 tokens each.
        ("decaf", Work(7, 6 * (240 + 60) + 2 * 200, 6 * 9)),
        # Reasoned: the clip and its text; rolled out: 3 views x 10 of text, and 200 once a video.
        ("steerseg", Work(4, 6 * (110 + 30) + 2 * 200, 6 * 40)),
        ("lochead", Work(2, 6 * 2 * 60, 0)),
    ],
)
def test_work_by_hand(method: Method, expected: Work) -> None:
    assert work(method, COST.views["small"], SIZE, COST) == expected


def test_calls_at_the_published_number_of_keyframes() -> None:
    cost = COST.model_copy(update={"keyframes": 16})
    calls = {name: work(name, COST.views["small"], SIZE, cost).calls for name in ("decaf", "steerseg", "lochead")}
    assert calls == {"decaf": 35, "steerseg": 18, "lochead": 16}


def test_hours_by_hand() -> None:
    # 2200 tokens at 100, 54 steps at 10, 40 frames at 5; 6 samples of 4 tracklets on 2 keyframes and 1.5 on 20 frames.
    seconds = 22 + 5.4 + 8 + 6 * (4 * 2 + 1.5 * 20) / 20
    assert gpu_hours("decaf", "small", SIZE, COST) == pytest.approx(seconds / 3600)
    assert gpu_hours("decaf", "another", SIZE, COST) is None


def test_the_released_world_knows_every_line_and_names_what_it_assumes() -> None:
    world = load_world("released")
    assert world.cost is not None
    assert set(world.cost.views) == set(world.lvlms) and set(world.cost.sizes) == set(world.datasets)
    davis = world.cost.sizes["Ref-DAVIS17"]
    assert (davis.videos, davis.samples, davis.frames) == (30, 244, 1999)
    text = assumptions(world.cost)
    for value in ("20,000 tokens", "16 keyframes", "Assumed, not measured"):
        assert value in text
