"""Order and drawing: every sample once an epoch, the same ones for any worker and after any resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.training.recipe import TrainRecipe
from rvosbench.methods.steerseg.training.sampling import Sample, UnitSampler, evaluation_samples, split
from rvosbench.methods.steerseg.training.sources import TargetExpression
from rvosbench.methods.steerseg.training.workers import DistributedGroup

Recipe = Callable[..., TrainRecipe]


class Named:
    """A source of names alone."""

    notes, digest = (), ""

    def __init__(self, videos: int, count: int = 3) -> None:
        self.videos = [f"v{index:02d}" for index in range(videos)]
        self._expressions = [TargetExpression(str(index), f"thing {index}") for index in range(count)]

    def expressions(self, video: str) -> list[TargetExpression]:
        return self._expressions

    def frames(self, video: str) -> list[np.ndarray]:
        raise AssertionError("not needed")

    def masks(self, video: str, expression: str) -> np.ndarray:
        raise AssertionError("not needed")


def samples(count: int, attributes: tuple[str, ...] = ()) -> list[Sample]:
    return [Sample(f"v{index // 3}", str(index % 3), f"thing {index}", attributes) for index in range(count)]


def test_whole_videos_are_held_out(recipe: Recipe) -> None:
    held = recipe(data__held_out=0.2)
    parts = split(held, Named(20), {"v03/1": ["red", "left"]})
    trained, kept = ({sample.video for sample in part} for part in (parts.trained, parts.held_out))
    assert len(kept) == 4 and len(trained) == 16 and not kept & trained
    assert len(parts.trained) + len(parts.held_out) == 60
    [marked] = [sample for sample in (*parts.trained, *parts.held_out) if sample.id == "v03/1"]
    assert marked.attributes == ("red", "left")
    # More videos hold out more, another seed holds out others; one of two is left to train on.
    assert kept != {sample.video for sample in split(recipe(data__held_out=0.2, seed=1), Named(20), {}).held_out}
    assert len({sample.video for sample in split(recipe(data__held_out=0.9), Named(2), {}).trained}) == 1
    with pytest.raises(PrerequisiteError, match="at least two videos"):
        split(held, Named(1), {})


@pytest.mark.parametrize("view", ["clip", "frame"])
def test_every_sample_comes_once_an_epoch_in_another_order(recipe: Recipe, view: str) -> None:
    chosen = recipe(optimiser__clips=4, optimiser__frames=4, optimiser__frames_per_sample=2)
    samplers = UnitSampler(chosen, samples(7), view)  # type: ignore[arg-type]
    each = 1 if view == "clip" else 2
    steps = -(-7 * each // 4)
    epochs = [list(islice(samplers.units(epoch * steps), steps)) for epoch in range(2)]
    seen = [[(unit.sample.id, unit.draw) for batch in epoch for unit in batch] for epoch in epochs]
    for own in seen:
        assert Counter(own) == Counter((sample.id, draw) for sample in samples(7) for draw in range(each))
    assert seen[0] != seen[1]
    assert [len(batch) for batch in epochs[0]] == [4] * (steps - 1) + [7 * each - 4 * (steps - 1)]


def test_a_later_start_meets_the_same_units(recipe: Recipe) -> None:
    samplers = UnitSampler(recipe(), samples(7, ("red",)), "frame")
    whole = list(islice(samplers.units(0), 12))
    for start in (1, 4, 9):
        assert list(islice(samplers.units(start), 12 - start)) == whole[start:]
    assert whole != list(islice(UnitSampler(recipe(seed=1), samples(7, ("red",)), "frame").units(0), 12))


def test_steps_follow_epochs_unless_they_are_given(recipe: Recipe) -> None:
    for steps, epochs, expected in ((None, 1, 4), (None, 3, 12), (5, 3, 5)):
        chosen = recipe(optimiser__steps=steps, optimiser__epochs=epochs)
        assert UnitSampler(chosen, samples(7), "clip").steps == expected


def test_attributes_are_dropped_as_often_as_asked(recipe: Recipe) -> None:
    for drop in (0.0, 0.3, 1.0):
        chosen = recipe(attributes__source="reason", attributes__drop=drop, optimiser__clips=50)
        samplers = UnitSampler(chosen, samples(300, ("red", "on the left")), "clip")
        units = [unit for batch in islice(samplers.units(0), 6) for unit in batch]
        assert len(units) == 300
        with_them = ["Attributes: red; on the left" in unit.prompt for unit in units]
        assert abs(1 - np.mean(with_them) - drop) < 0.08
        assert all(
            ("using the attributes above" in unit.prompt) == shown for unit, shown in zip(units, with_them, strict=True)
        )


def test_keyframes_show_the_object_and_take_turns(recipe: Recipe) -> None:
    samplers = UnitSampler(recipe(optimiser__frames_per_sample=3, optimiser__frames=100), samples(1), "frame")
    [units] = islice(samplers.units(0), 1)
    masks = np.zeros((6, 2, 2), dtype=bool)
    assert [samplers.keyframe(unit, masks) for unit in units] == [None] * 3
    masks[[1, 2, 4]] = True
    assert {samplers.keyframe(unit, masks) for unit in units} == {1, 2, 4}
    masks[[1, 4]] = False
    assert {samplers.keyframe(unit, masks) for unit in units} == {2}


def test_workers_share_every_step_without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
        shares.append(DistributedGroup().shard(range(8)))
    assert sorted(item for shard in shares for item in shard) == list(range(8))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_looks_spread_over_the_videos(recipe: Recipe) -> None:
    chosen = evaluation_samples(recipe(evaluate_samples=5), samples(12))
    assert Counter(sample.video for sample in chosen).most_common()[0][1] == 2
    assert chosen == evaluation_samples(recipe(evaluate_samples=5), samples(12)[::-1])
    assert len(evaluation_samples(recipe(evaluate_samples=50), samples(12))) == 12
