"""One run: its scores, its samples, and any sample frame by frame."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import cv2
import pandas as pd
import streamlit as st
import yaml

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.published import display_lvlm
from rvosbench.harness.results.reader import STATUSES, Run, read_frames, read_samples, status_counts
from rvosbench.harness.scoring.oddities import WARNING
from rvosbench.leaderboard.charts import frame_chart
from rvosbench.leaderboard.figure.content import figure_content
from rvosbench.leaderboard.figure.drawing import to_png
from rvosbench.leaderboard.figure.samples import Wanted, find_sample
from rvosbench.leaderboard.overlays import MEANINGS, VIEWS, View, compose, hex_colour
from rvosbench.leaderboard.tables import OURS, board
from rvosbench.leaderboard.ui import (
    broken_notice,
    choose_run,
    duration,
    load_runs,
    page_title,
    plain,
    runs_root,
    swatches_html,
)
from rvosbench.leaderboard.viewer import SampleView, data_roots, find_dataset, open_sample, reasoning

_SCORES: dict[str, Any] = {
    "method": "Method",
    "lvlm": "LVLM",
    "dataset": "Dataset",
    "split": "Split",
    "subset": "Subset",
    "protocol": "Protocol",
    "J_and_F": st.column_config.NumberColumn("J&F", format="%.1f"),
    "interval": "95% interval",
    "J": st.column_config.NumberColumn(format="%.1f"),
    "F": st.column_config.NumberColumn(format="%.1f"),
    "attempted": "Attempted",
    "scored": "Scored",
    "failed": "Failed",
    "missing": "Missing",
    "coverage": "Coverage",
    "note": st.column_config.TextColumn("Note", width="large"),
}
_PERCENT = st.column_config.NumberColumn(format="%.1f", help="percent")
_SAMPLES: dict[str, Any] = {
    "status": "Status",
    "J_and_F": st.column_config.ProgressColumn("J&F", format="%.1f", min_value=0, max_value=100),
    "J": _PERCENT,
    "F": _PERCENT,
    "method": "Method",
    "checkpoint": "LVLM",
    "video": "Video",
    "expression": "Expr.",
    "text": st.column_config.TextColumn("Text", width="large"),
    "subset": "Subset",
    "num_frames": "Frames",
    "error": st.column_config.TextColumn("Error", width="large"),
    "fallback": st.column_config.TextColumn("Fallback", width="large"),
}
_ORDERS = {"lowest": "J&F, lowest first", "highest": "J&F, highest first", "listed": "As in the run"}
_FILMSTRIP = 6


@st.cache_resource(ttl=600, max_entries=8, show_spinner="Opening the dataset")
def load_dataset(_run: Run, roots: tuple[str, ...], name: str, split: str) -> Dataset:
    """`find_dataset`, kept for a while; ``roots`` makes the cache key."""
    return find_dataset(_run, name, split)


@st.cache_data(ttl=600, max_entries=512, show_spinner=False)
def picture(_view: SampleView, sample: tuple[str, ...], index: int, view: View) -> bytes:
    """One composed frame as JPEG; ``sample`` (folders, names, artefact key) makes the cache key."""
    image_HW3 = compose(*_view.layers(index), view)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return encoded.tobytes()


@st.cache_data(ttl=600, max_entries=32, show_spinner="Drawing")
def figure_file(_run: Run, wanted: Wanted, folders: tuple[str, ...], version: tuple[str, ...]) -> bytes:
    """The figure of a sample as PNG; ``folders`` and ``version`` (artefact keys, score) make the cache key too."""
    found = find_sample(_run, wanted)
    dataset = load_dataset(_run, folders[1:], str(found.row["dataset"]), str(found.row["split"]))
    return to_png(figure_content(found, dataset))


def show_summary(run: Run) -> None:
    """How the run ended, in numbers."""
    info = run.info
    try:
        counts = status_counts(run)
    except PrerequisiteError as error:
        st.error(plain(error.problem))
        return
    facts = {
        "Status": run.status,
        "Attempted": str(counts.attempted),
        "Scored": str(counts.scored),
        "Failed": str(counts.failed),
        "Missing": str(counts.missing),
        "Wall time": duration(info.seconds if info is not None else None),
    }
    for place, (label, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        place.metric(label, plain(value))
    if counts.failed or counts.missing:
        st.caption("Failed and missing samples count as 0 in every mean.")
    for use in info.fallbacks if info is not None else ():
        if use.used:
            on = f" on {use.lvlm}" if use.lvlm else ""
            st.caption(plain(f"{use.method}{on}: {use.used} of {use.of} samples used the fallback of {use.stage}."))
    note = run.recipe.get("note")
    if isinstance(note, str):
        st.info(plain(note))


def show_scores(run: Run) -> None:
    """The rows of scores.json in percent."""
    rows = board([run])
    rows = rows[rows["kind"].isin(OURS)]
    if rows.empty:
        st.info("No scores yet.")
        return
    rows = rows.assign(
        interval=[
            "-" if pd.isna(low) else f"{low:.1f}–{high:.1f}"
            for low, high in zip(rows["low"], rows["high"], strict=True)
        ]
    )
    st.dataframe(rows, hide_index=True, column_order=list(_SCORES), column_config=_SCORES)
    notes = (note for score in run.scores for note in score.notes)
    for note in dict.fromkeys(note for note in notes if note.startswith(WARNING)):
        st.warning(plain(note.removeprefix(WARNING)))


def show_provenance(run: Run) -> None:
    """Where the numbers come from: ground truth and predictions, stages, packages, recipe."""
    info = run.info
    with st.expander("Ground truth, stages, device, versions and recipe"):
        origins = [asdict(score.provenance) for score in run.scores if score.provenance is not None]
        if origins:
            different = [origin for index, origin in enumerate(origins) if origin not in origins[:index]]
            st.code(yaml.safe_dump({"scored": different}, sort_keys=False, allow_unicode=True), language="yaml")
        if info is not None:
            stages = [
                {"Stage": name, "Time": duration(spent.seconds), "Items": spent.items, "Computed": spent.computed,
                 "Reused": spent.reused, "Failed": spent.failed}
                for name, spent in info.stages.items()
            ]  # fmt: skip
            if stages:
                st.dataframe(pd.DataFrame(stages), hide_index=True)
            facts = {
                "exit code": info.exit_code,
                "device": info.device,
                "rvosbench": info.rvosbench,
                "git": info.git,
                "packages": info.packages,
            }
            st.code(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), language="yaml")
        if run.recipe:
            st.code(yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True), language="yaml")


def choose_samples(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples that fit the filters, in the chosen order, scores in percent."""
    first, second, third, fourth = st.columns(4)
    methods = second.multiselect("Method", sorted(samples["method"].unique()), placeholder="All")
    statuses = first.multiselect("Status", STATUSES, key="status", bind="query-params", placeholder="All")
    datasets = third.multiselect("Dataset", sorted(samples["dataset"].unique()), placeholder="All")
    order = fourth.selectbox("Order", list(_ORDERS), format_func=lambda name: _ORDERS[name], key="order")
    for name, chosen in (("method", methods), ("status", statuses), ("dataset", datasets)):
        if chosen:
            samples = samples[samples[name].isin(chosen)]
    if order != "listed":
        samples = samples.sort_values("J_and_F", ascending=order == "lowest", kind="stable", na_position="last")
    return samples.assign(**{name: 100.0 * samples[name] for name in ("J", "F", "J_and_F")}).reset_index(drop=True)


