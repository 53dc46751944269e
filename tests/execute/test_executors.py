"""Both executors: every pending expression is reported once, whatever stages do to their workers."""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from clips import write_clip
from clusters import CPUS, GPUS
from fake_method import BrightSettings

from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.executor import Executor, InProcessExecutor, longest_first
from rvosbench.harness.execute.ray_pool import RayExecutor, _worker_count
from rvosbench.harness.execute.work import PendingExpression, WorkItem
from rvosbench.harness.execute.workers import WorkerProcess
from rvosbench.harness.recipes import ExecutorChoice, Pool
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.code import Code
from rvosbench.harness.store.records import Record


def item_of(video: Video) -> WorkItem:
    return WorkItem(video, tuple(PendingExpression(e, f"{video.name}-{e.id}") for e in video.expressions))


def ground(journal: Path | None = None) -> StageSpec:
    return StageSpec("ground", "fake_method:GroundStage", BrightSettings(journal=str(journal or "")))


def run(executor: Executor, spec: StageSpec, items: list[WorkItem]) -> dict[str, Record]:
    records: list[Record] = []
    try:
        executor.run(spec, items, records.append)
    finally:
        executor.close()
    assert max(Counter(record.key for record in records).values()) == 1, "a record came twice"
    return {record.key: record for record in records}


def choice(**values: object) -> ExecutorChoice:
    pools = {"ground": Pool(workers=2, cpus=0.5)}
    return ExecutorChoice.checked({"pools": pools, "object_store_gb": 0.1, **values})


def test_in_process_records_failures_and_commits_the_rest(tmp_path: Path) -> None:
    video = write_clip(tmp_path, "a", ["fine", "refuse this", "raise here", "also fine"])
    records = run(InProcessExecutor(tmp_path / "store"), ground(), [item_of(video)])
    assert {key: record.status for key, record in records.items()} == {
        "a-0": "done",
        "a-1": "failed",
        "a-2": "failed",
        "a-3": "done",
    }
    assert records["a-1"].error == "the expression asks to be refused"
    assert records["a-1"].detail is None
    assert records["a-2"].error == "RuntimeError: an error nobody foresaw"
    assert records["a-2"].detail is not None and "fake_method.py" in records["a-2"].detail
    store = ArtefactStore(tmp_path / "store")
    assert [store.has("ground", key) for key in sorted(records)] == [True, False, False, True]


def test_a_corrupt_frame_fails_the_samples_of_its_video_by_name(tmp_path: Path) -> None:
    good, bad = write_clip(tmp_path, "good", ["x"]), write_clip(tmp_path, "bad", ["x", "y"])
    bad.frame_paths[2].write_bytes(bad.frame_paths[2].read_bytes()[:200])
    records = run(InProcessExecutor(tmp_path / "store"), ground(), [item_of(bad), item_of(good)])
    assert records["good-0"].status == "done"
    for key in ("bad-0", "bad-1"):
        assert records[key].status == "failed"
        assert str(bad.frame_paths[2]) in str(records[key].error)


def test_longest_first(tmp_path: Path) -> None:
    short = item_of(write_clip(tmp_path, "short", ["x"], frames=2))
    long = item_of(write_clip(tmp_path, "long", ["x"], frames=5))
    many = item_of(write_clip(tmp_path, "many", ["x", "y", "z"], frames=2))
    assert [item.video.name for item in longest_first([short, long, many])] == ["many", "long", "short"]


