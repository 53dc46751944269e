"""How a mask track is written into, and read from, a segment artefact."""

from __future__ import annotations

from rvosbench.harness.data.types import MaskTrack
from rvosbench.harness.settings import Json
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
    """The mask track of a segment artefact."""
    meta = artefact.meta
    size, frames, rles = meta["size"], meta["frames"], meta["rles"]
    assert isinstance(size, list) and isinstance(frames, list) and isinstance(rles, list)
    return MaskTrack(int(size[0]), int(size[1]), tuple(int(f) for f in frames), tuple(rles))
