"""Published numbers beside the runs of this folder."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from rvosbench.leaderboard.charts import comparison_chart
from rvosbench.leaderboard.exports import to_csv, to_latex, to_markdown
from rvosbench.leaderboard.pivot import Pivot, pivot
from rvosbench.leaderboard.tables import KINDS, SCOPES, Filters, Scope, apply
from rvosbench.leaderboard.ui import (
    broken_notice,
    leaders_html,
    legend_html,
    load_board,
    load_runs,
    page_title,
    pivot_html,
    plain,
    runs_root,
)

_PERCENT = st.column_config.NumberColumn(format="%.1f")
_COLUMNS: dict[str, Any] = {
    "method": "Method",
    "lvlm": "LVLM",
    "kind": "Origin",
    "run_by": st.column_config.TextColumn("Run by", width="medium"),
    "dataset": "Dataset",
    "split": "Split",
    "subset": "Subset",
    "protocol": "Protocol",
    "J_and_F": st.column_config.NumberColumn("J&F", format="%.1f"),
    "J": _PERCENT,
    "F": _PERCENT,
    "interval": "95% interval",
    "coverage": "Coverage",
    "samples": st.column_config.TextColumn("Scored", help="scored of attempted samples"),
    "flag": "Flag",
    "note": st.column_config.TextColumn("Note", width="large"),
    "source": "Source",
    "link": st.column_config.LinkColumn("Link", display_text="open"),
    "run_id": "Run",
}


def choose_filters(rows: pd.DataFrame) -> Filters:
    """The filter bar. Choices are kept in the page's address, so that a link shows the same."""
    places = st.columns([4.2, 2, 2, 2, 1.1], vertical_alignment="bottom")
    scope: Scope = places[0].segmented_control(
        "Rows",
        list(SCOPES),
        default="main",
        format_func=lambda name: SCOPES[name],
        key="scope",
        bind="query-params",
        required=True,
        help="The main comparison is one table of frozen-LVLM methods and trained ones; your runs are always shown.",
    )
    in_scope = apply(rows, Filters(scope))
    more = places[4].popover("More", width="stretch")
    boxes = [
        (places[1], "dataset", "Dataset"),
        (places[2], "method", "Method"),
        (places[3], "lvlm", "LVLM"),
        (more, "kind", "Run by"),
        (more, "subset", "Subset"),
        (more, "protocol", "Protocol"),
    ]
    chosen = {}
    for place, name, label in boxes:
        options = list(dict.fromkeys(in_scope[name].sort_values(key=lambda values: values.str.lower())))
        words = (lambda value: KINDS[value]) if name == "kind" else str
        chosen[name] = tuple(
            place.multiselect(
                label, options, format_func=words, key=name, bind="query-params", placeholder=f"All {len(options)}"
            )
        )
    return Filters(scope, **chosen)


def show_chart(table: Pivot) -> None:
    """One benchmark at a time: the axes of different benchmarks say nothing about each other."""
    heading = st.selectbox("Benchmark", table.headings, key="benchmark", bind="query-params")
    if heading in table.headings:
        protocol = plain(table.protocols[heading])
        st.caption(f"Protocol {protocol}. Bars through a dot are 95% intervals over videos; few videos have none.")
        st.altair_chart(comparison_chart(table, heading), theme=None)


def show_rows(rows: pd.DataFrame) -> None:
    """Every number with its provenance."""
    shown = rows.assign(
        kind=rows["kind"].map(KINDS),
        interval=[
            "-" if pd.isna(low) else f"{low:.1f}–{high:.1f}"
            for low, high in zip(rows["low"], rows["high"], strict=True)
        ],
        samples=[
            "" if pd.isna(total) else f"{done} / {total}"
            for done, total in zip(rows["scored"], rows["attempted"], strict=True)
        ],
    )
    st.dataframe(shown, hide_index=True, column_order=list(_COLUMNS), column_config=_COLUMNS, height=560)


def downloads(rows: pd.DataFrame, table: Pivot) -> None:
    """What is shown, as files."""
    first, second, third, _ = st.columns([1, 1, 1, 5])
    first.download_button("CSV", to_csv(rows), "leaderboard.csv", "text/csv", width="stretch")
    second.download_button("Markdown", to_markdown(table), "leaderboard.md", "text/markdown", width="stretch")
    third.download_button("LaTeX", to_latex(table), "leaderboard.tex", "text/plain", width="stretch")


root = runs_root()
runs, everything = load_runs(root), load_board(root)
page_title(
    "Video reasoning segmentation",
    "Which method segments the right object, on which benchmark. Published numbers stand beside numbers measured here, "
    "each under the protocol it was scored with.",
)
selected = apply(everything, choose_filters(everything))
if not runs.runs:
    st.info(f"No runs in {plain(root)} yet: only published numbers are shown. Start one with `rvosbench run RECIPE`.")
if selected["J_and_F"].notna().any():
    result = pivot(selected)
    st.html(leaders_html(result))
    table_tab, chart_tab, rows_tab = st.tabs(["Table", "Chart", "All rows"])
    with table_tab:
        st.html(pivot_html(result))
        st.html(legend_html(result))
        downloads(selected, result)
    with chart_tab:
        show_chart(result)
    with rows_tab:
        show_rows(selected)
else:
    st.info("No number fits these filters.")
broken_notice(runs)
