"""The ``segment`` stage that makes masks of a map: by SAM2 from points on it, or by a threshold on the map itself.

A method says how its ground artefact is read (``ReadMaps``); maps rolled out on the clip and on frames, which DecAF
and SteerSeg share, are read here. Either way the artefact keeps what viewers show: ``arrays`` ``fused`` (T, h, w)
float32, the map, and ``keypoints`` (up to 100, 4) float32, rows ``[frame index, y, x, value]`` (DecAF's keypoint
output); ``meta`` ``keyframes``.

Shape legend: T keyframes, h w map cells, H W pixels, n points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.data.types import MaskTrack
from rvosbench.harness.settings import Json, Settings, identity
from rvosbench.harness.stages import Outcome, Request, Stage, StageSpec, VideoFrames, one_by_one
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import segment_artefact
from rvosbench.methods.ground import fusion
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.segmenter import Segmenter
from rvosbench.methods.segment.from_points import Rank, Tracklet, segment_tracklets, tracklets_from_points
from rvosbench.methods.segment.ranking import ViewMaps, by_consistency, by_pearson, view_maps
from rvosbench.methods.segment.settings import PromptSettings, SegmentSettings, Threshold, ThresholdSettings

NO_POINT = "the map is the same everywhere, so no point was prompted"
NO_MASK = "SAM2 gave no mask for any point"
FALLBACK = "SAM2 gave no mask for any point, so it was prompted at the highest cell of the map alone"

OpenVideo = Callable[[VideoFrames], Segmenter]
"""Opens a video for the segmenter; what it encodes is shared by the video's expressions."""


@dataclass(frozen=True, eq=False)
class SampleMaps:
    """What a ground artefact says of one sample, ready to be made into masks."""

    keyframes: tuple[int, ...]
    """T indices into the video, ascending."""
    fused_Thw: fusion.Float32
    """The map, in [0, 1]."""
    pointed_Thw: fusion.Float32 | None = None
    """The map whose cells prompt, where it is another than the fused one."""
    views: ViewMaps | None = None
    """The maps that tracklets are correlated with, where they are ranked so."""
    meta: Mapping[str, Json] = field(default_factory=dict)
    """What the segment artefact says of where the map comes from."""


ReadMaps = Callable[[Artefact], SampleMaps]


@dataclass(frozen=True)
class RolloutMapSettings(Settings):
    """How maps rolled out on the clip and on frames become one map."""

    fusion: fusion.FusionSettings = identity()
    points_from: Literal["fused", "frame"] = identity("fused")
    """"frame": points are cells of the frame map, which is normalised in each frame."""


def map_stage(settings: SegmentSettings[Any], factory: str = "rvosbench.methods.segment.from_map:build") -> StageSpec:
    """The ``segment`` stage of a method; ``factory`` names another builder where its maps are not rollouts."""
    return StageSpec("segment", factory, settings, ("ground",))


def build(settings: SegmentSettings[RolloutMapSettings]) -> Stage:
    """The stage over maps rolled out on the clip and on frames; loads SAM2 where it makes the masks."""
    return stage(settings.masks, rollout_reader(settings))


def rollout_reader(settings: SegmentSettings[RolloutMapSettings]) -> ReadMaps:
    """How such a ground artefact is read."""
    how, masks = settings.map, settings.masks
    ranking = masks.ranking if isinstance(masks, PromptSettings) else None

    def read(ground: Artefact) -> SampleMaps:
        keyframes, maps = rollout_maps(ground)
        pointed_Thw = None
        if how.points_from == "frame":
            pointed_Thw = fusion.normalise_frames(fusion.contrast_frame(maps, how.fusion))
        views = None if ranking is None else view_maps(maps, how.fusion, ranking)
        return SampleMaps(keyframes, fusion.fuse(maps, how.fusion), pointed_Thw, views)

    return read


