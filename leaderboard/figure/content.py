"""Puts the figure of one sample together, as arrays and text; drawing it is another file's work.

Shape legend: T keyframes, H W pixels, h w map cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, FrameHW3
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import read_frames
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.leaderboard.figure.maps import (
    NO_PROMPTS,
    Float64,
    FramePrompts,
    KeyframeMaps,
    read_keyframes,
    read_maps,
    read_prompts,
    tracklets,
)
from rvosbench.leaderboard.figure.samples import Found, read_artefacts
from rvosbench.leaderboard.viewer import SampleView, open_sample

COLUMNS = 8
"""At most this many frames, unless another number is given."""
_OTHER_DATA = "Give the data root that the run was made with: --data-root FOLDER."
_PROMPT_NOTE = "white: what prompted the masks; blue: points whose tracklet is in the result"


@dataclass(frozen=True, eq=False)
class Cell:
    """What is drawn over one frame."""

    caption: str = ""
    map_hw: Float64 | None = None
    """Values in [0, 1]."""
    mask_HW: BoolHW | None = None
    prompts: FramePrompts = NO_PROMPTS
    blank: str = ""
    """What stands in place of the frame where there is nothing to draw."""


@dataclass(frozen=True, eq=False)
class Row:
    """One cell per frame."""

    label: str
    note: str
    cells: tuple[Cell, ...]
    mask: Literal["prediction", "truth"] = "prediction"
    """What the masks of its cells are."""


@dataclass(frozen=True, eq=False)
class FigureContent:
    """Everything that stands on a figure."""

    title: str
    facts: tuple[str, ...]
    """Lines below the title."""
    frames: tuple[FrameHW3, ...]
    """Of one size."""
    names: tuple[str, ...]
    """Of the frames."""
    rows: tuple[Row, ...]
    """Below the frames, from top to bottom."""


def figure_content(found: Found, dataset: Dataset, columns: int = COLUMNS) -> FigureContent:
    """What the tables, the artefacts and the data hold of a sample; what they do not hold is left out.

    Args:
        columns: at most this many frames, evenly chosen from the keyframes, or from all frames without keyframes.

    Raises:
        PrerequisiteError: the data is not the run's, or an artefact is damaged.
        SampleError: a frame, a mask or the ground truth cannot be read.
    """
    artefacts, problems = read_artefacts(found)
    view = open_sample(found.run, dataset, found.row)
    keyframes, unusable = read_keyframes(artefacts)
    of_video = tuple(range(len(view.video.frames)))
    candidates = keyframes or of_video
    if max(candidates) >= len(of_video):
        raise PrerequisiteError(
            f"Video {view.video.name} has {len(of_video)} frames, the run saw a frame {max(candidates)}.", _OTHER_DATA
        )
    prompts = {stage: read_prompts(artefact) for stage, artefact in artefacts.items()}
    shown = shown_frames(
        candidates, [frame for by_frame, _ in prompts.values() for frame in _wanted(by_frame)], columns
    )
    layers = [view.layers(index) for index in shown]
    _check_sizes(view, layers)
    rows: list[Row] = []
    notes = [*problems, *unusable]
    if view.problem and ("segment" in artefacts or found.row.get("key_segment") is None):
        notes.append(view.problem)
    for stage, artefact in artefacts.items():
        maps, unshown = read_maps(artefact, len(candidates))
        by_frame, unread = prompts[stage]
        at = [candidates.index(frame) for frame in shown]
        rows += stage_rows(stage, maps, by_frame, shown, at)
        notes += [*unshown, *unread]
    names = [view.video.frames[index] for index in shown]
    if view.track is not None:
        rows.append(prediction_row([prediction for _, prediction, _ in layers]))
    if view.ground_truth is not None:
        rows.append(truth_row([truth for _, _, truth in layers], names, frame_scores(found)))
    kind = "frames" if keyframes is None else "keyframes"
    by_frame = {frame: here for found_here, _ in prompts.values() for frame, here in found_here.items()}
    facts = [
        " · ".join(_who(found)),
        f"{_score(found)} · {len(shown)} of {len(candidates)} {kind} shown",
        *_said(artefacts),
        *_prompted(by_frame, view.video.frames),
        *(fact for artefact in artefacts.values() for fact in _kept(artefact)),
        *notes,
    ]
    return FigureContent(
        f"“{str(found.row.get('text') or view.expression.text).strip()}”",
        tuple(facts),
        tuple(frame for frame, _, _ in layers),
        tuple(f"frame {name}" for name in names),
        tuple(rows),
    )


def shown_frames(candidates: Sequence[int], wanted: Sequence[int], columns: int) -> tuple[int, ...]:
    """At most ``columns`` of the frames, evenly chosen, first and last included.

    Each wanted frame that is not among them takes the place of the nearest one that is not wanted, while there is one.
    """
    count = len(candidates)
    if count <= columns:
        return tuple(candidates)
    chosen = {candidates[(count - 1) * k // (columns - 1)] for k in range(columns)}
    for frame in wanted:
        free = chosen - set(wanted)
        if frame in candidates and frame not in chosen and free:
            chosen.remove(min(free, key=lambda other: (abs(other - frame), other)))
            chosen.add(frame)
    return tuple(frame for frame in candidates if frame in chosen)


def stage_rows(
    stage: str,
    maps: Sequence[KeyframeMaps],
    prompts: Mapping[int, FramePrompts],
    shown: Sequence[int],
    at: Sequence[int],
) -> Iterator[Row]:
    """A row per map of a stage; its prompts lie on the last one, or on the frames where there is none.

    Args:
        shown: indices of the frames; ``at``: their positions among all keyframes.
    """
    on_frames = [prompts.get(frame, NO_PROMPTS) for frame in shown]
    for number, one in enumerate(maps, start=1):
        drawn, note = for_display(one.maps)
        last = bool(prompts) and number == len(maps)
        cells = []
        for here, k in zip(on_frames, at, strict=True):
            stored_hw = one.maps[k]
            parts = [] if stored_hw is None else [f"max {stored_hw.max():.3g}"]
            parts += [count_of(here)] if last else []
            blank = "" if stored_hw is not None or (last and here is not NO_PROMPTS) else "no map"
            cells.append(Cell(" · ".join(parts), drawn[k], None, here if last else NO_PROMPTS, blank))
        yield Row(f"{stage}: {one.name}", f"{note}; {_PROMPT_NOTE}" if last else note, tuple(cells))
    if prompts and not maps:
        cells = [Cell(count_of(here), prompts=here) for here in on_frames]
        yield Row(f"{stage}: prompts", _PROMPT_NOTE, tuple(cells))


def for_display(maps: Sequence[Float64 | None]) -> tuple[tuple[Float64 | None, ...], str]:
    """The maps in [0, 1] over the whole clip, and the note that says how.

    A map that lies in [0, 1] and reaches 1 is drawn as it is stored; another one from its lowest to its highest value.
    """
    values = [one for one in maps if one is not None]
    if not values:
        return tuple(maps), "no map on any keyframe"
    low, high = min(float(one.min()) for one in values), max(float(one.max()) for one in values)
    if low >= 0 and high == 1:
        return tuple(maps), "as stored, 0 to 1"
    if low == high:
        return tuple(None if one is None else np.zeros_like(one) for one in maps), f"{low:.3g} everywhere"
    # Halves first: the span of two large values would overflow.
    drawn = tuple(None if one is None else (one / 2 - low / 2) / (high / 2 - low / 2) for one in maps)
    return drawn, f"{low:.3g} to {high:.3g} over the clip, drawn as 0 to 1"


def count_of(prompts: FramePrompts) -> str:
    """How many points and boxes there are, in words."""
    points, boxes = len(prompts.xy_n2), len(prompts.boxes_m4)
    parts = [f"{points} point{'' if points == 1 else 's'}"] if points else []
    parts += [f"{boxes} box{'' if boxes == 1 else 'es'}"] if boxes else []
    return " and ".join(parts) or "no prompt"


def prediction_row(masks: Sequence[BoolHW | None]) -> Row:
    """The predicted masks."""
    cells = []
    for mask_HW in masks:
        if mask_HW is None:
            cells.append(Cell(blank="no mask"))
        else:
            caption = f"{mask_HW.mean():.1%} of the frame" if mask_HW.any() else "empty"
            cells.append(Cell(caption, mask_HW=mask_HW))
    return Row("predicted mask", "", tuple(cells))


def truth_row(masks: Sequence[BoolHW | None], names: Sequence[str], scores: Mapping[str, tuple[float, float]]) -> Row:
    """Ground truth with the J and F that the run's tables give the frame."""
    cells = []
    for mask_HW, name in zip(masks, names, strict=True):
        parts = ["no target"] if mask_HW is not None and not mask_HW.any() else []
        if name in scores:
            j, f = scores[name]
            parts.append(f"J {100 * j:.1f}, F {100 * f:.1f}")
        blank = "not annotated" if mask_HW is None else ""
        cells.append(Cell(" · ".join(parts), mask_HW=mask_HW, blank=blank))
    return Row("ground truth", "J and F of the prediction in %", tuple(cells), "truth")


