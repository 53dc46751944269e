"""What a sheet says of a SteerSeg sample: maps without contrast, points on the right map, reasons, winner, fallback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rvosbench.harness.data.types import Video
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.ground.fusion import FusionSettings
from rvosbench.methods.picture.looks import Look
from rvosbench.methods.picture.rows import heading, heat_rows
from rvosbench.methods.picture.sheet import Heading, HeatRow

PLAIN = FusionSettings(subtract_background=False, clip_kernel=1, frame_kernel=1)
KEYFRAMES = [0, 2, 5]
NAMES = tuple(f"{index:05d}" for index in range(6))


def array(values: object) -> Any:
    return np.array(values, dtype=np.float32)


GROUND = Artefact(
    {"keyframes": KEYFRAMES, "prompts": {"object": "?"}, "attributes": ["grey", "on the left"]},
    {
        "object_clip": array([[[0.4, 0.0]], [[0.1, 0.2]]]),
        "object_frame": array([[[0.5, 0.1]], [[0.0, 0.2]], [[0.3, 0.1]]]),
    },
)
FUSED = array([[[1.0, 0.0]], [[0.5, 0.6]], [[0.9, 0.2]]])


def segment(points: Any, **meta: Any) -> Artefact:
    tracklets = [
        {"frame": 0, "point": [0.25, 0.5], "rho_frame": 0.1, "rho_clip": 0.2, "score": 0.17, "selected": False},
        {"frame": 2, "point": [0.75, 0.5], "rho_frame": 0.61, "rho_clip": -0.204, "score": 0.04, "selected": True},
    ]
    said = {"keyframes": KEYFRAMES, "tracklets": tracklets, "fallback": "", **meta}
    return Artefact(said, {"fused": FUSED, "points": array(points)})


ON_FRAMES = [[0, 0.5, 0.25, 1.0], [2, 0.5, 0.75, 1.0], [5, 0.5, 0.25, 1.0]]


def test_points_lie_on_the_map_they_came_from() -> None:
    look = Look(PLAIN, "sam2", 0.8, "frame")
    clip, frame, fused = heat_rows(GROUND, segment(ON_FRAMES), look, [0, 1, 2])
    assert isinstance(clip, HeatRow) and isinstance(frame, HeatRow) and isinstance(fused, HeatRow)
    np.testing.assert_allclose(clip.map_Thw, array([[[1, 0]], [[1, 0]], [[0.25, 0.5]]]), atol=1e-6)
    np.testing.assert_allclose(frame.map_Thw, array([[[1, 0]], [[0, 1]], [[1, 0]]]), atol=1e-6)
    np.testing.assert_array_equal(fused.map_Thw, FUSED)
    assert clip.note == "object, 0 to 1 over the clip" and fused.points == clip.points == ()
    assert frame.note == "object, 0 to 1 in each frame; points at 0.8 or more"
    assert frame.captions == ("max 1.00 · 1 point",) * 3 and fused.captions == ("max 1.00", "max 0.60", "max 0.90")
    assert [points.xy_n2.tolist() for points in frame.points] == [[[0.25, 0.5]], [[0.75, 0.5]], [[0.25, 0.5]]]
    assert [points.chosen_n.tolist() for points in frame.points] == [[False], [True], [False]]


def test_listed_points_are_drawn_not_those_of_the_threshold() -> None:
    one = segment([[5, 0.5, 0.75, 0.2]], fallback="no mask at first")
    fused = heat_rows(GROUND, one, Look(PLAIN, "sam2", 0.8), [0, 2])[2]
    assert isinstance(fused, HeatRow)
    assert fused.note.endswith("its highest cell prompted")
    assert [len(points.xy_n2) for points in fused.points] == [0, 1]


@dataclass(frozen=True)
class FoundByHand:
    """A sample whose only further artefact is what the reasoning call said."""

    reason: Artefact | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    name = "video v, expression 0"

    def artefact(self, stage: str) -> Artefact:
        assert stage == "reason" and self.reason is not None
        return self.reason


def facts(made: Artefact, ground: Artefact = GROUND, reason: Artefact | None = None, masks: Any = "sam2") -> Heading:
    row = {"method": "SteerSeg", "lvlm": "small", "dataset": "shapes", "split": "valid", "text": "it", "num_frames": 6,
           "status": "scored", "J": 0.5, "F": 0.25, "J_and_F": 0.375,
           "key_reason": None if reason is None else "ab" * 32}  # fmt: skip
    video = Video("shapes", "valid", "v", NAMES, tuple(Path(name) for name in NAMES), ())
    found: Any = FoundByHand(reason, row)
    return heading(found, video, ground, made, Look(PLAIN, masks, 0.8), 3)


def test_attributes_reasons_and_the_winner_s_scores_are_told() -> None:
    said = Artefact({"attributes": ["grey"], "reasons": "It lies still.", "fallback": "", "raw": ""})
    assert facts(segment(ON_FRAMES), reason=said).facts == (
        "SteerSeg · small · shapes/valid · video v, expression 0",
        "J&F 37.5 (J 50.0, F 25.0) over 6 frames · attributes “grey; on the left” · 3 of 3 keyframes shown",
        "Reasons: It lies still.",
        "SAM2 prompted on frames 00000, 00002, 00005 (3 points) · result tracked from frame 00002",
        "Kept tracklet 2 of 2: rho_frame 0.61, rho_clip -0.20, score 0.04",
    )


def test_fallbacks_of_both_stages_are_told() -> None:
    ground = Artefact({**GROUND.meta, "attributes": []}, GROUND.arrays)
    said = Artefact({"attributes": [], "reasons": "", "fallback": "no JSON", "raw": "I"})
    lines = facts(segment(ON_FRAMES, fallback="no mask at first"), ground, said).facts
    assert "no attributes" in lines[1]
    assert "No attributes because: no JSON" in lines and lines[-1] == "Fallback: no mask at first"


def test_attention_masks_have_no_winner() -> None:
    otsu = Artefact({"keyframes": KEYFRAMES}, {"fused": FUSED})
    assert len(facts(otsu, masks="attention").facts) == 2
