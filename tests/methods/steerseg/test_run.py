"""The method and its ablation recipe, planned and run on the bundled benchmark with small random models.

The scores mean nothing; what is computed, what is reused, and what stands in the artefacts does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from rich.console import Console

from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.pipeline.engine import Run, media_index, print_plan
from rvosbench.harness.pipeline.plan import make_plan
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.reader import read_run
from rvosbench.harness.results.schema import FallbackUse
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore
from rvosbench.harness.store.tracks import mask_track
from rvosbench.leaderboard.figure.command import figure

RECIPES = Path(__file__).parents[3] / "recipes"
ABLATIONS = yaml.safe_load((RECIPES / "steerseg_ablations.yaml").read_text())["methods"]
VIDEOS, FRAMES = 2, 4
RUN_ROWS = ("raw", "SP", "CoT", "SP+CoT", "contrast, consistency", "clip only", "w_f 0.0", "from layer 7", "16 tokens",
            "attention masks")  # fmt: skip
"""Of the ablation recipe: one of each kind."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and runs that share one store."""
    root = tmp_path_factory.mktemp("run")
    shapes = write_shapes(root / "data", layout="shapes", split="valid", seed=3, videos=VIDEOS)
    # One expression a video and a few frames: random models need no more, and the recipe has many rows.
    listed, masks = shapes / "valid" / "meta_expressions.json", shapes / "valid" / "mask_dict.json"
    meta, truth = json.loads(listed.read_text()), json.loads(masks.read_text())
    for video in meta["videos"].values():
        video["frames"] = video["frames"][:FRAMES]
        video["expressions"] = dict(list(video["expressions"].items())[:1])
    listed.write_text(json.dumps(meta))
    masks.write_text(json.dumps({name: track[:FRAMES] for name, track in truth.items()}))
    return root


