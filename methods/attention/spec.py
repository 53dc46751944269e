"""What a rollout is made of: layers, residual weight, head weights.

No torch is imported here, so that recipes can be read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings, identity, runtime


@dataclass(frozen=True)
class RolloutSpec(Settings):
    """Attention rollout of one output row (DecAF, arXiv 2510.19592, Eq. 2-5; its released code where they differ)."""

    start_layer: int | None = identity(None)
    """First layer rolled out, 0-based; None: half the layers, the paper's choice for every model."""
    end_layer: int | None = identity(None)
    """Layer to stop before; None: through the last one."""
    residual: float = identity(0.5)
    """Weight of the identity (the residual connection) in each layer; attention gets the rest. Rows are not
    normalised again."""
    head_weights: Literal["vmax", "max", "mean"] = identity("vmax")
    """"vmax": mean over all query rows of the row's maximum over visual columns, divided by the largest head's;
    "max": the same over all columns; "mean": every head counts 1."""
    visual_columns: Literal["own", "reference_span"] = identity("own")
    """Columns over which "vmax" takes the maximum. "own": each item's visual tokens. "reference_span": everything from
    the first to the last visual token of the batch's first item, as the reference does for Qwen and LLaVA; equal to
    "own" when nothing stands between the visual tokens."""
    block: int | None = runtime(None)
    """Query rows held at a time; memory grows with it, results do not depend on it beyond rounding. None: 32 on a
    CPU, where a block should fit the cache, 256 elsewhere."""

    def layers(self, count: int) -> range:
        """The layers rolled out of a model with ``count``.

        Raises:
            PrerequisiteError: the model has no such layers.
        """
        start = count // 2 if self.start_layer is None else self.start_layer
        end = count if self.end_layer is None else self.end_layer
        if not 0 <= start < end <= count:
            raise PrerequisiteError(
                f"Rollout over layers {start} to {end} is not possible: the model has layers 0 to {count - 1}.",
                "Set start_layer and end_layer so that 0 <= start_layer < end_layer <= the number of layers.",
            )
        return range(start, end)

    def __post_init__(self) -> None:
        if not 0.0 <= self.residual < 1.0:
            raise PrerequisiteError(f"residual is {self.residual}.", "Choose a value in [0, 1).")
        if self.block is not None and self.block < 1:
            raise PrerequisiteError(f"block is {self.block}.", "Choose at least 1 query row.")
