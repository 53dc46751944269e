"""A method whose reasoning is real and whose masks are the fake method's: what is brighter than the mean."""

from __future__ import annotations

from dataclasses import dataclass

from fake_method import BrightSettings

from rvosbench.harness.settings import Settings, identity
from rvosbench.harness.stages import StageSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.reason import reason_stage
from rvosbench.methods.reason.settings import ReasoningSettings


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
        reason = reason_stage(settings.reasoning, lvlm_settings(lvlm, **vars(settings.lvlm)))
        return (
            reason,
            StageSpec("ground", "fake_method:GroundStage", bright, consumes=("reason",)),
            StageSpec("segment", "fake_method:SegmentStage", bright, consumes=("ground",)),
        )

    def memory(self, settings: Settings, lvlm: str | None, size: tuple[int, int]) -> str:
        return ""


METHOD = CotBrightMethod()
