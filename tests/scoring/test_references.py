"""Scores beside the published numbers that they reproduce: differences by hand, and the reasons for none."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.published import PublishedLine
from rvosbench.harness.recipes import MethodChoice, Recipe, ReferenceChoice, load_recipe
from rvosbench.harness.results.mlflow import score_metrics
from rvosbench.harness.results.schema import ConfidenceInterval, Published, Score, StatusCounts, read_scores
from rvosbench.harness.scoring.references import with_published
from rvosbench.harness.scoring.report import note_lines, score_tables
from rvosbench.harness.settings import identity_of
from rvosbench.harness.store.artefacts import write_json
from rvosbench.harness.variants import reference_of

QWEN = PublishedLine("DecAF", "Qwen2.5VL-7B")


def score(**changes: Any) -> Score:
    made = Score(
        method="mine",
        lvlm="folder",
        dataset="ref_davis17",
        split="valid",
        subset="all",
        protocol="refdavis17/expr",
        counts=StatusCounts(10, 10, 0, 0),
        J=0.71,
        F=0.81,
        J_and_F=0.76,
        interval=ConfidenceInterval(0.95, 0.7012, 0.8049),
    )
    return replace(made, **changes)


def beside(found: Score, line: PublishedLine = QWEN) -> Published:
    (out,) = with_published([found], {("mine", "folder"): line})
    assert out.published is not None
    return out.published


def test_a_difference_by_hand() -> None:
    found = beside(score())
    # 76.0 - 75.2 points.
    assert found.difference == pytest.approx(0.008)
    assert (found.J_and_F, found.J, found.F) == pytest.approx((0.752, 0.709, 0.795))
    assert (found.protocol, found.why) == ("refdavis17/expr", None)
    # The main comparison is run by others, and DecAF's own paper has the same value.
    assert (found.run_by, found.flag) == ("SteerSeg authors", "copied")


@pytest.mark.parametrize(
    ("changes", "line", "why"),
    [
        ({"protocol": "refdavis17/anno4"}, QWEN, "under refdavis17/expr, run under refdavis17/anno4"),
        ({"protocol": "refdavis17/expr@keyframes"}, QWEN, "run under refdavis17/expr@keyframes"),
        ({"J": None, "F": None, "J_and_F": None, "interval": None}, QWEN, "no number"),
        ({"subset": "reasoning"}, QWEN, "no number of DecAF on Qwen2.5VL-7B"),
        ({"dataset": "another"}, QWEN, "no number of DecAF"),
        ({}, PublishedLine("DecAF", "a model of mine"), "no number of DecAF on a model of mine"),
        (
            {"dataset": "reasonvos", "protocol": "reasonvos/v2"},
            PublishedLine("VideoLISA", "LLaVA-Phi-3-V"),
            "a protocol that is not stated",
        ),
    ],
)
def test_numbers_that_cannot_be_compared_have_no_difference_and_say_why(
    changes: dict[str, Any], line: PublishedLine, why: str
) -> None:
    found = beside(score(**changes), line)
    assert found.difference is None and found.why is not None and why in found.why


def test_of_several_published_numbers_the_one_of_the_same_protocol_is_compared() -> None:
    lisa = PublishedLine("LISA", "LLaVA-7B")
    assert beside(score(), lisa).difference == pytest.approx(0.76 - 0.648)
    assert beside(score(protocol="refdavis17/anno4"), lisa).difference == pytest.approx(0.76 - 0.584)


def test_rows_without_a_reference_stay_as_they_are() -> None:
    assert list(with_published([score(method="another")], {("mine", "folder"): QWEN})) == [score(method="another")]


def test_the_file_keeps_what_a_row_was_set_beside(tmp_path: Path) -> None:
    from dataclasses import asdict

    rows = tuple(with_published([score(), score(method="another")], {("mine", "folder"): QWEN}))
    written = [{**asdict(row), "notes": list(row.notes)} for row in rows]
    write_json(tmp_path / "scores.json", {"schema": 1, "scores": written})
    assert read_scores(tmp_path / "scores.json") == rows
    # A file of before has no such key.
    for row in written:
        del row["published"]
    write_json(tmp_path / "scores.json", {"schema": 1, "scores": written})
    assert [row.published for row in read_scores(tmp_path / "scores.json")] == [None, None]
    assert score_metrics(rows[:1])["refdavis17/expr/all/J_and_F_minus_published"] == pytest.approx(0.008)
    assert "refdavis17/expr/all/J_and_F_minus_published" not in score_metrics(rows[1:])


def test_the_terminal_shows_both_numbers_and_the_difference_in_80_columns() -> None:
    anno4 = score(protocol="refdavis17/anno4")
    rows = tuple(with_published([score(), score(method="another", J_and_F=0.5), anno4], {("mine", "folder"): QWEN}))
    console = Console(width=80, record=True, file=io.StringIO())
    for table in score_tables(rows):
        console.print(table)
    for line in note_lines(rows):
        console.print(line, soft_wrap=True)
    lines = console.export_text().splitlines()
    shown = [line.split() for line in lines if line.strip().startswith(("mine", "another"))]
    assert ["mine", "folder", "76.0", "[70.1,", "80.5]", "75.2", "+0.8", "71.0", "81.0", "10/10"] in shown
    assert ["another", "folder", "50.0", "[70.1,", "80.5]", "-", "-", "71.0", "81.0", "10/10"] in shown
    assert ["mine", "folder", "76.0", "[70.1,", "80.5]", "75.2", "-", "71.0", "81.0", "10/10"] in shown
    assert any("run under refdavis17/anno4" in line for line in lines)
    assert any("the published number is in another paper too" in line for line in lines)


def recipe(folder: Path, reference: Any, lvlms: list[str]) -> Recipe:
    path = folder / "recipe.yaml"
    entry = {"method": "decaf", "reference": reference, "lvlms": lvlms}
    path.write_text(yaml.safe_dump({"name": "x", "datasets": [{"name": "revos"}], "methods": [entry]}))
    return load_recipe(path)


def test_a_reference_changes_no_identity(tmp_path: Path) -> None:
    with_one = recipe(tmp_path, {"method": "DecAF", "lvlm": "Qwen2.5VL-7B"}, ["a"])
    without = recipe(tmp_path, None, ["a"])
    assert identity_of(with_one) == identity_of(without) and with_one != without


def choice(**reference: str) -> MethodChoice:
    return MethodChoice(method="decaf", reference=ReferenceChoice(**reference))


def test_the_line_that_an_entry_reproduces() -> None:
    names = ["Qwen/Qwen2.5-VL-7B-Instruct", "OpenGVLab/InternVL3-8B-hf"]
    assert reference_of(choice(method="DecAF"), names, names[0]) == QWEN
    assert reference_of(choice(method="DecAF"), names, names[1]) == PublishedLine("DecAF", "InternVL3-8B")
    assert reference_of(choice(method="DecAF", lvlm="Qwen2.5VL-7B"), ["/a/folder"], "/a/folder") == QWEN
    assert reference_of(MethodChoice(method="decaf"), names, names[0]) is None
    # A checkpoint that the table does not know is no mistake of the recipe; its rows have no published number.
    assert reference_of(choice(method="DecAF"), ["/a/folder"], "/a/folder") == PublishedLine("DecAF", "folder")


@pytest.mark.parametrize(
    ("reference", "lvlms"),
    [
        ({"method": "decaf"}, ["a"]),
        ({"method": "DecAF", "lvlm": "Qwen2.5-VL-7B"}, ["a"]),
        ({"method": "DecAF", "lvlm": "Qwen2.5VL-7B"}, ["a", "b"]),
    ],
)
def test_a_reference_that_cannot_be_meant_is_refused(reference: dict[str, str], lvlms: list[str]) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        reference_of(choice(**reference), lvlms, lvlms[0])
    assert caught.value.fix
