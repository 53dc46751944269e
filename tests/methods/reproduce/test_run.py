"""The table on small random models and the bundled world: cells, resume, failures, interrupts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import typer

import rvosbench.harness.pipeline.engine
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import find_runs
from rvosbench.methods.reproduce import steerseg_table
from rvosbench.methods.reproduce.running import plan
from rvosbench.methods.reproduce.world import load_world

from .conftest import WriteWorld

QWEN, ONEVISION = "Qwen2.5VL-7B", "LLaVA-OV-7B"
Rows = dict[tuple[str, str, str, str], dict[str, str]]


def reproduce(world: str, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, Rows]:
    """Exit code, output, and the CSV's rows."""
    with pytest.raises(typer.Exit) as caught:
        steerseg_table(world=world, data_root=None, runs=root / "runs", target=root / "out", dry_run=False)
    with (root / "out" / "steerseg_table.csv").open() as file:
        rows = {(row["method"], row["lvlm"], row["dataset"], row["subset"]): row for row in csv.DictReader(file)}
    assert (root / "out" / "steerseg_table.md").read_text().startswith("# small-table\n")
    return caught.value.exit_code, capsys.readouterr().out, rows


def test_a_table_of_small_models(write_world: WriteWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = write_world()
    code, out, rows = reproduce(world, tmp_path, capsys)
    # Lines on other models are missing.
    assert code == 3
    runs = find_runs(tmp_path / "runs").runs
    assert {run.title for run in runs} == {
        "small-table.decaf.qwen2.5vl-7b.revos",
        "small-table.decaf.llava-ov-7b.revos",
        "small-table.loc-head.qwen2.5vl-7b.revos",
    }
    scores = {run.folder.name: {score.subset: score for score in run.scores} for run in runs}
    for method, lvlm in (("DecAF", QWEN), ("DecAF", ONEVISION), ("Loc-Head", QWEN)):
        for subset in ("all", "referring", "reasoning"):
            row = rows[method, lvlm, "ReVOS", subset]
            score = scores[row["run"]][subset]
            assert (score.method, row["protocol"]) == (method, score.protocol)
            assert score.J_and_F is not None
            assert float(row["reproduced_J_and_F"]) == pytest.approx(100 * score.J_and_F, abs=0.006)
            assert row["coverage"] == "1 of 416 videos" and not row["why_not_reproduced"]
            if method == "DecAF":
                expected = 100 * score.J_and_F - float(row["published_J_and_F"])
                assert float(row["difference_J_and_F"]) == pytest.approx(expected, abs=0.006)
            else:
                # Attention masks are on keyframes alone, which is another protocol.
                assert not row["difference_J_and_F"] and "run under revos/v1@keyframes" in row["notes"]
        # The protocol's mean of its two halves.
        halves = [float(rows[method, lvlm, "ReVOS", half]["reproduced_J"]) for half in ("referring", "reasoning")]
        assert float(rows[method, lvlm, "ReVOS", "all"]["reproduced_J"]) == pytest.approx(sum(halves) / 2, abs=0.011)
    missing = rows["DecAF", "InternVL3-8B", "ReVOS", "all"]
    assert missing["why_not_reproduced"] == "The world names no checkpoint for InternVL3-8B."
    assert missing["published_J_and_F"] == "47.4" and not missing["reproduced_J_and_F"]
    assert "The world names no data for ReasonVOS" in rows["DecAF", QWEN, "ReasonVOS", "all"]["why_not_reproduced"]
    assert rows["VISA", "ChatUniVi-7B", "ReVOS", "all"]["why_not_reproduced"].startswith("published only")
    assert rows["Loc-Head", "InternVL3-8B", "ReVOS", "reasoning"]["published_flag"] == "suspect"
    assert "random models" in out and "ReVOS reasoning (revos/v1, revos/v1@keyframes, 1 of 416 videos)" in " ".join(
        out.split()
    )

    # The same command computes nothing again and gives the same table.
    again = reproduce(world, tmp_path, capsys)
    assert (again[0], again[2]) == (code, rows)
    assert again[1].count("Artefacts: 0 computed") == 3
    chosen = load_world(world)
    assert chosen.data_root is not None
    states = [job.state for job in plan(chosen, chosen.data_root, tmp_path / "runs")]
    assert (states.count("done"), states.count("to run")) == (3, 0)


def stand_in(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> list[str]:
    """Runs that end as given instead of running: an exit code or an error. Returns the names of those begun."""
    begun: list[str] = []
    left = list(ends)

    class StandIn:
        def __init__(self, recipe: Any, folder: Any, console: Any) -> None:
            begun.append(recipe.name)

        def execute(self) -> int:
            end = left.pop(0)
            if isinstance(end, BaseException):
                raise end
            return int(end)

    monkeypatch.setattr(rvosbench.harness.pipeline.engine, "Run", StandIn)
    return begun


def test_a_run_that_fails_leaves_the_others_alone(
    write_world: WriteWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [PrerequisiteError(f"The disk is full ({number}).", "Make room.") for number in range(3)]
    begun = stand_in(monkeypatch, *errors)
    code, out, rows = reproduce(write_world(), tmp_path, capsys)
    assert code == 3 and len(begun) == 3
    reasons = {row["why_not_reproduced"] for row in rows.values()}
    assert {f"failed: The disk is full ({number})." for number in range(3)} <= reasons
    assert "Make room." in out


def test_an_interrupt_ends_the_table_and_says_what_was_not_run(
    write_world: WriteWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = stand_in(monkeypatch, 130)
    code, out, rows = reproduce(write_world(), tmp_path, capsys)
    assert code == 130 and len(begun) == 1
    reasons = [row["why_not_reproduced"] for row in rows.values() if row["dataset"] == "ReVOS"]
    assert reasons.count("not finished: interrupted") == 3 and reasons.count("not run: interrupted") == 6
    assert "The same command continues." in out
