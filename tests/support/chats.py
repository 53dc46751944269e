"""Chats of one turn, as templates take them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rvosbench.methods.models.lvlm.messages import Clip, Image, Part, Text, user
from rvosbench.methods.models.lvlm.model import Lvlm

_FRAME = np.zeros((64, 64, 3), dtype=np.uint8)


def template_form(lvlm: Lvlm, call: Literal["clip", "frame", "choice"], prompt: str) -> list[dict[str, Any]]:
    """The chat of a clip call, a frame call or a call with text alone, in the form that templates take."""
    visual: dict[str, tuple[Part, ...]] = {"clip": (Clip([_FRAME]),), "frame": (Image(_FRAME),), "choice": ()}
    return lvlm.template_messages([user(*visual[call], Text(prompt))])
