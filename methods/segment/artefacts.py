"""The segment artefacts that methods share: masks that SAM2 makes of points on a map, or Otsu of the map itself.

Either way the artefact keeps what viewers show: ``arrays`` ``fused`` (T, h, w) float32, the map, and ``keypoints`` (up
to 100, 4) float32, rows ``[frame index, y, x, value]`` (DecAF's keypoint output); ``meta`` ``keyframes``.

Shape legend: T keyframes, h w map cells, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.data.types import MaskTrack
from rvosbench.harness.settings import Json
from rvosbench.harness.stages import VideoFrames
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import segment_artefact
from rvosbench.methods.ground import fusion
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.segmenter import Segmenter
from rvosbench.methods.segment.from_points import TrackletSettings, segment_from_points

OpenVideo = Callable[[VideoFrames], Segmenter]
"""Opens a video for the segmenter; what it encodes is shared by the video's expressions."""


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


def masks_from_points(
    segmenter: Segmenter,
    keyframes: Sequence[int],
    map_Thw: fusion.Float32,
    tau_point: float,
    tracklets: TrackletSettings,
) -> Artefact:
    """DecAF's masks: every cell of the map at or above ``tau_point`` prompts SAM2; masks on all frames.

    ``meta`` adds ``points`` (how many prompted) and what ``Segmentation.meta`` says about the tracklets.
    """
    points = fusion.points_above(map_Thw, tau_point)
    found = segment_from_points(segmenter, keyframes, map_Thw, points, tracklets)
    return with_maps(found.track, keyframes, map_Thw, {**found.meta(), "points": len(points.value_n)})


def masks_from_map(size: tuple[int, int], keyframes: Sequence[int], map_Thw: fusion.Float32) -> Artefact:
    """The map at the frames' size (H, W), Otsu's threshold on each; masks on keyframes only."""
    track = track_from_masks(fusion.attention_masks(map_Thw, size), keyframes, *size)
    return with_maps(track, keyframes, map_Thw, {})


def with_maps(
    track: MaskTrack, keyframes: Sequence[int], map_Thw: fusion.Float32, meta: Mapping[str, Json]
) -> Artefact:
    """The segment artefact of a mask track, with the map that led to it and its highest cells."""
    return Artefact(
        meta=segment_artefact(track, **{**meta, "keyframes": list(keyframes)}).meta,
        arrays={"fused": map_Thw, "keypoints": fusion.top_cells(map_Thw, keyframes)},
    )
