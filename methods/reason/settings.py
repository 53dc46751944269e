"""What can be set in the reasoning call.

Addresses, numbers of replicas, time-outs and retries are not here: they change no text and stand in the recipe's
``serving`` section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.methods.models.lvlm.base import LvlmSettings

Engine = Literal["local", "server"]


@dataclass(frozen=True)
class ReasoningSettings(Settings):
    """One greedy call per sample. SteerSeg's own decoding settings are not public; these are ours."""

    engine: Engine = identity("local")
    """"local": the transformers model in the stage's worker. "server": the same prompt and frames to an
    OpenAI-compatible server of the same checkpoint. Identity, because kernels differ and greedy text with them."""
    keyframes: int = identity(16)
    """Frames of the clip that is reasoned about, spread evenly; a shorter video is seen whole."""
    max_new_tokens: int = identity(128)
    """Longest answer."""
    max_attributes: int = identity(3)
    """Most attributes that are used, the first ones; the prompt asks for three."""
    structured: bool = identity(True)
    """Server: decoding follows a JSON schema, so that no answer is malformed (it may still be cut off). The local
    model decodes freely, whatever stands here."""
    served_name: str = runtime("")
    """The name under which given endpoints serve the checkpoint; default: the hub name, or the folder's last part."""

    def __post_init__(self) -> None:
        if self.engine not in ("local", "server"):
            raise PrerequisiteError(f"reasoning.engine is '{self.engine}'.", "Choose local or server.")
        for name, least in (("keyframes", 2), ("max_new_tokens", 1), ("max_attributes", 1)):
            if getattr(self, name) < least:
                raise PrerequisiteError(f"reasoning.{name} is {getattr(self, name)}.", f"Choose at least {least}.")


@dataclass(frozen=True)
class CotSettings(Settings):
    """Of the ``reason`` stage: what is asked, and of which model."""

    reasoning: ReasoningSettings = identity()
    lvlm: LvlmSettings = identity()
    """How it sees the clip. What a clip call does not use is at a fixed value, so that it recomputes no text."""
