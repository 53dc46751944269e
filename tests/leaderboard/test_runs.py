"""Run folders are read when they can be trusted, and listed with the reason when they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import StatusCounts, find_runs, read_frames, read_run, read_samples, status_counts


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edits a JSON file as a hand would."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def first_score(folder: Path, **changes: Any) -> None:
    edit(folder / "scores.json", lambda value: value["scores"][0].update(changes))


def test_a_complete_run_is_read(tmp_path: Path, write_run: Any) -> None:
    folder = write_run(tmp_path / "runs" / "example-1")
    (run,) = find_runs(tmp_path / "runs").runs
    assert (run.id, run.status, run.folder) == ("example-1", "finished", folder)
    assert run.info is not None and run.info.seconds == 5400
    assert run.info.device_text == "2 CPU cores, Linux"
    assert run.info.stages["segment"].reused == 1
    assert run.info.dataset_uses[0].digest == "c0ffee" * 10
    assert [score.method for score in run.scores] == ["DecAF", "Loc-Head"]
    decaf = run.scores[0]
    assert pytest.approx((0.9 + 0.5 + 0.25) / 4) == decaf.J and pytest.approx((0.8 + 0.7 + 0.15) / 4) == decaf.F
    assert decaf.counts == StatusCounts(4, 3, 1, 0)
    assert status_counts(run) == StatusCounts(8, 6, 1, 1)
    assert len(read_samples(run)) == 8
    frames = read_frames(run, method="DecAF", video="cows", expression="1")
    assert frames["frame"].tolist() == ["00000", "00001", "00002", "00003"]


def test_a_run_outside_a_checkout_has_no_git_state(tmp_path: Path, write_run: Any) -> None:
    info = read_run(write_run(tmp_path / "r", info={"git": None, "device": {"gpus": ["NVIDIA H200, 141 GiB"]}})).info
    assert info is not None and info.git is None and info.device_text == "NVIDIA H200, 141 GiB"


def test_frames_of_a_method_without_lvlm_are_found(tmp_path: Path, write_run: Any, rows: Any) -> None:
    write_run(tmp_path / "r", samples=[*rows("A", None, {"v/0": (0.5, 0.5)}), *rows("A", "x", {"v/0": (0.1, 0.1)})])
    run = read_run(tmp_path / "r")
    assert read_frames(run, lvlm=None)["J"].unique().tolist() == [0.5]


def test_running_and_interrupted_runs_need_no_scores(tmp_path: Path, write_run: Any) -> None:
    for status in ("running", "interrupted"):
        folder = write_run(tmp_path / status, info={"status": status, "finished": None, "exit_code": None})
        for name in ("scores.json", "samples.parquet", "frames.parquet"):
            (folder / name).unlink()
    listed = find_runs(tmp_path)
    assert {run.status for run in listed.runs} == {"running", "interrupted"} and not listed.broken
    assert all(run.scores == () and status_counts(run).attempted == 0 for run in listed.runs)
    assert read_samples(listed.runs[0]).empty and read_frames(listed.runs[0]).empty


def test_scored_predictions_have_no_run_json(tmp_path: Path, write_run: Any) -> None:
    folder = write_run(tmp_path / "masks")
    (folder / "run.json").unlink()
    (folder / "recipe.yaml").unlink()
    run = read_run(folder)
    assert run.info is None and run.status == "imported" and len(run.scores) == 2


def test_a_row_without_scored_samples_is_null_not_nan(tmp_path: Path, write_run: Any) -> None:
    folder = write_run(tmp_path / "r")
    first_score(folder, J=None, F=None, J_and_F=None, interval=None, notes=["no sample was scored"])
    assert read_run(folder).scores[0].J_and_F is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def samples_without(folder: Path, column: str) -> None:
    table = pd.read_parquet(folder / "samples.parquet").drop(columns=column)
    table.to_parquet(folder / "samples.parquet")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "run.json is missing": (lambda f: (f / "run.json").unlink(), "Half-written: run.json"),
    "run.json is cut off": (lambda f: truncate(f / "run.json"), "run.json: Invalid JSON"),
    "run.json is empty": (lambda f: (f / "run.json").write_bytes(b""), "run.json: Invalid JSON"),
    "run.json is a list": (lambda f: (f / "run.json").write_text("[1]"), "run.json:"),
    "run.json nests without end": (lambda f: (f / "run.json").write_text("[" * 100_000), "run.json:"),
    "run.json has no schema": (lambda f: edit(f / "run.json", lambda v: v.pop("schema")), "schema: Field required"),
    "unknown status": (lambda f: edit(f / "run.json", lambda v: v.update(status="great")), "status: Input should be"),
    "newer run.json": (lambda f: edit(f / "run.json", lambda v: v.update(schema=2)), "schema 2; this version reads up"),
    "newer scores.json": (lambda f: edit(f / "scores.json", lambda v: v.update(schema=9)), "scores.json has schema 9"),
    "scores.json is missing": (lambda f: (f / "scores.json").unlink(), "marked finished but scores.json is missing"),
    "scores.json is cut off": (lambda f: truncate(f / "scores.json"), "scores.json: Invalid JSON"),
    "samples.parquet is missing": (lambda f: (f / "samples.parquet").unlink(), "samples.parquet is missing"),
    "samples.parquet is cut off": (lambda f: truncate(f / "samples.parquet"), "samples.parquet is damaged"),
    "samples.parquet is text": (lambda f: (f / "samples.parquet").write_text("a,b"), "samples.parquet is damaged"),
    "samples.parquet lacks a column": (lambda f: samples_without(f, "status"), "lacks the column status"),
    "recipe.yaml is not YAML": (lambda f: (f / "recipe.yaml").write_text("a: [1"), "recipe.yaml is not valid YAML"),
    "recipe.yaml runs code": (
        lambda f: (f / "recipe.yaml").write_text("a: !!python/object/apply:os.getpid []"),
        "recipe.yaml is not valid YAML",
    ),
    "recipe.yaml is a list": (lambda f: (f / "recipe.yaml").write_text("- 1"), "recipe.yaml holds no mapping"),
    "J above 1": (lambda f: first_score(f, J=41.25), "scores.0.J: Input should be less than or equal to 1"),
    "J below 0": (lambda f: first_score(f, J=-0.1), "scores.0.J: Input should be greater than or equal to 0"),
    "J is NaN": (lambda f: first_score(f, J=float("nan")), "scores.0.J: Input should be a finite number"),
    "extra is infinite": (lambda f: first_score(f, extra={"G": float("inf")}), "scores.0.extra.G: Input should be"),
    "J is text": (lambda f: first_score(f, J="0.4"), "scores.0.J: Input should be a valid number"),
    "J_and_F raised by hand": (lambda f: first_score(f, J_and_F=0.5), "is not the mean of J 0.4125 and F 0.4125"),
    "J without F": (lambda f: first_score(f, F=None), "all numbers or all null"),
    "samples vanish from the counts": (
        lambda f: first_score(f, counts={"attempted": 4, "scored": 3, "failed": 0, "missing": 0}),
        "4 attempted is not scored + failed + missing",
    ),
    "a score of nothing": (
        lambda f: first_score(f, counts={"attempted": 0, "scored": 0, "failed": 0, "missing": 0}),
        "a score without samples",
    ),
    "interval upside down": (
        lambda f: first_score(f, interval={"level": 0.95, "low": 0.5, "high": 0.4}),
        "low end is above its high end",
    ),
    "a row twice": (
        lambda f: edit(f / "scores.json", lambda v: v["scores"].append(v["scores"][0])),
        "scores.2: the same method, dataset, subset and protocol appear twice",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders_are_listed_with_the_reason(case: str, tmp_path: Path, write_run: Any) -> None:
    damage, reason = BROKEN[case]
    damage(write_run(tmp_path / "bad"))
    write_run(tmp_path / "good")
    listed = find_runs(tmp_path)
    assert [run.id for run in listed.runs] == ["good"]
    (broken,) = listed.broken
    assert broken.id == "bad" and reason in broken.reason
    assert "\n" not in broken.reason


def test_reasons_do_not_repeat_the_file(tmp_path: Path, write_run: Any) -> None:
    folder = write_run(tmp_path / "bad")
    first_score(folder, J="<script>alert(1)</script>")
    assert "script" not in find_runs(tmp_path).broken[0].reason


def test_links_out_of_the_runs_folder_are_refused(tmp_path: Path, write_run: Any) -> None:
    secret = tmp_path / "secret.json"
    write_run(tmp_path / "elsewhere" / "run")
    folder = write_run(tmp_path / "runs" / "bad")
    secret.write_text((folder / "scores.json").read_text())
    (folder / "scores.json").unlink()
    (folder / "scores.json").symlink_to(secret)
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    listed = find_runs(tmp_path / "runs")
    assert not listed.runs
    assert [(run.id, run.reason) for run in listed.broken] == [("bad", "scores.json leads outside the runs folder.")]


def test_ids_are_looked_up_and_never_joined(tmp_path: Path, write_run: Any) -> None:
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "other")
    listed = find_runs(tmp_path / "runs")
    assert listed.get("a") is not None
    assert all(listed.get(name) is None for name in ("../other", str(tmp_path / "other"), "a/../a", ""))


def test_artefacts_and_hidden_folders_are_not_searched(tmp_path: Path, write_run: Any) -> None:
    for name in ("artefacts/x", ".trash/x", "mlruns/x"):
        write_run(tmp_path / name)
    write_run(tmp_path / "nested" / "x")
    assert [run.id for run in find_runs(tmp_path).runs] == ["nested/x"]


def test_an_absent_runs_folder_is_empty(tmp_path: Path) -> None:
    listed = find_runs(tmp_path / "nowhere")
    assert listed.runs == () and listed.broken == ()


def test_runs_are_listed_newest_first(tmp_path: Path, write_run: Any) -> None:
    write_run(tmp_path / "a", info={"started": "2026-01-01T00:00:00+00:00"})
    write_run(tmp_path / "b", info={"started": "2026-03-01T00:00:00+00:00"})
    write_run(tmp_path / "c", info={"started": "2026-02-01T00:00:00+00:00"})
    assert [run.id for run in find_runs(tmp_path).runs] == ["b", "c", "a"]


def test_impossible_samples_are_refused_when_read(tmp_path: Path, write_run: Any) -> None:
    for column, value, reason in (("J", 1.5, r"J holds values outside"), ("status", "fine", "status holds values")):
        folder = write_run(tmp_path / column)
        table = pd.read_parquet(folder / "samples.parquet")
        table.loc[0, column] = value
        table.to_parquet(folder / "samples.parquet")
        with pytest.raises(PrerequisiteError, match=reason):
            read_samples(read_run(folder))


def test_a_folder_the_system_refuses_hides_nothing(
    tmp_path: Path, write_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "locked")
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    listed = find_runs(tmp_path)
    assert [run.id for run in listed.runs] == ["good"]
    assert [(run.id, run.reason) for run in listed.broken] == [("locked", "Cannot be read: Permission denied.")]


WRONG_FRAMES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "a count that is text": lambda table: table.assign(n_gt="x"),
    "a count that is missing": lambda table: table.assign(I=[None, *table["I"][1:]]),
    "a negative count": lambda table: table.assign(U=-1),
    "names that are numbers": lambda table: table.assign(video=1.5),
    "names that are lists": lambda table: table.assign(expression=[["x"]] * len(table)),
}


@pytest.mark.parametrize("case", WRONG_FRAMES)
def test_columns_of_other_types_are_refused(case: str, tmp_path: Path, write_run: Any) -> None:
    folder = write_run(tmp_path / "runs" / "one")
    path = folder / "frames.parquet"
    frames = pd.read_parquet(path).assign(I=1, U=2, n_gt=1, n_pred=1, m_gt=1, m_pred=1)
    frames.to_parquet(path, index=False)
    assert len(read_frames(read_run(folder))) == len(frames) > 1
    WRONG_FRAMES[case](frames).to_parquet(path, index=False)
    with pytest.raises(PrerequisiteError, match=r"frames\.parquet"):
        read_frames(read_run(folder))