def frame_scores(found: Found) -> dict[str, tuple[float, float]]:
    """J and F by the frame's name, as fractions."""
    keys = ("method", "lvlm", "dataset", "split", "video", "expression")
    table = read_frames(found.run, **{key: found.row[key] for key in keys})
    return {str(name): (float(j), float(f)) for name, j, f in zip(table["frame"], table["J"], table["F"], strict=True)}


def _check_sizes(view: SampleView, layers: Sequence[tuple[FrameHW3, BoolHW | None, BoolHW | None]]) -> None:
    """Raises PrerequisiteError where a frame or a mask has another size than the first frame."""
    height, width = layers[0][0].shape[:2]
    for images in layers:
        for kind, image in zip(("frame", "predicted mask", "ground truth"), images, strict=True):
            if image is not None and image.shape[:2] != (height, width):
                raise PrerequisiteError(
                    f"A {kind} of video {view.video.name} is {image.shape[1]}x{image.shape[0]}, "
                    f"its first frame {width}x{height}.",
                    _OTHER_DATA,
                )


def _wanted(prompts: Mapping[int, FramePrompts]) -> list[int]:
    """Frames that should be shown: those whose prompts made the result, or all where nothing says which did."""
    return [frame for frame in prompts if prompts[frame].chosen_n.any()] or list(prompts)


