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

from dataclasses import replace

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings
from rvosbench.harness.stages import Method, Stage, StageSpec
from rvosbench.methods.decaf.reading import Ground, Reason
from rvosbench.methods.decaf.settings import (
    AttentionSettings,
    DecafSettings,
    GroundSettings,
    ReasonSettings,
    SamSettings,
)
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.sam2.checkpoints import with_digest
from rvosbench.methods.reason.expression_prompts import background_needs_name
from rvosbench.methods.segment.artefacts import open_sam2
from rvosbench.methods.segment.from_map import AttentionMasks, SamMasks
from rvosbench.methods.segment.from_points import TrackletSettings


def build_reason(settings: ReasonSettings) -> Stage:
    """The stage that finds the object's name; loads the vision-language model."""
    return Reason(settings, load_lvlm(settings.lvlm))


def build_ground(settings: GroundSettings) -> Stage:
    """The stage that rolls out attention; loads the vision-language model."""
    return Ground(settings, load_lvlm(settings.lvlm))


def build_segment(settings: SamSettings) -> Stage:
    """The stage that prompts and tracks; loads SAM2."""
    return SamMasks(settings, open_sam2(settings.sam2))


def build_attention_masks(settings: AttentionSettings) -> Stage:
    """The stage that cuts masks out of the fused map; loads nothing."""
    return AttentionMasks(settings)


class Decaf:
    """DecAF as a registered method."""

    name = "decaf"
    title = "DecAF"
    paper = "arXiv 2510.19592"
    settings_type: type[Settings] = DecafSettings
    needs_lvlm = True

    def stages(self, settings: Settings, lvlm: str | None) -> tuple[StageSpec, ...]:
        """``reason`` (only where the background prompt names the object), ``ground``, ``segment``.

        Raises:
            PrerequisiteError: no model is named, or the checkpoint of the model or of SAM2 is missing or unsupported.
        """
        assert isinstance(settings, DecafSettings)
        if lvlm is None:
            raise PrerequisiteError("DecAF needs a vision-language model.", "Name one under lvlms in the recipe.")
        model = lvlm_settings(lvlm, **vars(settings.lvlm))
        reason = ReasonSettings(model, settings.keyframes, settings.object_prompt, settings.choice_prompt)
        background = settings.background_prompt
        named = background != "none" and background_needs_name(background)
        ground = GroundSettings(
            # Nothing is generated, so the longest answer must not enter the key.
            replace(model, max_new_tokens=1),
            settings.keyframes,
            settings.object_prompt,
            background,
            settings.rollout,
            settings.prefix,
        )
        specs = (
            StageSpec("ground", "rvosbench.methods.decaf:build_ground", ground, ("reason",) if named else ()),
            self._segment(settings),
        )
        return (StageSpec("reason", "rvosbench.methods.decaf:build_reason", reason), *specs) if named else specs

    def memory(self, settings: Settings, lvlm: str | None, size: tuple[int, int]) -> str:
        """The model's memory for a clip of the keyframes, in one sentence; imports torch."""
        from rvosbench.methods.models.lvlm.estimate import clip_memory

        assert isinstance(settings, DecafSettings) and lvlm is not None
        return clip_memory(lvlm, settings.lvlm, settings.rollout, settings.keyframes, size)

    def _segment(self, settings: DecafSettings) -> StageSpec:
        if settings.masks == "attention":
            attention = AttentionSettings(settings.fusion)
            return StageSpec("segment", "rvosbench.methods.decaf:build_attention_masks", attention, ("ground",))
        tracklets = TrackletSettings(
            nms_iou=settings.nms_iou, keep_score=settings.tau_track, deletion=settings.nms_deletion
        )
        sam = SamSettings(settings.fusion, settings.tau_point, tracklets, with_digest(settings.sam2))
        return StageSpec("segment", "rvosbench.methods.decaf:build_segment", sam, ("ground",))


METHOD: Method = Decaf()
