"""What is known of one sample after scoring. Shape legend: T frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import Sample
from rvosbench.harness.scoring.kernel import CountsT6, GroundTruthFrame, PixelCounts, f, j

Status = Literal["scored", "failed", "missing"]
Evaluated = Literal["all", "keyframes"]


@dataclass(frozen=True)
class SampleResult:
    """How one method ended on one sample."""

    method: str
    """As printed in tables."""
    lvlm: str | None
    sample: Sample
    status: Status
    """"scored" also where ground truth is hidden: the masks are there, the integers are not."""
    frames: tuple[str, ...] = ()
    """Names of the frames that ``counts_T6`` has rows for."""
    counts_T6: CountsT6 | None = None
    """The six integers by frame; None when there is nothing to count. A missing mask counts as ``missing_frame``."""
    evaluated: Evaluated = "all"
    """"keyframes": the masks do not cover every frame that has ground truth."""
    missing_frames: int = 0
    """How many of ``frames`` have no usable mask."""
    recorded: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """What protocols record beside the integers, by name; see ``rvosbench.harness.scoring.rules.Recorder``."""
    oddities: Mapping[str, int] = field(default_factory=dict)
    """Masks that look as if they were something else, by kind; see ``rvosbench.harness.scoring.oddities``."""
    ground_truth: str | None = None
    """Digest of the sample's ground truth; None where it is hidden."""
    masks: str | None = None
    """Digest of the sample's masks; None where there are none, or nothing was scored."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Artefact keys by stage."""
    error: str | None = None
    """What went wrong, in one sentence."""
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    """By stage that knows a second way of doing its work: why that was gone, or "" where it was not needed."""

    def __post_init__(self) -> None:
        if self.counts_T6 is not None and self.counts_T6.shape != (len(self.frames), 6):
            found = f"{self.counts_T6.shape} for {len(self.frames)} frames"
            raise ValueError(f"{self.sample.id}: counts of shape {found}; expected (T, 6)")

    def mean_j_and_f(self) -> tuple[float, float]:
        """Mean J and mean F over all evaluated frames; 0 for a sample without integers."""
        if self.counts_T6 is None or not len(self.counts_T6):
            return 0.0, 0.0
        return float(j(self.counts_T6).mean()), float(f(self.counts_T6).mean())


@dataclass(frozen=True)
class ScoredDataset:
    """A dataset with the protocols it is scored under."""

    dataset: Dataset
    protocols: tuple[str, ...]
    """Ids; see ``rvosbench.harness.scoring.protocols``."""


def missing_frame(truth: GroundTruthFrame) -> PixelCounts:
    """The integers of a frame whose mask is missing: J and F are 0, whether the target is visible or not.

    They are those of a prediction that misses the target entirely and has one wrong boundary pixel.
    """
    return PixelCounts(0, max(truth.area, 1), truth.boundary_size, 1, 0, 0)
