"""The board as text: complete CSV, tables with the best in bold, and names that stay names."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.leaderboard.commands import leaderboard
from rvosbench.leaderboard.exports import export, print_scores
from rvosbench.leaderboard.tables import Filters

NASTY = r"50% of_{x} & <b>#1</b> | \input{a} [red]~^$"


@pytest.fixture
def runs(tmp_path: Path, write_run: Any, rows: Any) -> Path:
    scores = {"cows/0": (0.875, 0.625), "goat/0": (0.5, 0.5)}
    samples = [*rows(NASTY, None, scores), *rows("=cmd()", "L", {"cows/0": (0.1, 0.2)})]
    write_run(tmp_path / "runs" / "example-1", samples=samples)
    return tmp_path / "runs"


def test_csv_has_every_row_and_no_formulas(runs: Path) -> None:
    table = pd.read_csv(io.StringIO(export(runs, "csv", Filters("everything"))))
    assert len(table) == 668 + 2
    own = table[table["kind"] == "reproduced"].set_index("method")
    assert own.loc[NASTY, "J_and_F"] == 62.5 and own.loc[NASTY, "attempted"] == 2
    assert own.index[1] == "'=cmd()"


def test_markdown_is_a_table_with_the_best_in_bold(runs: Path) -> None:
    text = export(runs, "md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = {line.replace(r"\|", "").count("|") for line in lines}
    assert columns == {10}
    assert r"<b>" not in text.replace(r"\<b\>", "")
    assert "**81.4**" in text and "**62.5**" in text
    assert "suspect, see the notes" in text


def test_latex_is_escaped_and_the_best_is_bold(runs: Path) -> None:
    text = export(runs, "latex")
    assert r"\textbf{81.4}" in text and r"\textbf{62.5}" in text
    escaped = (
        r"50\% of\_\{x\} \& \textless{}b\textgreater{}\#1\textless{}/b\textgreater{} \textbar{} "
        r"\textbackslash{}input\{a\} [red]\textasciitilde{}\textasciicircum{}\$"
    )
    assert escaped in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {8}
    assert text.startswith(r"\begin{tabular}{lllrrrrrr}") and r"\end{tabular}" in text


def test_unknown_exports_are_refused(runs: Path) -> None:
    with pytest.raises(PrerequisiteError, match="There is no export 'pdf'"):
        export(runs, "pdf")
    with pytest.raises(PrerequisiteError, match="There is no scope 'mine'"):
        leaderboard(runs, export="md", scope="mine")


def test_an_empty_runs_folder_exports_the_published_table(tmp_path: Path) -> None:
    assert "SteerSeg" in export(tmp_path / "nowhere", "md")


def test_the_terminal_table_fits_80_columns_and_reads_names_literally(runs: Path) -> None:
    (runs / "half").mkdir()
    (runs / "half" / "recipe.yaml").write_text("a: 1")
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_scores(runs, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "ref_davis17/valid all" in text and "refdavis17/expr, 2 of 30 videos" in text
    assert "62.5" in text and "2/2" in text and "[red]" in text
    assert text.index("62.5") < text.index("15.0"), "best first"
    assert "Left out half: Half-written: run.json is missing." in text


def test_no_scores_is_said(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    print_scores(tmp_path, console)
    assert "No scores in" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_command_prints_and_needs_no_browser(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard(runs, export="csv")
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) == 83 + 2
    leaderboard(runs, scores=True)
    assert "62.5" in capsys.readouterr().out


def test_a_run_that_reproduces_a_published_number_shows_the_difference(runs: Path) -> None:
    path = runs / "example-1" / "scores.json"
    values = json.loads(path.read_text())
    row = next(row for row in values["scores"] if row["method"] == NASTY)
    row["published"] = {
        "method": "DecAF",
        "lvlm": "Qwen2.5VL-7B",
        "J_and_F": 0.6127,
        "protocol": row["protocol"],
        "difference": 0.0123,
    }
    path.write_text(json.dumps(values))
    table = pd.read_csv(io.StringIO(export(runs, "csv", Filters("everything"))))
    own = table[table["kind"] == "reproduced"].set_index("method")
    assert own.loc[NASTY, "published"] == 61.27 and own.loc[NASTY, "difference"] == 1.23
    assert own["difference"].notna().sum() == 1
    for form in ("md", "latex"):
        text = export(runs, form)
        assert text.count("(+1.2)") == 1 and "difference to the published number" in text


@pytest.mark.parametrize("form", ["csv", "md", "latex", "scores"])
def test_broken_runs_and_hostile_names_hide_no_other(
    form: str, runs: Path, write_run: Any, rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {
        "recipe.yaml": ["when: 2001-99-99", "a: &a [*a]", "[" * 5000, "x: " + "9" * 5000],
        "run.json": ["", "[]", '{"schema": 99}', "9" * 5000],
        "scores.json": ["{", '{"schema": 1, "scores": [{"J": NaN}]}', "null"],
        "samples.parquet": ["PAR1", ""],
    }
    count = 0
    for name, contents in broken.items():
        for content in contents:
            folder = write_run(runs / f"broken-{count}", samples=rows("m", "L", {"cows/0": (0.1, 0.2)}))
            (folder / name).write_text(content)
            count += 1
    write_run(runs / "hostile", samples=rows("[2cm]\x1b]0;t\x07\u202egnp", " =1+1", {"cows/0": (0.25, 0.25)}))
    leaderboard(runs, scores=form == "scores", export=None if form == "scores" else form)
    text = capsys.readouterr().out
    assert "62.5" in text and "25.0" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert form != "scores" or text.count("Left out broken-") == count
    assert form != "latex" or not any(line.lstrip().startswith("[") for line in text.splitlines())
    assert form != "csv" or not pd.read_csv(io.StringIO(text))["lvlm"].dropna().str.strip().str.startswith("=").any()
