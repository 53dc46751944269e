"""The ``ground`` stage that rolls out attention, of some prompts, on the clip and on every keyframe.

DecAF's prompts are here: one for the object and one for the background, whose maps are subtracted later. SteerSeg's
steered prompts are put to the same stage by its own definition. Nothing is generated, so that another rollout repeats
no generation; what prompts share does not depend on which they are, so any grouping of expressions gives the same
numbers.

The maps are kept raw and fused by ``segment``: fusing takes milliseconds, so every study of smoothing, contrast,
fusion or thresholds starts from here without the model. The fused map is in the segment artefact.

Shape legend: T keyframes, t time slots of the clip, h w token grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rvosbench.harness.costs import Work
from rvosbench.harness.errors import SampleError
from rvosbench.harness.settings import Json, Settings, identity
from rvosbench.harness.stages import Outcome, Request, Stage, StageSpec, VideoFrames, one_by_one
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings, MapThw
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.reason import expression_prompts as prompts
from rvosbench.methods.reason.expression_prompts import PromptVersion
from rvosbench.methods.reason.naming import NamingSettings, naming_stage

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm
    from rvosbench.methods.models.lvlm.soft import SoftPrompts

Background = PromptVersion | Literal["none"]
"""A background prompt, or no background call at all."""
Prefix = Literal["shared", "separate"]
"""Whether a view's visual tokens are run once for all of a video's prompts, or once for every prompt."""
ClipAndFrames = tuple[MapThw, MapThw]
"""Maps of one prompt: the clip's (t, h, w), and the frames' (T, h, w) on a finer grid."""
Known = dict[str, ClipAndFrames | SampleError]
"""By prompt, its maps or what is wrong with it."""


@dataclass(frozen=True)
class RolloutSettings(Settings):
    """What every rollout needs."""

    lvlm: LvlmSettings = identity()
    """Its ``max_new_tokens`` has no effect: nothing is generated."""
    keyframes: int = identity()
    """Frames that the model sees, spread evenly."""
    rollout: RolloutSpec = identity()
    """Layers and head weights."""
    prefix: Prefix = identity()
    """See ``Prefix``."""


@dataclass(frozen=True)
class ContrastSettings(RolloutSettings):
    """Rollouts of an object prompt and of a background prompt (DecAF)."""

    object_prompt: PromptVersion = identity()
    """Version of the prompt for the object's name."""
    background_prompt: Background = identity()
    """Version of the prompt for the scene without the object."""


@dataclass(frozen=True)
class Prompts:
    """What is put to the model about one expression."""

    by_role: Mapping[str, str]
    """By role, "object" or "background", the prompt; its maps are the arrays ``<role>_clip`` and ``<role>_frame``."""
    meta: Mapping[str, Json] = field(default_factory=dict)
    """What the ground artefact says of where they come from."""


def contrast_stages(settings: ContrastSettings, choice_prompt: PromptVersion) -> tuple[StageSpec, ...]:
    """DecAF's ``ground`` stage, after the ``reason`` stage where the background prompt names the object.

    Args:
        settings: of the rollouts; the longest answer of its model is that of the reason stage.
        choice_prompt: version of the prompt that chooses the object's name.
    """
    # Nothing is generated here, so the longest answer must not enter the key.
    ground = replace(settings, lvlm=replace(settings.lvlm, max_new_tokens=1))
    factory = "rvosbench.methods.ground.rollouts:build_contrast"
    if settings.background_prompt == "none" or not prompts.background_needs_name(settings.background_prompt):
        return (StageSpec("ground", factory, ground),)
    naming = NamingSettings(settings.lvlm, settings.keyframes, settings.object_prompt, choice_prompt)
    return naming_stage(naming), StageSpec("ground", factory, ground, ("reason",))


