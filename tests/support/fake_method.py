"""A cheap method for tests of the harness: the mask is what is brighter than the frame's mean.

It is found through an entry point of a package of its own (``rvosbench_fakes.dist-info`` beside this file), as a
method of another project would be. Words in an expression make it misbehave: "raise", "refuse", "die", "hang"; "shrug"
makes it use its fallback.
Every computation is written to a journal, so that tests can count what was computed twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rvosbench.harness.data import masks
from rvosbench.harness.errors import SampleError
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.harness.stages import Outcome, Request, StageSpec, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import segment_artefact


@dataclass(frozen=True)
class BrightSettings(Settings):
    offset: float = identity(0.0)
    """Added to the mean before the comparison."""
    seconds: float = runtime(0.0)
    """Sleep per expression and stage: gives a test time to kill."""
    journal: str = runtime("")
    """File that gets one line per computation: stage, video, expression, worker."""
    hold: str = runtime("")
    """File that holds a number. While it exists and the journal has that many lines, computations wait: a test that
    kills at that line is never too late."""


def _note(settings: BrightSettings, stage: str, request: Request, video: VideoFrames) -> None:
    if settings.journal:
        with Path(settings.journal).open("a") as file:
            worker = f"pid={os.getpid()} gpu={os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
            file.write(f"{stage} {video.video.name} {request.expression.text} {worker}\n")
        while settings.hold and _is_held(Path(settings.hold), Path(settings.journal)):
            time.sleep(0.02)
    time.sleep(settings.seconds)


def _is_held(hold: Path, journal: Path) -> bool:
    try:
        return len(journal.read_text().splitlines()) >= int(hold.read_text())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class GroundStage:
    settings: BrightSettings

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        def ground(request: Request) -> Artefact:
            text = request.expression.text
            _note(self.settings, "ground", request, video)
            if "refuse" in text:
                raise SampleError("the expression asks to be refused")
            if "raise" in text:
                raise RuntimeError("an error nobody foresaw")
            if "die" in text:
                os._exit(1)
            if "hang" in text:
                time.sleep(3600)
            means = np.array([float(video[index].mean()) for index in range(len(video))])
            fallback = "the expression asks for it" if "shrug" in text else ""
            return Artefact(meta={"text": text, "fallback": fallback}, arrays={"means": means})

        return one_by_one(requests, ground)


@dataclass(frozen=True)
class SegmentStage:
    settings: BrightSettings

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        def segment(request: Request) -> Artefact:
            _note(self.settings, "segment", request, video)
            means = request.inputs["ground"].arrays["means"] + self.settings.offset
            frames = range(len(video))
            height, width = video.size
            bright = [video[index].mean(axis=2) > means[index] for index in frames]
            return segment_artefact(masks.track_from_masks(bright, frames, height, width))

        return one_by_one(requests, segment)


class BrightMethod:
    name = "bright"
    title = "Bright"
    paper = "none"
    settings_type = BrightSettings
    needs_lvlm = False

    def stages(self, settings: Settings, lvlm: str | None) -> tuple[StageSpec, ...]:
        return (
            StageSpec("ground", "fake_method:GroundStage", settings),
            StageSpec("segment", "fake_method:SegmentStage", settings, consumes=("ground",)),
        )

    def memory(self, settings: Settings, lvlm: str | None, size: tuple[int, int]) -> str:
        return ""


METHOD = BrightMethod()