def test_ray_runs_everything_once_and_gives_the_same_bytes(tmp_path: Path, ray_cluster: str) -> None:
    videos = [write_clip(tmp_path, f"v{i}", ["one", "two"]) for i in range(4)]
    items = [item_of(video) for video in videos]
    run(InProcessExecutor(tmp_path / "here"), ground(), items)
    journal = tmp_path / "journal"
    records = run(RayExecutor(choice(), tmp_path / "there"), ground(journal), items)
    assert len(records) == 8 and all(record.status == "done" for record in records.values())
    assert len(journal.read_text().splitlines()) == 8
    for key in records:
        here, there = (ArtefactStore(tmp_path / name).path("ground", key) for name in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_an_expression_that_kills_workers_cannot_take_its_video_along(tmp_path: Path, ray_cluster: str) -> None:
    video = write_clip(tmp_path, "v", ["one", "die now", "three"])
    journal = tmp_path / "journal"
    executor = RayExecutor(choice(max_attempts=2), tmp_path / "store")
    records = run(executor, ground(journal), [item_of(video), item_of(write_clip(tmp_path, "w", ["x"]))])
    assert {key: record.status for key, record in records.items()} == {
        "v-0": "done",
        "v-1": "failed",
        "v-2": "done",
        "w-0": "done",
    }
    assert records["v-1"].error == "killed its worker 2 times"
    lines = Counter(line.rsplit(" ", 2)[0] for line in journal.read_text().splitlines())
    assert lines["ground v die now"] == 2, "the poison limit"
    assert lines["ground v one"] == 1, "what was committed before the death is not computed again"


def test_a_hung_worker_is_replaced_at_its_deadline(tmp_path: Path, ray_cluster: str) -> None:
    video = write_clip(tmp_path, "v", ["hang", "fine"])
    executor = RayExecutor(choice(max_attempts=2, deadline_seconds=2.0), tmp_path / "store")
    records = run(executor, ground(), [item_of(video)])
    assert records["v-1"].status == "done"
    assert records["v-0"].status == "failed"
    assert records["v-0"].error == "passed the deadline of 2 s 2 times"


def test_a_worker_no_node_can_hold_is_refused_at_once(tmp_path: Path, ray_cluster: str) -> None:
    pools = {"ground": Pool(workers=1, gpus=GPUS + 1)}
    executor = RayExecutor(choice(pools=pools), tmp_path / "store")
    with pytest.raises(PrerequisiteError, match=f"asks for 1 CPU, {GPUS + 1} GPU") as caught:
        run(executor, ground(), [item_of(write_clip(tmp_path, "v", ["x"]))])
    assert "executor.pools.ground" in caught.value.fix


def test_two_workers_share_one_gpu(tmp_path: Path, ray_cluster: str) -> None:
    """The GPU is one that Ray only believes in: what is tested is the scheduling of fractions."""
    pools = {"ground": Pool(workers=2, cpus=0.5, gpus=0.5)}
    items = [item_of(write_clip(tmp_path, f"v{i}", ["x", "y"])) for i in range(3)]
    journal, hold = tmp_path / "journal", tmp_path / "hold"
    hold.write_text("1")

    def release_when_both_work() -> None:
        while not (journal.is_file() and len(journal.read_text().splitlines()) == 2):
            time.sleep(0.05)
        hold.unlink()

    settings = BrightSettings(journal=str(journal), hold=str(hold))
    executor = RayExecutor(choice(pools=pools), tmp_path / "store")
    records: list[Record] = []
    spec = StageSpec("ground", "fake_method:GroundStage", settings)
    threading.Thread(target=release_when_both_work, daemon=True).start()
    executor.run(spec, items, records.append)
    executor.close()
    assert [record.status for record in records] == ["done"] * 6
    lines = [line.split() for line in journal.read_text().splitlines()]
    assert len({line[-1] for line in lines}) == 1, "one GPU"
    assert len({line[-2] for line in lines}) == 2, "two workers on it"


@pytest.mark.parametrize(("cpus", "gpus", "workers"), [(0.5, 0.5, 2 * GPUS), (1.0, 2.0, GPUS // 2), (1.0, 0.0, CPUS)])
def test_auto_is_as_many_workers_as_fit(ray_cluster: str, cpus: float, gpus: float, workers: int) -> None:
    assert _worker_count(Pool(workers="auto", cpus=cpus, gpus=gpus)) == workers


def test_workers_outlive_a_stage_until_one_asks_for_other_resources(tmp_path: Path, ray_cluster: str) -> None:
    pools = {"ground": Pool(workers=1, cpus=0.5), "segment": Pool(workers=1, cpus=0.5), "reason": Pool(workers=1)}
    executor = RayExecutor(choice(pools=pools), tmp_path / "store")
    used: dict[str, str] = {}
    for name in ("ground", "segment", "reason"):
        journal = tmp_path / f"journal of {name}"
        spec = StageSpec(name, "fake_method:GroundStage", BrightSettings(journal=str(journal)))
        executor.run(spec, [item_of(write_clip(tmp_path, name, ["x"]))], lambda record: None)
        used[name] = journal.read_text().split()[-2]
    executor.close()
    assert used["segment"] == used["ground"]
    assert used["reason"] != used["ground"]


def test_a_stage_that_cannot_be_built_stops_the_run_with_its_reason(tmp_path: Path, ray_cluster: str) -> None:
    spec = StageSpec("ground", "fake_method:NoSuchStage", BrightSettings())
    with pytest.raises(PrerequisiteError, match="NoSuchStage"):
        run(RayExecutor(choice(), tmp_path / "store"), spec, [item_of(write_clip(tmp_path, "v", ["x"]))])


def test_a_disk_that_refuses_stops_the_run(tmp_path: Path, ray_cluster: str) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "ground").write_text("a file stands in the way")
    for executor in (InProcessExecutor(tmp_path / "store"), RayExecutor(choice(), tmp_path / "store")):
        with pytest.raises(PrerequisiteError, match="Cannot write"):
            run(executor, ground(), [item_of(write_clip(tmp_path, type(executor).__name__, ["x"]))])


def test_a_machine_with_other_code_or_packages_refuses_to_compute(tmp_path: Path) -> None:
    code = ground().code()
    upgraded = Code(code.sources, {**code.packages, "numpy": "0.1"})
    worker = WorkerProcess(tmp_path / "store")
    assert worker.load(replace(ground(), driver_code=code)) is None
    refused = worker.load(replace(ground(), driver_code=upgraded))
    assert isinstance(refused, PrerequisiteError) and "numpy 0.1 -> " in refused.problem


def test_records_say_where_they_were_computed(tmp_path: Path) -> None:
    records = run(InProcessExecutor(tmp_path / "store"), ground(), [item_of(write_clip(tmp_path, "v", ["x"]))])
    assert str(records["v-0"].worker).startswith(platform.node())
