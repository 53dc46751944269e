"""The two stages that ask the vision-language model: ``reason`` (the object's name) and ``ground`` (rollout maps).

The reference answers and rolls out in one call, and generates a background caption that nothing reads. Here
``reason`` generates and ``ground`` only prefills, so that another rollout repeats no generation. Batches hold views of
one prompt only, and what prompts share does not depend on which they are, so any grouping of expressions gives the
same numbers.

Shape legend: T keyframes, t time slots of the clip, h w token grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import SampleError
from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.decaf.settings import GroundSettings, ReasonSettings
from rvosbench.methods.ground.keyframes import keyframe_indices
from rvosbench.methods.models.lvlm.base import MapThw, ModelInputs
from rvosbench.methods.reason import expression_prompts as prompts

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm

Result = TypeVar("Result")
ClipAndFrames = tuple[MapThw, MapThw]
"""Maps of one prompt: the clip's (t, h, w), and the frames' (T, h, w) on a finer grid."""


class Reason:
    """Finds the name of the object an expression means.

    Artefact: ``meta`` with ``object_name``; ``keyframes``; ``answers`` (as generated: clip first, then each keyframe;
    empty when the choice prompt does not list them), ``candidates`` (the same, stripped) and ``choice`` (as generated).
    """

    def __init__(self, settings: ReasonSettings, lvlm: Lvlm) -> None:
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
            frames = [video[index] for index in keyframes]
            answers = over_views(self.lvlm, frames, prompt, settings.lvlm.frame_batch, self.lvlm.answers)
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


class Ground:
    """Rolls out the attention of the object prompt and of the background prompt, on the clip and on every keyframe.

    Artefact: ``arrays`` ``object_clip`` (t, h, w), ``object_frame`` (T, h, w) and, unless there is no background
    call, ``background_clip`` and ``background_frame``, float32, not normalised; ``meta`` with ``keyframes``,
    ``object_name`` (null where the background prompt needs none) and the two ``prompts``.

    The maps are kept raw and fused by ``segment``: fusing takes milliseconds, so every study of smoothing, contrast,
    fusion or thresholds starts from here without the model. The fused map is in the segment artefact.
    """

    def __init__(self, settings: GroundSettings, lvlm: Lvlm) -> None:
        settings.rollout.layers(lvlm.layers)
        self.settings = settings
        self.lvlm = lvlm

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        # Expressions of a video often name the same object, so their background prompts are the same text.
        known: dict[str, ClipAndFrames | SampleError] = {}
        if self.settings.prefix == "shared":
            known = self._shared(video, requests)
        return one_by_one(requests, lambda request: self._maps(video, request, known))

    def _maps(self, video: VideoFrames, request: Request, known: dict[str, ClipAndFrames | SampleError]) -> Artefact:
        keyframes = keyframe_indices(len(video), self.settings.keyframes)
        name, asked = self._asked(request)
        arrays = {}
        for role, prompt in asked.items():
            if prompt not in known:
                known[prompt] = self._rollouts([video[index] for index in keyframes], prompt)
            maps = known[prompt]
            if isinstance(maps, SampleError):
                raise maps
            arrays[f"{role}_clip"], arrays[f"{role}_frame"] = maps
        return Artefact(
            meta={"keyframes": list(keyframes), "object_name": name, "prompts": dict(asked)},
            arrays=arrays,
        )

    def _asked(self, request: Request) -> tuple[str | None, dict[str, str]]:
        """The object's name where it is needed, and the prompt of each role.

        Raises:
            SampleError: the expression is empty.
        """
        settings, text = self.settings, request.expression.text
        asked = {"object": prompts.object_prompt(settings.object_prompt, text)}
        name: str | None = None
        if settings.background_prompt != "none":
            if prompts.background_needs_name(settings.background_prompt):
                name = str(request.inputs["reason"].meta["object_name"])
            asked["background"] = prompts.background_prompt(settings.background_prompt, text, name)
        return name, asked

    def _shared(self, video: VideoFrames, requests: Sequence[Request]) -> dict[str, ClipAndFrames | SampleError]:
        """The maps of every prompt of the video."""
        # Here, so that planning a run imports no torch.
        from rvosbench.methods.ground.shared_prefix import clip_and_frame_rollouts

        asked: list[str] = []
        for request in requests:
            try:
                asked += self._asked(request)[1].values()
            except SampleError:
                # Met again, and recorded, when this expression's artefact is made.
                continue
        try:
            frames = [video[index] for index in keyframe_indices(len(video), self.settings.keyframes)]
            return clip_and_frame_rollouts(self.lvlm, frames, asked, self.settings.rollout)
        except SampleError as error:
            return dict.fromkeys(asked, error)

    def _rollouts(self, frames: Sequence[FrameHW3], prompt: str) -> ClipAndFrames:
        settings = self.settings
        maps = over_views(
            self.lvlm,
            frames,
            prompt,
            settings.lvlm.frame_batch,
            lambda views: self.lvlm.rollouts(views, settings.rollout),
        )
        return maps[0], np.concatenate(maps[1:])


def over_views(
    lvlm: Lvlm,
    frames: Sequence[FrameHW3],
    prompt: str,
    batch: int,
    call: Callable[[Sequence[ModelInputs]], list[Result]],
) -> list[Result]:
    """What ``call`` gives for the prompt on the whole clip, then on every frame alone: 1 + T results.

    Frames are prepared ``batch`` at a time: their pixels at twice the clip's size are what fills memory.
    """
    clip = lvlm.clip(frames, prompt)
    assert clip.grid is not None, "a clip has visual tokens"
    results = call([clip])
    for start in range(0, len(frames), batch):
        results += call([lvlm.frame(frame, prompt, clip.grid) for frame in frames[start : start + batch]])
    return results
