"""The baselines through the engine, on shapes: calibrated Loc-Head and TAM on small random models, scored."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from rich.console import Console
from toy.tiny_sam2 import write_small as write_small_sam2
from typer.testing import CliRunner

from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.pipeline.engine import Run, media_index
from rvosbench.harness.pipeline.plan import make_plan, memory_lines
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.writer import RunFolder
from rvosbench.methods.lochead.command import calibrate

RECIPES = Path(__file__).parents[3] / "recipes"
FRAMES, EXPRESSIONS = 4, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of shapes, its first frames and expressions."""
    root = tmp_path_factory.mktemp("run")
    shapes = write_shapes(root / "data", layout="shapes", split="valid", seed=3, videos=1) / "valid"
    meta, truth = (json.loads((shapes / name).read_text()) for name in ("meta_expressions.json", "mask_dict.json"))
    for video in meta["videos"].values():
        video["frames"] = video["frames"][:FRAMES]
        video["expressions"] = dict(list(video["expressions"].items())[:EXPRESSIONS])
    (shapes / "meta_expressions.json").write_text(json.dumps(meta))
    (shapes / "mask_dict.json").write_text(json.dumps({name: track[:FRAMES] for name, track in truth.items()}))
    write_small_sam2(root / "sam2", seed=0)
    return root


def recipe_of(folder: Path, lvlms: list[str], methods: list[dict[str, Any]]) -> Recipe:
    return Recipe.checked(
        {
            "name": "baselines",
            "data_root": str(folder / "data"),
            "runs": str(folder / "runs"),
            "datasets": [{"name": "shapes", "split": "valid"}],
            "lvlms": lvlms,
            "methods": methods,
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
        }
    )


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    lvlm = {"dtype": "float32", "device": "cpu", "max_new_tokens": 3, "clip_max_tokens": 24}
    return {"keyframes": 2, "lvlm": lvlm, **changes}


def test_calibrated_heads_and_tam_on_two_families(folder: Path, checkpoints: dict[str, str]) -> None:
    lvlms = [checkpoints["qwen2_5_vl"], checkpoints["internvl"]]
    heads = str(folder / "heads")
    sam2 = {"checkpoint": str(folder / "sam2"), "device": "cpu"}
    methods = [
        {"method": "lochead", "settings": settings(folder, heads=heads, sam2=sam2, tau_point=0.95)},
        {"method": "lochead", "label": "attention", "settings": settings(folder, heads=heads, masks="attention")},
        {"method": "tam", "settings": settings(folder)},
        {"method": "tam", "label": "released", "settings": settings(folder, version="released")},
        {"method": "tam", "label": "mean", "settings": settings(folder, token="mean")},
    ]
    recipe = recipe_of(folder, lvlms, methods)
    with pytest.raises(PrerequisiteError, match="There are no heads at"):
        make_plan(recipe, media_index(recipe))

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(calibrate)
    for number, lvlm in enumerate(lvlms):
        arguments = ["--lvlm", lvlm, "--dataset", "shapes", "--data-root", str(folder / "data"), "--trials", "1"]
        sizes = ["--set", "lvlm.dtype=float32", "--set", "lvlm.device=cpu", "--set", "lvlm.clip_max_tokens=24"]
        result = CliRunner().invoke(app, [*arguments, *sizes, "--out", f"{heads}/{number}.json"])
        assert result.exit_code == 0, result.output

    output = io.StringIO()
    run_folder = RunFolder.create(recipe)
    assert Run(recipe, run_folder, Console(file=output, width=200)).execute() == 0, output.getvalue()
    samples = pd.read_parquet(run_folder.path / "samples.parquet")
    assert len(samples) == 2 * len(methods) * EXPRESSIONS and (samples["status"] == "scored").all()
    keys = {name: of.set_index(["lvlm", "expression"]) for name, of in samples.groupby("method")}
    # One reading of the heads for both kinds of masks, one generation for both tokens; the versions differ.
    assert keys["Loc-Head"]["key_ground"].equals(keys["attention"]["key_ground"])
    assert keys["TAM"]["key_ground"].equals(keys["mean"]["key_ground"])
    assert (keys["TAM"]["key_ground"] != keys["released"]["key_ground"]).all()
    stages = {name: frame["key_segment"].nunique() for name, frame in keys.items()}
    assert set(stages.values()) == {2 * EXPRESSIONS}
    assert len(memory_lines(recipe)) == 4


@pytest.mark.parametrize("name", ["lochead", "tam"])
def test_the_recipe_s_entries_are_different_variants(folder: Path, checkpoints: dict[str, str], name: str) -> None:
    """Every entry plans on a small model, whose heads stand in for those its folder would hold."""
    entries = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["methods"]
    methods = []
    for number, entry in enumerate(entries):
        chosen = dict(entry.get("settings", {}))
        if name == "lochead":
            chosen |= {"heads": f"L2H{number % 2}", "sam2": {"checkpoint": str(folder / "sam2")}}
        methods.append({**entry, "label": f"{number}", "lvlms": [checkpoints["qwen2_5_vl"]], "settings": chosen})
    recipe = recipe_of(folder, [], methods)
    planned = make_plan(recipe, media_index(recipe)).samples
    assert len({sample.keys["segment"] for sample in planned}) == len(entries) * EXPRESSIONS
