"""What can be set in DecAF, and what each stage is given of it.

``DecafSettings`` is what a recipe holds. Every stage gets its own settings with only what it uses, so that its
artefacts survive any other change: new thresholds or another fusion leave every call of the language model alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings, identity
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.fusion import FusionSettings
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.reason.expression_prompts import PromptVersion, check_version
from rvosbench.methods.segment.from_points import TrackletSettings
from rvosbench.methods.segment.nms import DeletionRule

Background = PromptVersion | Literal["none"]
"""A background prompt, or no background call at all."""
Masks = Literal["sam2", "attention"]
Prefix = Literal["shared", "separate"]


@dataclass(frozen=True)
class ReasonSettings(Settings):
    """Of the stage that finds the object's name."""

    lvlm: LvlmSettings = identity()
    keyframes: int = identity()
    object_prompt: PromptVersion = identity()
    choice_prompt: PromptVersion = identity()


@dataclass(frozen=True)
class GroundSettings(Settings):
    """Of the stage that rolls out attention."""

    lvlm: LvlmSettings = identity()
    """Its ``max_new_tokens`` has no effect here: nothing is generated."""
    keyframes: int = identity()
    object_prompt: PromptVersion = identity()
    background_prompt: Background = identity()
    rollout: RolloutSpec = identity()
    prefix: Prefix = identity()


@dataclass(frozen=True)
class AttentionSettings(Settings):
    """Of the stage that cuts masks out of the fused map itself."""

    fusion: FusionSettings = identity()


@dataclass(frozen=True)
class SamSettings(Settings):
    """Of the stage that prompts SAM2 with the fused map's highest cells."""

    fusion: FusionSettings = identity()
    tau_point: float = identity()
    tracklets: TrackletSettings = identity()
    sam2: Sam2Settings = identity()


@dataclass(frozen=True)
class DecafSettings(Settings):
    """DecAF as in the paper's main table; every released script has these values, for every model and dataset."""

    keyframes: int = identity(16)
    """Frames that the model sees, spread evenly; a shorter video is seen whole."""
    object_prompt: PromptVersion = identity("v0")
    """Table 10's default, or its v1-v3."""
    background_prompt: Background = identity("v0")
    """Table 11's default, or its v1-v3. v1 and v3 do not name the object, so no ``reason`` stage runs; "none" makes
    no background call, for fusion without subtraction."""
    choice_prompt: PromptVersion = identity("v0")
    """Table 12's default, or its v1-v3."""
    lvlm: LvlmOptions = identity(LvlmOptions())
    """How the model sees images; its name stands in the recipe."""
    rollout: RolloutSpec = identity(RolloutSpec())
    """Layers and head weights. The start layer None is half of the layers: 14 of 28 for the 7B and 8B models and
    Qwen2-VL-2B, 18 of 36 for Qwen2.5-VL-3B, 24 of 48 for InternVL3-14B, as in the paper."""
    prefix: Prefix = identity("shared")
    """"shared": the visual tokens of a view are run once for all of a video's prompts. "separate": once for every
    prompt, as in the reference. The same maps but for rounding (on small models within 1e-6 of a map's maximum in
    float32, 3e-3 in bfloat16); their bytes differ, so this is identity."""
    fusion: FusionSettings = identity(FusionSettings())
    masks: Masks = identity("sam2")
    """"sam2": on every frame (Table 2). "attention": Otsu on the fused map, on keyframes only (Table 1); the settings
    below are then without effect."""
    tau_point: float = identity(0.8)
    """Cells of the fused map at or above this prompt SAM2 (tau_pq)."""
    nms_iou: float = identity(0.7)
    """Masks with an IoU above this are one object."""
    nms_deletion: DeletionRule = identity("by_kept")
    """"by_kept" lets only surviving masks delete an earlier tracklet. "by_any" is the released code, where a mask that
    is itself dropped may still delete one, and the object is lost."""
    tau_track: float = identity(0.8)
    """Tracklets with a score above this make the result, the best one if none has (tau_trk)."""
    sam2: Sam2Settings = identity(Sam2Settings())
    """The checkpoint (the reference uses SAM 2.0 hiera-large in float32) and its post-processing; the digest is filled
    in."""

    def __post_init__(self) -> None:
        if self.keyframes < 2:
            raise PrerequisiteError(f"keyframes is {self.keyframes}.", "Choose at least 2.")
        check_version(self.object_prompt, "object_prompt")
        check_version(self.choice_prompt, "choice_prompt")
        if self.background_prompt != "none":
            check_version(self.background_prompt, "background_prompt")
        elif self.fusion.subtract_background:
            raise PrerequisiteError(
                "background_prompt is none, but fusion.subtract_background is true.",
                "Choose a background prompt, or set fusion.subtract_background to false.",
            )
        if self.masks not in ("sam2", "attention"):
            raise PrerequisiteError(f"masks is '{self.masks}'.", "Choose sam2 or attention.")
        if self.prefix not in ("shared", "separate"):
            raise PrerequisiteError(f"prefix is '{self.prefix}'.", "Choose shared or separate.")
        for name in ("tau_point", "nms_iou", "tau_track"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise PrerequisiteError(f"{name} is {getattr(self, name)}.", "Choose a value from 0 to 1.")
