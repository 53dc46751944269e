"""The ``reason`` stage: one chain-of-thought call per sample, about the clip's keyframes.

Artefact: ``meta`` with ``attributes`` (what the method uses), ``reasons`` (for readers), ``raw`` (as generated),
``fallback`` ("" or why there are none, see ``methods.reason.parser``), ``prompt``, ``keyframes``, ``engine`` (local,
or the server and its version) and ``model`` (the checkpoint's digest). Once it is written nobody asks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import SampleError
from rvosbench.harness.stages import Outcome, Request, VideoFrames
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.reason.parser import parse, well_formed
from rvosbench.methods.reason.prompts import cot_prompt
from rvosbench.methods.reason.settings import CotSettings

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm

Answer = str | SampleError


class Reasoner(Protocol):
    """Something that answers prompts about a clip."""

    @property
    def engine(self) -> str:
        """As it is recorded, e.g. "local"."""
        ...

    def answers(self, video: str, frames: Sequence[FrameHW3], prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields (index into prompts, answer), each prompt exactly once, as they finish.

        Args:
            video: its name; prompts of one video are best answered in one place.
            frames: the clip.
            prompts: at least one.
        """
        ...


class LocalReasoner:
    """The transformers model in this process. One prompt at a time, so that no text depends on what else is asked."""

    engine = "local"

    def __init__(self, lvlm: Lvlm) -> None:
        self.lvlm = lvlm

    def answers(self, video: str, frames: Sequence[FrameHW3], prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        for index, prompt in enumerate(prompts):
            try:
                yield index, self.lvlm.answer(self.lvlm.clip(frames, prompt))
            except SampleError as error:
                yield index, error


class Reason:
    """Asks, parses and keeps what was said."""

    def __init__(self, settings: CotSettings, reasoner: Reasoner) -> None:
        self.settings = settings
        self.reasoner = reasoner

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        keyframes = keyframe_indices(len(video), self.settings.reasoning.keyframes)
        frames = [video[index] for index in keyframes]
        asked: dict[int, str] = {}
        for index, request in enumerate(requests):
            try:
                asked[index] = cot_prompt(request.expression.text)
            except SampleError as error:
                yield index, error
        if not asked:
            return
        order = list(asked)
        where = f"{video.video.dataset}/{video.video.split}/{video.video.name}"
        for position, answer in self.reasoner.answers(where, frames, list(asked.values())):
            index = order[position]
            yield index, answer if isinstance(answer, SampleError) else self._artefact(answer, asked[index], keyframes)

    def _artefact(self, answer: str, prompt: str, keyframes: Sequence[int]) -> Artefact:
        raw = well_formed(answer)
        parsed = parse(raw, self.settings.reasoning.max_attributes)
        return Artefact(
            meta={
                "attributes": list(parsed.attributes),
                "reasons": parsed.reasons,
                "raw": raw,
                "fallback": parsed.fallback,
                "prompt": well_formed(prompt),
                "keyframes": list(keyframes),
                "engine": self.reasoner.engine,
                "model": self.settings.lvlm.digest,
            }
        )
