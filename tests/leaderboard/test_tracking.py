"""The MLflow mirror: complete, idempotent, quick to give up, and never the reason a run fails."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.mlflow import (
    Mirrored,
    MirrorFailure,
    default_uri,
    flat_params,
    metric_key,
    mirror,
    score_metrics,
    sync,
)
from rvosbench.harness.results.reader import Score, StatusCounts

mlflow = pytest.importorskip("mlflow", reason="the tracking extra is not installed")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory, write_run: Any) -> Path:
    """An initialised, empty store: migrating takes seconds, copying does not."""
    root = tmp_path_factory.mktemp("store")
    mlflow.MlflowClient(tracking_uri=default_uri(root)).search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, migrated: Path) -> Path:
    root = tmp_path / "runs"
    root.mkdir()
    shutil.copy(migrated, root / "mlflow.db")
    return root


def entries(root: Path) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name("rvosbench")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def split_by_parent(found: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    return (
        [entry for entry in found if "mlflow.parentRunId" not in entry.data.tags],
        [entry for entry in found if "mlflow.parentRunId" in entry.data.tags],
    )


def test_a_run_becomes_a_parent_and_a_child_per_method_and_dataset(runs: Path, write_run: Any) -> None:
    folder = write_run(runs / "one")
    outcome = mirror(folder, default_uri(runs))
    assert isinstance(outcome, Mirrored) and outcome.changed, outcome
    (parent,), children = split_by_parent(entries(runs))
    assert parent.info.run_id == outcome.mlflow_run_id and parent.info.status == "FINISHED"
    assert parent.data.metrics == {
        "attempted": 8, "scored": 6, "failed": 1, "missing": 1, "seconds/segment": 12.5,
    }  # fmt: skip
    assert parent.data.params["methods.0.method"] == "decaf"
    assert parent.data.tags["rvosbench.git_commit"] == "feca5ca"
    assert {child.data.params["method"] for child in children} == {"DecAF", "Loc-Head"} and len(children) == 2
    decaf = next(child for child in children if child.data.params["method"] == "DecAF")
    assert decaf.data.tags["mlflow.parentRunId"] == parent.info.run_id
    scores = json.loads((folder / "scores.json").read_text())["scores"][0]
    for name in ("J", "F", "J_and_F"):
        assert decaf.data.metrics[f"refdavis17/expr/all/{name}"] == pytest.approx(scores[name], abs=1e-12)
    counts = {name: decaf.data.metrics[f"refdavis17/expr/all/{name}"] for name in scores["counts"]}
    assert counts == scores["counts"]
    (used,) = decaf.inputs.dataset_inputs
    assert used.dataset.name == "ref_davis17/valid" and ("c0ffee" * 10).startswith(used.dataset.digest)
    assert decaf.data.tags["rvosbench.dataset_digest"] == "c0ffee" * 10


def test_the_files_are_artefacts_beside_the_store(runs: Path, write_run: Any) -> None:
    folder = write_run(runs / "one")
    outcome = mirror(folder, default_uri(runs))
    assert isinstance(outcome, Mirrored), outcome
    kept = runs / "mlruns" / outcome.mlflow_run_id / "artifacts"
    assert {path.name for path in kept.iterdir()} == {"recipe.yaml", "run.json", "scores.json", "samples.parquet"}
    assert (kept / "samples.parquet").read_bytes() == (folder / "samples.parquet").read_bytes()


def test_mirroring_twice_changes_nothing(runs: Path, write_run: Any) -> None:
    write_run(runs / "one")
    write_run(runs / "two")
    first, again = sync(runs, default_uri(runs)), sync(runs, default_uri(runs))
    assert all(isinstance(outcome, Mirrored) and outcome.changed for outcome in first), first
    assert all(isinstance(outcome, Mirrored) and not outcome.changed for outcome in again), again
    parents, children = split_by_parent(entries(runs))
    assert len(parents) == 2 and len(children) == 4


def test_a_resumed_run_replaces_its_entry(runs: Path, write_run: Any, rows: Any) -> None:
    write_run(runs / "one", info={"status": "interrupted", "exit_code": None})
    assert isinstance(mirror(runs / "one", default_uri(runs)), Mirrored)
    resumed = write_run(
        runs / "other",
        samples=rows("DecAF", None, {"cows/0": (1.0, 0.5)}),
        info={"started": "2026-11-21T08:00:00+00:00"},
    )
    for path in resumed.iterdir():
        path.replace(runs / "one" / path.name)
    resumed.rmdir()
    outcome = mirror(runs / "one", default_uri(runs))
    assert isinstance(outcome, Mirrored) and outcome.changed
    (parent,), (child,) = split_by_parent(entries(runs))
    assert parent.info.status == "FINISHED" and parent.data.metrics["attempted"] == 1
    assert child.data.metrics["refdavis17/expr/all/J_and_F"] == pytest.approx(0.75)


def test_copied_folders_and_equal_names_stay_apart(runs: Path, write_run: Any) -> None:
    first, second = write_run(runs / "a" / "one"), write_run(runs / "b" / "one")
    shutil.copytree(first, runs / "copy")
    for folder in (first, second, runs / "copy"):
        assert isinstance(mirror(folder, default_uri(runs)), Mirrored)
    shutil.copytree(first, runs / "copy of a mirrored run")
    assert isinstance(mirror(runs / "copy of a mirrored run", default_uri(runs)), Mirrored)
    parents, _ = split_by_parent(entries(runs))
    assert len(parents) == 4


def test_a_mirror_that_broke_off_is_completed_later(
    runs: Path, write_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(runs / "one")
    log_batch, calls = mlflow.MlflowClient.log_batch, []

    def fails_on_the_last_child(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise ConnectionError("connection lost")
        return log_batch(self, *args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fails_on_the_last_child)
    outcome = mirror(folder, default_uri(runs))
    assert isinstance(outcome, MirrorFailure) and "connection lost" in outcome.reason
    monkeypatch.undo()
    assert isinstance(mirror(folder, default_uri(runs)), Mirrored)
    parents, children = split_by_parent(entries(runs))
    assert len(parents) == 1 and len(children) == 2


def test_a_dead_server_is_given_up_and_reported(tmp_path: Path, write_run: Any) -> None:
    write_run(tmp_path / "one")
    write_run(tmp_path / "two")
    script = (
        "import sys, pathlib; from rvosbench.harness.results.mlflow import sync, MirrorFailure\n"
        "out = sync(pathlib.Path(sys.argv[1]), 'http://user:secret@127.0.0.1:9')\n"
        "assert len(out) == 2 and all(isinstance(o, MirrorFailure) for o in out), out\n"
        "print(out[0].reason); print(out[1].reason)\n"
    )
    # A process of its own: the short time-outs are set when tracking starts, and nothing else may set them.
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["No answer from the tracking server at http://127.0.0.1:9."] * 2
    assert "secret" not in done.stdout + done.stderr


def test_broken_folders_and_broken_stores_are_failures_with_a_reason(runs: Path, write_run: Any) -> None:
    folder = write_run(runs / "one")
    (folder / "run.json").unlink()
    outcome = mirror(folder, default_uri(runs))
    assert isinstance(outcome, MirrorFailure) and outcome.reason == "Half-written: run.json is missing."
    write_run(runs / "two")
    (runs / "mlflow.db").write_bytes(b"this is not a database" * 100)
    outcome = mirror(runs / "two", default_uri(runs))
    assert isinstance(outcome, MirrorFailure) and "database" in outcome.reason
    outcome = mirror(runs / "two", "nonsense://store")
    assert isinstance(outcome, MirrorFailure) and "nonsense" in outcome.reason


def test_two_processes_share_a_fresh_store(tmp_path: Path, write_run: Any) -> None:
    script = (
        "import sys, pathlib; from rvosbench.harness.results.mlflow import mirror, Mirrored, default_uri\n"
        "out = mirror(pathlib.Path(sys.argv[1]), default_uri(pathlib.Path(sys.argv[1]).parent))\n"
        "assert isinstance(out, Mirrored), out\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(write_run(tmp_path / name))], stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=500)
        assert worker.returncode == 0, errors.decode()
    parents, children = split_by_parent(entries(tmp_path))
    assert len(parents) == 2 and len(children) == 4


def test_without_mlflow_the_extra_is_named(tmp_path: Path, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(PrerequisiteError, match=r"needs the package 'mlflow'.*\[tracking\]"):
        mirror(write_run(tmp_path / "one"), default_uri(tmp_path))


def a_score(**changes: Any) -> Score:
    values = {"method": "A", "dataset": "d", "split": "s", "subset": "all", "protocol": "refdavis17/expr"}
    return Score(**{**values, "counts": StatusCounts(1, 1, 0, 0), "J": 0.5, "F": 0.5, "J_and_F": 0.5, **changes})


def test_nan_is_refused_before_it_is_logged() -> None:
    with pytest.raises(ValueError, match="refdavis17/expr/all/J is nan"):
        score_metrics([a_score(J=float("nan"))])


def test_metric_keys_are_legal_and_distinct() -> None:
    metrics = score_metrics([a_score(), a_score(protocol="refdavis17/expr@keyframes"), a_score(subset="no_target")])
    assert "refdavis17/expr_keyframes/all/J_and_F" in metrics and len(metrics) == 3 * 7
    assert metric_key("p&q", "a", "J") == "p_q/a/J"
    with pytest.raises(ValueError, match="two metrics"):
        score_metrics([a_score(protocol="p@k"), a_score(protocol="p&k")])


def test_params_are_flat_and_bounded() -> None:
    assert flat_params({"a": {"b": [1, {"c": None, "d": True}]}, "e": "x"}) == {
        "a.b.0": "1",
        "a.b.1.d": "True",
        "e": "x",
    }
    loop: dict[str, Any] = {"a": 1}
    loop["loop"] = [loop, loop]
    assert len(flat_params(loop)) <= 200
