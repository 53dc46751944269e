"""Reads one sample's artefacts into the rows of a sheet. Nothing is computed but smoothing and normalising.

Shape legend: T keyframes, t time slots of the clip map, H W pixels, h w map cells, n points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rvosbench.harness.data.images import read_rgb
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import BoolHW, FrameHW3, MaskTrack, Video
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.results.reader import read_frames
from rvosbench.harness.settings import Json
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.ground import fusion
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.picture.looks import Look, look_of
from rvosbench.methods.picture.painting import Colour
from rvosbench.methods.picture.samples import Found
from rvosbench.methods.picture.sheet import Heading, HeatRow, MaskRow, Points, Row, draw_sheet

PREDICTED: Colour = (240, 120, 50)
TRUE: Colour = (66, 120, 230)
"""The two stay apart for colour-blind readers."""
_OTHER_DATA = "Give the data root that the run was made with: --data-root FOLDER."
_SCORES = ("rho_frame", "rho_clip", "score", "consistency", "final_score")
"""Of a tracklet, as methods name them."""
_FUSED = {
    "both": "average of both, 0 to 1 over the clip",
    "clip": "the clip map alone",
    "frame": "the frame map alone",
}


def sample_sheet(found: Found, data_root: Path | None, columns: int) -> FrameHW3:
    """The sheet of one sample, (H, W, 3) uint8.

    Args:
        data_root: where the frames are; None: where the recipe says.
        columns: at most this many keyframes, evenly chosen.

    Raises:
        PrerequisiteError: a method whose artefacts cannot be read, one is missing, or the data is not the run's.
        SampleError: a frame or a mask cannot be read.
    """
    look = look_of(found.run, str(found.row["method"]), found.row["lvlm"])
    ground, segment = found.artefact("ground"), found.artefact("segment")
    video, expression, ground_truth = found.data(data_root)
    keyframes, track = integers(segment.meta["keyframes"]), mask_track(segment)
    if keyframes[-1] >= len(video.frames):
        raise PrerequisiteError(
            f"Video {video.name} has {len(video.frames)} frames, the run saw a frame {keyframes[-1]}.", _OTHER_DATA
        )
    chosen = keyframe_indices(len(keyframes), columns)
    indices = [keyframes[position] for position in chosen]
    frames = [read_rgb(video.frame_paths[index]) for index in indices]
    rows: list[Row] = [*heat_rows(ground, segment, look, chosen), mask_row(track, indices)]
    truths: list[BoolHW | None] = []
    if ground_truth is not None:
        scored = ground_truth.scored_frames(video, expression)
        truths = [ground_truth.mask(video, expression, i) if i in scored else None for i in indices]
        rows.append(truth_row(truths, [video.frames[i] for i in indices], frame_scores(found)))
    for picture in (*frames, *(mask for mask in truths if mask is not None)):
        height, width = picture.shape[:2]
        if (height, width) != (track.height, track.width):
            raise PrerequisiteError(
                f"An image of video {video.name} is {width}x{height}, a mask of the run {track.width}x{track.height}.",
                _OTHER_DATA,
            )
    names = [f"frame {video.frames[index]}" for index in indices]
    return draw_sheet(heading(found, video, ground, segment, look, len(chosen)), frames, names, rows)


def heat_rows(ground: Artefact, segment: Artefact, look: Look, chosen: Sequence[int]) -> list[Row]:
    """Clip map, frame map and fused map on the chosen keyframes (positions in the list of keyframes).

    Raises:
        PrerequisiteError: an artefact lacks its maps.
    """
    maps = rollout_maps(ground)
    how = look.fusion
    what = "object minus background" if how.subtract_background else "object"
    frame_Thw = fusion.normalise_frames(fusion.contrast_frame(maps, how))
    clip_Thw = fusion.match_keyframes(fusion.normalise_clip(fusion.contrast_clip(maps, how)), len(frame_Thw))
    fused_Thw = _array(segment, "segment", "fused")
    points = prompt_points(fused_Thw, segment, look)
    rows: list[Row] = []
    for name, note, map_Thw in (
        ("clip", f"{what}, 0 to 1 over the clip", clip_Thw),
        ("frame", f"{what}, 0 to 1 in each frame", frame_Thw),
        ("fused", _FUSED[how.views], fused_Thw),
    ):
        shown_Thw = map_Thw[list(chosen)]
        captions, on_it = _highest(shown_Thw), tuple(points[k] for k in chosen if points)
        if points and name == look.points_from:
            note += f"; {_rule(segment, look)}"
            captions = tuple(f"{text} · {_count(here)}" for text, here in zip(captions, on_it, strict=True))
            rows.append(HeatRow(f"{name} map", note, shown_Thw, captions, on_it))
        else:
            rows.append(HeatRow(f"{name} map", note, shown_Thw, captions))
    return rows


def _rule(segment: Artefact, look: Look) -> str:
    return "its highest cell prompted" if segment.meta.get("fallback") else f"points at {look.tau_point:g} or more"


def prompt_points(fused_Thw: fusion.Float32, segment: Artefact, look: Look) -> tuple[Points, ...]:
    """The points that prompted SAM2, per keyframe; those whose tracklet made the result are chosen. Empty for Otsu.

    An artefact that does not list them has them where the fused map reaches the threshold.
    """
    if look.masks == "attention":
        return ()
    keyframes = integers(segment.meta["keyframes"])
    tracklets = segment.meta["tracklets"]
    assert isinstance(tracklets, list)
    selected = {(one["frame"], *one["point"]) for one in tracklets if one["selected"]}
    if "points" in segment.arrays:
        listed_n4 = _array(segment, "segment", "points")
        frame_n, all_n2 = listed_n4[:, 0].astype(np.int64), listed_n4[:, 2:0:-1]
    else:
        found = fusion.points_above(fused_Thw, look.tau_point)
        frame_n, all_n2 = np.asarray(keyframes)[found.keyframe_n], found.xy_n2
    per_keyframe = []
    for frame in keyframes:
        xy_n2 = all_n2[frame_n == frame]
        chosen = [(frame, float(x), float(y)) in selected for x, y in xy_n2]
        per_keyframe.append(Points(xy_n2, np.array(chosen, dtype=bool)))
    return tuple(per_keyframe)


def mask_row(track: MaskTrack, indices: Sequence[int]) -> MaskRow:
    """The predicted masks of these frames."""
    masks: list[BoolHW | None] = []
    captions = []
    for index in indices:
        listed = index in track.frames
        mask_HW = decode(track.rles[track.frames.index(index)], track.height, track.width) if listed else None
        masks.append(mask_HW)
        captions.append("" if mask_HW is None else f"{mask_HW.mean():.1%} of the frame" if mask_HW.any() else "empty")
    return MaskRow("predicted mask", "", tuple(masks), PREDICTED, "no mask", tuple(captions))


def truth_row(
    truths: Sequence[BoolHW | None], names: Sequence[str], scores: Mapping[str, tuple[float, float]]
) -> MaskRow:
    """Ground truth with the J and F that the run's tables give the frame."""
    captions = []
    for truth_HW, name in zip(truths, names, strict=True):
        parts = ["no target"] if truth_HW is not None and not truth_HW.any() else []
        if name in scores:
            j, f = scores[name]
            parts.append(f"J {percent(j)}, F {percent(f)}")
        captions.append(" · ".join(parts))
    return MaskRow("ground truth", "J and F in %", tuple(truths), TRUE, "not annotated", tuple(captions))


