"""DecAF's stages over stand-ins for the model and the segmenter: which calls are made, and what comes out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import Expression, FrameHW3, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.stages import Request, Stage
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground import fusion
from rvosbench.methods.ground.rollouts import ContrastSettings, Rollouts, contrast_prompts
from rvosbench.methods.models.lvlm.base import Grid, LvlmSettings, ModelInputs, VisualTokens
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.prompts import Masks, Prompt
from rvosbench.methods.models.sam2.segmenter import PointMasks, TrackedMasks
from rvosbench.methods.reason import expression_prompts as prompts
from rvosbench.methods.reason.naming import Naming, NamingSettings
from rvosbench.methods.segment.from_map import PromptedMasks, RolloutMapSettings, ThresholdMasks, rollout_reader
from rvosbench.methods.segment.settings import PromptSettings, SegmentSettings, ThresholdSettings

HEIGHT, WIDTH = 40, 60


def Ground(settings: ContrastSettings, lvlm: Any) -> Rollouts:  # noqa: N802
    return Rollouts(settings, lvlm, contrast_prompts(settings))


class Frames:
    """A decoded video whose frame ``i`` is filled with ``i``."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        names = tuple(f"{i:05d}" for i in range(count))
        self.video = Video("toy", "val", "v", names, tuple(Path(f"{name}.jpg") for name in names), ())
        self.broken = broken

    @property
    def size(self) -> tuple[int, int]:
        return HEIGHT, WIDTH

    def __len__(self) -> int:
        return len(self.video.frames)

    def __getitem__(self, index: int) -> FrameHW3:
        if index == self.broken:
            raise SampleError(f"{self.video.frame_paths[index]} cannot be read")
        return np.full((HEIGHT, WIDTH, 3), index, dtype=np.uint8)


