"""The tables and the rows of scores.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rvosbench.harness.data.types import Expression, Sample, Video
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.schema import read_scores
from rvosbench.harness.scoring.results import SampleResult, ScoredDataset, write_tables

from .builders import Clip, Entry, hidden, mevis, revos, square

RIGHT, WRONG = (9, 9, 12, 12, 12, 12), (0, 9, 8, 8, 0, 0)


def sample_of(video: str, expression: str, *, dataset: str = "revos", subset: str | None = None) -> Sample:
    frames = ("00000", "00001")
    entry = Expression(expression, "it", ("1",), subset)
    return Sample(Video(dataset, "valid", video, frames, (Path("a"), Path("b")), (entry,)), entry)


def clip(types: dict[str, int] | None = None, expressions: int = 1) -> Clip:
    entries = {str(index): Entry(("x",)) for index in range(expressions)}
    for name, type_id in (types or {}).items():
        entries[name] = Entry((), 2) if type_id == 2 else Entry(("x",), type_id)
    return Clip({"x": [square(2, 2), square(3, 3)]}, entries, 2)


def scored(sample: Sample, *rows: tuple[int, ...], method: str = "M", lvlm: str | None = "L") -> SampleResult:
    counts_T6 = np.array(rows, dtype=np.int64).reshape(-1, 6)
    return SampleResult(method, lvlm, sample, "scored", sample.video.frames[: len(rows)], counts_T6)


def test_tables_hold_what_the_contract_names(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip(expressions=2), "b": clip(expressions=2)})
    first, second, third, fourth = dataset.samples()
    results = [
        scored(first, RIGHT, WRONG),
        SampleResult("M", "L", second, "failed", seconds={"ground": 1.5}, keys={"ground": "ab"}, error="ground: no"),
        scored(third, RIGHT, RIGHT),
        SampleResult("M", "L", fourth, "missing"),
    ]
    rows = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ("mevis-v1/valid_u",))])
    [row] = rows
    assert (row["J"], row["F"], row["J_and_F"]) == pytest.approx((0.375, 0.375, 0.375))
    assert row["counts"] == {"attempted": 4, "scored": 2, "failed": 1, "missing": 1}
    assert row["coverage"] == "2 of 50 videos"
    assert row["interval"] is None
    assert any("1 failed and 1 missing" in note for note in row["notes"])
    written = json.loads((tmp_path / "out/scores.json").read_text())
    assert (written["schema"], written["scores"]) == (1, rows)
    assert len(written["digest"]) == 64
    # The reader of run folders agrees that it is possible.
    assert pytest.approx(0.375) == read_scores(tmp_path / "out/scores.json")[0].J

    table = pq.read_table(tmp_path / "out/samples.parquet").to_pylist()
    assert [entry["status"] for entry in table] == ["scored", "failed", "scored", "missing"]
    assert [entry["J_and_F"] for entry in table] == [0.5, 0.0, 1.0, 0.0]
    assert (table[1]["seconds_ground"], table[1]["key_ground"], table[1]["error"]) == (1.5, "ab", "ground: no")
    assert {"method", "lvlm", "dataset", "split", "text", "subset", "num_frames", "key_score"} <= set(table[0])
    frames = pq.read_table(tmp_path / "out/frames.parquet").to_pylist()
    assert len(frames) == 4
    assert frames[1] == {
        **{"method": "M", "lvlm": "L", "dataset": "mevis", "split": "valid_u", "video": "a", "expression": "0"},
        **{"frame": "00001", "I": 0, "U": 9, "n_gt": 8, "n_pred": 8, "m_gt": 0, "m_pred": 0, "J": 0.0, "F": 0.0},
    }


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip(), "b": clip()})
    results = [scored(sample, RIGHT, WRONG, lvlm=None) for sample in dataset.samples()]
    for name in ("one", "two"):
        write_tables(tmp_path / name, results, [ScoredDataset(dataset, ("mevis-v1/valid_u",))])
    for file in ("samples.parquet", "frames.parquet", "scores.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_revos_has_rows_for_its_two_types_and_overall(tmp_path: Path) -> None:
    clips = {"UVO/all/a": clip({"1": 1, "2": 2, "3": 0}), "UVO/all/b": clip({"1": 1})}
    dataset = revos(tmp_path, clips)
    results = []
    for sample in dataset.samples():
        subset = sample.expression.subset
        row = {"referring": RIGHT, "reasoning": WRONG, "no_target": (0, 0, 0, 0, 0, 0)}[subset or ""]
        results.append(scored(sample, row, row))
    rows = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ("revos/v1",))])
    by_subset = {row["subset"]: row for row in rows}
    assert [row["subset"] for row in rows] == ["all", "referring", "reasoning"]
    assert by_subset["all"]["J_and_F"] == pytest.approx(0.5)
    assert by_subset["referring"]["J_and_F"] == 1.0
    assert by_subset["reasoning"]["J_and_F"] == 0.0
    assert by_subset["all"]["counts"]["attempted"] == 5
    assert by_subset["referring"]["counts"]["attempted"] == 3
    assert by_subset["all"]["extra"]["empty_predictions_type2"] == 1.0
    # Areas were not measured, so robustness in pixels is not made up.
    assert "R_bool_type2" not in by_subset["all"]["extra"]
    # Two videos do not say how far other videos would be.
    assert all(row["interval"] is None for row in rows)


def test_revos_without_reasoning_expressions_has_no_overall_score(tmp_path: Path) -> None:
    dataset = revos(tmp_path, {"a": clip(), "b": clip()})
    results = [scored(sample, RIGHT, RIGHT) for sample in dataset.samples()]
    rows = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ("revos/v1",))])
    assert [(row["subset"], row["J_and_F"]) for row in rows] == [("all", None), ("referring", 1.0)]
    assert any("none of reasoning" in note for note in rows[0]["notes"])
    assert rows[0]["interval"] is None
    read_scores(tmp_path / "out/scores.json")


def test_keyframes_are_a_protocol_of_their_own(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip(), "b": clip()})
    first, second = dataset.samples()
    partial = SampleResult("M", None, first, "scored", ("00001",), np.array([RIGHT]), evaluated="keyframes")
    # A clip so short that keyframes cover it must not slip into the full protocol.
    covered = scored(second, RIGHT, WRONG, lvlm=None)
    full = [scored(sample, WRONG, WRONG, method="Full", lvlm=None) for sample in (first, second)]
    protocols = ("mevis-v1/valid_u", "davis17/semi")
    rows = write_tables(tmp_path / "out", [partial, covered, *full], [ScoredDataset(dataset, protocols)])
    assert [(row["method"], row["protocol"]) for row in rows] == [
        ("M", "mevis-v1/valid_u@keyframes"),
        ("M", "davis17/semi@keyframes"),
        ("Full", "mevis-v1/valid_u"),
        ("Full", "davis17/semi"),
    ]
    assert rows[0]["J"] == pytest.approx(0.75)
    # Frame 00001 is the last with ground truth, although it is the only row of its sample.
    assert rows[1]["J"] is None
    assert any("keyframes only" in note for note in rows[0]["notes"])


def test_hidden_ground_truth_has_rows_without_numbers(tmp_path: Path) -> None:
    dataset = hidden(tmp_path, "ref_youtube_vos", {"0062f687f1": clip()})
    results = [SampleResult("M", None, sample, "scored") for sample in dataset.samples()]
    [row] = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ("server",))])
    assert (row["J"], row["F"], row["J_and_F"], row["interval"]) == (None, None, None, None)
    assert row["counts"]["scored"] == 1
    assert any("hidden" in note for note in row["notes"])
    [sample] = pq.read_table(tmp_path / "out/samples.parquet").to_pylist()
    assert sample["status"] == "scored" and sample["J"] is None
    read_scores(tmp_path / "out/scores.json")


def test_targets_that_are_never_there_are_listed(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip(), "b": clip()})
    results = [scored(sample, (0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0)) for sample in dataset.samples()]
    [row] = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ("mevis-v1/valid_u",))])
    assert any("a/0, b/0" in note for note in row["notes"])


def test_an_interval_takes_ten_videos(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {f"v{index}": clip(expressions=2) for index in range(10)})
    results = [scored(sample, RIGHT, RIGHT if index % 3 else WRONG) for index, sample in enumerate(dataset.samples())]
    protocols = ("mevis-v1/valid_u",)
    [row] = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, protocols)])
    interval = row["interval"]
    assert 0 < interval["low"] < row["J_and_F"] < interval["high"] < 1
    assert (interval["level"], interval["unit"], interval["videos"]) == (0.95, "video", 10)
    assert read_scores(tmp_path / "out/scores.json")[0].interval is not None
    [row] = write_tables(tmp_path / "fewer", results[:-2], [ScoredDataset(dataset, protocols)])
    assert row["interval"] is None
    assert any("10 videos" in note for note in row["notes"])


def test_one_video_gives_no_interval_and_all_failed_gives_zero(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip()})
    [sample] = dataset.samples()
    failed = SampleResult("M", None, sample, "failed", error="x")
    [row] = write_tables(tmp_path / "o", [failed], [ScoredDataset(dataset, ("mevis-v1/valid_u",))])
    assert (row["J_and_F"], row["interval"]) == (0.0, None)
    assert any("No interval" in note for note in row["notes"])


def test_matching_without_masks_says_so(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip()})
    results = [scored(sample, RIGHT, RIGHT) for sample in dataset.samples()]
    [row] = write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ("refdavis17/anno4",))])
    assert row["J"] is None
    assert any("needs the masks" in note for note in row["notes"])


def test_a_folder_that_cannot_be_written_is_a_prerequisite_error(tmp_path: Path) -> None:
    dataset = mevis(tmp_path, {"a": clip()})
    (tmp_path / "out").write_text("a file")
    results = [scored(sample, RIGHT, RIGHT) for sample in dataset.samples()]
    with pytest.raises(PrerequisiteError):
        write_tables(tmp_path / "out", results, [ScoredDataset(dataset, ())])


def test_counts_must_match_their_frames() -> None:
    with pytest.raises(ValueError, match=r"\(1, 6\) for 2 frames"):
        SampleResult("M", None, sample_of("v", "0"), "scored", ("a", "b"), np.array([RIGHT]))
