"""DecAF's whole pipeline against its authors' released code, run on the same small checkpoints and clips.

The sample pack says how the reference was run. Identifiers, answers, suppression, tracklets and the selection are
equal, maps to 5e-6 of their maximum, and the final masks to the pixel.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.types import Video
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.stages import Request
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.reason.expression_prompts import choice_prompt
from rvosbench.methods.segment import from_map, from_points
from rvosbench.methods.segment.from_points import Tracklet
from rvosbench.methods.segment.nms import Suppression

MAP_TOLERANCE = 5e-6
"""Of a map's maximum."""


@dataclass(frozen=True)
class Reference:
    """What the released code gave for one model on one video."""

    model: str
    checkpoint: str
    settings: Mapping[str, Any]
    """Of our method: the released code's way wherever a setting offers another."""
    samples: Mapping[str, Any]
    """By ``video/expression``, the discrete results."""
    arrays: Mapping[str, NDArray[Any]]
    """By ``video/expression/name``."""
    video: Video

    def array(self, sample: str, name: str) -> NDArray[Any]:
        return self.arrays[f"{sample}/{name}"]


MODELS = ("qwen2_5_vl", "qwen2_vl", "internvl")
VIDEOS = ("valid-0000", "valid-0001", "valid-0002")
SHORT = "valid-0002"


def cases() -> list[Any]:
    """Every model on the short video with the prefix shared, as by default; the longer ones as released, slow."""
    found = []
    for model in MODELS:
        found += [
            pytest.param((model, video, "shared" if video == SHORT else "separate"), id=f"{model}-{video}", marks=marks)
            for video in VIDEOS
            for marks in [() if video == SHORT else (pytest.mark.slow,)]
        ]
    return found


