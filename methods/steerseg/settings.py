"""What can be set in SteerSeg, and what each stage is given of it.

``SteersegSettings`` is what a recipe holds; the numbers in its comments are the open decisions of the card on top of
``methods.steerseg``. Every stage gets its own settings with only what it uses, and none that is without effect, so
that its artefacts survive any other change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import identity
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.fusion import FusionSettings, KernelSize, Sigma, Views
from rvosbench.methods.ground.rollouts import Background, Prefix, RolloutSettings
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.keyframes import Keyframes
from rvosbench.methods.reason.settings import ReasoningSettings
from rvosbench.methods.segment.settings import Domain, Fallback, Fraction, KeepRule, MaskSettings, RankedMaps
from rvosbench.methods.steerseg.prompt_files import SoftPromptSettings

RankingRule = Literal["pearson", "consistency"]


@dataclass(frozen=True)
class SteeredSettings(RolloutSettings):
    """Settings of the stage that rolls out attention under soft prompts."""

    soft_prompts: SoftPromptSettings | None = identity()
    """None: the model as it is."""


@dataclass(frozen=True)
class SteersegSettings(MaskSettings):
    """SteerSeg with the values that are public, and DecAF's or ours where none is."""

    keyframes: Keyframes = identity(16)
    """Frames that the model sees, spread evenly; a shorter video is seen whole."""
    cot: bool = identity(True)
    """Attributes from one reasoning call stand in the prompt. False: no such call, and DecAF's question."""
    reasoning: ReasoningSettings = identity(ReasoningSettings())
    """Of that call; soft prompts are off in it (6)."""
    soft: bool = identity(True)
    """Soft prompts steer both calls. False: the frozen model as it is."""
    soft_prompts: SoftPromptSettings | None = identity(None)
    """Their folder, whose card says how they were trained (1 to 5, 9 and 10); without effect where ``soft`` is false.
    They belong to one model: a recipe with several needs an entry for each."""
    lvlm: LvlmOptions = identity(LvlmOptions())
    """How the model sees images; its name stands in the recipe."""
    rollout: RolloutSpec = identity(RolloutSpec())
    """Layers and head weights (7). The start layer None is half of the layers."""
    prefix: Prefix = identity("shared")
    """As in DecAF: "shared" runs a view's visual tokens once for all of a video's prompts, "separate" for every one."""

    background_prompt: Background = identity("none")
    """A background call as in DecAF, by the version of its prompt. SteerSeg makes none; only for rows without ``cot``
    and ``soft``, whose artefacts are then DecAF's own."""
    contrast: bool = identity(False)
    """Subtracts the background's maps, as in DecAF; needs a background prompt."""
    views: Views = identity("both")
    """"clip" or "frame": points and ranking come from that map alone, on its own grid; ``w_f`` is then without
    effect."""
    sigma: Sigma = identity(1.0)
    """Standard deviation of the Gaussian, in cells."""
    clip_kernel: KernelSize = identity(3)
    """Size of the Gaussian on clip maps; odd."""
    frame_kernel: KernelSize = identity(7)
    """Size of the Gaussian on frame maps; odd."""

    points_from: Literal["fused", "frame"] = identity("fused")
    """(11) "frame": cells of the frame map, which is normalised in each frame and so prompts on every keyframe."""
    fallback: Fallback = identity("argmax")
    """(16) Where SAM2 gives no mask for any point, the fused map's highest cell is the only point; where that gives
    none either, or with "none", masks are empty. That cell has prompted before, unless points come from the frame map,
    so this can help there, and under "by_any", which may lose every tracklet. A constant map has no highest cell, and
    its masks are empty."""
    ranking: RankingRule = identity("pearson")
    """"consistency": DecAF's final score, the mean of predicted IoU, map value and attention consistency."""
    w_f: Fraction = identity(0.3)
    """(14) Weight of the correlation with the frame map; that with the clip map gets 1 - ``w_f``."""
    pearson_domain: Domain = identity("clip")
    """(13) "clip": one correlation over all keyframes and cells. "keyframe": the mean of the keyframes' own."""
    pearson_maps: RankedMaps = identity("normalised")
    """(13) "normalised": smoothed and normalised as for fusion. "raw": as rolled out."""
    keep: KeepRule = identity("winner")
    """(15) "winner": the best tracklet alone. "near_best": every one with at least ``keep_ratio`` of its score.
    "threshold": every one above ``tau_track``, the best where none is (DecAF)."""
    keep_ratio: Fraction = identity(0.9)
    """For "near_best"."""

    def __post_init__(self) -> None:
        self._check_background()
        if self.points_from == "frame" and self.views == "clip":
            raise PrerequisiteError(
                "points_from is frame, but views is clip, which leaves the frame map out.",
                "Choose views both or frame, or points_from fused.",
            )

    def fusion(self) -> FusionSettings:
        """Smoothing, contrast and views in the form that fusing takes."""
        return FusionSettings(
            views=self.views,
            subtract_background=self.contrast,
            sigma=self.sigma,
            clip_kernel=self.clip_kernel,
            frame_kernel=self.frame_kernel,
        )

    def _check_background(self) -> None:
        if self.background_prompt == "none":
            if self.contrast:
                raise PrerequisiteError(
                    "contrast is true, but background_prompt is none.", "Choose a background prompt, v0 to v3."
                )
            return
        if self.cot or self.soft:
            raise PrerequisiteError(
                f"background_prompt is {self.background_prompt}, but SteerSeg steers attention instead of subtracting "
                "a background.",
                "Set cot and soft to false for DecAF's maps, or background_prompt to none.",
            )