def _who(found: Found) -> Iterator[str]:
    row = found.row
    yield str(row["method"])
    if row["lvlm"]:
        yield str(row["lvlm"])
    yield f"{row['dataset']}/{row['split']}"
    yield found.name


def _score(found: Found) -> str:
    row = found.row
    if row["status"] == "scored" and row["J_and_F"] is not None:
        j_and_f, j, f = (100 * float(row[name]) for name in ("J_and_F", "J", "F"))
        return f"J&F {j_and_f:.1f} (J {j:.1f}, F {f:.1f}) over {int(row['num_frames'])} frames"
    error = row.get("error")
    return f"{row['status']}, without a score" + (f": {error}" if error else "")


def _said(artefacts: Mapping[str, Artefact]) -> Iterator[str]:
    """What the model called the object, its attributes and reasons, once each, and every fallback."""
    said: dict[str, str] = {}
    for artefact in artefacts.values():
        meta = artefact.meta
        attributes = meta.get("attributes")
        if isinstance(attributes, list):
            said.setdefault("Attributes", "; ".join(map(str, attributes)) or "none")
        for label, name in (("Object", "object_name"), ("Reasons", "reasons"), ("Nothing predicted", "empty_because")):
            text = meta.get(name)
            if isinstance(text, str) and text:
                said.setdefault(label, text)
    yield from (f"{label}: {text}" for label, text in said.items())
    for stage, artefact in artefacts.items():
        fallback = artefact.meta.get("fallback")
        if isinstance(fallback, str) and fallback:
            yield f"Fallback of {stage}: {fallback}"


def _prompted(prompts: Mapping[int, FramePrompts], names: Sequence[str]) -> Iterator[str]:
    """Which frames were prompted, shown or not."""
    if not prompts:
        return
    points, boxes = (sum(len(one) for one in each) for each in (
        [here.xy_n2 for here in prompts.values()], [here.boxes_m4 for here in prompts.values()]))  # fmt: skip
    total = count_of(FramePrompts(np.zeros((points, 2)), np.zeros(points, dtype=bool), np.zeros((boxes, 4))))
    frames = [names[frame] if frame < len(names) else str(frame) for frame in sorted(prompts)]
    results = [names[frame] for frame in sorted(prompts) if prompts[frame].chosen_n.any() and frame < len(names)]
    text = f"Prompted with {total} on frame{'' if len(frames) == 1 else 's'} {', '.join(frames)}"
    yield f"{text} · result tracked from {', '.join(results)}" if results else text


def _kept(artefact: Artefact) -> Iterator[str]:
    """The scores of each tracklet that is in the result."""
    listed = tracklets(artefact)
    for number, one in enumerate(listed, start=1):
        scores = [f"{name} {value:.2f}" for name, value in one.items() if isinstance(value, float)]
        if one.get("selected") and scores:
            yield f"Kept tracklet {number} of {len(listed)}: {', '.join(scores)}"
