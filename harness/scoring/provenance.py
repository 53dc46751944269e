"""Where a number comes from: digests of ground truth and masks, the data root, and what computed it.

Legend: H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rvosbench
from rvosbench.harness.data.digests import file_sha256
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, Expression, GroundTruth, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.results.schema import Provenance
from rvosbench.harness.scoring.predictions import Absence


@dataclass(frozen=True)
class Origin:
    """What a set of tables was made from, beside the datasets."""

    date: str | None = None
    """When the scores were computed: UTC, ISO 8601."""
    predictions: Path | None = None
    """The folder, archive or file the masks were read from; None for a run's own masks."""
    read_as: str | None = None
    """The layout they were read in, and what was interpreted or ignored."""
    absent: Absence | None = None
    """What a mask without a file meant; None for a run's own masks."""


class MaskDigest:
    """SHA-256 over masks in the order they are added: pixels alone, independent of their file and memory order."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()

    def add(self, mask_HW: BoolHW | None) -> None:
        """The next mask; None where there is none."""
        if mask_HW is None:
            self._whole.update(b"none")
            return
        height, width = mask_HW.shape
        self._whole.update(f"{height}x{width}:".encode())
        self._whole.update(np.packbits(mask_HW).data)

    def hexdigest(self) -> str:
        """The digest of what was added so far."""
        return self._whole.hexdigest()


def ground_truth_digest(ground_truth: GroundTruth, video: Video, expression: Expression) -> str:
    """Digest of an expression's ground truth; of the reason where it cannot be read, which scoring meets again."""
    try:
        return ground_truth.digest(video, expression)
    except SampleError as error:
        return hashlib.sha256(f"unreadable: {error}".encode()).hexdigest()


def whole_digest(parts: Iterable[str]) -> str:
    """SHA-256 of digests in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def provenance(dataset: Dataset, origin: Origin, truths: Iterable[str], masks: Iterable[str]) -> Provenance:
    """The provenance of the scores of one method on a dataset.

    Args:
        truths: digests of the samples' ground truth, in the samples' order.
        masks: digests of the samples' masks, likewise.
    """
    return Provenance(
        data_root=str(dataset.root),
        layout=dataset.layout,
        metadata=metadata_digest(dataset),
        ground_truth=whole_digest(truths),
        predictions=None if origin.predictions is None else str(origin.predictions),
        read_as=origin.read_as,
        masks=whole_digest(masks),
        rvosbench=rvosbench.__version__,
        date=origin.date,
        absent=origin.absent,
    )


def metadata_digest(dataset: Dataset) -> str:
    """SHA-256 of the file that lists videos and expressions.

    Raises:
        PrerequisiteError: it cannot be read any more.
    """
    try:
        return file_sha256(dataset.metadata)
    except OSError as error:
        problem = f"{dataset.metadata} cannot be read: {error.strerror or error}."
        raise PrerequisiteError(problem, "Check the data root.") from error