def show_samples(run: Run) -> None:
    """The per-sample table; the selected row opens below it."""
    st.subheader("Samples")
    try:
        samples = read_samples(run)
    except PrerequisiteError as error:
        st.error(plain(error.problem))
        return
    if samples.empty:
        st.info("No samples yet.")
        return
    samples = choose_samples(samples)
    samples["checkpoint"] = samples["lvlm"].map(display_lvlm, na_action="ignore")
    if samples.empty:
        st.info("No sample fits these filters.")
        return
    columns = [
        name for name in _SAMPLES if name in samples and not (samples[name].isna() | (samples[name] == "")).all()
    ]
    event = st.dataframe(
        samples,
        hide_index=True,
        column_order=columns,
        column_config=_SAMPLES,
        on_select="rerun",
        selection_mode="single-row",
        height=min(36 * len(samples) + 39, 330),
        key=f"samples of {run.id}",
    )
    chosen = event.selection.rows[0] if event.selection.rows else 0
    picked = samples.iloc[min(chosen, len(samples) - 1)]
    show_sample(run, {str(name): value for name, value in picked.items()})


@st.fragment
def show_sample(run: Run, row: dict[str, Any]) -> None:
    """The sample's text, frames with masks, and J and F over time."""
    lvlm = row["lvlm"] if isinstance(row["lvlm"], str) and row["lvlm"] else None
    st.subheader(plain(f"{row['video']} / {row['expression']}"), anchor=False)
    if isinstance(row.get("text"), str) and row["text"]:
        st.markdown(f"“{plain(row['text'])}”")
    result = "not scored here" if pd.isna(row["J_and_F"]) else f"J&F {row['J_and_F']:.1f}"
    st.caption(plain(f"{row['method']}, {lvlm or 'no LVLM'}; status {row['status']}; {result}"))
    if isinstance(row.get("error"), str) and row["error"]:
        st.warning(plain(row["error"]))
    show_reasoning(run, row)
    scores = _frames_of(run, row, lvlm)
    try:
        view = open_sample(run, load_dataset(run, tuple(map(str, data_roots(run))), row["dataset"], row["split"]), row)
    except PrerequisiteError as error:
        st.info(plain(str(error)))
        names = scores["frame"].tolist()
        if names:
            st.altair_chart(frame_chart(scores, names[0]), theme=None)
        return
    if view.problem:
        st.info(plain(view.problem))
    show_frames(run, row, view, scores)
    show_figure(run, row, lvlm)


