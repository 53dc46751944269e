"""A chat with a vision-language model: messages made of text, images and at most one video, and the wanted result.

    lvlm.chat([user(Clip(frames), Text("What moves?"))])                                   # the answer
    lvlm.chat([user(Image(frame), Text("the dog."))], Maps(RolloutSpec()))                 # a rollout map an image
    lvlm.chat([system(Text("...")), user(Clip(frames), Text("the dog.", name="query"))],
              Hidden({"query": TextTokens("query"), "[SEG]": AnswerTokens("[SEG]")}))      # hidden states

No torch is imported here.

Shape legend: T frames, H W pixels, h w visual tokens, D hidden size, n positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import FrameHW3
from rvosbench.methods.attention.spec import RolloutSpec

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class ImageSize:
    """How large an image is shown. Every family follows what it can and ignores the rest."""

    grid: tuple[int, int] | None = None
    """Visual tokens (h, w), for families that resize images freely; None: the image's shape within the limits."""
    min_tokens: int | None = None
    """Smallest number of visual tokens where ``grid`` is None; None: ``LvlmOptions.clip_min_tokens``."""
    max_tokens: int | None = None
    """Largest number of visual tokens where ``grid`` is None; None: ``clip_max_tokens`` times ``frame_scale`` squared
    of ``LvlmOptions``."""
    tiles: bool | None = None
    """Whether families that cut images into tiles do so (False: the image is one tile); None: unless ``frame_scale``
    is 1."""


@dataclass(frozen=True)
class Text:
    """A stretch of text."""

    text: str
    name: str | None = None
    """A name under which the tokens of this text can be addressed (see ``TextTokens``)."""


@dataclass(frozen=True, eq=False)
class Image:
    """One frame shown as an image."""

    frame_HW3: FrameHW3
    size: ImageSize = field(default_factory=ImageSize)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one size shown as one video."""

    frames: Sequence[FrameHW3]
    """T frames."""
    min_tokens: int | None = None
    """Smallest number of visual tokens of a frame; None: ``LvlmOptions.clip_min_tokens``."""
    max_tokens: int | None = None
    """Largest number of visual tokens of a frame; None: ``LvlmOptions.clip_max_tokens``."""


Part = Text | Image | Clip
Visual = Image | Clip


@dataclass(frozen=True, eq=False)
class Message:
    """One turn of a chat."""

    role: Role
    parts: tuple[Part, ...]


def user(*parts: Part) -> Message:
    """A turn of the user."""
    return Message("user", parts)


def system(*parts: Text) -> Message:
    """The system turn, which takes the place of the family's own."""
    return Message("system", parts)


def visual_parts(messages: Sequence[Message]) -> list[Visual]:
    """The images and videos of a chat in order."""
    return [part for message in messages for part in message.parts if not isinstance(part, Text)]


@dataclass(frozen=True)
class Answer:
    """The wanted result is the greedy answer as text, without special tokens."""

    max_new_tokens: int | None = None
    """Longest answer in tokens; None: ``LvlmOptions.max_new_tokens``."""


@dataclass(frozen=True)
class Maps:
    """The wanted result is the rolled-out attention of the last token to every image and video; nothing is
    generated."""

    rollout: RolloutSpec


@dataclass(frozen=True)
class LastToken:
    """The position of the last token before the answer."""


@dataclass(frozen=True)
class TextTokens:
    """The positions of all tokens of the text with this name."""

    name: str


@dataclass(frozen=True)
class AnswerTokens:
    """The positions of the answer's tokens: all of them, or those that are the one token written ``token``, in the
    vocabulary's spelling or as text."""

    token: str | None = None
    state: Literal["of_token", "before_token"] = "of_token"
    """The state of the token itself, or of the position before it, whose output predicts it."""


Position = LastToken | TextTokens | AnswerTokens


@dataclass(frozen=True)
class Hidden:
    """The wanted result is the last layer's hidden states, after the final norm, at named positions."""

    positions: Mapping[str, Position]
    max_new_tokens: int | None = None
    """Longest answer in tokens where a position is in the answer; None: ``LvlmOptions.max_new_tokens``. Nothing is
    generated otherwise."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """Hidden states at named positions, and the answer that was generated for them."""

    states: Mapping[str, NDArray[np.float32]]
    """(n, D) float32 under every name; n is 0 where a token does not occur in the answer."""
    answer: str
    """The answer as text; empty where nothing was generated."""
