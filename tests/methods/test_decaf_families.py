"""Every row of the ablation recipe, from frames to masks, on a small random checkpoint of each family."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2

import rvosbench.methods.ground.rollouts
import rvosbench.methods.reason.naming
import rvosbench.methods.segment.from_map
from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.recipes import load_recipe, method_settings
from rvosbench.harness.stages import Request, StageSpec
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.decaf import METHOD
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.segment.from_map import open_sam2

FAMILIES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")
RECIPE = load_recipe(Path(__file__).parents[2] / "recipes" / "decaf_ablations.yaml")
ROWS = {choice.label or "DecAF": choice.settings for choice in RECIPE.methods}
LAYERS = {7: 1, 21: 3}
"""The recipe's start layers of 28, in a model of 4."""
TEXTS = ["the bright square"]
SAME_ROLLOUTS = {
    "DecAF",
    "object only",
    "clip only",
    "frames only",
    "attention masks",
    "object only (attention masks)",
    "tau_point 0.7",
    "tau_point 0.9",
    "tau_track 0.7",
    "tau_track 0.9",
    "released suppression",
}
"""Rows that make other masks of DecAF's own rollouts."""
NO_REASON = {"background v1", "background v3"}

Artefacts = list[Artefact]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        write_small_lvlm(family, root / family, seed=3)
    write_small_sam2(root / "sam2", seed=0)
    return root


def settings_of(row: dict[str, Any], sam2: Path) -> dict[str, Any]:
    """The recipe's row at a size that a CPU runs in a moment."""
    rollout = dict(row.get("rollout", {}))
    if "start_layer" in rollout:
        rollout["start_layer"] = LAYERS[rollout["start_layer"]]
    return {
        **row,
        "keyframes": 2,
        "tau_point": row.get("tau_point", 0.8),
        "rollout": rollout,
        "lvlm": {**row["lvlm"], "dtype": "float32", "device": "cpu", "max_new_tokens": 3, "clip_max_tokens": 24},
        "sam2": {"checkpoint": str(sam2), "device": "cpu"},
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_runs(family: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvosbench.methods.models.lvlm.internvl.MAX_TILES", 6)  # small maps have few points to track
    for module in (rvosbench.methods.ground.rollouts, rvosbench.methods.reason.naming):
        monkeypatch.setattr(module, "load_lvlm", cache(load_lvlm))
    monkeypatch.setattr(rvosbench.methods.segment.from_map, "open_sam2", cache(open_sam2))
    video = clips.write_clip(tmp_path, "squares", TEXTS, frames=3)
    made: dict[tuple[StageSpec, ...], Artefacts] = {}

    def run(specs: tuple[StageSpec, ...]) -> Artefacts:
        """What the last of the stages gives for every expression; equal stages run once, as in a run."""
        if specs not in made:
            spec = specs[-1]
            inputs = {name: run(specs[: [s.name for s in specs].index(name) + 1]) for name in spec.consumes}
            requests = [
                Request(expression, {name: artefacts[index] for name, artefacts in inputs.items()})
                for index, expression in enumerate(video.expressions)
            ]
            outcomes = dict(spec.build().run(DecodedFrames(video), requests))
            assert all(isinstance(outcome, Artefact) for outcome in outcomes.values()), outcomes
            made[specs] = [outcomes[index] for index in range(len(requests))]  # type: ignore[misc]
        return made[specs]

    rollouts: dict[str, Artefacts] = {}
    masks: dict[str, Artefacts] = {}
    for label, row in ROWS.items():
        settings = method_settings(METHOD.settings_type, settings_of(row, small / "sam2"), "decaf")
        specs = METHOD.stages(settings, str(small / family))
        assert [spec.name for spec in specs] == ["reason"] * (label not in NO_REASON) + ["ground", "segment"], label
        rollouts[label], masks[label] = run(specs[:-1]), run(specs)
    for label, artefacts in masks.items():
        require_masks(label, artefacts)
    # No row is another one under a different name. (The name that a choice prompt finds is up to random weights.)
    same = {label for label, artefacts in rollouts.items() if all(map(equal_arrays, artefacts, rollouts["DecAF"]))}
    assert {label for label in same if not label.startswith("choice")} == SAME_ROLLOUTS
    fused = {label: artefacts[0].arrays["fused"] for label, artefacts in masks.items()}
    clip, frames = (rollouts["DecAF"][0].arrays[f"object_{view}"].shape for view in ("clip", "frame"))
    assert fused["clip only"].shape == (2, *clip[1:])
    assert fused["DecAF"].shape == fused["frames only"].shape == frames
    assert fused["one scale"].shape != fused["DecAF"].shape
    assert not np.array_equal(fused["object only"], fused["DecAF"])


def require_masks(label: str, artefacts: Artefacts) -> None:
    for artefact in artefacts:
        fused = artefact.arrays["fused"]
        assert np.isfinite(fused).all() and fused.min() == 0, label
        # Random weights may attend less to every cell when asked for the object: then the contrast is 0 everywhere.
        assert fused.max() == 1 or ("object only" not in label and fused.max() == 0), label
        assert mask_track(artefact).frames == ((0, 2) if "attention masks" in label else (0, 1, 2)), label
        if "attention masks" not in label:
            assert artefact.meta["points"] == (fused >= settings_of(ROWS[label], Path())["tau_point"]).sum(), label


def equal_arrays(one: Artefact, other: Artefact) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items()
    )
