"""How a mask track is written into, and read from, a segment artefact."""

from __future__ import annotations

from rvosbench.harness.data.types import MaskTrack
from rvosbench.harness.settings import Json
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact


def segment_artefact(track: MaskTrack, **meta: Json) -> Artefact:
    """The artefact every segment stage returns; ``meta`` keeps what a viewer wants to show."""
    return Artefact(
        meta={
            "size": [track.height, track.width],
            "frames": list(track.frames),
            "rles": list(track.rles),
            **meta,
        }
    )


def mask_track(artefact: Artefact) -> MaskTrack:
    """The mask track of a segment artefact.

    Raises:
        SampleError: the artefact holds none.
    """
    height, width = typed.size(artefact)
    frames = typed.frame_indices(artefact, "frames")
    return MaskTrack(height, width, frames, typed.run_lengths(artefact, "rles", len(frames)))