def small(world: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the ablation recipe on the small models, whose rollout starts at a seventh of the layer."""
    settings = dict(entry["settings"])
    if "soft_prompts" in settings:
        tokens = int(settings["soft_prompts"]["folder"].rpartition("/n")[2])
        settings["soft_prompts"] = {"folder": world.prompts[tokens]}
    if "rollout" in settings:
        settings["rollout"] = {"start_layer": settings["rollout"]["start_layer"] // 7}
    return {**entry, "settings": world.settings(**settings)}


def recipe_of(world: Any, folder: Path, methods: list[dict[str, Any]]) -> Recipe:
    return Recipe.checked(
        {
            "name": f"trial{len(methods)}",
            "data_root": str(folder / "data"),
            "runs": str(folder / "runs"),
            "datasets": [{"name": "shapes", "split": "valid"}],
            "lvlms": [world.lvlm],
            "methods": methods,
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
        }
    )


def decaf(world: Any, **changes: Any) -> dict[str, Any]:
    """DecAF with the same settings."""
    settings = {name: world.settings()[name] for name in ("keyframes", "lvlm", "tau_point", "nms_iou", "sam2")}
    return {"method": "decaf", "label": "DecAF", "settings": {**settings, **changes}}


def test_the_ablation_recipe_shares_every_artefact_it_can(world: Any, folder: Path) -> None:
    rows = [small(world, entry) for entry in ABLATIONS]
    recipe = recipe_of(world, folder, [*rows, decaf(world)])
    plan = make_plan(recipe, media_index(recipe))
    keys: dict[str, dict[str, set[str]]] = {}
    for planned in plan.samples:
        for stage, key in planned.keys.items():
            keys.setdefault(stage, {}).setdefault(planned.variant.label, set()).add(key)
    different = {stage: len(set.union(*of_rows.values())) for stage, of_rows in keys.items()}
    # DecAF's names and SteerSeg's attributes; raw and contrast, SP, CoT, SP+CoT, 3 start layers, 3 numbers of tokens.
    assert different == {"reason": 2 * VIDEOS, "ground": 10 * VIDEOS, "segment": 33 * VIDEOS, "score": 33 * VIDEOS}
    assert len(rows) == 33
    assert keys["reason"]["DecAF"] == keys["reason"]["raw"] == keys["reason"]["contrast, consistency"]
    assert keys["ground"]["DecAF"] == keys["ground"]["raw"] == keys["ground"]["contrast"]
    assert keys["segment"]["DecAF"] == keys["segment"]["contrast, consistency"]
    assert keys["ground"]["SP+CoT"] == keys["ground"]["w_f 0.0"] == keys["ground"]["attention masks"]
    assert "SP" not in keys["reason"]
    said = io.StringIO()
    print_plan(recipe, Console(file=said, width=200))
    [layer] = [line.split() for line in said.getvalue().splitlines() if "from layer 21" in line and " ground " in line]
    assert [cell for cell in layer if cell.isdigit()][-4:] == ["2", "2", "0", "2"], "samples, artefacts, there, to do"


@dataclass(frozen=True)
class Ended:
    """A finished run."""

    folder: Path
    said: str
    samples: pd.DataFrame
    stages: Mapping[str, tuple[int, int]]
    """Computed and reused artefacts by stage."""
    fallbacks: tuple[FallbackUse, ...]
    store: ArtefactStore

    def artefacts(self, stage: str, method: str) -> list[Artefact]:
        keys = self.samples.loc[self.samples["method"] == method, f"key_{stage}"]
        return [self.store.read(stage, key) for key in keys]


Execute = Callable[[], Ended]


@pytest.fixture(scope="module")
def execute(world: Any, folder: Path) -> Execute:
    """Runs some rows of the ablation recipe in this process."""

    def run() -> Ended:
        recipe = recipe_of(world, folder, [small(world, entry) for entry in ABLATIONS if entry["label"] in RUN_ROWS])
        said = io.StringIO()
        run_folder = RunFolder.create(recipe)
        code = Run(recipe, run_folder, Console(file=said, width=200)).execute()
        assert code == 0, said.getvalue()
        info = read_run(run_folder.path).info
        assert info is not None
        stages = {name: (time.computed or 0, time.reused or 0) for name, time in info.stages.items()}
        samples = pd.read_parquet(run_folder.path / "samples.parquet")
        store = ArtefactStore(folder / "runs" / "artefacts")
        return Ended(run_folder.path, said.getvalue(), samples, stages, info.fallbacks, store)

    return run


@pytest.fixture(scope="module")
def ended(execute: Execute) -> Ended:
    return execute()


def same_maps(first: Artefact, second: Artefact) -> bool:
    return all(np.array_equal(first.arrays[name], second.arrays[name]) for name in ("object_clip", "object_frame"))


def test_what_did_not_change_is_reused_and_the_count_is_shown(ended: Ended, execute: Execute) -> None:
    rows = len(RUN_ROWS)
    assert (ended.samples["status"] == "scored").all() and len(ended.samples) == rows * VIDEOS
    # Attributes in 7 rows, names in 2; 6 different rollouts.
    assert ended.stages == {
        "reason": (2 * VIDEOS, 7 * VIDEOS),
        "ground": (6 * VIDEOS, 4 * VIDEOS),
        "segment": (rows * VIDEOS, 0),
        "score": (rows * VIDEOS, 0),
    }
    assert f"Artefacts: {28 * VIDEOS} computed, {11 * VIDEOS} reused." in ended.said
    again = execute()
    assert f"Artefacts: 0 computed, {39 * VIDEOS} reused." in again.said
    seconds = [name for name in ended.samples if name.startswith("seconds_")]
    assert again.samples.drop(columns=seconds).equals(ended.samples.drop(columns=seconds))


def test_soft_prompts_move_the_maps_and_attributes_that_are_missing_do_not(ended: Ended) -> None:
    raw, cot, soft, both = (ended.artefacts("ground", name) for name in ("raw", "CoT", "SP", "SP+CoT"))
    for index in range(VIDEOS):
        assert not same_maps(raw[index], soft[index])
        # Four tokens of a random model are no JSON: every sample takes the fallback, DecAF's question.
        assert raw[index].meta["prompts"]["object"] == cot[index].meta["prompts"]["object"]
        assert cot[index].meta["attributes"] == []
        assert same_maps(raw[index], cot[index]) and same_maps(soft[index], both[index])
    used = {use.method: use for use in ended.fallbacks if use.stage == "reason"}
    assert sorted(used) == sorted(set(RUN_ROWS) - {"raw", "contrast, consistency", "SP"})
    assert {(use.used, use.of) for use in used.values()} == {(VIDEOS, VIDEOS)}
    assert f"SP+CoT on lvlm: {VIDEOS} of {VIDEOS} samples used the fallback of reason." in ended.said


def test_masks_cover_every_frame_and_the_winner_has_the_best_score(ended: Ended) -> None:
    chosen_from = []
    for artefact in ended.artefacts("segment", "SP+CoT"):
        assert mask_track(artefact).frames == tuple(range(FRAMES))
        tracklets = artefact.meta["tracklets"]
        for one in tracklets:
            assert one["score"] == pytest.approx(0.3 * one["rho_frame"] + 0.7 * one["rho_clip"], abs=1e-6)
        chosen_from.append(len(tracklets))
        [winner] = [one for one in tracklets if one["selected"]]
        assert winner["score"] == max(one["score"] for one in tracklets)
    assert max(chosen_from) > 1, "there is something to rank"
    for artefact in ended.artefacts("segment", "clip only"):
        assert all("rho_frame" not in one for one in artefact.meta["tracklets"])
    for artefact in ended.artefacts("segment", "attention masks"):
        assert mask_track(artefact).frames == (0, 1, 3), "keyframes only"


@pytest.mark.parametrize("method", ["raw", "contrast, consistency", "SP+CoT", "clip only", "attention masks"])
def test_every_kind_of_row_has_its_figure(ended: Ended, tmp_path: Path, method: str) -> None:
    row = ended.samples[ended.samples["method"] == method].iloc[0]
    target = tmp_path / "figure.png"
    figure(ended.folder, row["video"], row["expression"], target, method=method)
    with Image.open(target) as image:
        assert image.format == "PNG" and min(image.size) >= 800