def contrast_work(background: Background, prefix: Prefix, keyframes: int, frame_batch: int) -> Work:
    """What these stages ask of the model, as DecAF counts calls: each prompt on the clip and on every keyframe, and the
    choice of a name.

    Where the background prompt needs a name, the object prompt is answered on every view first. The visual tokens of a
    view are run once per video where the prefix is shared.
    """
    named = int(background != "none" and prompts.background_needs_name(background))
    asked = 1 if background == "none" else 2
    apart = 0 if prefix == "shared" else asked
    return Work(
        calls=asked * (keyframes + 1) + named,
        texts=asked * (keyframes + 1) + named * (keyframes + 2),
        clips=named + apart,
        frames=(named + apart) * keyframes,
        shared_clips=int(not apart),
        shared_frames=0 if apart else keyframes,
        short_answers=named * (2 + -(-keyframes // frame_batch)),
    )


def build_contrast(settings: ContrastSettings) -> Stage:
    """The stage with DecAF's prompts; loads the vision-language model."""
    return Rollouts(settings, load_lvlm(settings.lvlm), contrast_prompts(settings))


def contrast_prompts(settings: ContrastSettings) -> Callable[[Request], Prompts]:
    """The object prompt and the background prompt of an expression, and the object's name where one is needed."""

    def prompts_of(request: Request) -> Prompts:
        text, name = request.expression.text, None
        asked = {"object": prompts.object_prompt(settings.object_prompt, text)}
        if settings.background_prompt != "none":
            if prompts.background_needs_name(settings.background_prompt):
                name = typed.text(request.inputs["reason"], "object_name")
            asked["background"] = prompts.background_prompt(settings.background_prompt, text, name)
        return Prompts(asked, {"object_name": name})

    return prompts_of


class Rollouts:
    """Rolls out the attention of every prompt of an expression.

    Artefact: ``arrays`` ``object_clip`` (t, h, w), ``object_frame`` (T, h, w) and, with a background prompt,
    ``background_clip`` and ``background_frame``, float32, not normalised; ``meta`` with ``keyframes``, the ``prompts``
    by role and what ``Prompts.meta`` says.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        lvlm: Lvlm,
        prompts_of: Callable[[Request], Prompts],
        soft: SoftPrompts | None = None,
    ) -> None:
        settings.rollout.layers(lvlm.layers)
        self.settings = settings
        self.lvlm = lvlm
        self.prompts_of = prompts_of
        self.soft = soft

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        # Expressions of a video often name the same object, so their background prompts are the same text.
        known: Known = {}
        if self.settings.prefix == "shared":
            asked: list[str] = []
            for request in requests:
                try:
                    asked += self.prompts_of(request).by_role.values()
                except SampleError:
                    # Met again, and recorded, when this expression's artefact is made.
                    continue
            known = self._rollouts(video, asked)
        return one_by_one(requests, lambda request: self._artefact(video, request, known))

    def _artefact(self, video: VideoFrames, request: Request, known: Known) -> Artefact:
        asked = self.prompts_of(request)
        known.update(self._rollouts(video, [prompt for prompt in asked.by_role.values() if prompt not in known]))
        arrays = {}
        for role, prompt in asked.by_role.items():
            maps = known[prompt]
            if isinstance(maps, SampleError):
                raise maps
            arrays[f"{role}_clip"], arrays[f"{role}_frame"] = maps
        keyframes = list(keyframe_indices(len(video), self.settings.keyframes))
        return Artefact({"keyframes": keyframes, "prompts": dict(asked.by_role), **asked.meta}, arrays)

    def _rollouts(self, video: VideoFrames, asked: Sequence[str]) -> Known:
        """The maps of every prompt, or what is wrong with it."""
        if not asked:
            return {}
        # Here, so that planning a run imports no torch.
        from rvosbench.methods.ground.shared_prefix import clip_and_frame_rollouts

        settings = self.settings
        try:
            frames = [video[index] for index in keyframe_indices(len(video), settings.keyframes)]
            return clip_and_frame_rollouts(
                self.lvlm, frames, asked, settings.rollout, self.soft, share=settings.prefix == "shared"
            )
        except SampleError as error:
            return dict.fromkeys(asked, error)
