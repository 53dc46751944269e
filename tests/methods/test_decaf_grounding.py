"""DecAF's ground stage over a small Qwen2.5-VL: the shared visual prefix against separate prompts, in any grouping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy.tiny_qwen import write_small

from rvosbench.harness.data.types import Expression, FrameHW3, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.settings import identity_of
from rvosbench.harness.stages import Outcome, Request
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.decaf import METHOD, DecafSettings
from rvosbench.methods.ground.rollouts import ContrastSettings, Rollouts, contrast_prompts
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm


def Ground(settings: ContrastSettings, lvlm: Lvlm) -> Rollouts:  # noqa: N802
    return Rollouts(settings, lvlm, contrast_prompts(settings))


class Frames:
    """A video of noise."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        names = tuple(f"{i:05d}" for i in range(count))
        self.video = Video("toy", "val", "v", names, tuple(Path(f"{name}.jpg") for name in names), ())
        self.broken = broken
        self.frames_THW3 = np.random.default_rng(0).integers(0, 256, (count, 90, 150, 3), dtype=np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        return 90, 150

    def __len__(self) -> int:
        return len(self.frames_THW3)

    def __getitem__(self, index: int) -> FrameHW3:
        if index == self.broken:
            raise SampleError(f"{self.video.frame_paths[index]} cannot be read")
        frame: FrameHW3 = self.frames_THW3[index]
        return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("qwen2_5_vl", tmp_path_factory.mktemp("lvlm"), seed=0)


@pytest.fixture(scope="module")
def ground(folder: Path) -> ContrastSettings:
    lvlm = LvlmSettings(
        checkpoint=str(folder),
        digest="0",
        dtype="float32",
        device="cpu",
        clip_max_tokens=24,
        frame_batch=2,
        prefix_stack=8,
    )
    return ContrastSettings(
        lvlm=lvlm,
        keyframes=3,
        object_prompt="v0",
        background_prompt="v0",
        rollout=RolloutSpec(start_layer=1),
        prefix="shared",
    )


@pytest.fixture(scope="module")
def lvlm(ground: ContrastSettings) -> Lvlm:
    return load_lvlm(ground.lvlm)


def request(text: str, name: str = "dog") -> Request:
    return Request(Expression("0", text), {"reason": Artefact(meta={"object_name": name})})


def run(stage: Ground, requests: Sequence[Request], video: Frames | None = None) -> list[Outcome]:
    outcomes = dict(stage.run(video or Frames(5), requests))
    assert sorted(outcomes) == list(range(len(requests)))
    return [outcomes[index] for index in range(len(requests))]


def artefacts(outcomes: Sequence[Outcome]) -> list[Artefact]:
    found = [outcome for outcome in outcomes if isinstance(outcome, Artefact)]
    assert len(found) == len(outcomes)
    return found


def test_shared_maps_are_the_separate_ones(ground: ContrastSettings, lvlm: Lvlm) -> None:
    requests = [request("the dog runs"), request("which cat sits?", "cat"), request("a dog on the left")]
    shared = artefacts(run(Ground(ground, lvlm), requests))
    separate = artefacts(run(Ground(replace(ground, prefix="separate"), lvlm), requests))
    for ours, alone in zip(shared, separate, strict=True):
        assert ours.meta == alone.meta
        assert list(ours.arrays) == list(alone.arrays)
        for name, expected in alone.arrays.items():
            most = float(np.max(np.asarray(expected, dtype=np.float32)))
            np.testing.assert_allclose(ours.arrays[name], expected, rtol=1e-5, atol=1e-5 * most, err_msg=name)
            assert ours.arrays[name].dtype == np.float32
    assert not np.allclose(shared[0].arrays["object_clip"], shared[1].arrays["object_clip"], rtol=1e-3)


def test_grouping_and_order_change_no_byte(ground: ContrastSettings, lvlm: Lvlm) -> None:
    texts = [("dog runs", "dog"), ("the small dog that sits", "dog"), ("cat runs", "cat"), ("a ball", "ball")]
    requests = [request(*text) for text in texts]
    stage = Ground(ground, lvlm)
    alone = [to_bytes(artefacts(run(stage, [one]))[0]) for one in requests]
    # All eight prompts but one, so that the last group of a stack of 8 is full, then more than one stack.
    more = [request(f"the {word} dog", word) for word in ("red", "blue", "green", "large")]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 0)):
        together = artefacts(run(stage, [requests[index] for index in order]))
        assert [to_bytes(artefact) for artefact in together] == [alone[index] for index in order]
    crowd = artefacts(run(stage, [*more, *requests]))
    assert [to_bytes(artefact) for artefact in crowd[len(more) :]] == alone


def test_a_bad_expression_leaves_the_others_alone(ground: ContrastSettings, lvlm: Lvlm) -> None:
    stage = Ground(ground, lvlm)
    good = [request("dog runs"), request("cat runs", "cat")]
    requests = [good[0], request("  "), request("dog " * 4100), request("<|image_pad|>?"), good[1]]
    outcomes = run(stage, requests)
    assert [type(outcome) for outcome in outcomes] == [Artefact, SampleError, SampleError, SampleError, Artefact]
    for outcome, message in zip(
        outcomes[1:4], ("expression is empty", "tokens long", "takes for an image"), strict=True
    ):
        assert message in str(outcome)
    alone = artefacts(run(stage, good))
    assert [to_bytes(one) for one in artefacts([outcomes[0], outcomes[4]])] == [to_bytes(one) for one in alone]


def test_an_unreadable_keyframe_fails_every_expression_by_name(ground: ContrastSettings, lvlm: Lvlm) -> None:
    stage = Ground(ground, lvlm)
    outcomes = run(stage, [request("dog"), request(" "), request("cat")], Frames(5, broken=2))
    assert [str(outcome) for outcome in outcomes] == [
        "00002.jpg cannot be read",
        "the expression is empty",
        "00002.jpg cannot be read",
    ]
    assert isinstance(run(stage, [request("dog")], Frames(5, broken=1))[0], Artefact)


def test_no_background_call(ground: ContrastSettings, lvlm: Lvlm) -> None:
    [artefact] = artefacts(run(Ground(replace(ground, background_prompt="none"), lvlm), [request("dog runs")]))
    assert sorted(artefact.arrays) == ["object_clip", "object_frame"]


def test_sharing_is_the_default_and_part_of_the_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RVOSBENCH_CACHE", str(tmp_path))
    specs = {
        prefix: {
            spec.name: spec
            for spec in METHOD.stages(DecafSettings(masks="attention", prefix=prefix), str(folder))  # type: ignore[arg-type]
        }
        for prefix in ("shared", "separate")
    }
    default = {spec.name: spec for spec in METHOD.stages(DecafSettings(masks="attention"), str(folder))}
    assert default == specs["shared"]
    assert identity_of(default["ground"].settings)["prefix"] == "shared"
    assert default["ground"] != specs["separate"]["ground"]
    assert default["reason"] == specs["separate"]["reason"]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="prefix"):
        method_settings(DecafSettings, {"prefix": "cached"}, "decaf")


def test_sizes_of_the_prefix_are_no_identity() -> None:
    assert not {"prefix_bytes", "prefix_stack"} & set(identity_of(LvlmOptions()))