class StandInLvlm:
    """Answers and maps that depend on the prompt and on the frames alone; writes down every call."""

    family, layers = "stand_in", 4

    def __init__(self) -> None:
        self.settings = LVLM
        self.calls: list[tuple[str, str, str]] = []
        self.seen: dict[int, tuple[str, str, int]] = {}
        self.keep: list[ModelInputs] = []  # so that no id is given twice

    def _prompted(self, view: str, prompt: str, frames: Sequence[FrameHW3], grid: Grid | None) -> ModelInputs:
        visuals = () if grid is None else (VisualTokens(torch.zeros(0, dtype=torch.int64), grid),)
        prompted = ModelInputs({}, visuals)
        pixels = [int(frame[0, 0, 0]) for frame in frames]
        self.seen[id(prompted)] = (view, prompt, zlib.crc32(f"{view} {prompt} {pixels}".encode()))
        self.keep.append(prompted)
        return prompted

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> ModelInputs:
        return self._prompted("clip", prompt, frames, ((len(frames) + 1) // 2, 3, 4))

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> ModelInputs:
        return self._prompted("frame", prompt, [frame], (1, 2 * clip_grid[1], 2 * clip_grid[2]))

    def text(self, prompt: str) -> ModelInputs:
        return self._prompted("text", prompt, [], None)

    def answer(self, prompted: ModelInputs) -> str:
        view, prompt, seed = self.seen[id(prompted)]
        self.calls.append(("answer", view, prompt))
        return f" Object {seed % 5} \n"

    def answers(self, prompted: Sequence[ModelInputs]) -> list[str]:
        return [self.answer(one) for one in prompted]

    def rollout(self, prompted: ModelInputs, spec: RolloutSpec) -> Any:
        view, prompt, seed = self.seen[id(prompted)]
        self.calls.append(("rollout", view, prompt))
        assert prompted.grid is not None
        return np.random.default_rng(seed).random(prompted.grid, dtype=np.float32)

    def rollouts(self, prompted: Sequence[ModelInputs], spec: RolloutSpec) -> list[Any]:
        return [self.rollout(one, spec) for one in prompted]

    def count(self, kind: str, view: str, start: str = "") -> int:
        return sum(k == kind and v == view and prompt.startswith(start) for k, v, prompt in self.calls)


LVLM = LvlmSettings(checkpoint="stand-in", digest="0", frame_batch=2)
REASON = NamingSettings(lvlm=LVLM, keyframes=4, object_prompt="v0", choice_prompt="v0")
GROUND = ContrastSettings(
    lvlm=LVLM,
    keyframes=4,
    object_prompt="v0",
    background_prompt="v0",
    rollout=RolloutSpec(),
    prefix="separate",
)


def request(text: str, **inputs: Artefact) -> Request:
    return Request(Expression("0", text), inputs)


def run(stage: Stage, video: Frames, requests: Sequence[Request]) -> list[Any]:
    outcomes = dict(stage.run(video, requests))
    assert sorted(outcomes) == list(range(len(requests)))
    return [outcomes[index] for index in range(len(requests))]


def named(name: str) -> Artefact:
    return Artefact(meta={"object_name": name})


def test_reason_asks_the_clip_every_keyframe_and_the_choice() -> None:
    lvlm = StandInLvlm()
    [artefact] = run(Naming(REASON, lvlm), Frames(9), [request("The Dog")])
    asked = prompts.object_prompt("v0", "The Dog")
    assert [(kind, view) for kind, view, _ in lvlm.calls] == [
        ("answer", "clip"),
        *[("answer", "frame")] * 4,
        ("answer", "text"),
    ]
    assert {prompt for _, view, prompt in lvlm.calls if view != "text"} == {asked}
    meta = artefact.meta
    assert meta["keyframes"] == [0, 2, 5, 8]
    assert len(meta["answers"]) == 5
    assert meta["candidates"] == [answer.strip() for answer in meta["answers"]]
    assert lvlm.calls[-1][2] == prompts.choice_prompt("v0", "The Dog", meta["candidates"])
    assert meta["object_name"] == meta["choice"].strip().lower() != meta["choice"]


def test_a_choice_without_candidates_asks_for_none() -> None:
    lvlm = StandInLvlm()
    [artefact] = run(Naming(replace(REASON, choice_prompt="v3"), lvlm), Frames(9), [request("The Dog")])
    assert lvlm.calls == [("answer", "text", prompts.choice_prompt("v3", "The Dog", []))]
    assert artefact.meta["candidates"] == []


def test_ground_rolls_out_object_and_background_on_both_views() -> None:
    lvlm = StandInLvlm()
    [artefact] = run(Ground(GROUND, lvlm), Frames(9), [request("The Dog", reason=named("dog"))])
    background = "Describe the background scene of the video, excluding any dog."
    assert lvlm.count("answer", "clip") + lvlm.count("answer", "frame") + lvlm.count("answer", "text") == 0
    assert (lvlm.count("rollout", "clip", "the dog."), lvlm.count("rollout", "frame", "the dog.")) == (1, 4)
    assert (lvlm.count("rollout", "clip", background), lvlm.count("rollout", "frame", background)) == (1, 4)
    assert len(lvlm.calls) == 10
    assert {name: (array.shape, array.dtype) for name, array in artefact.arrays.items()} == {
        "object_clip": ((2, 3, 4), np.float32),
        "object_frame": ((4, 6, 8), np.float32),
        "background_clip": ((2, 3, 4), np.float32),
        "background_frame": ((4, 6, 8), np.float32),
    }
    assert artefact.meta["object_name"] == "dog"
    assert artefact.meta["keyframes"] == [0, 2, 5, 8]
    # Frame maps are in keyframe order: the stand-in's map of keyframe 5 is the third.
    alone = lvlm.rollout(lvlm.frame(Frames(9)[5], artefact.meta["prompts"]["object"], (2, 3, 4)), GROUND.rollout)
    np.testing.assert_array_equal(artefact.arrays["object_frame"][2], alone[0])


def test_without_a_name_in_the_prompt_ground_needs_no_reason() -> None:
    for version in ("v1", "v3"):
        lvlm = StandInLvlm()
        stage = Ground(replace(GROUND, background_prompt=version), lvlm)
        [artefact] = run(stage, Frames(9), [request("The Dog")])
        assert artefact.meta["object_name"] is None
        assert lvlm.count("rollout", "clip") == 2


def test_no_background_call_leaves_object_maps_only() -> None:
    lvlm = StandInLvlm()
    [ground] = run(Ground(replace(GROUND, background_prompt="none"), lvlm), Frames(9), [request("The Dog")])
    assert sorted(ground.arrays) == ["object_clip", "object_frame"]
    assert len(lvlm.calls) == 5
    [segment] = run(
        otsu_masks(fusion.FusionSettings(subtract_background=False)), Frames(9), [request("The Dog", ground=ground)]
    )
    assert segment.arrays["fused"].max() == 1


def test_equal_background_prompts_of_a_video_are_rolled_out_once() -> None:
    lvlm = StandInLvlm()
    requests = [request("the dog", reason=named("dog")), request("it barks", reason=named("dog"))]
    first, second = run(Ground(GROUND, lvlm), Frames(9), requests)
    assert lvlm.count("rollout", "clip") == 3
    np.testing.assert_array_equal(first.arrays["background_frame"], second.arrays["background_frame"])


@pytest.mark.parametrize("stage", ["reason", "ground"])
def test_grouping_changes_no_byte(stage: str) -> None:
    def build() -> Stage:
        return Naming(REASON, StandInLvlm()) if stage == "reason" else Ground(GROUND, StandInLvlm())

    requests = [request(text, reason=named(text[:3])) for text in ("dog runs", "dog sits", "cat runs")]
    together = run(build(), Frames(9), requests)
    apart = [run(build(), Frames(9), [one])[0] for one in requests]
    assert [to_bytes(a) for a in together] == [to_bytes(a) for a in apart]


@pytest.mark.parametrize("stage", ["reason", "ground"])
def test_a_bad_expression_leaves_the_others_alone(stage: str) -> None:
    built: Stage = Naming(REASON, StandInLvlm()) if stage == "reason" else Ground(GROUND, StandInLvlm())
    outcomes = run(built, Frames(9), [request(text, reason=named("x")) for text in ("dog", "  ", "cat")])
    assert [type(outcome) for outcome in outcomes] == [Artefact, SampleError, Artefact]
    assert "expression is empty" in str(outcomes[1])


@pytest.mark.parametrize("stage", ["reason", "ground"])
def test_an_unreadable_keyframe_fails_every_expression_by_name(stage: str) -> None:
    built: Stage = Naming(REASON, StandInLvlm()) if stage == "reason" else Ground(GROUND, StandInLvlm())
    outcomes = run(built, Frames(9, broken=5), [request(text, reason=named("x")) for text in ("dog", "cat")])
    assert [str(outcome) for outcome in outcomes] == ["00005.jpg cannot be read"] * 2
    # A frame that is no keyframe is never decoded.
    assert isinstance(run(built, Frames(9, broken=4), [request("dog", reason=named("x"))])[0], Artefact)


def test_layers_that_the_model_lacks_stop_the_stage() -> None:
    with pytest.raises(PrerequisiteError, match="start_layer"):
        Ground(replace(GROUND, rollout=RolloutSpec(start_layer=4)), StandInLvlm())


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_short_videos_are_seen_whole(frames: int) -> None:
    lvlm = StandInLvlm()
    [reason] = run(Naming(REASON, lvlm), Frames(frames), [request("the dog")])
    [ground] = run(Ground(GROUND, lvlm), Frames(frames), [request("the dog", reason=reason)])
    [segment] = run(otsu_masks(), Frames(frames), [request("the dog", ground=ground)])
    track = mask_track(segment)
    assert track.frames == tuple(range(frames)) == tuple(segment.meta["keyframes"])
    assert segment.arrays["fused"].shape == (frames, 6, 8)


def otsu_masks(how: fusion.FusionSettings = fusion.FusionSettings()) -> ThresholdMasks:  # noqa: B008
    settings = SegmentSettings(RolloutMapSettings(how), ThresholdSettings("otsu"))
    return ThresholdMasks("otsu", rollout_reader(settings))


def ground_artefact(object_frame: Any, keyframes: Sequence[int]) -> Artefact:
    """Maps with nothing but a frame map; the other three are 0."""
    frame = np.asarray(object_frame, dtype=np.float32)
    clip = np.zeros((len(frame), 2, 2), dtype=np.float32)
    arrays = {
        "object_clip": clip,
        "object_frame": frame,
        "background_clip": clip,
        "background_frame": np.zeros_like(frame),
    }
    return Artefact(meta={"keyframes": list(keyframes), "object_name": None}, arrays=arrays)


class StandInSegmenter:
    """A point selects the half of the frame it lies in; masks stay where they are."""

    def __init__(self, video: Frames) -> None:
        self.video = video

    @property
    def size(self) -> tuple[int, int]:
        return self.video.size

    def __len__(self) -> int:
        return len(self.video)

    def masks_from_points(self, frame: int, points_N2: Any) -> PointMasks:
        masks = np.zeros((len(points_N2), HEIGHT, WIDTH), dtype=bool)
        for mask, (x, _) in zip(masks, points_N2, strict=True):
            mask[:, : WIDTH // 2] = x < 0.5
            mask[:, WIDTH // 2 :] = x >= 0.5
        return PointMasks(PackedMasks.pack(masks), np.full(len(masks), 0.9, dtype=np.float32))

    def propagate(self, frames: Sequence[int], prompt: Prompt) -> Iterator[TrackedMasks]:
        assert isinstance(prompt, Masks)
        masks_NHW = prompt.mask_NHW
        for position in (*range(prompt.position, len(frames)), *range(prompt.position)):
            yield TrackedMasks(position, slice(0, len(masks_NHW)), masks_NHW)


def sam_masks(**changes: Any) -> PromptedMasks:
    masks = PromptSettings(sam2=Sam2Settings("stand-in", "0"), **changes)
    settings = SegmentSettings(RolloutMapSettings(fusion.FusionSettings()), masks)
    return PromptedMasks(masks, rollout_reader(settings), StandInSegmenter)


def one_hot(keyframe: int, column: int) -> Any:
    maps = np.zeros((3, 7, 12), dtype=np.float32)
    maps[keyframe, 3, column] = 1e-3
    return maps


def test_points_become_masks_on_every_frame() -> None:
    stage = sam_masks()
    ground = ground_artefact(one_hot(1, 9), [0, 3, 7])
    [artefact] = run(stage, Frames(8), [request("x", ground=ground)])
    track = mask_track(artefact)
    assert track.frames == tuple(range(8))
    right = np.zeros((HEIGHT, WIDTH), dtype=bool)
    right[:, WIDTH // 2 :] = True
    assert all((decode(counts, HEIGHT, WIDTH) == right).all() for counts in track.rles)
    assert artefact.meta["points"] == 1
    [tracklet] = artefact.meta["tracklets"]
    assert tracklet["frame"] == 3
    assert tracklet["point"] == pytest.approx([9.5 / 12, 3.5 / 7])
    assert artefact.arrays["fused"].shape == (3, 7, 12)
    np.testing.assert_allclose(artefact.arrays["keypoints"][0], [3, 3.5 / 7, 9.5 / 12, 1.0], rtol=1e-6)


def test_a_lower_tau_point_prompts_more_cells() -> None:
    ground = ground_artefact(one_hot(1, 9), [0, 3, 7])
    [low] = run(sam_masks(tau_point=0.5), Frames(8), [request("x", ground=ground)])
    fused = low.arrays["fused"]
    assert low.meta["points"] == (fused >= 0.5).sum() > 1


def test_a_map_without_any_point_gives_empty_masks() -> None:
    ground = ground_artefact(np.zeros((3, 7, 12)), [0, 3, 7])
    [artefact] = run(sam_masks(), Frames(8), [request("x", ground=ground)])
    assert mask_track(artefact).rles == (None,) * 8
    assert artefact.meta["points"] == 0
    assert "no point" in str(artefact.meta["empty_because"])


def test_attention_masks_exist_on_keyframes_only() -> None:
    ground = ground_artefact(one_hot(1, 9), [0, 3, 7])
    [artefact] = run(otsu_masks(), Frames(8), [request("x", ground=ground)])
    track = mask_track(artefact)
    assert track.frames == (0, 3, 7)
    assert track.rles[0] is None and track.rles[2] is None
    expected = fusion.attention_masks(artefact.arrays["fused"], (HEIGHT, WIDTH))[1]
    np.testing.assert_array_equal(decode(track.rles[1], HEIGHT, WIDTH), expected)
    rows, columns = np.nonzero(expected)
    assert abs(rows.mean() / HEIGHT - 0.5) < 0.05 and abs(columns.mean() / WIDTH - 9.5 / 12) < 0.05
