"""Loc-Head: a few attention heads of a frozen model localise what an expression means.

Paper: "Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding", arXiv 2503.06287.
Code read for behaviour: seilk/LocalizationHeads at 8ce33b0 and its later "overhaul". Video use: DecAF (arXiv
2510.19592), section 4 and appendix C, whose authors released no code for it.

Finding the heads (``rvosbench calibrate lochead``) follows the paper: mean attention sums, threshold at their elbow,
spatial entropy over 8-connected components by area, the 10 best heads a pair, selection frequency over 5 trials of
1,000 pairs, layers 0 and 1 excluded, 3 fixed heads. Where the released code differs it is ``--variant released`` (its
second version: elbow of each pair's own sums, what exceeds twice the mean by more than 0.001, attention mass for area)
or ``first_release`` (head numbers held against the elbow's, no layer excluded, no sink rule). Neither version counts
frequencies; counting is the paper's in all variants. A map with nothing above the cut, to which the code gives the
best entropy, is never selected here.

On videos, the open points and what stands for them by default:

* prompt: not stated for chat models. The expression alone in the checkpoint's chat, in lower case with a full stop
  (``prompt``); for LLaVA-1.5 the original code's text without roles.
* whose attention: "the last token of the input text". The expression's last token (``query``), not the chat's newline.
* pairs to calibrate on: RefCOCO train; DecAF found that video data hurts (Ref-DAVIS J of attention masks 24.2 to
  19.2). ``--pairs`` takes a list of images, ``--dataset`` frames in which the target is visible.
* sinks: a head with a cell above 0.05 on the family's edges is passed over (``calibration.sink_edges``,
  ``sink_above``). The paper's is the bottom row; DecAF: right-most column for Qwen2-VL, left-most too for
  LLaVA-OneVision; none is given for Qwen2.5-VL and InternVL3, so none is used.
* no tiles while calibrating, for InternVL3 and LLaVA-OneVision; tiles again at inference.
* equal entropy: the head with more attention first (``calibration.ties``). The elbow is that of the layers looked at.
* frame size: DecAF's frame calls (``lvlm.frame_scale``).
* from heads to a map: 7x7 Gaussian of sigma 1 with zeros outside, sum, min-max of each frame (``map.normalise: clip``
  for the whole clip).
* masks: DecAF's SAM2 stage, as DecAF used it for Loc-Head too, or Otsu on the map; ``threshold: mean`` is Loc-Head's
  own binarisation. Loc-Head's box prompt is not here: DecAF measured 30.3 with it on Ref-DAVIS17, 55.6 with its own
  stage.

Published by DecAF, J&F on Ref-DAVIS17 / ReasonVOS / ReVOS with SAM2 masks (Table 2): LLaVA-1.5-7B 55.6 / 37.1 / 35.3,
LLaVA-OneVision-7B 24.2 / 32.6 / 31.7, InternVL3-8B 66.3 / 44.3 / 43.7, Qwen2-VL-7B 61.9 / 34.0 / 44.0, Qwen2.5-VL-7B
64.6 / 41.1 / 47.0; with attention masks (Table 1) 18.9 / 12.2 / 12.6, 15.9 / 12.3 / 13.1, 19.0 / 14.1 / 14.6,
18.8 / 9.0 / 13.2, 19.1 / 10.7 / 14.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rvosbench.harness.costs import Work
from rvosbench.harness.requirements import Requirement
from rvosbench.harness.stages import Method, Stage, StageSpec, required_lvlm
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.lochead.grounding import Ground, summed_map
from rvosbench.methods.lochead.heads import find_heads, heads_requirement
from rvosbench.methods.lochead.settings import GroundSettings, LocHeadSettings, MapSettings, resolved_prompt
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import config_of, family_of, lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.requirements import lvlm_requirement
from rvosbench.methods.segment.from_map import SampleMaps, map_stage, stage
from rvosbench.methods.segment.settings import SegmentSettings


def build_ground(settings: GroundSettings) -> Stage:
    """The stage that reads the heads; loads the vision-language model."""
    return Ground(settings, load_lvlm(settings.lvlm))


def build_segment(settings: SegmentSettings[MapSettings]) -> Stage:
    """The stage that makes masks of the heads' map; loads SAM2 where it makes them."""
    return stage(settings.masks, lambda ground: SampleMaps(*summed_map(ground, settings.map)))


class LocHead:
    """Loc-Head as a registered method."""

    name = "lochead"
    title = "Loc-Head"
    paper = "arXiv 2503.06287"
    settings_type = LocHeadSettings
    needs_lvlm = True

    def stages(self, settings: LocHeadSettings, lvlm: str | None) -> tuple[StageSpec, ...]:
        """``ground``, ``segment``.

        Raises:
            PrerequisiteError: no model is named, its heads are not known or of another checkpoint, or a checkpoint is
                missing or unsupported.
        """
        name = required_lvlm(lvlm, self.title)
        # Nothing is generated, so the longest answer must not enter the key.
        model = replace(lvlm_settings(name, **vars(settings.lvlm)), max_new_tokens=1)
        ground = GroundSettings(
            model,
            settings.keyframes,
            find_heads(settings.heads, model),
            resolved_prompt(settings.prompt, family_of(name)),
            settings.query,
        )
        segment = SegmentSettings(settings.map, settings.mask_rule(settings.threshold))
        return (
            StageSpec("ground", "rvosbench.methods.lochead:build_ground", ground),
            map_stage(segment, "rvosbench.methods.lochead:build_segment"),
        )

    def memory(self, settings: LocHeadSettings, lvlm: str | None, size: tuple[int, int]) -> str:
        """The model's memory for a batch of frames, in one sentence; imports torch."""
        from rvosbench.methods.models.lvlm.estimate import estimate, in_words

        name = required_lvlm(lvlm, self.title)
        config = config_of(name)
        model = LvlmSettings(checkpoint=name, digest="", **vars(settings.lvlm))
        batch = min(settings.keyframes, model.frame_batch)
        # Every fixed head may lie in a layer of its own; of each such layer all heads are captured.
        layers = RolloutSpec(start_layer=0, end_layer=3)
        need = estimate(config, model, layers, frames=batch, height=size[0], width=size[1])
        # Nothing is generated, so no keys and values are kept.
        total = need.total_bytes - need.kv_bytes
        return (
            f"{name}: {need.parameters / 1e6:,.0f} M parameters, {in_words(need.weight_bytes)} of weights in "
            f"{model.dtype}. {batch} frames of {size[1]}x{size[0]} at a time (L {need.frame_length}): "
            f"{in_words(need.captured_bytes)} captured, {in_words(need.working_bytes)} temporaries, about "
            f"{in_words(total)} in all."
        )

    def requirements(self, settings: LocHeadSettings, lvlm: str | None) -> Iterator[Requirement]:
        """The model, its heads and SAM2."""
        name = required_lvlm(lvlm, self.title)
        yield lvlm_requirement(name)
        yield heads_requirement(settings.heads, name)
        yield from settings.requirements()

    def work(self, settings: LocHeadSettings) -> Work:
        """One call on every keyframe, of which nothing is shared: each expression's own text is in it."""
        k = settings.keyframes
        return Work(calls=k, texts=k, frames=k, tracked_keyframes=k if settings.masks == "sam2" else 0)


METHOD: Method[LocHeadSettings] = LocHead()
