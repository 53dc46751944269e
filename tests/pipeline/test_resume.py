"""Kills, interrupts and worker counts: the same bytes, nothing committed computed twice, no process left behind.

Real processes: the command line runs as a child with Ray and is killed from outside.
"""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clips import write_dataset
from processes import Command, rvosbench, wait_for_lines

VIDEOS = {name: [f"{name} first", f"{name} second"] for name in ("a", "b", "c", "d")}
ARTEFACTS = 3 * sum(len(texts) for texts in VIDEOS.values())
"""ground, segment and score of every sample: texts differ, so no two samples share one."""


def write_recipe(folder: Path, *, kind: str = "ray", workers: int = 2, seconds: float = 0.0) -> str:
    pools = {stage: {"workers": workers, "cpus": 0.5} for stage in ("ground", "segment", "score")}
    recipe = {
        "name": "trial",
        "data_root": str(folder.parent / "data"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "methods": [{"method": "bright", "settings": {"seconds": seconds, "journal": str(folder / "journal")}}],
        "executor": {"kind": kind, "pools": pools, "object_store_gb": 0.1},
        "tracking": {"enabled": False},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return "recipe.yaml"


def results(folder: Path) -> dict[str, str]:
    """Digest of every result of a run; seconds, times and versions are no results."""
    (run,) = (path for path in (folder / "runs").iterdir() if path.name.startswith("trial-"))
    files = {path.relative_to(folder): path.read_bytes() for path in (folder / "runs/artefacts").rglob("*.npz")}
    files |= {Path(name): (run / name).read_bytes() for name in ("frames.parquet", "scores.json")}
    samples = pd.read_parquet(run / "samples.parquet")
    samples = samples.drop(columns=[column for column in samples if column.startswith("seconds_")])
    files[Path("samples")] = samples.to_csv().encode()
    return {str(name): hashlib.sha256(content).hexdigest() for name, content in files.items()}


def committed(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every artefact: rewriting one would change them."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "runs/artefacts").rglob("*.npz")
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_dataset(folder / "data", VIDEOS)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(base: Path) -> dict[str, str]:
    folder = base / "reference"
    code, _, stderr = rvosbench("run", write_recipe(folder, kind="inprocess"), folder=folder)
    assert code == 0, stderr
    found = results(folder)
    assert sum(name.endswith(".npz") for name in found) == ARTEFACTS
    return found


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(base: Path, uninterrupted: dict[str, str], workers: int) -> None:
    folder = base / f"workers{workers}"
    code, _, stderr = rvosbench("run", write_recipe(folder, workers=workers), folder=folder)
    assert code == 0, stderr
    assert results(folder) == uninterrupted


def test_kill_the_driver_again_and_again(base: Path, uninterrupted: dict[str, str]) -> None:
    """SIGKILL in the ground stage, in the segment stage, in Ray and in process: all committed work stays."""
    folder = base / "killed"
    killed = []
    for lines, kind in ((3, "ray"), (7, "inprocess"), (12, "inprocess")):
        recipe = write_recipe(folder, kind=kind, workers=2, seconds=0.3)
        before = committed(folder)
        command = Command("run", recipe, folder=folder)
        wait_for_lines(folder / "journal", lines, command)
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
        assert before.items() <= committed(folder).items(), "a committed artefact was written again"
        killed.append(command)
    before = committed(folder)
    assert 0 < len(before) < ARTEFACTS, "the kills came too late to prove anything"
    code, stdout, stderr = rvosbench("run", write_recipe(folder, workers=4, seconds=0.3), folder=folder)
    assert code == 0, stderr
    assert f"{ARTEFACTS - len(before)} computed, {len(before)} reused" in stdout
    assert before.items() <= committed(folder).items()
    assert results(folder) == uninterrupted
    for command in killed:
        # Ray's agents ask a control service that died with the driver for up to a minute before they give up.
        command.require_no_process_left(seconds=120)


def test_a_killed_worker_costs_nothing_but_time(base: Path, uninterrupted: dict[str, str]) -> None:
    folder = base / "worker"
    command = Command("run", write_recipe(folder, workers=2, seconds=0.4), folder=folder)
    wait_for_lines(folder / "journal", 2, command)
    workers = [pid for pid, line in command.tree().items() if "ray::WorkerProcess" in line]
    os.kill(workers[0], signal.SIGKILL)
    code, _, stderr = command.finish()
    assert code == 0, stderr
    assert results(folder) == uninterrupted


def test_ctrl_c_leaves_a_resumable_run_and_no_process(base: Path, uninterrupted: dict[str, str]) -> None:
    folder = base / "interrupted"
    command = Command("run", write_recipe(folder, workers=2, seconds=0.4), folder=folder)
    wait_for_lines(folder / "journal", 3, command)
    command.process.send_signal(signal.SIGINT)
    code, stdout, _ = command.finish()
    assert code == 130
    command.require_no_process_left()
    resume = stdout.split("rvosbench run --resume ")[1].split()[0]
    before = committed(folder)
    assert before, "the interrupt came too early to prove anything"
    code, stdout, stderr = rvosbench("run", "--resume", resume, folder=folder)
    assert code == 0, stderr
    assert f"{ARTEFACTS - len(before)} computed, {len(before)} reused" in stdout
    assert results(folder) == uninterrupted


def test_two_drivers_cannot_share_a_run_folder(base: Path) -> None:
    folder = base / "twice"
    first = Command("run", write_recipe(folder, kind="inprocess", seconds=1.0), folder=folder)
    wait_for_lines(folder / "journal", 1, first)
    code, _, stderr = rvosbench("run", "recipe.yaml", folder=folder)
    first.process.kill()
    first.process.wait()
    assert code == 2
    assert "Another process is working in" in stderr
