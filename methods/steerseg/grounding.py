"""The ``ground`` stage: rollout maps under soft prompts, of the clip and of every keyframe.

Source: SteerSeg (arXiv 2605.14908); the response token is the last one of the prefill, as in DecAF. Nothing is
generated.

Shape legend: T keyframes, t time slots of the clip, h w token grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rvosbench.harness.errors import SampleError
from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.ground.keyframes import keyframe_indices
from rvosbench.methods.models.lvlm.base import MapThw
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.settings import GroundSettings

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm
    from rvosbench.methods.models.lvlm.soft import SoftPrompts

Maps = Mapping[str, "tuple[MapThw, MapThw] | SampleError"]
"""By prompt, its clip map and its frame maps, or what is wrong with it."""


class Ground:
    """Rolls out one prompt for each expression.

    Artefact: ``arrays`` ``object_clip`` (t, h, w) and ``object_frame`` (T, h, w), float32, not normalised, as DecAF's
    without a background call; ``meta`` with ``keyframes``, ``prompts`` and the ``attributes`` in it.
    """

    def __init__(self, settings: GroundSettings, lvlm: Lvlm, soft: SoftPrompts | None) -> None:
        settings.rollout.layers(lvlm.layers)
        self.settings = settings
        self.lvlm = lvlm
        self.soft = soft

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        asked: list[str] = []
        for request in requests:
            try:
                asked.append(_prompt(request))
            except SampleError:
                # Met again, and recorded, when this expression's artefact is made.
                continue
        keyframes = keyframe_indices(len(video), self.settings.keyframes)
        maps = self._rollouts(video, keyframes, asked)
        return one_by_one(requests, lambda request: _artefact(request, keyframes, maps))

    def _rollouts(self, video: VideoFrames, keyframes: Sequence[int], asked: Sequence[str]) -> Maps:
        # Here, so that planning a run imports no torch.
        from rvosbench.methods.ground.shared_prefix import clip_and_frame_rollouts

        settings = self.settings
        try:
            frames = [video[index] for index in keyframes]
            return clip_and_frame_rollouts(
                self.lvlm, frames, asked, settings.rollout, self.soft, share=settings.prefix == "shared"
            )
        except SampleError as error:
            return dict.fromkeys(asked, error)


def _attributes(request: Request) -> list[str]:
    """What the reasoning call said of the object; nothing where there was none."""
    if "reason" not in request.inputs:
        return []
    attributes = request.inputs["reason"].meta["attributes"]
    assert isinstance(attributes, list)
    return [str(attribute) for attribute in attributes]


def _prompt(request: Request) -> str:
    return attention_prompt(request.expression.text, _attributes(request))


def _artefact(request: Request, keyframes: Sequence[int], maps: Maps) -> Artefact:
    prompt = _prompt(request)
    found = maps[prompt]
    if isinstance(found, SampleError):
        raise found
    clip_thw, frame_Thw = found
    return Artefact(
        meta={"keyframes": list(keyframes), "prompts": {"object": prompt}, "attributes": list(_attributes(request))},
        arrays={"object_clip": clip_thw, "object_frame": frame_Thw},
    )
