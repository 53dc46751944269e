"""How many tokens a clip call and a frame call take, for estimates made without a model.

Shape legend: t h w visual grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from rvosbench.methods.models.lvlm.base import Grid


@dataclass(frozen=True)
class View:
    """The visual side of one call."""

    grid: Grid
    """Visual tokens (t, h, w) of the map."""
    tokens: int
    """Tokens in the sequence: those of the grid and those that the family puts beside them."""
    patches: int
    """Patches that the vision tower computes on."""


@dataclass(frozen=True)
class Views:
    """The clip call and one frame call."""

    clip: View
    frame: View
