"""Charts as pure functions of data frames."""

from __future__ import annotations

import altair as alt
import pandas as pd

from rvosbench.leaderboard.pivot import Pivot
from rvosbench.leaderboard.tables import KINDS

Chart = alt.LayerChart | alt.FacetChart
INK, MUTED, GRID = "#1f2933", "#6b7785", "#e6e9ee"
KIND_COLOURS = {"published": "#9aa5b1", "starred": "#c8ced6", "reproduced": "#0f766e", "imported": "#b45309"}
_ROW = 21
_MOST_LINES = 40


def comparison_frame(table: Pivot) -> pd.DataFrame:
    """One row per number of a pivot: heading, label, kind in words, value, low, high."""
    rows = [
        {
            "heading": heading,
            "label": "  ·  ".join(filter(None, (line.label, line.lvlm, line.run_id))),
            "kind": KINDS[line.kind],
            "by": line.by,
            "value": cell.value,
            "text": f"{cell.value:.1f}",
            "low": cell.low,
            "high": cell.high,
        }
        for line in table.lines
        for heading, cell in line.cells.items()
    ]
    frame = pd.DataFrame(rows, columns=["heading", "label", "kind", "by", "value", "text", "low", "high"])
    return frame.astype({"value": float, "low": float, "high": float})


def comparison_chart(table: Pivot, heading: str) -> Chart:
    """J&F of every line under one heading, best first, with the interval where there is one."""
    rows = comparison_frame(table)
    rows = rows[rows["heading"] == heading].sort_values("value", ascending=False, kind="stable").head(_MOST_LINES)
    order = list(dict.fromkeys(rows["label"]))
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(labelLimit=320, ticks=False, domain=False))
    low, high = _extent(rows)
    scale, title = alt.Scale(domain=[low, high], nice=False, zero=False), "J&F, percent"
    kinds = [kind for kind in KINDS if KINDS[kind] in set(rows["kind"])]
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[KINDS[kind] for kind in kinds], range=[KIND_COLOURS[kind] for kind in kinds]),
        legend=alt.Legend(orient="top", symbolType="circle", symbolOpacity=1),
    )
    tooltip = [
        alt.Tooltip("label:N", title="method"),
        alt.Tooltip("kind:N", title="kind"),
        alt.Tooltip("by:N", title="by"),
        alt.Tooltip("value:Q", title="J&F", format=".1f"),
    ]
    base = alt.Chart(rows.assign(start=low, end=rows["high"].fillna(rows["value"])))
    stems = base.mark_rule(color=GRID, strokeWidth=2).encode(
        y=y, x=alt.X("start:Q", title=title, scale=scale), x2="value:Q"
    )
    intervals = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=3, opacity=0.45)
        .encode(y=y, x=alt.X("low:Q", title=title, scale=scale), x2="high:Q", color=colour)
    )
    points = base.mark_circle(size=95, opacity=1).encode(
        y=y, x=alt.X("value:Q", title=title, scale=scale), color=colour, tooltip=tooltip
    )
    numbers = base.mark_text(align="left", dx=9, color=INK, fontSize=11).encode(
        y=y, x=alt.X("end:Q", title=title, scale=scale), text="text:N"
    )
    return _styled(alt.layer(stems, intervals, points, numbers), height=_ROW * max(len(order), 3))


def frame_chart(frames: pd.DataFrame, current: str) -> Chart:
    """J and F over a sample's frames, with the shown frame marked.

    Args:
        frames: rows of frames.parquet of one sample: frame, J, F (fractions).
        current: name of the shown frame; no line where it is not scored.
    """
    order = frames["frame"].tolist()
    long = frames.melt("frame", ["J", "F"], "measure", "value").dropna()
    long["value"] *= 100.0
    step = max(1, -(-len(order) // 6))
    x = alt.X("frame:O", sort=order, title="frame", axis=alt.Axis(values=order[::step], labelAngle=0, grid=False))
    y = alt.Y("value:Q", title="percent", scale=alt.Scale(domain=[0, 100]))
    colour = alt.Color(
        "measure:N",
        title=None,
        scale=alt.Scale(domain=["J", "F"], range=["#0f766e", "#b45309"]),
        legend=alt.Legend(orient="top"),
    )
    tooltip = ["frame:O", "measure:N", alt.Tooltip("value:Q", format=".1f")]
    lines = alt.Chart(long).mark_line(strokeWidth=2, interpolate="linear").encode(x=x, y=y, color=colour)
    points = alt.Chart(long).mark_circle(size=28).encode(x=x, y=y, color=colour, tooltip=tooltip)
    shown = [current] if current in order else []
    mark = (
        alt.Chart(pd.DataFrame({"frame": pd.Series(shown, dtype=str)}))
        .mark_rule(color=MUTED, strokeDash=[4, 3])
        .encode(x=x)
    )
    return _styled(alt.layer(mark, lines, points), height=210)


def _extent(rows: pd.DataFrame) -> tuple[float, float]:
    """The drawn range: tens around the values, so that differences show, and it says where it starts."""
    values = pd.concat([rows["value"], rows["low"].dropna(), rows["high"].dropna()])
    if values.empty:
        return 0.0, 100.0
    return max(0.0, 10.0 * (values.min() // 10)), min(104.0, 10.0 * (values.max() // 10 + 1) + 4.0)


def _styled(chart: Chart, height: int) -> Chart:
    styled: Chart = (
        chart.properties(height=height, width="container")
        .configure_view(strokeWidth=0)
        .configure_axis(
            gridColor=GRID,
            domainColor=GRID,
            tickColor=GRID,
            labelColor=INK,
            titleColor=MUTED,
            titleFontWeight="normal",
            labelFontSize=12,
            titleFontSize=12,
        )
        .configure_legend(labelFontSize=12, labelColor=INK, symbolSize=80)
    )
    return styled
