"""A published table beside what runs gave: one number a cell, differences by hand, doubtful cells, nothing mixed."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from rvosbench.harness.published import PublishedLine
from rvosbench.harness.results.schema import ConfidenceInterval, Score, StatusCounts
from rvosbench.harness.scoring.references import with_published
from rvosbench.harness.scoring.reproduction import (
    CSV_COLUMNS,
    Attempt,
    Cell,
    table_of,
    tables,
    to_csv,
    to_markdown,
)

FROZEN = ("LLaVA-OV-7B", "InternVL3-8B", "Qwen2VL-7B", "Qwen2.5VL-7B")
QWEN = PublishedLine("DecAF", "Qwen2.5VL-7B")


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


def attempt(*scores: Score, line: PublishedLine | None = QWEN, dataset: str = "ref_davis17", why: str = "") -> Attempt:
    found = tuple(with_published(scores, {} if line is None else {("DecAF", None): line}))
    names = ("DecAF", "tiny") if line is None else (line.method, line.lvlm)
    return Attempt(*names, dataset, "valid", line, found, "the-run" if scores else "", why)


def cell(cells: tuple[Cell, ...], line: PublishedLine, subset: str = "all") -> Cell:
    (found,) = [
        c for c in cells if (c.attempt.method, c.attempt.lvlm, c.column.subset) == (line.method, line.lvlm, subset)
    ]
    return found


def test_every_line_of_the_page_in_every_column() -> None:
    cells = table_of([attempt(dataset=name, why="no data") for name in ("ref_davis17", "reasonvos", "revos")])
    columns = list(dict.fromkeys(found.column.title for found in cells))
    assert columns == ["Ref-DAVIS17", "ReasonVOS", "ReVOS", "ReVOS referring", "ReVOS reasoning"]
    revos = [(found.attempt.method, found.attempt.lvlm) for found in cells if found.column.title == "ReVOS"]
    # VideoLISA is not evaluated on ReVOS.
    assert len(revos) == len(set(revos)) == 17
    assert len({(found.attempt.method, found.attempt.lvlm) for found in cells}) == 18
    frozen = {(method, lvlm) for method in ("DecAF", "SteerSeg") for lvlm in FROZEN}
    frozen |= {("Loc-Head", lvlm) for lvlm in ("LLaVA-7B", *FROZEN[1:])}
    assert frozen <= set(revos)
    # VISA is not evaluated on ReasonVOS.
    assert not [f for f in cells if f.attempt.method == "VISA" and f.column.title == "ReasonVOS"]
    whys = {found.attempt.method: found.why for found in cells}
    assert whys["VISA"] == "published number only"
    assert cell(table_of([attempt(why="no data")]), QWEN).why == "no data"


def test_differences_by_hand() -> None:
    found = cell(table_of([attempt(score())]), QWEN)
    # 76.0 - 75.2, 71.0 - 70.9, 81.0 - 79.5.
    assert found.differences == pytest.approx({"J_and_F": 0.008, "J": 0.001, "F": 0.015})
    assert found.why == ""


def test_of_two_protocols_the_one_that_can_be_compared_is_shown() -> None:
    both = attempt(score(protocol="refdavis17/anno4", J_and_F=0.5, J=0.5, F=0.5, interval=None), score())
    found = cell(table_of([both]), QWEN)
    assert found.score is not None and found.score.protocol == "refdavis17/expr"
    only = cell(table_of([attempt(score(protocol="refdavis17/anno4"))]), QWEN)
    assert only.score is not None and not only.differences
    assert any("published under refdavis17/expr, run under refdavis17/anno4" in note for note in only.notes())


@pytest.mark.parametrize(
    ("line", "subset", "note"),
    [
        (PublishedLine("Loc-Head", "InternVL3-8B"), "reasoning", "identical to the DecAF"),
        (PublishedLine("SteerSeg", "LLaVA-OV-7B"), "all", "49.45"),
    ],
)
def test_suspect_cells_are_flagged_and_say_why(line: PublishedLine, subset: str, note: str) -> None:
    cells = table_of([attempt(line=line, dataset="revos", why="no data")])
    found = cell(cells, line, subset)
    assert found.published is not None and found.published.flag == "suspect"
    assert any(note in text for text in found.notes())
    markdown = to_markdown(cells, "table", None)
    assert f"{100 * (found.published.J_and_F or 0):.1f}?" in markdown


def test_a_subset_that_the_run_does_not_have() -> None:
    cells = table_of([attempt(score(dataset="revos", protocol="revos/v1"), dataset="revos")])
    assert cell(cells, QWEN).why == ""
    assert "no score of the subset 'reasoning'" in cell(cells, QWEN, "reasoning").why


def test_a_line_that_nobody_published_stands_below_with_its_scores_or_the_reason() -> None:
    cells = table_of([attempt(score(), line=None), attempt(line=None, why="no heads")])
    last = [found for found in cells if found.attempt.lvlm == "tiny"]
    assert [(found.published, found.why) for found in last] == [(None, ""), (None, "no heads")]
    assert cells[-2:] == tuple(last)


def test_csv_never_mixes_published_and_reproduced() -> None:
    cells = table_of([attempt(score()), attempt(dataset="reasonvos", why="no data")])
    rows = list(csv.DictReader(io.StringIO(to_csv(cells))))
    assert tuple(rows[0]) == CSV_COLUMNS
    mine = [row for row in rows if (row["method"], row["lvlm"]) == ("DecAF", "Qwen2.5VL-7B")]
    first = {name: value for name, value in mine[0].items() if value}
    assert first["published_J_and_F"] == "75.20" and first["published_protocol"] == "refdavis17/expr"
    assert (first["reproduced_J_and_F"], first["low"], first["high"]) == ("76.00", "70.12", "80.49")
    assert (first["difference_J_and_F"], first["difference_J"], first["difference_F"]) == ("0.80", "0.10", "1.50")
    assert (first["coverage"], first["run"], first["published_flag"]) == ("5 of 30 videos", "the-run", "copied")
    assert mine[1]["published_J_and_F"] == "63.90" and mine[1]["why"] == "no data"
    for row in rows:
        if row["run"] == "":
            assert not any(row[name] for name in CSV_COLUMNS if name.startswith(("reproduced", "difference", "low")))


def test_markdown_and_terminal_show_both_and_the_difference_in_80_columns() -> None:
    cells = table_of([attempt(score())])
    markdown = to_markdown(cells, "a|table", "small models")
    assert markdown.startswith("# a\\|table\n") and "Note: small models." in markdown
    assert "## Ref-DAVIS17 (refdavis17/expr, 5 of 30 videos)" in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| DecAF") and "76.0" in line)
    parts = [part.strip() for part in row.strip("|").split("|")]
    assert parts[:7] == ["DecAF\\*", "Qwen2.5VL-7B", "75.2°", "76.0", "\\[70.1, 80.5\\]", "+0.8", "10/10"]
    console = Console(width=80, record=True, file=io.StringIO())
    for shown in tables(cells, "small models"):
        console.print(shown, soft_wrap=isinstance(shown, Text))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert any(
        line[:8] == ["DecAF*", "Qwen2.5VL-7B", "75.2°", "76.0", "[70.1,", "80.5]", "+0.8", "10/10"] for line in lines
    )
    # Notes are numbered once each, however many lines have them.
    assert sum("published number only" in " ".join(line) for line in lines) == 1
