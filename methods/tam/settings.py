"""What can be set in TAM, and what each stage is given of it. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvosbench.harness.settings import Settings, identity
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.keyframes import Keyframes
from rvosbench.methods.reason.expression_prompts import PromptVersion

View = Literal["clip", "frame"]
Version = Literal["fixed", "released"]
Token = Literal["first", "last", "strongest", "mean"]


@dataclass(frozen=True)
class GroundSettings(Settings):
    """Of the stage that generates and makes the maps."""

    lvlm: LvlmSettings = identity()
    keyframes: int = identity()
    object_prompt: PromptVersion = identity()
    view: View = identity()
    version: Version = identity()
    causal: bool = identity()


@dataclass(frozen=True)
class TokenMapSettings(Settings):
    """Which token's map makes the masks."""

    token: Token = identity()
    """See ``TamSettings.token``."""


@dataclass(frozen=True)
class TamSettings(Settings):
    """TAM as DecAF's authors used it, as far as they say."""

    keyframes: Keyframes = identity(16)
    """Frames that the model sees, spread evenly; a shorter video is seen whole."""
    object_prompt: PromptVersion = identity("v0")
    """DecAF's prompt for the object's name, whose answer is explained."""
    view: View = identity("clip")
    """"clip": one answer about the whole clip. "frame": every keyframe is asked alone, at DecAF's frame size; the only
    one LLaVA-1.5 has. DecAF does not say; TAM's own code takes videos as clips."""
    version: Version = identity("fixed")
    """"released": with the code's first-token defect, see ``methods.tam``. "fixed": every answer token is explained by
    its own class."""
    token: Token = identity("first")
    """Which answer token's map makes the masks; DecAF does not say. "first" is all of a one-token answer. "last": of a
    word in pieces DecAF found that the last one grounds ("b" + "icycle"). "strongest": the token whose map has the
    highest peak over a keyframe or clip, that is, most evidence in the picture beside the text's. "mean": of all
    tokens. (TAM's own evaluation takes the token with the best IoU, which looks at the ground truth.)"""
    causal: bool = identity(True)
    """Estimated causal inference: what earlier words explain is taken off."""
    lvlm: LvlmOptions = identity(LvlmOptions())
    """How the model sees images; its name stands in the recipe."""
