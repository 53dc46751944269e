"""Kills, interrupts and worker counts: the same bytes, nothing committed computed twice, no process left behind.

Real processes: the command line runs as a child and is killed from outside. The method waits at a line of its journal
until then, so that no kill comes too late on a busy machine. Most runs join the tests' cluster; those that show what
becomes of a cluster start their own and are marked slow.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clips import write_dataset
from processes import Command, rvosbench, wait_for_lines

VIDEOS = {name: [f"{name} first", f"{name} second"] for name in ("a", "b", "c", "d")}
ARTEFACTS = 3 * sum(len(texts) for texts in VIDEOS.values())
"""ground, segment and score of every sample: texts differ, so no two samples share one."""


OWN_CLUSTER = "own cluster"
IN_PROCESS = "in process"


def write_recipe(folder: Path, *, where: str, workers: int = 2) -> str:
    """A recipe that runs in process, on a cluster of its own, or on the one whose address ``where`` is."""
    pools = {stage: {"workers": workers, "cpus": 0.5} for stage in ("ground", "segment", "score")}
    kind = "inprocess" if where == IN_PROCESS else "ray"
    address = None if where in (IN_PROCESS, OWN_CLUSTER) else where
    settings = {"journal": str(folder / "journal"), "hold": str(folder / "hold")}
    recipe = {
        "name": "trial",
        "data_root": str(folder.parent / "data"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "methods": [{"method": "bright", "settings": settings}],
        "executor": {"kind": kind, "address": address, "pools": pools, "object_store_gb": 0.1},
        "tracking": {"enabled": False},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return "recipe.yaml"


def results(folder: Path) -> dict[str, str]:
    """Digest of every result of a run; seconds, times, places and versions are no results."""
    (run,) = (path for path in (folder / "runs").iterdir() if path.name.startswith("trial-"))
    files = {path.relative_to(folder): path.read_bytes() for path in (folder / "runs/artefacts").rglob("*.npz")}
    files[Path("frames.parquet")] = (run / "frames.parquet").read_bytes()
    scores = json.loads((run / "scores.json").read_text())["scores"]
    files[Path("scores.json")] = json.dumps([{**row, "provenance": None} for row in scores]).encode()
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
    code, _, stderr = rvosbench("run", write_recipe(folder, where=IN_PROCESS), folder=folder)
    assert code == 0, stderr
    found = results(folder)
    assert sum(name.endswith(".npz") for name in found) == ARTEFACTS
    return found


@pytest.fixture(params=[IN_PROCESS, "shared cluster", pytest.param(OWN_CLUSTER, marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest) -> str:
    """In process, an address, or a cluster of the run's own."""
    place: str = request.param
    if place == "shared cluster":
        place = request.getfixturevalue("ray_cluster")
    return place


def folder_name(test: str, where: str) -> str:
    """Without the blanks and colons of places."""
    return f"{test}-{re.sub('[^a-z0-9]', '-', where)}"


def hold_at(folder: Path, lines: int) -> None:
    """From that line of the journal on, computations wait until the hold is released or they are killed."""
    (folder / "hold").write_text(str(lines))


def release(folder: Path) -> None:
    (folder / "hold").unlink()


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    base: Path, uninterrupted: dict[str, str], ray_cluster: str, workers: int
) -> None:
    folder = base / f"workers{workers}"
    code, _, stderr = rvosbench("run", write_recipe(folder, where=ray_cluster, workers=workers), folder=folder)
    assert code == 0, stderr
    assert results(folder) == uninterrupted


@pytest.mark.timeout(2400)
def test_kill_the_driver_again_and_again(base: Path, uninterrupted: dict[str, str], where: str) -> None:
    """SIGKILL in the ground stage and in the segment stage: all committed work stays."""
    folder = base / folder_name("killed", where)
    killed = []
    for lines, place in ((3, where), (7, IN_PROCESS), (12, IN_PROCESS)):
        recipe = write_recipe(folder, where=place)
        hold_at(folder, lines)
        before = committed(folder)
        command = Command("run", recipe, folder=folder)
        wait_for_lines(folder / "journal", lines, command)
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
        assert before.items() <= committed(folder).items(), "a committed artefact was written again"
        killed.append(command)
    if where not in (IN_PROCESS, OWN_CLUSTER):
        require_no_worker_left(folder)
    before = committed(folder)
    assert 0 < len(before) < ARTEFACTS, "the kills came too late to prove anything"
    release(folder)
    code, stdout, stderr = rvosbench("run", write_recipe(folder, where=where, workers=4), folder=folder)
    assert code == 0, stderr
    assert f"{ARTEFACTS - len(before)} computed, {len(before)} reused" in stdout
    assert before.items() <= committed(folder).items()
    assert results(folder) == uninterrupted
    for command in killed:
        # Ray's agents ask a control service that died with the driver for up to a minute before they give up.
        command.require_no_process_left(seconds=500)


def workers_of(folder: Path) -> list[int]:
    """Process ids of the workers, in the order of the journal's lines."""
    return [int(line.split("pid=")[1].split()[0]) for line in (folder / "journal").read_text().splitlines()]


def require_no_worker_left(folder: Path, seconds: float = 120.0) -> None:
    """A cluster ends the workers of a driver that died; only then is everything on disk that they will write."""
    until = time.monotonic() + seconds
    while left := [pid for pid in set(workers_of(folder)) if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"workers left behind: {left}"
        time.sleep(0.1)


def test_a_killed_worker_costs_nothing_but_time(base: Path, uninterrupted: dict[str, str], ray_cluster: str) -> None:
    folder = base / "worker"
    recipe = write_recipe(folder, where=ray_cluster)
    hold_at(folder, 2)
    command = Command("run", recipe, folder=folder)
    wait_for_lines(folder / "journal", 2, command)
    os.kill(workers_of(folder)[1], signal.SIGKILL)
    release(folder)
    code, _, stderr = command.finish()
    assert code == 0, stderr
    assert results(folder) == uninterrupted


@pytest.mark.timeout(2400)
def test_ctrl_c_leaves_a_resumable_run_and_no_process(base: Path, uninterrupted: dict[str, str], where: str) -> None:
    folder = base / folder_name("interrupted", where)
    recipe = write_recipe(folder, where=where)
    hold_at(folder, 4)
    command = Command("run", recipe, folder=folder)
    wait_for_lines(folder / "journal", 4, command)
    command.process.send_signal(signal.SIGINT)
    code, stdout, _ = command.finish()
    assert code == 130
    command.require_no_process_left(seconds=120)
    resume = stdout.split("rvosbench run --resume ")[1].split()[0]
    before = committed(folder)
    assert before, "the interrupt came too early to prove anything"
    release(folder)
    code, stdout, stderr = rvosbench("run", "--resume", resume, folder=folder)
    assert code == 0, stderr
    assert f"{ARTEFACTS - len(before)} computed, {len(before)} reused" in stdout
    assert results(folder) == uninterrupted


def test_two_drivers_cannot_share_a_run_folder(base: Path) -> None:
    folder = base / "twice"
    recipe = write_recipe(folder, where=IN_PROCESS)
    hold_at(folder, 1)
    first = Command("run", recipe, folder=folder)
    wait_for_lines(folder / "journal", 1, first)
    code, _, stderr = rvosbench("run", "recipe.yaml", folder=folder)
    first.process.kill()
    first.process.wait()
    assert code == 2
    assert "Another process is working in" in stderr