def frame_scores(found: Found) -> dict[str, tuple[float, float]]:
    """J and F by frame name, as fractions."""
    keys = ("method", "lvlm", "dataset", "split", "video", "expression")
    table = read_frames(found.run, **{key: found.row[key] for key in keys})
    return {str(name): (float(j), float(f)) for name, j, f in zip(table["frame"], table["J"], table["F"], strict=True)}


def heading(found: Found, video: Video, ground: Artefact, segment: Artefact, look: Look, shown: int) -> Heading:
    """Title, facts and legend; facts are about all keyframes, shown or not."""
    row, keyframes = found.row, integers(segment.meta["keyframes"])
    who = [str(row["method"]), *([row["lvlm"]] if row["lvlm"] else []), f"{row['dataset']}/{row['split']}", found.name]
    if row["status"] == "scored" and row["J_and_F"] is not None:
        over = "keyframes" if look.masks == "attention" else "frames"
        score = f"J&F {percent(row['J_and_F'])} (J {percent(row['J'])}, F {percent(row['F'])}) over "
        score += f"{int(row['num_frames'])} {over}"
    else:
        score = f"{row['status']}, without a score"
    facts = [" · ".join(who), " · ".join([score, _said(ground), f"{shown} of {len(keyframes)} keyframes shown"])]
    facts += _reasoned(found)
    title = f"“{str(row['text']).strip()}”"
    if look.masks == "attention":
        return Heading(title, tuple(facts))
    points = prompt_points(_array(segment, "segment", "fused"), segment, look)
    facts.append(_prompts(points, [video.frames[index] for index in keyframes]))
    facts += _ranked(segment)
    return Heading(title, tuple(facts), "point that prompted SAM2", "point whose tracklet is in the result")


