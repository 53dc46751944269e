"""The leaderboard outside the browser: CSV, Markdown, LaTeX, and tables for a terminal. Base install only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
from rich.console import Console
from rich.text import Text

from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.results.reader import find_runs
from rvosbench.harness.scoring.report import score_tables
from rvosbench.harness.text import inert, latex, markdown
from rvosbench.leaderboard.pivot import Cell, Pivot, pivot
from rvosbench.leaderboard.tables import COLUMNS, Filters, apply, board, score_notes

Format = Literal["csv", "md", "latex"]
_CSV_COLUMNS = [name for name in COLUMNS if name not in ("main", "variant")]


def export(runs_root: Path, form: str, filters: Filters | None = None) -> str:
    """The board of a runs folder as text.

    Args:
        runs_root: folder of run folders; absent or empty gives the published numbers alone.
        form: csv (every row and column), md or latex (a table like a paper's, best values bold).
        filters: default: the main comparison.

    Raises:
        PrerequisiteError: an unknown form.
    """
    if form not in get_args(Format):
        raise PrerequisiteError(f"There is no export '{form}'.", nearest_name(form, get_args(Format)))
    rows = apply(board(find_runs(runs_root).runs), filters or Filters())
    if form == "csv":
        return to_csv(rows)
    table = pivot(rows)
    return to_markdown(table) if form == "md" else to_latex(table)


def print_scores(runs_root: Path, console: Console) -> None:
    """Prints the scores of all runs, and why folders could not be read."""
    found = find_runs(runs_root)
    scores = [score for run in found.runs for score in run.scores]
    if not scores:
        console.print(Text(f"No scores in {runs_root} yet."))
    for table in score_tables(scores):
        console.print(table)
    for note in sorted({note for run in found.runs for score in run.scores for note in score_notes(run, score)}):
        console.print(Text(f"Note: {note}", "dim"))
    for broken in found.broken:
        console.print(Text(f"Left out {broken.id}: {broken.reason}", "yellow"))


def to_csv(rows: pd.DataFrame) -> str:
    """Every row with its provenance; values in percent."""
    return rows[_CSV_COLUMNS].map(_inert).to_csv(index=False, float_format="%.2f")


def to_markdown(table: Pivot) -> str:
    """A pipe table, best values bold, signs explained below."""
    rows = [["Method", "LVLM", "By", *map(markdown, table.headings)]]
    for line in table.lines:
        cells = [_md_cell(line.cells.get(heading)) for heading in table.headings]
        rows.append([markdown(line.label), markdown(line.lvlm), markdown(line.by), *cells])
    header, *body = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|{'---|' * 3}{'---:|' * len(table.headings)}"
    return "\n".join([header, rule, *body, "", _legend(table, markdown)]) + "\n"


def to_latex(table: Pivot) -> str:
    """A booktabs tabular, text escaped, best values bold."""
    rows = [["Method", "LVLM", "By", *map(latex, table.headings)]]
    for line in table.lines:
        cells = [_tex_cell(line.cells.get(heading)) for heading in table.headings]
        rows.append([latex(line.label), latex(line.lvlm), latex(line.by), *cells])
    header, *body = [" & ".join(row) + r" \\" for row in rows]
    top = [rf"\begin{{tabular}}{{lll{'r' * len(table.headings)}}}", r"\toprule", header, r"\midrule"]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}", "% " + _legend(table, latex)]) + "\n"


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1f}"


def _legend(table: Pivot, escaped: Callable[[str], str]) -> str:
    signs = [f"{escaped(sign)} {meaning}" for sign, meaning in table.legend.items()]
    if any(cell.difference is not None for line in table.lines for cell in line.cells.values()):
        signs.append("in brackets the difference to the published number, points")
    return "; ".join([escaped("J&F in percent"), *signs]) + "."


def _difference(cell: Cell) -> str:
    return "" if cell.difference is None else f" ({cell.difference:+.1f})"


def _inert(value: object) -> object:
    return inert(value) if isinstance(value, str) else value


def _md_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return (f"**{cell.value:.1f}**" if cell.best else f"{cell.value:.1f}") + markdown(cell.marks + _difference(cell))


def _tex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    value = rf"\textbf{{{cell.value:.1f}}}" if cell.best else f"{cell.value:.1f}"
    return value + latex(cell.marks + _difference(cell))
