"""How a map becomes masks: the settings that recipes hold, and those that the ``segment`` stage is given.

DecAF, SteerSeg and Loc-Head have the fields of ``MaskSettings`` among their own. A stage is given ``SegmentSettings``
with only what it uses, and nothing that is without effect, so that its artefacts survive any other change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from rvosbench.harness.requirements import Requirement
from rvosbench.harness.settings import Settings, identity
from rvosbench.methods.models.requirements import sam2_requirement
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings, with_digest
from rvosbench.methods.segment.nms import DeletionRule

Fraction = Annotated[float, Field(ge=0, le=1)]
Masks = Literal["sam2", "attention"]
Threshold = Literal["otsu", "mean"]
KeepRule = Literal["winner", "near_best", "threshold"]
Domain = Literal["clip", "keyframe"]
RankedMaps = Literal["normalised", "raw"]
Fallback = Literal["argmax", "none"]


@dataclass(frozen=True)
class KeepSettings(Settings):
    """Which of the ranked tracklets make the result."""

    rule: KeepRule = identity("threshold")
    """"threshold": every one above ``value``, the best where none is (DecAF). "winner": the best alone. "near_best":
    every one with at least ``value`` times the best score."""
    value: Fraction = identity(0.8)
    """The threshold, or the fraction of the best score; 0 for "winner", which has none."""


@dataclass(frozen=True)
class PearsonSettings(Settings):
    """The correlation of tracklets with maps (SteerSeg)."""

    w_f: Fraction = identity()
    """Weight of the correlation with the frame map; that with the clip map has the rest."""
    domain: Domain = identity()
    """"clip": one correlation over all keyframes and cells. "keyframe": the mean of the keyframes' own."""
    maps: RankedMaps = identity()
    """"normalised": smoothed and normalised as for fusion. "raw": as rolled out."""


@dataclass(frozen=True)
class ThresholdSettings(Settings):
    """Masks by a threshold on the map itself, on keyframes only."""

    threshold: Threshold = identity("otsu")
    """Otsu's threshold of each keyframe, or the keyframe's mean."""


@dataclass(frozen=True)
class PromptSettings(Settings):
    """Masks by SAM2 from the map's highest cells, on every frame. The defaults are DecAF's."""

    tau_point: Fraction = identity(0.8)
    """Cells at or above this prompt SAM2, each for an object of its own."""
    nms_iou: Fraction = identity(0.7)
    """Masks with an IoU strictly above this are the same object."""
    nms_deletion: DeletionRule = identity("by_kept")
    """Which new masks may delete earlier tracklets; "by_any" is DecAF's released code."""
    empty_tracklets: Literal["rank", "drop"] = identity("rank")
    """What happens to a tracklet without a pixel on the keyframe of its point, from where nothing can be tracked:
    "rank" ranks it like any other (DecAF), "drop" makes it no candidate."""
    fallback: Fallback = identity("none")
    """"argmax": where no tracklet is left, SAM2 is prompted once more, at the highest cell alone."""
    ranking: PearsonSettings | None = identity(None)
    """None: DecAF's score, the mean of predicted IoU, map value and attention consistency."""
    keep: KeepSettings = identity(KeepSettings())
    """Which tracklets make the result."""
    sam2: Sam2Settings = identity(Sam2Settings())
    """The checkpoint and its post-processing."""


MapRule = TypeVar("MapRule", bound=Settings)


@dataclass(frozen=True)
class SegmentSettings(Settings, Generic[MapRule]):
    """Settings of a ``segment`` stage that makes masks of a map."""

    map: MapRule = identity()
    """How the ground artefact's maps become one map."""
    masks: ThresholdSettings | PromptSettings = identity()
    """How that map becomes masks."""


@dataclass(frozen=True)
class MaskSettings(Settings):
    """How a map becomes masks, as a recipe says it. Settings of a method inherit these fields."""

    masks: Masks = identity("sam2")
    """"sam2": on every frame, from points on the map. "attention": the map itself, cut by a threshold on keyframes
    only; the settings of points, tracklets and SAM2 are then without effect."""
    tau_point: Fraction = identity(0.8)
    """Cells of the map at or above this prompt SAM2, each for an object of its own (DecAF's tau_pq)."""
    nms_iou: Fraction = identity(0.7)
    """Masks with an IoU above this are one object."""
    nms_deletion: DeletionRule = identity("by_kept")
    """"by_kept" lets only surviving masks delete an earlier tracklet. "by_any" is DecAF's released code, where a mask
    that is itself dropped may still delete one, and the object is lost."""
    tau_track: Fraction = identity(0.8)
    """Tracklets with a score above this make the result, the best one if none has (DecAF's tau_trk)."""
    sam2: Sam2Settings = identity(Sam2Settings())
    """The SAM2 checkpoint (the references use SAM 2.0 hiera-large in float32) and its post-processing; the digest is
    filled in."""

    def requirements(self) -> Iterator[Requirement]:
        """SAM2, where it makes the masks."""
        if self.masks == "sam2":
            yield sam2_requirement(self.sam2.checkpoint)

    def mask_rule(self, threshold: Threshold = "otsu") -> ThresholdSettings | PromptSettings:
        """DecAF's rule with these values, as the stage takes it.

        Raises:
            PrerequisiteError: the SAM2 checkpoint is missing or malformed.
        """
        if self.masks == "attention":
            return ThresholdSettings(threshold)
        return PromptSettings(
            tau_point=self.tau_point,
            nms_iou=self.nms_iou,
            nms_deletion=self.nms_deletion,
            keep=KeepSettings("threshold", self.tau_track),
            sam2=with_digest(self.sam2),
        )
