"""All run folders: how they ended, and why some cannot be read."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import Run, status_counts
from rvosbench.harness.scoring.references import dataset_title
from rvosbench.leaderboard.ui import duration, load_runs, page_title, plain, runs_root

_COLUMNS: dict[str, Any] = {
    "run": st.column_config.TextColumn("Run", width="medium"),
    "status": "Status",
    "methods": st.column_config.TextColumn("Methods", width="medium"),
    "datasets": "Datasets",
    "attempted": st.column_config.NumberColumn("Attempted"),
    "scored": st.column_config.NumberColumn("Scored"),
    "failed": st.column_config.NumberColumn("Failed", help="count as 0 in the means"),
    "missing": st.column_config.NumberColumn("Missing", help="count as 0 in the means"),
    "started": st.column_config.DatetimeColumn("Started", format="YYYY-MM-DD HH:mm"),
    "time": "Wall time",
    "device": "Device",
    "problem": "Problem",
}


def line(run: Run) -> dict[str, object]:
    """One row of the list."""
    info, problem = run.info, ""
    counts: dict[str, int | None] = dict.fromkeys(("attempted", "scored", "failed", "missing"))
    try:
        found = status_counts(run)
        counts = {name: getattr(found, name) for name in counts}
    except PrerequisiteError as error:
        problem = error.problem
    return {
        "run": run.id,
        "status": run.status,
        "methods": ", ".join(dict.fromkeys(score.method for score in run.scores)),
        "datasets": ", ".join(dict.fromkeys(dataset_title(score.dataset) for score in run.scores)),
        **counts,
        "started": info.started if info is not None else None,
        "time": duration(info.seconds if info is not None else None),
        "device": info.device_text if info is not None else "",
        "problem": problem,
    }


root = runs_root()
runs = load_runs(root)
page_title("Runs", f"Every run folder below {root}, newest first. Select one to look inside.")
if runs.runs:
    table = pd.DataFrame([line(run) for run in runs.runs])
    table["started"] = pd.to_datetime(table["started"], utc=True)
    columns = [name for name in _COLUMNS if name != "problem" or table["problem"].any()]
    event = st.dataframe(
        table,
        hide_index=True,
        column_order=columns,
        column_config=_COLUMNS,
        on_select="rerun",
        selection_mode="single-row",
        key="list",
    )
    if event.selection.rows:
        st.switch_page("views/run.py", query_params={"run": runs.runs[event.selection.rows[0]].id})
else:
    st.info(f"No runs in {plain(root)} yet. Start one with `rvosbench run RECIPE`.")
if runs.broken:
    st.subheader("Not readable")
    st.caption("These folders look like runs but cannot be trusted; none of their numbers are shown anywhere.")
    st.dataframe(
        pd.DataFrame([{"Folder": run.id, "Reason": run.reason} for run in runs.broken]),
        hide_index=True,
        column_config={"Reason": st.column_config.TextColumn(width="large")},
    )
