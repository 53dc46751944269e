"""What the pages share: where the runs are, cached reading, text that stays text, and the house style."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import pandas as pd
import streamlit as st

from rvosbench.harness.results.reader import Run, RunList, find_runs
from rvosbench.harness.text import markup, one_line
from rvosbench.leaderboard.pivot import Cell, Pivot
from rvosbench.leaderboard.tables import KINDS, OURS, board

RUNS_VARIABLE = "RVOSBENCH_RUNS"
_TTL = 15.0
"""Seconds until a page notices new results."""


def runs_root() -> Path:
    """The runs folder: ``--runs`` after ``--`` on the command line, else RVOSBENCH_RUNS, else ./runs."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runs", type=Path)
    given: Path | None = parser.parse_known_args(sys.argv[1:])[0].runs
    return given or Path(os.environ.get(RUNS_VARIABLE) or "runs")


@st.cache_data(ttl=_TTL, max_entries=8, show_spinner="Reading runs")
def load_runs(root: Path) -> RunList:
    """`find_runs`, read again after a few seconds."""
    return find_runs(root)


@st.cache_data(ttl=_TTL, max_entries=8, show_spinner=False)
def load_board(root: Path) -> pd.DataFrame:
    """The board of all readable runs."""
    return board(load_runs(root).runs)


def plain(text: object) -> str:
    """Text that Markdown shows as it is: every ASCII punctuation mark escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one_line(" ".join(str(text).split())))


def page_title(title: str, subtitle: str) -> None:
    """The head of a page. Both texts are escaped."""
    st.html(f'<div class="rv-head"><h1>{markup(title)}</h1><p>{markup(subtitle)}</p></div>')


def pivot_html(table: Pivot) -> str:
    """The paper-like table. Every name is escaped."""
    heads = "".join(
        f'<th class="num" title="{markup(table.protocols[heading])}">{markup(heading)}</th>'
        for heading in table.headings
    )
    body, previous = [], ""
    for line in table.lines:
        kind = "own" if line.kind in OURS else "quoted"
        again = " again" if line.label == previous else ""
        previous = line.label
        cells = "".join(_cell_html(line.cells.get(heading)) for heading in table.headings)
        words = {"published": "its authors", "starred": line.run_by}.get(line.kind, KINDS[line.kind])
        tag = f'<span class="tag {line.kind}">{markup(words)}</span>'
        by = f"<span class='by'>{markup(line.run_id)}</span>"
        body.append(
            f'<tr class="{kind}{"" if again else " first"}"><td class="method{again}">{markup(line.label)}</td>'
            f"<td>{markup(line.lvlm)}</td><td>{tag} {by}</td>{cells}</tr>"
        )
    return (
        '<div class="rv-scroll"><table class="rv"><thead><tr><th>Method</th><th>LVLM</th><th>Run by</th>'
        f"{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def legend_html(table: Pivot) -> str:
    """What the signs and the bold face mean."""
    signs = [f"<b>{markup(sign)}</b> {markup(meaning)}" for sign, meaning in table.legend.items()]
    return f'<p class="rv-legend">J&amp;F in percent; best per column in bold. {" &nbsp; ".join(signs)}</p>'


def leaders_html(table: Pivot) -> str:
    """One card per benchmark: who leads among published numbers, and among the numbers of this folder."""
    cards = []
    for heading in table.main:
        parts = []
        for own, words in ((False, "published"), (True, "here")):
            found = [
                (line.cells[heading], line)
                for line in table.lines
                if (line.kind in OURS) == own and heading in line.cells and "?" not in line.cells[heading].marks
            ]
            if found:
                cell, line = max(found, key=lambda pair: pair[0].value)
                style = "own" if own else "quoted"
                parts.append(
                    f'<div class="lead {style}"><span class="value">{cell.value:.1f}{_marks_html(cell)}</span>'
                    f"<span class='who'><b>{markup(line.label)}</b> {markup(line.lvlm)}<br>"
                    f"{words}{markup(f', run by {line.run_by}' if line.run_by else '')}</span></div>"
                )
        cards.append(f'<div class="card"><h3>{markup(heading)}</h3>{"".join(parts)}</div>')
    return f'<div class="rv-cards">{"".join(cards)}</div>'


def swatches_html(colours: dict[str, str]) -> str:
    """A colour legend: meaning -> CSS colour."""
    items = [
        f'<span><i style="background:{markup(colour)}"></i>{markup(meaning)}</span>'
        for meaning, colour in colours.items()
    ]
    return f'<p class="rv-swatches">{"".join(items)}</p>'


def broken_notice(runs: RunList) -> None:
    """Says how many folders could not be read, and where the reasons are."""
    if runs.broken:
        count = len(runs.broken)
        st.caption(f"{count} run folder{'s' if count > 1 else ''} could not be read; the Runs page lists the reasons.")


def duration(seconds: float | None) -> str:
    """ "1 h 30 min", "2 min 5 s", "12.5 s"."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def choose_run(runs: RunList) -> Run | None:
    """The run picked in the box; its id is in the page's address."""
    return runs.get(st.selectbox("Run", [run.id for run in runs.runs], key="run", bind="query-params") or "")


