"""The ``reason`` stage that finds the name of the object an expression means (DecAF, arXiv 2510.19592).

The reference answers and rolls out in one call, and generates a background caption that nothing reads. Here this stage
generates and ``ground`` only prefills. Batches hold views of one prompt only, so any grouping of expressions gives the
same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.settings import Settings, identity
from rvosbench.harness.stages import Outcome, Request, Stage, StageSpec, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.reason import expression_prompts as prompts
from rvosbench.methods.reason.expression_prompts import PromptVersion

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm


@dataclass(frozen=True)
class NamingSettings(Settings):
    """Settings of the stage that finds the object's name."""

    lvlm: LvlmSettings = identity()
    """The model that is asked."""
    keyframes: int = identity()
    """Frames of the clip, each of which is asked about alone as well."""
    object_prompt: PromptVersion = identity()
    """Version of the prompt put to the clip and to each keyframe."""
    choice_prompt: PromptVersion = identity()
    """Version of the prompt that chooses one of the answers."""


def naming_stage(settings: NamingSettings) -> StageSpec:
    """The stage as a worker builds it."""
    return StageSpec("reason", "rvosbench.methods.reason.naming:build", settings)


def build(settings: NamingSettings) -> Stage:
    """The stage; loads the vision-language model."""
    return Naming(settings, load_lvlm(settings.lvlm))


class Naming:
    """Finds the name of the object an expression means.

    Artefact: ``meta`` with ``object_name``; ``keyframes``; ``answers`` (as generated: clip first, then each keyframe;
    empty when the choice prompt does not list them), ``candidates`` (the same, stripped) and ``choice`` (as generated).
    """

    def __init__(self, settings: NamingSettings, lvlm: Lvlm) -> None:
        self.settings = settings
        self.lvlm = lvlm

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(requests, lambda request: self._name(video, request.expression.text))

    def _name(self, video: VideoFrames, text: str) -> Artefact:
        settings = self.settings
        keyframes = keyframe_indices(len(video), settings.keyframes)
        prompt = prompts.object_prompt(settings.object_prompt, text)
        answers: list[str] = []
        if prompts.choice_lists_candidates(settings.choice_prompt):
            answers = self._answers([video[index] for index in keyframes], prompt)
        candidates = [prompts.candidate(answer) for answer in answers]
        choice = self.lvlm.answer(self.lvlm.text(prompts.choice_prompt(settings.choice_prompt, text, candidates)))
        return Artefact(
            meta={
                "object_name": prompts.object_name(choice),
                "keyframes": list(keyframes),
                "answers": list(answers),
                "candidates": list(candidates),
                "choice": choice,
            }
        )

    def _answers(self, frames: Sequence[FrameHW3], prompt: str) -> list[str]:
        """What the model answers about the whole clip, then about every frame alone: 1 + T texts.

        Frames are prepared a batch at a time: their pixels at twice the clip's size are what fills memory.
        """
        clip = self.lvlm.clip(frames, prompt)
        if clip.grid is None:
            raise ValueError("a clip has visual tokens")
        answers = self.lvlm.answers([clip])
        batch = self.settings.lvlm.frame_batch
        for start in range(0, len(frames), batch):
            views = [self.lvlm.frame(frame, prompt, clip.grid) for frame in frames[start : start + batch]]
            answers += self.lvlm.answers(views)
        return answers