@pytest.fixture(params=cases())
def reference(request: pytest.FixtureRequest, samples: Path, tmp_path: Path) -> Reference:
    folder = samples / "golden" / "decaf_end_to_end"
    if not folder.is_dir():
        pytest.skip(f"the sample pack has no {folder.name}")
    with tarfile.open(folder / "root_syn.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    model, name, prefix = request.param
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{model}_syn.npz") as arrays:
        held = {key: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    [video] = [one for one in open_dataset("ref_davis17", tmp_path / "syn", "valid").videos if one.name == name]
    run = expected["runs"][f"{model}_syn"]
    assert list(video.frames) == run["videos"][name]
    settings = {
        "keyframes": run["keyframes"],
        "rollout": {"start_layer": expected["start_layer"]},
        "prefix": prefix,
        "nms_deletion": "by_any",
        "tau_point": expected["tau_point"],
        "tau_track": expected["tau_track"],
        "lvlm": {"dtype": "float32", "device": "cpu"},
        # Objects one by one: a batch may move a pixel by rounding.
        "sam2": {"checkpoint": str(folder / "checkpoints" / "sam2"), "device": "cpu", "object_batch": 1},
    }
    if run["clip_max_tokens"] is not None:
        settings["lvlm"]["clip_max_tokens"] = run["clip_max_tokens"]
    samples_of_video = {key: one for key, one in run["expressions"].items() if key.startswith(f"{name}/")}
    return Reference(model, str(folder / "checkpoints" / model), settings, samples_of_video, held, video)


def test_the_pipeline_repeats_the_released_code(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    method = load_method("decaf")
    specs = method.stages(method_settings(method.settings_type, reference.settings, "decaf"), reference.checkpoint)
    assert [spec.name for spec in specs] == ["reason", "ground", "segment"]
    suppressions: list[tuple[NDArray[np.float32], Suppression]] = []
    made: list[list[Tracklet]] = []
    _record(monkeypatch, suppressions, made)
    stages = {spec.name: spec.build() for spec in specs}
    lvlm = load_lvlm(specs[1].settings.lvlm)  # type: ignore[attr-defined]
    frames = DecodedFrames(reference.video)
    texts = {expression.id: expression for expression in reference.video.expressions}
    for sample, expected in reference.samples.items():
        expression = texts[sample.partition("/")[2]]
        assert expression.text == expected["text"]
        suppressions.clear()
        made.clear()
        done: dict[str, Artefact] = {}
        for spec in specs:
            inputs = Request(expression, {stage: done[stage] for stage in spec.consumes})
            [(_, outcome)] = stages[spec.name].run(frames, [inputs])
            assert isinstance(outcome, Artefact), outcome
            done[spec.name] = outcome
        _compare_reason(reference, sample, expected, done["reason"], lvlm)
        _compare_ground(reference, sample, expected, done["ground"], lvlm, frames)
        _compare_tracklets(reference, sample, expected, suppressions, made[-1])
        _compare_segment(reference, sample, expected, done["segment"])
    assert reference.samples.keys() == {key.rpartition("/")[0] for key in reference.arrays}


def _record(
    monkeypatch: pytest.MonkeyPatch,
    suppressions: list[tuple[NDArray[np.float32], Suppression]],
    made: list[list[Tracklet]],
) -> None:
    suppress, track = from_points.suppress, from_points.tracklets_from_points

    def suppressed(masks: Any, scores_N: NDArray[np.float32], *rest: Any, **how: Any) -> Suppression:
        outcome = suppress(masks, scores_N, *rest, **how)
        suppressions.append((scores_N, outcome))
        return outcome

    def tracked(*arguments: Any, **how: Any) -> list[Tracklet]:
        made.append(track(*arguments, **how))
        return made[-1]

    monkeypatch.setattr(from_points, "suppress", suppressed)
    monkeypatch.setattr(from_map, "tracklets_from_points", tracked)


def _ids(prompted: Any) -> list[int]:
    ids: list[int] = prompted.inputs["input_ids"][0].tolist()
    return ids


def _compare_reason(
    reference: Reference, sample: str, expected: Mapping[str, Any], reason: Artefact, lvlm: Lvlm
) -> None:
    assert reason.meta["keyframes"] == expected["key_frame_indices"], sample
    assert reason.meta["candidates"] == expected["answers"], sample
    choice = lvlm.text(choice_prompt("v0", expected["text"], expected["answers"]))
    assert _ids(choice) == reference.array(sample, "ids_choice").tolist(), sample


def _compare_ground(
    reference: Reference,
    sample: str,
    expected: Mapping[str, Any],
    ground: Artefact,
    lvlm: Lvlm,
    frames: DecodedFrames,
) -> None:
    prompts = ground.meta["prompts"]
    assert isinstance(prompts, dict)
    shown = [frames[index] for index in expected["key_frame_indices"]]
    for role in ("object", "background"):
        clip = lvlm.clip(shown, prompts[role])
        assert _ids(clip) == reference.array(sample, f"ids_{role}_clip").tolist(), (sample, role)
        assert clip.grid is not None
        # Qwen's is given in patches, of which 2 x 2 make a token.
        merge = 1 if reference.model == "internvl" else 2
        slots, height, width = clip.grid
        assert [slots, height * merge, width * merge] == expected["clip_grid"], sample
        frame = lvlm.frame(shown[0], prompts[role], clip.grid)
        assert _ids(frame) == reference.array(sample, f"ids_{role}_frame").tolist(), (sample, role)
        for view in ("clip", "frame"):
            ours = ground.arrays[f"{role}_{view}"]
            theirs = reference.array(sample, f"rollout_{role}_{view}")
            # InternVL's frame calls see tiles, each with the grid of a clip's frame.
            tile = (height, width) if reference.model == "internvl" and view == "frame" else None
            _close(ours, _on_grid(theirs, ours.shape, tile), f"{sample} {role} {view}")


def _on_grid(tokens: NDArray[Any], shape: tuple[int, ...], tile: tuple[int, int] | None) -> NDArray[Any]:
    """Tokens in sequence order on a (t, h, w) grid; with ``tile`` (rows, columns) they come tile by tile."""
    if tile is None:
        return tokens.reshape(shape)
    slots, height, width = shape
    tiles = tokens.reshape(slots, height // tile[0], width // tile[1], *tile)
    return tiles.swapaxes(2, 3).reshape(shape)


def _close(ours: NDArray[Any], theirs: NDArray[Any], what: str) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=MAP_TOLERANCE * float(theirs.max()), err_msg=what)


def _compare_tracklets(
    reference: Reference,
    sample: str,
    expected: Mapping[str, Any],
    suppressions: Sequence[tuple[NDArray[np.float32], Suppression]],
    tracklets: Sequence[Tracklet],
) -> None:
    assert [len(scores_N) for scores_N, _ in suppressions] == reference.array(sample, "nms_counts").tolist(), sample
    scores = np.concatenate([scores_N for scores_N, _ in suppressions])
    np.testing.assert_allclose(scores, reference.array(sample, "nms_scores"), rtol=0, atol=1e-5, err_msg=sample)
    assert [list(one.keep) for _, one in suppressions] == expected["nms_keep"], sample
    assert [list(one.delete_previous) for _, one in suppressions] == expected["nms_delete"], sample
    assert [one.keyframe for one in tracklets] == [keyframe for keyframe, _ in expected["tracklets"]], sample
    scores = np.array([one.score for one in tracklets])
    np.testing.assert_allclose(scores, [score for _, score in expected["tracklets"]], rtol=0, atol=1e-5, err_msg=sample)
    masks = np.stack([one.masks.unpack() for one in tracklets])
    assert list(masks.shape[1:]) == expected["tracklet_shape"], sample
    packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
    np.testing.assert_array_equal(packed, reference.array(sample, "tracklet_masks"), err_msg=sample)


def _compare_segment(reference: Reference, sample: str, expected: Mapping[str, Any], segment: Artefact) -> None:
    _close(segment.arrays["fused"], reference.array(sample, "fused"), f"{sample} fused")
    tracklets = segment.meta["tracklets"]
    assert isinstance(tracklets, list)
    consistency = [one["consistency"] for one in tracklets]
    np.testing.assert_allclose(consistency, reference.array(sample, "consistency"), rtol=0, atol=1e-5, err_msg=sample)
    assert [one["frame"] for one in tracklets if one["selected"]] == expected["selected_frames"], sample
    track = mask_track(segment)
    masks = np.stack([decode(rle, track.height, track.width) for rle in track.rles])
    assert list(masks.shape) == expected["final_shape"], sample
    np.testing.assert_array_equal(np.packbits(masks), reference.array(sample, "final_masks"), err_msg=sample)
