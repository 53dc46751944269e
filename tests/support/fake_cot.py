"""A method whose reasoning is real and whose masks are the fake method's: what is brighter than the mean.

With ``hold`` set to a folder the reason stage says after its first video where its servers are (``servers.json``), and
goes on when ``release`` stands beside it: a test can talk to servers that a run owns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fake_method import BrightSettings

from rvosbench.harness.servers import Servers
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.harness.stages import Outcome, Request, Stage, StageSpec, VideoFrames
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.reason import build_reason, reason_stage
from rvosbench.methods.reason.settings import CotSettings, ReasoningSettings


@dataclass(frozen=True)
class CotBrightSettings(Settings):
    reasoning: ReasoningSettings = identity(ReasoningSettings())
    lvlm: LvlmOptions = identity(LvlmOptions())
    hold: str = runtime("")


@dataclass(frozen=True)
class HeldSettings(Settings):
    cot: CotSettings = identity()
    hold: str = runtime()


class Held:
    def __init__(self, stage: Stage, servers: Servers, folder: Path) -> None:
        self.stage = stage
        self.servers = servers
        self.folder = folder

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        yield from self.stage.run(video, requests)
        told = self.folder / "servers.json"
        if not told.exists():
            (self.folder / "part").write_text(json.dumps(asdict(self.servers)))
            (self.folder / "part").rename(told)
        while not (self.folder / "release").exists():
            time.sleep(0.05)


def build_held(settings: HeldSettings, servers: Servers) -> Stage:
    return Held(build_reason(settings.cot, servers), servers, Path(settings.hold))


class CotBrightMethod:
    name = "cotbright"
    title = "Bright, reasoned about"
    paper = "none"
    settings_type = CotBrightSettings
    needs_lvlm = True

    def stages(self, settings: Settings, lvlm: str | None) -> tuple[StageSpec, ...]:
        assert isinstance(settings, CotBrightSettings) and lvlm is not None
        bright = BrightSettings()
        reason = reason_stage(settings.reasoning, lvlm_settings(lvlm, **vars(settings.lvlm)))
        if settings.hold:
            assert isinstance(reason.settings, CotSettings)
            held = HeldSettings(reason.settings, settings.hold)
            reason = replace(reason, factory="fake_cot:build_held", settings=held)
        return (
            reason,
            StageSpec("ground", "fake_method:GroundStage", bright, consumes=("reason",)),
            StageSpec("segment", "fake_method:SegmentStage", bright, consumes=("ground",)),
        )

    def memory(self, settings: Settings, lvlm: str | None, size: tuple[int, int]) -> str:
        return ""


METHOD = CotBrightMethod()
