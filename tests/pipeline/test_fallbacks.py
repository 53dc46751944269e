"""A stage that says it took its fallback: counted, shown, and written into every table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from clips import write_dataset
from rich.console import Console

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.pipeline.engine import Run
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.reader import read_run
from rvosbench.harness.results.schema import FallbackUse
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.store.artefacts import ArtefactStore


def execute(folder: Path, texts: dict[str, list[str]]) -> tuple[Path, str, int]:
    write_dataset(folder / "data", texts)
    recipe = Recipe.checked(
        {
            "name": "trial",
            "data_root": str(folder / "data"),
            "runs": str(folder / "runs"),
            "datasets": [{"name": "shapes", "split": "valid"}],
            "methods": [{"method": "bright"}, {"method": "bright", "label": "again"}],
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
        }
    )
    said = io.StringIO()
    run_folder = RunFolder.create(recipe)
    code = Run(recipe, run_folder, Console(file=said, width=200)).execute()
    return run_folder.path, said.getvalue(), code


def test_fallbacks_are_counted_and_shown_wherever_scores_are(tmp_path: Path) -> None:
    run, said, code = execute(tmp_path, {"a": ["one", "shrug two"], "b": ["shrug three"], "c": ["refuse four"]})
    assert code == 3
    assert "Bright: 2 of 3 samples used the fallback of ground." in said, "a failed stage used none"
    assert "again: 2 of 3 samples" in said, "reused artefacts count like computed ones"
    info = read_run(run).info
    assert info is not None
    assert info.fallbacks == tuple(FallbackUse(method, None, "ground", 2, 3) for method in ("Bright", "again"))
    samples = pd.read_parquet(run / "samples.parquet").set_index("text")["fallback"]
    assert samples["shrug two"].tolist() == ["ground: the expression asks for it"] * 2
    assert samples["one"].isna().all() and samples["refuse four"].isna().all()
    scores: list[dict[str, Any]] = json.loads((run / "scores.json").read_text())["scores"]
    assert all("2 of 3 samples used the fallback of ground." in score["notes"] for score in scores)


def test_a_run_without_fallbacks_says_nothing(tmp_path: Path) -> None:
    run, said, code = execute(tmp_path, {"a": ["one"], "b": ["two"]})
    assert code == 0 and "used the fallback" not in said
    info = read_run(run).info
    assert info is not None and info.fallbacks[0] == FallbackUse("Bright", None, "ground", 0, 2)
    assert "used the fallback" not in (run / "scores.json").read_text()


def test_the_values_of_an_artefact_are_read_without_its_arrays(tmp_path: Path) -> None:
    run, _, _ = execute(tmp_path, {"a": ["shrug"]})
    store = ArtefactStore(run.parent / "artefacts")
    (path,) = store.path("ground", "").parents[1].glob("ground/*/*.npz")
    meta = store.read_meta("ground", path.stem)
    assert meta == store.read("ground", path.stem).meta == {"text": "shrug", "fallback": "the expression asks for it"}
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(PrerequisiteError, match="is damaged"):
        store.read_meta("ground", path.stem)
    path.unlink()
    with pytest.raises(PrerequisiteError, match="is missing"):
        store.read_meta("ground", path.stem)
