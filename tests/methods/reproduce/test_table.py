"""The published table, and what is put beside it: hand-worked differences, doubtful cells, one number a cell."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from rvosbench.harness.results.schema import ConfidenceInterval, Score, StatusCounts
from rvosbench.methods.reproduce.report import CSV_COLUMNS, show, tables, to_csv, to_markdown
from rvosbench.methods.reproduce.table import Cell, Column, Line, Result, filled, published_cells
from rvosbench.methods.reproduce.world import load_world

QWEN = Line("DecAF", "Qwen2.5VL-7B", "frozen")
DAVIS = Column("Ref-DAVIS17", "all")


def cell_of(line: Line, column: Column) -> Cell:
    return next(cell for cell in published_cells() if (cell.line, cell.column) == (line, column))


def score(**changes: Any) -> Score:
    made = Score(
        method="DecAF",
        dataset="ref_davis17",
        split="valid",
        subset="all",
        protocol="refdavis17/expr",
        counts=StatusCounts(10, 10, 0, 0),
        J=0.71,
        F=0.81,
        J_and_F=0.76,
        interval=ConfidenceInterval(0.95, 0.7012, 0.8049),
        coverage="5 of 30 videos",
    )
    return replace(made, **changes)


def with_score(line: Line, column: Column, found: Score) -> Cell:
    results = {(line, column.dataset): Result("the-run", (found,))}
    return next(c for c in filled(published_cells(), results, {}) if (c.line, c.column) == (line, column))


def test_every_line_of_the_page_in_every_column() -> None:
    cells = published_cells()
    lines = list(dict.fromkeys(cell.line for cell in cells))
    assert len(lines) == 18 and len(cells) == 18 * 5
    assert [f"{column.dataset} {column.subset}" for column in dict.fromkeys(cell.column for cell in cells)] == [
        "Ref-DAVIS17 all",
        "ReasonVOS all",
        "ReVOS all",
        "ReVOS referring",
        "ReVOS reasoning",
    ]
    frozen = [line for line in lines if line.training == "frozen"]
    assert sorted(line.title for line in frozen) == sorted(
        [f"{method} on {lvlm}" for method in ("DecAF", "SteerSeg") for lvlm in FROZEN]
        + [f"Loc-Head on {lvlm}" for lvlm in ("LLaVA-7B", *FROZEN[1:])]
    )
    published = cell_of(QWEN, DAVIS).published
    assert published is not None
    assert (published.J_and_F, published.J, published.F) == (75.2, 70.9, 79.5)
    assert (published.protocol, published.run_by) == ("refdavis17/expr", "SteerSeg authors")
    # VISA is not evaluated on ReasonVOS.
    assert cell_of(Line("VISA", "ChatUniVi-7B", "trained"), Column("ReasonVOS", "all")).published is None


FROZEN = ("LLaVA-OV-7B", "InternVL3-8B", "Qwen2VL-7B", "Qwen2.5VL-7B")


@pytest.mark.parametrize(
    ("line", "column", "note"),
    [
        (Line("Loc-Head", "InternVL3-8B", "frozen"), Column("ReVOS", "reasoning"), "identical to the DecAF"),
        (Line("SteerSeg", "LLaVA-OV-7B", "frozen"), Column("ReVOS", "all"), "49.45"),
    ],
)
def test_suspect_cells_are_flagged_and_say_why(line: Line, column: Column, note: str) -> None:
    cell = cell_of(line, column)
    assert cell.published is not None and cell.published.flag == "suspect"
    assert any(note in text for text in cell.notes)
    markdown = to_markdown([cell], load_world("shapes"))
    assert f"{cell.published.F:.1f}?" in markdown and note in markdown


def test_what_else_is_printed_of_a_cell() -> None:
    cell = cell_of(Line("SteerSeg", "Qwen2.5VL-7B", "frozen"), DAVIS)
    assert cell.published is not None and cell.published.J_and_F == 81.4
    # The authors' README, of the same method.
    assert "80.3" in cell.published.elsewhere
    assert "printed elsewhere: 80.3" in to_markdown([cell], load_world("shapes"))
    (row,) = csv.DictReader(io.StringIO(to_csv([cell])))
    assert row["published_elsewhere"] == cell.published.elsewhere and "elsewhere" not in row["notes"]


def test_differences_by_hand() -> None:
    cell = with_score(QWEN, DAVIS, score())
    # 76.0 - 75.2, 71.0 - 70.9, 81.0 - 79.5.
    assert cell.difference == pytest.approx((0.8, 0.1, 1.5))
    assert cell.reproduced == pytest.approx((76.0, 71.0, 81.0))
    assert cell.published is not None and cell.published.J_and_F == 75.2


def test_numbers_under_other_protocols_are_not_compared() -> None:
    cell = with_score(QWEN, DAVIS, score(protocol="refdavis17/anno4"))
    assert cell.difference is None and cell.reproduced is not None
    assert "not compared: published under refdavis17/expr, run under refdavis17/anno4" in cell.notes


def test_failed_samples_and_notes_of_the_run_are_said() -> None:
    cell = with_score(QWEN, DAVIS, score(counts=StatusCounts(10, 7, 1, 2), notes=("a note",)))
    assert "1 samples failed and 2 are missing; they count as 0" in cell.notes
    assert cell.notes[-1] == "a note"


def test_a_subset_that_the_run_does_not_have() -> None:
    line = Line("DecAF", "Qwen2.5VL-7B", "frozen")
    cell = with_score(line, Column("ReVOS", "reasoning"), score(dataset="revos", protocol="revos/v1"))
    assert cell.reproduced is None and cell.why == "the run has no score of the subset 'reasoning'"


def test_csv_never_mixes_published_and_reproduced() -> None:
    cells = [with_score(QWEN, DAVIS, score()), replace(cell_of(QWEN, Column("ReasonVOS", "all")), why="no data")]
    rows = list(csv.DictReader(io.StringIO(to_csv(cells))))
    assert list(rows[0]) == list(CSV_COLUMNS)
    first = {name: value for name, value in rows[0].items() if value}
    assert first["published_J_and_F"] == "75.2" and first["published_protocol"] == "refdavis17/expr"
    assert (first["reproduced_J_and_F"], first["low"], first["high"]) == ("76.00", "70.12", "80.49")
    assert (first["difference_J_and_F"], first["difference_J"], first["difference_F"]) == ("0.80", "0.10", "1.50")
    assert (first["coverage"], first["run"]) == ("5 of 30 videos", "the-run")
    assert rows[1]["published_J_and_F"] == "63.9" and rows[1]["why_not_reproduced"] == "no data"
    assert not any(rows[1][name] for name in CSV_COLUMNS if name.startswith(("reproduced", "difference", "low")))


def test_markdown_and_terminal_show_both_and_the_difference() -> None:
    cells = [with_score(QWEN, DAVIS, score())]
    world = load_world("shapes")
    markdown = to_markdown(cells, world)
    assert "## Ref-DAVIS17 (refdavis17/expr, 5 of 30 videos)" in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| DecAF"))
    assert [part.strip() for part in row.strip("|").split("|")] == [
        "DecAF\\*",
        "Qwen2.5VL-7B",
        "75.2 / 70.9 / 79.5°",
        "76.0 / 71.0 / 81.0",
        "\\[70.1, 80.5\\]",
        "+0.8 / +0.1 / +1.5",
        "10/10",
        "1",
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    show(tables(cells, world), console)
    text = console.export_text()
    shown = next(line for line in text.splitlines() if line.strip().startswith("DecAF*"))
    assert shown.split() == ["DecAF*", "Qwen2.5VL-7B", "75.2°", "76.0", "[70.1,", "80.5]", "+0.8", "10/10", "1"]
    assert "most likely copied" in text
