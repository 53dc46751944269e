"""Training passes against inference, in every family: the same maps from padded batches, gradients for vectors alone.

Shape legend: n soft tokens, D hidden size, t h w a map's grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.embedding import padded
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import SoftPrompt, with_soft
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.training.calls import CallBuilder, ahead
from rvosbench.methods.steerseg.training.loop import require_frozen
from rvosbench.methods.steerseg.training.passes import soft_maps, together
from rvosbench.methods.steerseg.training.sampling import Sample
from rvosbench.methods.steerseg.training.sources import ShapesSource

from .conftest import FAMILIES

SPEC = RolloutSpec(start_layer=1)
Loaded = Callable[[str], Lvlm]


@pytest.fixture(scope="module")
def source() -> ShapesSource:
    """Two clips of different shape."""
    made = ShapesSource(4, "train", 0, 3)
    assert len({made.frames(video)[0].shape for video in (made.videos[0], made.videos[3])}) == 2
    return made


def samples_of(source: ShapesSource) -> list[Sample]:
    return [
        Sample(source.videos[video], candidate.id, candidate.text)
        for video in (0, 3)
        for candidate in source.expressions(source.videos[video])[:2]
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_a_padded_batch_are_those_of_inference(family: str, loaded: Loaded, source: ShapesSource) -> None:
    lvlm, soft = loaded(family), SoftPrompt(torch.randn(4, 128, generator=torch.Generator().manual_seed(0)))
    call_builder = CallBuilder(lvlm, source, 2**28)
    samples = samples_of(source)
    for make in (call_builder.clip, lambda sample, prompt: call_builder.frame(sample, 1, prompt)):
        calls = [make(sample, attention_prompt(sample.text, ["red"] * index)) for index, sample in enumerate(samples)]
        items = [with_soft(lvlm, call.prompted, soft) for call in calls]
        groups = list(together(items, 8))
        assert sorted(key for group in groups for key in group) == [0, 1, 2, 3]
        assert [len(group) for group in together(items, 1)] == [1, 1, 1, 1]
        maps: dict[int, torch.Tensor] = {}
        for group in groups:
            batch = [items[key] for key in group]
            assert len({item.length for item in batch}) > 1 and not padded(batch)[1].all()
            seen = [call_builder.seen(calls[key]) for key in group]
            with torch.no_grad():
                maps.update(zip(group, soft_maps(lvlm, batch, seen, SPEC), strict=True))
        for key, item in enumerate(items):
            found, expected = maps[key], lvlm.rollout(item, SPEC)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize("family", FAMILIES)
def test_put_together_prompts_are_the_processors_own(family: str, loaded: Loaded, source: ShapesSource) -> None:
    lvlm = loaded(family)
    call_builder = CallBuilder(lvlm, source, 2**28)
    for sample in samples_of(source):
        frames = source.frames(sample.video)
        grid = lvlm.clip(frames, "x").grid
        assert grid is not None
        prompt = attention_prompt(sample.text, ["red", "on the left"])
        pairs = [
            (call_builder.clip(sample, prompt), lvlm.clip(frames, prompt)),
            (call_builder.frame(sample, 2, prompt), lvlm.frame(frames[2], prompt, grid)),
        ]
        for call, own in pairs:
            assert set(call.prompted.inputs) == set(own.inputs)
            for name, value in own.inputs.items():
                assert torch.equal(call.prompted.inputs[name], value), name
            assert torch.equal(call.prompted.visual_L, own.visual_L) and call.prompted.grid == own.grid
            assert call.fractions_thw.shape == own.grid


@pytest.mark.parametrize(("head_weights", "weight_gradient"), [("vmax", True), ("mean", False)])
def test_gradients_are_the_slopes_and_the_model_gets_none(
    head_weights: str, weight_gradient: bool, loaded: Loaded, source: ShapesSource
) -> None:
    spec = RolloutSpec(start_layer=1, head_weights=head_weights)  # type: ignore[arg-type]
    lvlm = loaded("qwen2_5_vl")
    call_builder = CallBuilder(lvlm, source, 2**28)
    call = call_builder.clip(samples_of(source)[0], "the dog? ")
    vectors_nD = torch.randn(4, 128, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    prompted = with_soft(lvlm, call.prompted, SoftPrompt(vectors_nD, "before_vision"))

    def mass() -> torch.Tensor:
        [map_thw] = soft_maps(lvlm, [prompted], [call_builder.seen(call)], spec, weight_gradient=weight_gradient)
        return (map_thw * torch.from_numpy(call.fractions_thw)).sum()

    mass().backward()  # type: ignore[no-untyped-call]
    require_frozen(lvlm)
    slope_nD = vectors_nD.grad
    assert slope_nD is not None and bool((slope_nD.norm(dim=1) > 0).all())
    step_nD = slope_nD / slope_nD.norm()
    with torch.no_grad():
        moved = []
        for side in (1.0, -1.0):
            vectors_nD += side * 0.1 * step_nD
            moved.append(float(mass()))
            vectors_nD -= side * 0.1 * step_nD
    assert (moved[0] - moved[1]) / 0.2 == pytest.approx(float(slope_nD.norm()), rel=2e-2)


def test_a_model_that_learns_is_noticed(loaded: Loaded) -> None:
    lvlm = loaded("qwen2_vl")
    name, parameter = next(iter(lvlm.model.named_parameters()))
    parameter.requires_grad_(True)
    try:
        with pytest.raises(RuntimeError, match=name):
            require_frozen(lvlm)
    finally:
        parameter.requires_grad_(False)


def test_the_next_batch_is_made_ahead_in_order() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item * item

    stream = ahead(iter(range(4)), make)
    assert next(stream) == 0 and list(stream) == [1, 4, 9] and made == [0, 1, 2, 3]

    def broken(item: int) -> int:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(ahead(iter(range(2)), broken))
