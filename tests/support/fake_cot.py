"""A method whose reasoning is real and whose masks are the fake method's: what is brighter than the mean."""

from __future__ import annotations

from dataclasses import dataclass

from fake_method import BrightSettings

from harness.pipeline.stages import StageSpec
from harness.settings import Settings, identity
from methods.lvlm.base import LvlmOptions
from methods.lvlm.checkpoints import lvlm_settings
from methods.reasoning import reason_stage
from methods.reasoning.settings import ReasoningSettings


@dataclass(frozen=True)
class CotBrightSettings(Settings):
    reasoning: ReasoningSettings = identity(ReasoningSettings())
    lvlm: LvlmOptions = identity(LvlmOptions())


class CotBrightMethod:
    name = "cotbright"
    title = "Bright, reasoned about"
    paper = "none"
    settings_type = CotBrightSettings
    needs_lvlm = True

    def stages(self, settings: Settings, lvlm: str | None) -> tuple[StageSpec, ...]:
        assert isinstance(settings, CotBrightSettings) and lvlm is not None
        bright = BrightSettings()
        return (
            reason_stage(settings.reasoning, lvlm_settings(lvlm, **vars(settings.lvlm))),
            StageSpec("ground", "fake_method:GroundStage", 1, bright, consumes=("reason",)),
            StageSpec("segment", "fake_method:SegmentStage", 1, bright, consumes=("ground",)),
        )

    def memory(self, settings: Settings, lvlm: str | None, size: tuple[int, int]) -> str:
        return ""


METHOD = CotBrightMethod()