def _said(ground: Artefact) -> str:
    """What the prompt was told of the object, or what the model called it."""
    attributes = ground.meta.get("attributes")
    if isinstance(attributes, list):
        return f"attributes “{'; '.join(map(str, attributes))}”" if attributes else "no attributes"
    name = ground.meta.get("object_name")
    return f"object “{name}”" if name is not None else "object not named"


def _reasoned(found: Found) -> list[str]:
    """What the reasoning call gave beside attributes, where there was one."""
    if found.row.get("key_reason") is None:
        return []
    meta = found.artefact("reason").meta
    said = {"Reasons": meta.get("reasons"), "No attributes because": meta.get("fallback")}
    return [f"{name}: {text}" for name, text in said.items() if isinstance(text, str) and text]


def _ranked(segment: Artefact) -> list[str]:
    """How well each tracklet of the result did, and what was done where none was found at first."""
    tracklets = segment.meta["tracklets"]
    assert isinstance(tracklets, list)
    facts = []
    for number, one in enumerate(tracklets, start=1):
        scores = [f"{name} {one[name]:.2f}" for name in _SCORES if name in one]
        if one["selected"] and scores:
            facts.append(f"Kept tracklet {number} of {len(tracklets)}: {', '.join(scores)}")
    fallback = segment.meta.get("fallback")
    return [*facts, f"Fallback: {fallback}"] if fallback else facts


def _prompts(points: Sequence[Points], names: Sequence[str]) -> str:
    """Where SAM2 was prompted: a sheet may leave those keyframes out."""
    total = sum(len(one.xy_n2) for one in points)
    if not total:
        return "No point reached the threshold, so nothing is predicted"
    prompted = [name for name, one in zip(names, points, strict=True) if len(one.xy_n2)]
    results = [name for name, one in zip(names, points, strict=True) if one.chosen_n.any()]
    count = f"{total} point{'' if total == 1 else 's'}"
    return f"SAM2 prompted on {_frames(prompted)} ({count}) · result tracked from {_frames(results)}"


def _frames(names: Sequence[str]) -> str:
    return f"frame{'' if len(names) == 1 else 's'} {', '.join(names)}"


def percent(fraction: float) -> str:
    """As tables print it."""
    return f"{100 * fraction:.1f}"


def integers(value: Json) -> tuple[int, ...]:
    """A list of integers in an artefact."""
    assert isinstance(value, list)
    return tuple(int(one) for one in value)


def rollout_maps(ground: Artefact) -> fusion.RolloutMaps:
    """The raw maps of a ground artefact.

    Raises:
        PrerequisiteError: it holds none for the object.
    """
    background = {name: ground.arrays.get(name) for name in ("background_clip", "background_frame")}
    clip_thw, frame_thw = (
        None if array is None else np.asarray(array, dtype=np.float32) for array in background.values()
    )
    return fusion.RolloutMaps(
        _array(ground, "ground", "object_clip"), _array(ground, "ground", "object_frame"), clip_thw, frame_thw
    )


def _array(artefact: Artefact, stage: str, name: str) -> fusion.Float32:
    if name not in artefact.arrays:
        raise PrerequisiteError(
            f"The {stage} artefact holds no array '{name}'.", nearest_name(name, list(artefact.arrays))
        )
    return np.asarray(artefact.arrays[name], dtype=np.float32)


def _highest(map_Thw: fusion.Float32) -> tuple[str, ...]:
    """Captions: a map of zeros looks like a map of nothing much."""
    return tuple(f"max {value:.2f}" for value in map_Thw.max(axis=(1, 2)))


def _count(points: Points) -> str:
    count = len(points.xy_n2)
    return f"{count} point" if count == 1 else f"{count or 'no'} points"
