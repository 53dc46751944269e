"""SteerSeg: attention steering for reasoning video segmentation, with soft prompts and chain-of-thought attributes.

Paper: "SteerSeg: Attention Steering for Reasoning Video Segmentation", arXiv 2605.14908 v1.

**This is a re-implementation with prompts of our own.** Of the paper, its abstract, project page, two figures and the
authors' README are public; neither its equations and ablations nor its code, prompts or trained vectors are.

Public: one reasoning call without soft prompts gives attributes and reasons, reasons are discarded, attributes stand
before the question "What is the main object mentioned in the given expression using the attributes above?"; two soft
prompts, one for frames and one for the clip, prepended to a frozen model's input and trained with BCE + Dice on the
rollout of the response token on Ref-YouTube-VOS; points on keyframes, SAM2 tracklets, the best by weighted Pearson
correlation over frame and video rollouts; no background subtraction; SAM 2.0 hiera-large.

Inferred from names of files and folders: 64 tokens and one epoch (``n64_oneEpoch``), V-Max head weights (``hw``), the
frame map's weight 0.30 (``wf0.30``). Everything else is DecAF's released way (its data, checkpoints and backbones are
those of SteerSeg's README), or ours where DecAF has none.

Decisions that are open, what is done here, and where it is set ("training's": in recipes of ``rvosbench train
steerseg``, see ``rvosbench.methods.steerseg.training.recipe``):

 1. position of the soft prompt: in front of everything. Training's ``position`` (front, before_vision, after_vision),
    saved with the prompt.
 2. shared or separate prompts: separate, trained apart. Training's ``sharing`` (separate, shared).
 3. number of tokens: 64. Training's ``tokens``; here chosen by ``soft_prompts.folder``.
 4. initialisation: embeddings of random vocabulary tokens. Training's ``init`` (vocabulary, normal).
 5. attributes in training prompts: dropped half of the time, where training asks for them. Training's
    ``attributes.source`` (none, file, reason) and ``attributes.drop``.
 6. soft prompts during the reasoning call: off, always; its artefact is the same with and without them.
 7. rollout: V-Max over the upper half of the layers. Setting ``rollout``; no gradients through head weights: training's
    ``weight_gradient``.
 8. response token: the last one of the prefill, always; nothing is generated to get the maps.
 9. map in the loss: standardised, then a sigmoid. Training's ``loss.normalisation`` (standardised, min_max,
    share).
10. training target: mask area in each cell, union of the expression's objects. Training's ``loss.target`` (area,
    binary).
11. points from: the fused map. Setting ``points_from`` (fused, frame).
12. point rule: every cell at or above ``tau_point`` 0.8, an object for each; always.
13. Pearson's domain: one correlation over all keyframes and cells on each map's own grid, maps smoothed and normalised.
    Settings ``pearson_domain`` (clip, keyframe) and ``pearson_maps`` (normalised, raw). A time slot that holds two
    keyframes counts for both; masks are pooled by area; a constant mask or map correlates -1.
14. weights: ``w_f`` 0.30 for the frame map and 1 - ``w_f`` for the clip map, on every dataset. Setting ``w_f``.
15. tracklets kept: the best alone. Setting ``keep`` (winner, near_best, threshold), ``keep_ratio``, ``tau_track``;
    ReVOS and MeViS have expressions with several objects, so another value is another method: give it a label.
16. SAM2 gives no mask: the highest cell of the fused map is the only point; if still none, empty masks. Setting
    ``fallback`` (argmax, none); its use is counted in the run's summary. Where points come from the fused map that cell
    is among them already, so the rule changes nothing there unless suppression is ``by_any``.
17. seeds: training's ``seed``; train with several and report their spread.
18. choice of checkpoint: the last step, always; held-out videos are looked at, but choose nothing.
19. criteria of the paper's Figure 1 (a): not part of the method. Where we count as it does, a mask succeeds at a mean J
    of at least 0.5 and reasoning where the object's class is named; neither enters a score.

Fixed beside these: keyframes, resolutions, smoothing, suppression and mask prompts are DecAF's, with its defects as
corrected there; where the reasoning call gives no attributes, the question is DecAF's (counted in the summary).

Rows without attributes and soft prompts are DecAF's own computation, and their stages are DecAF's, artefacts included:
``cot: false, soft: false`` rolls out by DecAF's ground stage (with ``background_prompt`` "none" its object maps alone,
with "v0" those of its main row, so that raw and contrast rows share them); ``ranking: consistency, keep: threshold,
fallback: none`` is DecAF's mask stage and ``masks: attention`` its Otsu masks, whatever the maps.

Published, J&F on Ref-DAVIS17 / ReasonVOS / ReVOS: Qwen2.5-VL-7B 81.4 / 65.9 / 56.6 (the authors' README reports 80.3 /
64.8 for the released code), Qwen2-VL-7B 77.8 / 63.6 / 53.8, InternVL3-8B 66.1 / 63.3 / 52.5, LLaVA-OneVision-7B 70.0 /
58.6 / 49.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rvosbench.harness.costs import Work
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.paths import given_path
from rvosbench.harness.requirements import Requirement
from rvosbench.harness.stages import Method, Request, Stage, StageSpec, required_lvlm
from rvosbench.harness.store import typed
from rvosbench.methods.ground.rollouts import ContrastSettings, Prompts, Rollouts, contrast_stages, contrast_work
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.requirements import lvlm_requirement
from rvosbench.methods.reason import reason_stage
from rvosbench.methods.segment.from_map import RolloutMapSettings, map_stage
from rvosbench.methods.segment.settings import KeepSettings, PearsonSettings, PromptSettings, SegmentSettings
from rvosbench.methods.steerseg.prompt_files import (
    SoftPromptSettings,
    load_soft_prompts,
    prompts_requirement,
    read_card,
)
from rvosbench.methods.steerseg.prompt_files import with_digest as with_prompts_digest
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.settings import SteeredSettings, SteersegSettings

USUAL_TOKENS = 64
"""Of a soft prompt, for memory estimates."""


def build_ground(settings: SteeredSettings) -> Stage:
    """The stage that rolls out attention; loads the vision-language model and the soft prompts."""
    lvlm = load_lvlm(settings.lvlm)
    soft = None if settings.soft_prompts is None else load_soft_prompts(settings.soft_prompts, lvlm)
    return Rollouts(settings, lvlm, steered_prompts, soft)


def steered_prompts(request: Request) -> Prompts:
    """One prompt for each expression, with the attributes that the reasoning call gave, where there was one."""
    attributes: list[str] = []
    if "reason" in request.inputs:
        attributes = list(typed.texts(request.inputs["reason"], "attributes"))
    return Prompts({"object": attention_prompt(request.expression.text, attributes)}, {"attributes": list(attributes)})


class Steerseg:
    """SteerSeg as a registered method."""

    name = "steerseg"
    title = "SteerSeg"
    paper = "arXiv 2605.14908"
    settings_type = SteersegSettings
    needs_lvlm = True

    def stages(self, settings: SteersegSettings, lvlm: str | None) -> tuple[StageSpec, ...]:
        """``reason`` (only with attributes, or where a background prompt names the object), ``ground``, ``segment``.

        Raises:
            PrerequisiteError: no model is named, no soft prompts are given, or a checkpoint is missing or unsupported.
        """
        model = lvlm_settings(required_lvlm(lvlm, self.title), **vars(settings.lvlm))
        before = _steered(settings, model) if settings.cot or settings.soft else _unsteered(settings, model)
        return (*before, map_stage(_segment(settings)))

    def memory(self, settings: SteersegSettings, lvlm: str | None, size: tuple[int, int]) -> str:
        """The model's memory for a clip of the keyframes, in one sentence; imports torch."""
        from rvosbench.methods.models.lvlm.estimate import clip_memory

        name = required_lvlm(lvlm, self.title)
        tokens = USUAL_TOKENS if settings.soft else 0
        return clip_memory(name, settings.lvlm, settings.rollout, settings.keyframes, size, tokens)

    def requirements(self, settings: SteersegSettings, lvlm: str | None) -> Iterator[Requirement]:
        """The model, its soft prompts where they are used, and SAM2."""
        name = required_lvlm(lvlm, self.title)
        yield lvlm_requirement(name)
        if settings.soft:
            yield prompts_requirement(settings.soft_prompts, name)
        yield from settings.requirements()

    def work(self, settings: SteersegSettings) -> Work:
        """K + 2 calls for K keyframes: a reasoning call, and the prompt on the clip and on every keyframe.

        Rows with a background prompt make DecAF's calls.
        """
        k = settings.keyframes
        asked = contrast_work(settings.background_prompt, settings.prefix, k, settings.lvlm.frame_batch)
        asked = replace(asked, tracked_keyframes=k if settings.masks == "sam2" else 0)
        if not settings.cot:
            return asked
        return replace(asked, calls=asked.calls + 1, texts=asked.texts + 1, clips=asked.clips + 1, long_answers=1)


