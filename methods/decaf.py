"""DecAF: decomposed attention fusion, training-free video reasoning segmentation.

Paper: "Decomposed Attention Fusion in MLLMs for Training-Free Video Reasoning Segmentation", arXiv 2510.19592 v2.
Code read for behaviour: HYUNJS/DecAF at commit 6c9766c. Where they disagree the code is followed, because the paper's
numbers come from it:

* fusion: the average of the normalised clip and frame maps is normalised once more over the clip (paper: average);
* Gaussian: sigma 1, 3x3 on clip maps and 7x7 on frame maps, zeros outside (paper: not given);
* head weights: the weighted sum of heads is divided by their number, so rows sum to less than 1 (paper: "aggregate");
* consistency score: divided by the largest positive one (paper, Eq. 8: not);
* thresholds: above the frame's mean and above tau_trk, strictly (paper: at or above); tau_pq is "at or above" in both;
* no tracklet above tau_trk: the best one is kept (paper: nothing said);
* final masks: only the mask of a tracklet's own keyframe is tracked through the whole video (paper: the tracklet);
* prompts: as in the code; the paper's figures shorten them.

Different from the code on purpose:

* suppression: in the code a mask that is dropped can still delete an earlier tracklet, and the object is lost. Here
  only survivors delete; ``nms_deletion: by_any`` is the released behaviour. On two objects that both beat it (the
  reference's "double kill") the code keeps one tracklet where ours keeps two;
* a fused map without any point gives empty masks (the code crashes);
* LLaVA-OneVision's base picture and newlines stay in the sequence; ``lvlm: {extra_tokens: drop}`` is the code's
  changed model, which DecAF's recipes use;
* no background caption is generated (the code generates and ignores it);
* the visual tokens of a view are run once for all prompts on it (the code: for every prompt); ``prefix: separate`` is
  the released way, equal but for rounding;
* all object and background variants exist for every model.

Published, J&F on Ref-DAVIS17 / ReasonVOS with 16 frames, SAM2 masks (Tables 2 and 8): Qwen2.5-VL-7B 75.2 / 63.9,
InternVL3-8B 62.8 / 58.9, Qwen2-VL-7B 64.1 / 52.5, LLaVA-OneVision-7B 59.4 / 52.8. With attention masks (Table 4):
Qwen2.5-VL-7B 25.3 / 20.6, InternVL3-8B 20.7 / 18.4. Background prompt v3, which needs no generation (Table 11):
75.5 / 63.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rvosbench.harness.costs import Work
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.requirements import Requirement
from rvosbench.harness.settings import identity
from rvosbench.harness.stages import Method, StageSpec, required_lvlm
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.fusion import FusionSettings
from rvosbench.methods.ground.rollouts import Background, ContrastSettings, Prefix, contrast_stages, contrast_work
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.keyframes import Keyframes
from rvosbench.methods.models.requirements import lvlm_requirement
from rvosbench.methods.reason.expression_prompts import PromptVersion
from rvosbench.methods.segment.from_map import RolloutMapSettings, map_stage
from rvosbench.methods.segment.settings import MaskSettings, SegmentSettings


@dataclass(frozen=True)
class DecafSettings(MaskSettings):
    """DecAF as in the paper's main table; every released script has these values, for every model and dataset."""

    keyframes: Keyframes = identity(16)
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
    """How the maps become one map. ``masks`` "sam2" is Table 2 of it, "attention" (Otsu's threshold) Table 1."""

    def __post_init__(self) -> None:
        if self.background_prompt == "none" and self.fusion.subtract_background:
            raise PrerequisiteError(
                "background_prompt is none, but fusion.subtract_background is true.",
                "Choose a background prompt, or set fusion.subtract_background to false.",
            )


class Decaf:
    """DecAF as a registered method."""

    name = "decaf"
    title = "DecAF"
    paper = "arXiv 2510.19592"
    settings_type = DecafSettings
    needs_lvlm = True

    def stages(self, settings: DecafSettings, lvlm: str | None) -> tuple[StageSpec, ...]:
        """``reason`` (only where the background prompt names the object), ``ground``, ``segment``.

        Raises:
            PrerequisiteError: no model is named, or the checkpoint of the model or of SAM2 is missing or unsupported.
        """
        ground = ContrastSettings(
            lvlm=lvlm_settings(required_lvlm(lvlm, self.title), **vars(settings.lvlm)),
            keyframes=settings.keyframes,
            rollout=settings.rollout,
            prefix=settings.prefix,
            object_prompt=settings.object_prompt,
            background_prompt=settings.background_prompt,
        )
        masks = SegmentSettings(RolloutMapSettings(settings.fusion), settings.mask_rule())
        return *contrast_stages(ground, settings.choice_prompt), map_stage(masks)

    def memory(self, settings: DecafSettings, lvlm: str | None, size: tuple[int, int]) -> str:
        """The model's memory for a clip of the keyframes, in one sentence; imports torch."""
        from rvosbench.methods.models.lvlm.estimate import clip_memory

        name = required_lvlm(lvlm, self.title)
        return clip_memory(name, settings.lvlm, settings.rollout, settings.keyframes, size)

    def requirements(self, settings: DecafSettings, lvlm: str | None) -> Iterator[Requirement]:
        """The model and SAM2."""
        yield lvlm_requirement(required_lvlm(lvlm, self.title))
        yield from settings.requirements()

    def work(self, settings: DecafSettings) -> Work:
        """The paper counts 2K + 3 calls for K keyframes."""
        k = settings.keyframes
        asked = contrast_work(settings.background_prompt, settings.prefix, k, settings.lvlm.frame_batch)
        return replace(asked, tracked_keyframes=k if settings.masks == "sam2" else 0)


METHOD: Method[DecafSettings] = Decaf()