def show_figure(run: Run, row: dict[str, Any], lvlm: str | None) -> None:
    """The sample's figure, where it is asked for: drawing takes a second."""
    if not st.toggle("Figure: maps, prompts and masks of the keyframes side by side", key="figure"):
        return
    names = {name: str(row[name]) for name in ("video", "expression", "dataset", "split", "method")}
    wanted = Wanted(**names, lvlm=lvlm)
    version = tuple(f"{name}={value}" for name, value in row.items() if name.startswith("key_") or name == "J_and_F")
    try:
        content = figure_file(run, wanted, (str(run.folder), *map(str, data_roots(run))), version)
    except (PrerequisiteError, SampleError, ValueError) as error:
        st.warning(plain(error))
        return
    st.image(content, width="stretch")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{wanted.method}_{wanted.video}_{wanted.expression}.png")
    st.download_button("Download the figure", content, file_name=name, mime="image/png", key="figure file")


def show_reasoning(run: Run, row: dict[str, Any]) -> None:
    """What the method said about the expression, and whether a stage took its fallback."""
    if isinstance(row.get("fallback"), str) and row["fallback"]:
        st.warning(plain(f"Fallback used in {row['fallback']}"))
    try:
        said = reasoning(run, row)
    except PrerequisiteError as error:
        st.info(plain(error.problem))
        return
    for name, text in said:
        st.caption(plain(f"{name}: {text}"))


def show_frames(run: Run, row: dict[str, Any], view: SampleView, scores: pd.DataFrame) -> None:
    """The picture, its legend, the slider, a film strip and the curve."""
    names = view.video.frames
    key = (
        str(run.folder),
        str(view.video.frame_paths[0]),
        *(str(row.get(name)) for name in ("dataset", "split", "video", "expression", "key_segment")),
    )
    left, right = st.columns([3, 2], gap="large")
    with left:
        mode: View = st.segmented_control(
            "Show", list(VIEWS), default="compare", format_func=lambda name: VIEWS[name], key="view", required=True
        )
        index = 0
        if len(names) > 1:
            start = names.index(scores["frame"].iloc[len(scores) // 2]) if _all_known(scores, names) else 0
            index = st.slider("Frame", 0, len(names) - 1, start, key=f"frame {key}")
        _show_picture(view, key, index, mode)
        st.html(swatches_html({MEANINGS[name]: hex_colour(name) for name in MEANINGS}))
        if view.track is not None and index not in view.track.frames:
            st.caption("The method gives no mask on this frame.")
    with right:
        here = scores[scores["frame"] == names[index]]
        if not here.empty:
            first, second = st.columns(2)
            first.metric(f"J on frame {plain(names[index])}", f"{100 * here['J'].iloc[0]:.1f}")
            second.metric(f"F on frame {plain(names[index])}", f"{100 * here['F'].iloc[0]:.1f}")
        else:
            st.caption(f"Frame {plain(names[index])} is not scored.")
        if not scores.empty:
            st.altair_chart(frame_chart(scores, names[index]), theme=None)
        strip = sorted({round(i * (len(names) - 1) / (_FILMSTRIP - 1)) for i in range(_FILMSTRIP)})
        places = st.columns(3)
        for number, shown in enumerate(strip):
            with places[number % 3]:
                _show_picture(view, key, shown, mode, names[shown])


def _show_picture(view: SampleView, key: tuple[str, ...], index: int, mode: View, caption: str | None = None) -> None:
    try:
        content = picture(view, key, index, mode)
    except (SampleError, ValueError) as error:
        st.warning(plain(error))
        return
    st.image(content, caption=plain(caption) if caption else None, width="stretch")


def _all_known(scores: pd.DataFrame, names: tuple[str, ...]) -> bool:
    return not scores.empty and set(scores["frame"]) <= set(names)


def _frames_of(run: Run, row: dict[str, Any], lvlm: str | None) -> pd.DataFrame:
    match = {name: str(row[name]) for name in ("method", "dataset", "split", "video", "expression")}
    try:
        return read_frames(run, **match, lvlm=lvlm)
    except PrerequisiteError as error:
        st.info(plain(error.problem))
        return pd.DataFrame(columns=["frame", "J", "F"])


runs = load_runs(runs_root())
page_title("Run", "Scores, samples, and any sample frame by frame.")
broken_notice(runs)
run = choose_run(runs) if runs.runs else None
if run is None:
    st.info(f"No runs in {plain(runs_root())} yet. Start one with `rvosbench run RECIPE`.")
else:
    show_summary(run)
    show_scores(run)
    show_provenance(run)
    show_samples(run)
