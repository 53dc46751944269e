"""The board and its pivot: nothing mixed, nothing lost, doubtful values marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rvosbench.harness.results.reader import find_runs
from rvosbench.leaderboard.pivot import Pivot, is_partial, pivot
from rvosbench.leaderboard.tables import COLUMNS, Filters, apply, board


@pytest.fixture
def own(tmp_path: Path, write_run: Any) -> pd.DataFrame:
    write_run(tmp_path / "example-1", recipe={"note": "a small part"})
    return board(find_runs(tmp_path).runs)


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """A board of hand-written rows."""
    default = {
        "method": "A", "lvlm": "L", "kind": "published", "training": "frozen", "dataset": "Ref-DAVIS17",
        "split": "valid", "subset": "all", "protocol": "refdavis17/expr", "J_and_F": 50.0,
        "variant": False, "main": True,
    }  # fmt: skip
    frame = pd.DataFrame([{**default, **row} for row in rows]).reindex(columns=list(COLUMNS))
    text = ["venue", "run_by", "coverage", "flag", "note", "source", "run_id"]
    frame[text] = frame[text].astype(object).fillna("")
    return frame


def values(result: Pivot) -> dict[tuple[str, str], tuple[float, str, bool]]:
    return {
        (line.label, heading): (cell.value, cell.marks, cell.best)
        for line in result.lines
        for heading, cell in line.cells.items()
    }


def test_scores_of_runs_stand_beside_published_ones_in_percent(own: pd.DataFrame) -> None:
    assert len(own) == 668 + 2
    row = own[(own["kind"] == "reproduced") & (own["method"] == "DecAF")].iloc[0]
    assert row["J_and_F"] == pytest.approx(41.25) and row["low"] == pytest.approx(36.25)
    assert (row["lvlm"], row["dataset"], row["protocol"]) == ("Qwen2.5VL-7B", "Ref-DAVIS17", "refdavis17/expr")
    assert (row["attempted"], row["scored"], row["failed"], row["missing"]) == (4, 3, 1, 0)
    assert row["note"] == "a small part" and row["run_id"] == "example-1" and row["training"] == "frozen"


def test_scored_predictions_are_a_kind_of_their_own(tmp_path: Path, write_run: Any) -> None:
    folder = write_run(tmp_path / "masks")
    (folder / "run.json").unlink()
    (folder / "recipe.yaml").unlink()
    assert set(board(find_runs(tmp_path).runs)["kind"]) == {"published", "starred", "imported"}


def test_runs_are_in_every_scope(own: pd.DataFrame) -> None:
    for scope, count in (("main", 83), ("published", None), ("everything", 668)):
        rows = apply(own, Filters(scope))
        assert (rows["kind"] == "reproduced").sum() == 2
        if count is not None:
            assert len(rows) == count + 2
    rows = apply(own, Filters("published"))
    assert not rows["variant"].any() and not (rows["flag"] == "superseded").any()


def test_filters_combine(own: pd.DataFrame) -> None:
    rows = apply(own, Filters("everything", dataset=("ReVOS",), subset=("reasoning",), method=("DecAF", "SteerSeg")))
    assert set(rows["dataset"]) == {"ReVOS"} and set(rows["subset"]) == {"reasoning"}
    assert set(rows["method"]) == {"DecAF", "SteerSeg"}
    assert rows["J_and_F"].dropna().is_monotonic_decreasing
    assert apply(own, Filters(kind=("reproduced",)))["kind"].tolist() == ["reproduced"] * 2


def test_kinds_protocols_and_runs_never_share_a_cell() -> None:
    result = pivot(
        table(
            {"J_and_F": 10.0},
            {"J_and_F": 20.0, "kind": "starred", "run_by": "B authors"},
            {"J_and_F": 30.0, "kind": "reproduced", "run_id": "r1"},
            {"J_and_F": 40.0, "kind": "reproduced", "run_id": "r2"},
            {"J_and_F": 50.0, "kind": "imported", "run_id": "r3"},
            {"J_and_F": 60.0, "protocol": "refdavis17/anno4"},
            {"J_and_F": 70.0, "protocol": "refdavis17/expr@keyframes", "kind": "reproduced", "run_id": "r1"},
        )
    )
    assert result.headings == ("Ref-DAVIS17", "Ref-DAVIS17 (anno4)", "Ref-DAVIS17 (expr@keyframes)")
    assert result.main == ("Ref-DAVIS17",)
    found = [[line.cells[h].value if h in line.cells else None for h in result.headings] for line in result.lines]
    assert found == [
        [10.0, 60.0, None],
        [20.0, None, None],
        [30.0, None, 70.0],
        [40.0, None, None],
        [50.0, None, None],
    ]
    assert [line.label for line in result.lines] == ["A", "A*", "A", "A", "A"]
    assert result.protocols["Ref-DAVIS17 (anno4)"] == "refdavis17/anno4"


def test_marks_say_what_is_doubtful() -> None:
    result = pivot(
        table(
            {"method": "a", "protocol": "as published"},
            {"method": "b", "flag": "suspect", "J_and_F": 99.0},
            {"method": "c", "coverage": "5 of 30 videos", "kind": "reproduced", "failed": 1, "missing": 0},
            {"method": "d", "J_and_F": 60.0, "flag": "suspect"},
            {"method": "d", "J_and_F": 40.0},
            {"method": "d", "J_and_F": 90.0, "flag": "superseded"},
            {"method": "e", "J_and_F": 45.0},
            {"method": "e", "J_and_F": 45.0, "source": "another"},
        )
    )
    assert values(result) == {
        ("a", "Ref-DAVIS17"): (50.0, "†", True),
        ("b", "Ref-DAVIS17"): (99.0, "?", False),
        ("c", "Ref-DAVIS17"): (50.0, "°!", False),
        ("d", "Ref-DAVIS17"): (40.0, "‡", False),
        ("e", "Ref-DAVIS17"): (45.0, "", False),
    }
    assert set(result.legend) == {"†", "‡", "?", "°", "!"}


def test_own_and_published_numbers_compete_apart() -> None:
    result = pivot(
        table(
            {"method": "a", "J_and_F": 80.0},
            {"method": "b", "J_and_F": 70.0},
            {"method": "c", "J_and_F": 30.0, "kind": "reproduced"},
            {"method": "d", "J_and_F": 20.0, "kind": "reproduced"},
        )
    )
    assert {label for (label, _), (_, _, best) in values(result).items() if best} == {"a", "c"}


def test_columns_read_as_in_papers(own: pd.DataFrame) -> None:
    headings = pivot(apply(own, Filters())).headings
    assert headings == (
        "Ref-DAVIS17",
        "Ref-DAVIS17 (anno4)",
        "ReasonVOS",
        "ReVOS referring",
        "ReVOS reasoning",
        "ReVOS overall",
    )
    wide = pivot(apply(own, Filters("published")))
    assert "MeViS valid_u" in wide.headings and "MeViS valid" in wide.headings
    assert wide.main == ("Ref-DAVIS17", "ReasonVOS", "ReVOS overall", "MeViS valid", "MeViS valid_u", "Ref-YouTube-VOS")


def test_the_papers_table_is_reproduced(own: pd.DataFrame) -> None:
    lines = {(line.label, line.lvlm): line for line in pivot(apply(own, Filters())).lines if line.kind != "reproduced"}
    steerseg = lines["SteerSeg", "Qwen2.5VL-7B"].cells
    assert [steerseg[h].value for h in ("Ref-DAVIS17", "ReasonVOS", "ReVOS overall")] == [81.4, 65.9, 56.6]
    assert steerseg["Ref-DAVIS17"].best and steerseg["ReVOS overall"].marks == "?"
    assert lines["DecAF*", "Qwen2.5VL-7B"].by == "SteerSeg authors"


def test_rows_without_j_and_f_have_no_place_in_the_pivot() -> None:
    assert pivot(table({"J_and_F": float("nan")})).lines == ()


def test_coverage_texts() -> None:
    assert is_partial("5 of 30 videos") and not is_partial("30 of 30 videos") and not is_partial("10 videos")
