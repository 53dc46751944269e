"""Scores, comparisons and problems for the terminal. Percent, one decimal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.run_schema import Interval, Score
from harness.scoring.compare import Comparison
from harness.scoring.predictions import KINDS, Problem
from harness.scoring.statistics import Spread


def scores_table(scores: Sequence[Score]) -> Table:
    """Rows of ``scores.json``."""
    table = Table("method", "LVLM", "dataset", "subset", "protocol", "J&F", "J", "F", "scored", "coverage")
    for row in scores:
        interval = f" {_interval(row.interval)}" if row.interval is not None else ""
        cells = [
            row.method,
            row.lvlm or "",
            f"{row.dataset}/{row.split}",
            row.subset,
            row.protocol,
            _percent(row.J_and_F) + interval,
            _percent(row.J),
            _percent(row.F),
            f"{row.counts.scored}/{row.counts.attempted}",
            row.coverage or "",
        ]
        table.add_row(*map(Text, cells))
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Second minus first, in points."""
    table = Table("first", "second", "dataset", "protocol", "J&F", "difference", "J", "F", "win/tie/loss", "unpaired")
    for row in comparisons:
        a, b, gain = row.first, row.second, row.difference
        cells = [
            _name(a),
            _name(b),
            f"{a.dataset}/{a.split}",
            a.protocol,
            f"{_percent(a.J_and_F)} -> {_percent(b.J_and_F)}",
        ]
        if gain is None:
            cells += ["not paired", "", "", "", ""]
        else:
            interval = f" {_interval(gain.interval)}" if gain.interval is not None else ""
            cells += [
                f"{100 * gain.J_and_F:+.1f}{interval}",
                f"{100 * gain.J:+.1f}",
                f"{100 * gain.F:+.1f}",
                f"{gain.wins}/{gain.ties}/{gain.losses}",
                str(row.only_in_one),
            ]
        table.add_row(*map(Text, cells))
    return table


def print_problems(problems: Sequence[Problem], console: Console) -> None:
    """The complete list, then a count per kind."""
    for problem in problems:
        console.print(Text(str(problem)), soft_wrap=True)
    if problems:
        counts = ((kind, sum(problem.masks for problem in problems if problem.kind == kind)) for kind in KINDS)
        console.print(Text("; ".join(f"{count} {kind}" for kind, count in counts if count)), soft_wrap=True)


def _name(score: Score) -> str:
    return f"{score.method} on {score.lvlm}" if score.lvlm else score.method


def _interval(interval: Interval | Spread) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
