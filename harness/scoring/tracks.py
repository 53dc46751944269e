"""A run's mask tracks as a source of masks. Legend: H W pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import BoolHW, Expression, MaskTrack, Sample, Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.predictions import Problem, VideoMasks

MasksOfVideo = Callable[[Video], VideoMasks]


def masks_of_tracks(tracks: Callable[[Sample], MaskTrack | None]) -> MasksOfVideo:
    """Masks of a run.

    Args:
        tracks: the mask track of a sample, or None when the run has none.
    """
    return lambda video: TrackMasks(video, lambda expression: tracks(Sample(video, expression)))


class TrackMasks:
    """The mask tracks of one video, each loaded when its first mask is read."""

    def __init__(self, video: Video, load: Callable[[Expression], MaskTrack | None]) -> None:
        self._video = video
        self._load = load
        self._held: dict[str, tuple[MaskTrack | None, Mapping[int, int]]] = {}

    def oddities(self, expression: Expression) -> Mapping[str, int]:
        """None: tracks are binary masks."""
        return {}

    def read(self, expression: Expression, frame: int, shape: tuple[int, int]) -> BoolHW | Problem:
        """The mask on a frame if it has the shape (H, W), else what is wrong."""
        if expression.id not in self._held:
            loaded = self._load(expression)
            frames = () if loaded is None else loaded.frames
            self._held[expression.id] = loaded, {index: row for row, index in enumerate(frames)}
        track, rows = self._held[expression.id]
        where = f"{self._video.name}/{expression.id}/{self._video.frames[frame]}.png"
        if track is None:
            return Problem("missing", where, "the run has no masks of this sample")
        if track.frames and max(track.frames) >= len(self._video.frames):
            last, length = max(track.frames), len(self._video.frames)
            return Problem("unreadable", where, f"the track names frame {last} of a video with {length} frames")
        if (track.height, track.width) != shape:
            detail = f"{track.height}x{track.width} (HxW), expected {shape[0]}x{shape[1]}"
            return Problem("wrong size", where, detail)
        if frame not in rows:
            return Problem("no keyframe", where, "the run's masks exist on keyframes only")
        try:
            return decode(track.rles[rows[frame]], *shape)
        except SampleError as error:
            return Problem("unreadable", where, str(error))
