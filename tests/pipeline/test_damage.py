"""Damaged artefacts are absent ones: named once, computed again, in one run; what was committed keeps its seconds."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pandas as pd
import pytest
from clips import write_clip, write_dataset
from fake_method import BrightSettings
from rich.console import Console

from rvosbench.harness.execute.work import PendingExpression, StageWorker, WorkItem
from rvosbench.harness.pipeline.engine import Run
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.artefacts import DamagedArtefactError


def execute(folder: Path) -> tuple[int, Path, str]:
    recipe = Recipe.checked(
        {
            "name": "trial",
            "data_root": str(folder / "data"),
            "runs": str(folder / "runs"),
            "datasets": [{"name": "shapes", "split": "valid"}],
            "methods": [{"method": "bright"}],
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
        }
    )
    said = io.StringIO()
    run_folder = RunFolder.create(recipe)
    code = Run(recipe, run_folder, Console(file=said, width=400)).execute()
    run_folder.close()
    return code, run_folder.path, said.getvalue()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("stage", ["ground", "segment", "score"])
def test_one_run_finds_names_and_recomputes_all_damage_of_what_it_reads(tmp_path: Path, stage: str) -> None:
    write_dataset(tmp_path / "data", {"a": ["one", "two"], "b": ["three"]})
    execute(tmp_path)
    artefacts = tmp_path / "runs/artefacts"
    intact = {path: path.read_bytes() for path in artefacts.rglob("*.npz")}
    damaged = sorted((artefacts / stage).rglob("*.npz"))[:2]
    flip(damaged[0])
    damaged[1].write_bytes(b"")
    if stage == "ground":  # read by the next stage alone, so that must have something to do
        for path in (artefacts / "segment").rglob("*.npz"):
            path.unlink()
    if stage == "segment":
        for path in (artefacts / "score").rglob("*.npz"):
            path.unlink()
    code, run, said = execute(tmp_path)
    assert code == 0
    for path in damaged:
        assert said.count(str(path)) == 1
    assert {path: path.read_bytes() for path in artefacts.rglob("*.npz")} == intact
    assert list(pd.read_parquet(run / "samples.parquet")["status"]) == ["scored"] * 3


def test_damage_crosses_processes_as_itself(tmp_path: Path) -> None:
    error = pickle.loads(pickle.dumps(DamagedArtefactError(tmp_path / "x.npz", "its checksum differs")))
    assert isinstance(error, DamagedArtefactError) and error.path == tmp_path / "x.npz"


def test_what_was_committed_before_an_unforeseen_error_keeps_its_seconds(tmp_path: Path) -> None:
    video = write_clip(tmp_path, "a", ["one", "two", "raise here", "four"])
    spec = StageSpec("ground", "fake_method:GroundStage", BrightSettings())
    item = WorkItem(video, tuple(PendingExpression(e, f"a-{e.id}") for e in video.expressions))
    records = {record.key: record for record in StageWorker(spec, tmp_path / "store").process(item)}
    assert [records[f"a-{index}"].status for index in range(4)] == ["done", "done", "failed", "done"]
    assert all(record.seconds is not None and record.seconds > 0 for record in records.values())
