"""Comparing two runs from their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import Run, read_run
from rvosbench.harness.scoring.compare import compare
from rvosbench.harness.scoring.report import comparison_lines
from rvosbench.harness.scoring.results import SampleResult, ScoredDataset, write_tables
from rvosbench.harness.scoring.score import score_predictions

from .builders import NOTHING, Clip, Entry, revos, square, write_predictions

A, B = square(2, 2), square(5, 8)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    entries = {"0": Entry(("x",), 0), "1": Entry(("x",), 1), "2": Entry((), 2)}
    clip = Clip({"x": [A, A, A, A]}, entries, 4)
    return revos(tmp_path / "data", {"UVO/a": clip, "UVO/b": clip})


def run(tmp_path: Path, dataset: Dataset, name: str, masks: dict[str, list[object]], protocols: list[str]) -> Run:
    written = {f"{sample.video.name}/{sample.expression.id}": [NOTHING] * 4 for sample in dataset.samples()}
    folder = write_predictions(tmp_path / f"masks/{name}", dataset, {**written, **masks})  # type: ignore[dict-item]
    report = score_predictions(folder, dataset, protocols, out=tmp_path / f"runs/{name}", workers=1)
    assert report.written
    return read_run(tmp_path / f"runs/{name}")


def test_difference_is_that_of_the_protocol(tmp_path: Path, dataset: Dataset) -> None:
    protocols = ["revos/v1", "davis17/semi"]
    first = run(tmp_path, dataset, "First", {"UVO/a/0": [A] * 4, "UVO/b/1": [A] * 4}, protocols)
    second = run(tmp_path, dataset, "Second", {"UVO/a/0": [A] * 4, "UVO/b/0": [A, A, A, NOTHING]}, protocols)
    revos_row, semi_row = compare(first, second)
    assert (revos_row.first.method, revos_row.second.method) == ("First", "Second")
    assert revos_row.first.protocol == "revos/v1"
    assert revos_row.only_in_one == 0 and revos_row.difference is not None
    # Referring: (0 + 3/4)/2 better; reasoning: (0 - 1)/2; the mean of the two.
    assert revos_row.difference.J_and_F == pytest.approx((0.375 - 0.5) / 2)
    assert (revos_row.difference.wins, revos_row.difference.ties, revos_row.difference.losses) == (1, 2, 1)
    # Two videos are too few for an interval, and none is printed.
    assert revos_row.difference.interval is None
    assert not any("[" in line.plain for line in comparison_lines([revos_row]))
    # Under the semi-supervised rule the last frame does not count: expressions without a target are samples as well.
    assert semi_row.difference is not None
    assert semi_row.difference.J_and_F == pytest.approx((0 + 1 + 0 - 1 + 0 + 0) / 6)
    # The difference is that of the two scores.
    assert revos_row.first.J_and_F is not None and revos_row.second.J_and_F is not None
    assert revos_row.difference.J_and_F == pytest.approx(revos_row.second.J_and_F - revos_row.first.J_and_F)


def test_a_run_equals_itself(tmp_path: Path, dataset: Dataset) -> None:
    one = run(tmp_path, dataset, "First", {"UVO/a/0": [A] * 4}, ["revos/v1"])
    [row] = compare(one, one)
    assert row.difference is not None
    assert (row.difference.J_and_F, row.difference.wins, row.difference.losses) == (0.0, 0, 0)


def test_tables_that_do_not_give_their_score_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    good = run(tmp_path, dataset, "Good", {"UVO/a/0": [A] * 4, "UVO/b/0": [A] * 4}, ["revos/v1"])
    frames = good.folder / "frames.parquet"
    table = pd.read_parquet(frames)
    table[table["video"] != "UVO/a"].to_parquet(frames)
    with pytest.raises(PrerequisiteError, match="do not give the score"):
        compare(read_run(good.folder), read_run(good.folder))
    frames.unlink()
    with pytest.raises(PrerequisiteError, match="do not give the score"):
        compare(read_run(good.folder), read_run(good.folder))


@pytest.mark.parametrize("form", ["without the column", "with nulls"])
def test_ground_truth_that_the_tables_do_not_record_is_said(tmp_path: Path, dataset: Dataset, form: str) -> None:
    one = run(tmp_path, dataset, "One", {"UVO/a/0": [A] * 4}, ["revos/v1"])
    [row] = compare(one, one)
    assert row.unknown_ground_truth == 0 and len(list(comparison_lines([row]))) == 2
    path = one.folder / "samples.parquet"
    samples = pd.read_parquet(path)
    if form == "with nulls":
        samples["digest_ground_truth"] = None
    else:
        samples = samples.drop(columns="digest_ground_truth")
    samples.to_parquet(path)
    [row] = compare(one, read_run(one.folder))
    assert row.difference is not None and row.unknown_ground_truth == 6
    assert any("ground truth" in line.plain for line in comparison_lines([row]))


def test_failed_samples_lose(tmp_path: Path, dataset: Dataset) -> None:
    good = run(tmp_path, dataset, "Good", {"UVO/a/0": [A] * 4, "UVO/b/0": [A] * 4}, ["revos/v1"])
    results = [SampleResult("Bad", None, sample, "failed", error="no") for sample in dataset.samples()]
    write_tables(tmp_path / "runs/Bad", results, [ScoredDataset(dataset, ("revos/v1",))])
    [row] = compare(good, read_run(tmp_path / "runs/Bad"))
    assert row.difference is not None
    assert row.difference.J_and_F == pytest.approx((-1 + 0) / 2)


def test_methods_of_one_name_meet_and_nothing_is_made_up(tmp_path: Path, dataset: Dataset) -> None:
    results = [SampleResult(name, "L", sample, "failed") for name in ("M", "N") for sample in dataset.samples()]
    scored = ScoredDataset(dataset, ("revos/v1", "refdavis17/anno4"))
    write_tables(tmp_path / "runs/Both", results, [scored])
    both = read_run(tmp_path / "runs/Both")
    rows = compare(both, both)
    names = [(row.first.method, row.second.method) for row in rows if row.first.protocol == "revos/v1"]
    assert names == [("M", "M"), ("N", "N")]
    assert all(row.difference is None for row in rows if row.first.protocol == "refdavis17/anno4")
    [crossed] = [
        row for row in compare(both, both, first_label="M", second_label="N") if row.first.protocol == "revos/v1"
    ]
    assert (crossed.first.method, crossed.second.method) == ("M", "N")
    other = run(tmp_path, dataset, "Other", {}, ["mevis-v1/valid_u"])
    with pytest.raises(PrerequisiteError, match="in common"):
        compare(both, other)


def test_ends_that_the_tables_do_not_know_are_not_guessed(tmp_path: Path, dataset: Dataset) -> None:
    counts_T6 = np.array([(9, 9, 12, 12, 12, 12)] * 2)
    results = [
        SampleResult("M", None, sample, "scored", ("00000", "00002"), counts_T6, evaluated="keyframes")
        for sample in dataset.samples()
    ]
    scored = ScoredDataset(dataset, ("revos/v1", "davis17/semi"))
    write_tables(tmp_path / "runs/Keyframes", results, [scored])
    one = read_run(tmp_path / "runs/Keyframes")
    paired = {row.first.protocol: row.difference is not None for row in compare(one, one)}
    assert paired == {"revos/v1@keyframes": True, "davis17/semi@keyframes": False}