def _unsteered(settings: SteersegSettings, model: LvlmSettings) -> tuple[StageSpec, ...]:
    """DecAF's own stages."""
    rollouts = ContrastSettings(
        lvlm=model,
        keyframes=settings.keyframes,
        rollout=settings.rollout,
        prefix=settings.prefix,
        object_prompt="v0",
        background_prompt=settings.background_prompt,
    )
    return contrast_stages(rollouts, choice_prompt="v0")


def _steered(settings: SteersegSettings, model: LvlmSettings) -> tuple[StageSpec, ...]:
    ground = SteeredSettings(
        # Nothing is generated, so the longest answer must not enter the key.
        lvlm=replace(model, max_new_tokens=1),
        keyframes=settings.keyframes,
        rollout=settings.rollout,
        prefix=settings.prefix,
        soft_prompts=_soft_prompts(settings.soft_prompts, model) if settings.soft else None,
    )
    consumes = ("reason",) if settings.cot else ()
    spec = StageSpec("ground", "rvosbench.methods.steerseg:build_ground", ground, consumes)
    return (reason_stage(settings.reasoning, model), spec) if settings.cot else (spec,)


def _soft_prompts(settings: SoftPromptSettings | None, model: LvlmSettings) -> SoftPromptSettings:
    if settings is None:
        raise PrerequisiteError(
            "SteerSeg needs soft prompts of the model, and the recipe gives none.",
            "Set soft_prompts.folder to trained ones (rvosbench train steerseg RECIPE), or soft to false.",
        )
    found = with_prompts_digest(settings)
    base = read_card(given_path(settings.folder)).base_model
    # Loading them checks this too, but only when a worker has loaded the model.
    if base.digest != model.digest:
        raise PrerequisiteError(
            f"The soft prompts in {settings.folder} were trained for {base.name}, not for {model.checkpoint}.",
            "Give those of this model, or train them (rvosbench train steerseg RECIPE).",
        )
    return found


def _segment(settings: SteersegSettings) -> SegmentSettings[RolloutMapSettings]:
    """What is without effect is left at one value, so that rows that differ in nothing else share their artefacts."""
    masks = settings.mask_rule()
    decafs_masks = (settings.ranking, settings.keep, settings.fallback) == ("consistency", "threshold", "none")
    if not isinstance(masks, PromptSettings) or (decafs_masks and settings.points_from == "fused"):
        return SegmentSettings(RolloutMapSettings(settings.fusion()), masks)
    ranking = None
    if settings.ranking == "pearson":
        weight = {"both": settings.w_f, "clip": 0.0, "frame": 1.0}[settings.views]
        ranking = PearsonSettings(weight, settings.pearson_domain, settings.pearson_maps)
    value = {"winner": 0.0, "near_best": settings.keep_ratio, "threshold": settings.tau_track}[settings.keep]
    return SegmentSettings(
        RolloutMapSettings(settings.fusion(), "fused" if settings.views == "frame" else settings.points_from),
        replace(
            masks,
            empty_tracklets="drop",
            fallback=settings.fallback,
            ranking=ranking,
            keep=KeepSettings(settings.keep, value),
        ),
    )


METHOD: Method[SteersegSettings] = Steerseg()