def rollout_maps(ground: Artefact) -> tuple[tuple[int, ...], fusion.RolloutMaps]:
    """The keyframes of a ground artefact and its raw maps.

    Raises:
        SampleError: the artefact holds no rollouts of the keyframes.
    """
    keyframes = typed.keyframes(ground)
    frames = len(keyframes)
    clip_thw = typed.floats(ground, "object_clip", (None, None, None))
    if len(clip_thw) not in (frames, (frames + 1) // 2):
        raise typed.ForeignArtefactError(f"an artefact's clip map has {len(clip_thw)} slots for {frames} keyframes")
    frame_Thw = typed.floats(ground, "object_frame", (frames, None, None))
    if "background_clip" not in ground.arrays and "background_frame" not in ground.arrays:
        return keyframes, fusion.RolloutMaps(clip_thw, frame_Thw)
    raw = fusion.RolloutMaps(
        clip_thw,
        frame_Thw,
        typed.floats(ground, "background_clip", clip_thw.shape),
        typed.floats(ground, "background_frame", frame_Thw.shape),
    )
    return keyframes, raw


def stage(masks: ThresholdSettings | PromptSettings, read: ReadMaps) -> Stage:
    """The stage for a method's maps.

    Raises:
        PrerequisiteError: the SAM2 checkpoint is missing or damaged, or the device does not exist.
    """
    if isinstance(masks, ThresholdSettings):
        return ThresholdMasks(masks.threshold, read)
    return PromptedMasks(masks, read, open_sam2(masks.sam2))


def open_sam2(settings: Sam2Settings) -> OpenVideo:
    """Loads SAM2.

    Raises:
        PrerequisiteError: the checkpoint is missing or damaged, or the device does not exist.
    """
    # Here, so that planning a run imports no torch.
    from rvosbench.methods.models.sam2.model import load
    from rvosbench.methods.models.sam2.tracking import Sam2Video

    model = load(settings)
    return lambda video: Sam2Video(model, video)


class ThresholdMasks:
    """The map at the frames' size, cut by a threshold on each keyframe; masks on keyframes only."""

    def __init__(self, threshold: Threshold, read: ReadMaps) -> None:
        self.threshold = threshold
        self.read = read

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(requests, lambda request: self._masks(video.size, request.inputs["ground"]))

    def _masks(self, size: tuple[int, int], ground: Artefact) -> Artefact:
        maps = self.read(ground)
        cut = fusion.attention_masks if self.threshold == "otsu" else masks_above_mean
        track = track_from_masks(cut(maps.fused_Thw, size), maps.keyframes, *size)
        return _artefact(track, maps, {})


def masks_above_mean(map_Thw: fusion.Float32, size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Each keyframe resized to (H, W), then what lies above its mean; a constant frame is empty."""
    masks = []
    for map_1hw in np.split(map_Thw, len(map_Thw)):
        map_HW = fusion.resize(map_1hw, size)[0]
        # In float64: a float32 mean of equal values may fall below them.
        masks.append(map_HW > map_HW.mean(dtype=np.float64))
    return masks


class PromptedMasks:
    """Every cell at or above ``tau_point`` prompts SAM2; the best tracklets are tracked through all frames.

    The artefact adds ``arrays`` ``points`` (n, 4) float32, rows ``[frame index, y, x, value]`` of what prompted;
    ``meta`` ``points`` (n), ``empty_because`` (null, or why nothing is predicted), ``tracklets`` with their scores,
    and, where the settings have a fallback, ``fallback`` ("", or why the highest cell alone prompted).
    """

    def __init__(self, settings: PromptSettings, read: ReadMaps, open_video: OpenVideo) -> None:
        self.settings = settings
        self.read = read
        self.open_video = open_video

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        segmenter = self.open_video(video)
        return one_by_one(requests, lambda request: self._masks(segmenter, request.inputs["ground"]))

    def _masks(self, segmenter: Segmenter, ground: Artefact) -> Artefact:
        settings, maps = self.settings, self.read(ground)
        pointed_Thw = maps.fused_Thw if maps.pointed_Thw is None else maps.pointed_Thw
        points = fusion.points_above(pointed_Thw, settings.tau_point)
        fallback = ""
        tracklets = self._candidates(segmenter, maps.keyframes, points)
        if not tracklets and len(points.value_n) and settings.fallback == "argmax":
            fallback, points = FALLBACK, fusion.highest(maps.fused_Thw)
            tracklets = self._candidates(segmenter, maps.keyframes, points)
        found = segment_tracklets(segmenter, maps.keyframes, tracklets, self._rank(maps))
        empty = None if tracklets else NO_MASK if len(points.value_n) else NO_POINT
        meta: dict[str, Json] = {**found.meta(), "points": len(points.value_n), "empty_because": empty}
        if settings.fallback != "none":
            meta["fallback"] = fallback
        return _artefact(found.track, maps, meta, points)

    def _candidates(self, segmenter: Segmenter, keyframes: Sequence[int], points: fusion.Points) -> list[Tracklet]:
        settings = self.settings
        tracklets = tracklets_from_points(
            segmenter, keyframes, points, nms_iou=settings.nms_iou, deletion=settings.nms_deletion
        )
        if settings.empty_tracklets == "rank":
            return tracklets
        return [tracklet for tracklet in tracklets if tracklet.masks.take(tracklet.keyframe).any()]

    def _rank(self, maps: SampleMaps) -> Rank:
        ranking, keep = self.settings.ranking, self.settings.keep
        if ranking is None:
            return by_consistency(maps.fused_Thw, keep)
        if maps.views is None:
            raise ValueError("a ranking by correlation needs the maps of both views")
        return by_pearson(maps.views, ranking, keep)


def _artefact(
    track: MaskTrack, maps: SampleMaps, meta: Mapping[str, Json], points: fusion.Points | None = None
) -> Artefact:
    """The segment artefact of a mask track, with the map that led to it, its highest cells and its points."""
    arrays = {"fused": maps.fused_Thw, "keypoints": fusion.top_cells(maps.fused_Thw, maps.keyframes)}
    if points is not None:
        frame_n = np.asarray(maps.keyframes, dtype=np.float32)[points.keyframe_n]
        rows_n4 = np.column_stack([frame_n, points.xy_n2[:, 1], points.xy_n2[:, 0], points.value_n])
        arrays["points"] = rows_n4.astype(np.float32)
    said = segment_artefact(track, **{**meta, **maps.meta, "keyframes": list(maps.keyframes)})
    return Artefact(said.meta, arrays)