def _cell_html(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="num none">–</td>'
    value = f"<b>{cell.value:.1f}</b>" if cell.best else f"{cell.value:.1f}"
    interval = f'<span class="ci">{cell.low:.1f}–{cell.high:.1f}</span>' if cell.low is not None else ""
    if cell.difference is not None:
        interval += f'<span class="ci">{cell.difference:+.1f} to published</span>'
    return f'<td class="num">{value}{_marks_html(cell)}{interval}</td>'


def _marks_html(cell: Cell) -> str:
    return f"<sup>{markup(cell.marks)}</sup>" if cell.marks else ""


STYLE = """
<style>
.block-container {padding-top: 4.5rem; max-width: 1320px;}
.rv-head h1 {font-size: 1.75rem; font-weight: 650; letter-spacing: -0.015em; margin: 0; padding: 0;}
.rv-head p {color: #6b7785; margin: .3rem 0 .4rem 0; font-size: .95rem; max-width: 60rem;}
.rv-cards {display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: .7rem; margin: .2rem 0;}
.rv-cards .card {border: 1px solid #e6e9ee; border-radius: 8px; padding: .7rem .85rem; background: #fff;}
.rv-cards h3 {font-size: .8rem; font-weight: 600; color: #52606d; margin: 0 0 .45rem 0; padding: 0;}
.rv-cards .lead {display: flex; gap: .6rem; align-items: baseline; margin-top: .3rem;}
.rv-cards .value {font-size: 1.45rem; font-weight: 620; font-variant-numeric: tabular-nums; color: #52606d;
  line-height: 1;}
.rv-cards .own .value {color: #0f766e;}
.rv-cards .who {font-size: .76rem; line-height: 1.3; color: #6b7785;}
.rv-cards .who b {color: #1f2933; font-weight: 600;}
[data-testid="stHeading"] h3 {font-size: 1.15rem; font-weight: 620; padding-bottom: .2rem;}
.rv-scroll {overflow-x: auto;}
table.rv {border-collapse: collapse; width: 100%; font-size: .88rem; line-height: 1.25;}
table.rv th {text-align: left; font-weight: 600; color: #52606d; font-size: .78rem; padding: .4rem .6rem;
  border-bottom: 1.5px solid #9aa5b1; vertical-align: bottom;}
table.rv td {padding: .3rem .6rem; border-bottom: 0; vertical-align: baseline;}
table.rv tr.first td {border-top: 1px solid #eef0f3;}
table.rv tr:hover td {background: #f5f7f9;}
table.rv tr.own td {background: #f0faf8;}
table.rv .num {text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;}
table.rv th.num {max-width: 7.5rem; white-space: normal;}
table.rv .none {color: #cbd2d9;}
table.rv .method {font-weight: 600;}
table.rv .again {color: #9aa5b1; font-weight: 400;}
table.rv td:nth-child(-n+2) {white-space: nowrap;}
.rv-cards sup, table.rv sup {color: #b45309; font-size: .7em; margin-left: 1px;}
table.rv .ci {display: block; font-size: .7rem; color: #6b7785;}
table.rv .tag {font-size: .74rem; color: #6b7785;}
table.rv .tag.reproduced {color: #0f766e; font-weight: 600;}
table.rv .tag.imported {color: #b45309; font-weight: 600;}
table.rv .by {font-size: .74rem; color: #9aa5b1;}
.rv-legend {font-size: .78rem; color: #6b7785; margin: .5rem 0 0 0;}
.rv-swatches {display: flex; gap: 1.2rem; font-size: .82rem; color: #52606d; margin: 0;}
.rv-swatches i {display: inline-block; width: .75rem; height: .75rem; border-radius: 3px; margin-right: .4rem;}
[data-testid="stMetricValue"] {font-size: 1.45rem; font-variant-numeric: tabular-nums;}
</style>
"""
"""Names that start with ``rv`` belong to the tables and cards above."""
