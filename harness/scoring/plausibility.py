"""Ground truth that cannot be right is refused: a score against it would mean nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rvosbench.harness.data.ground_truth import VOID, PaletteGroundTruth
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.scoring.kernel import gt_present
from rvosbench.harness.scoring.sample import SampleResult

_LISTED = 3


def require_plausible(dataset: Dataset, results: Sequence[SampleResult]) -> None:
    """Checks the ground truth that one method's results on a dataset were scored against.

    Raises:
        PrerequisiteError: no target has a pixel in any scored frame, or the index masks of a video hold background and
            void only.
    """
    if dataset.ground_truth is None:
        return
    fix = f"Check it with {verify_command(dataset)}."
    seen, empty = set[str](), dict[str, Video]()
    for result in results:
        if result.counts_T6 is None or not result.sample.expression.targets:
            continue
        video = result.sample.video
        if gt_present(result.counts_T6).any():
            seen.add(video.name)
        else:
            empty[video.name] = video
    two_valued = [
        video.name
        for name, video in empty.items()
        if name not in seen and isinstance(dataset.ground_truth, PaletteGroundTruth)
        if _only_void(dataset.ground_truth, video)
    ]
    if two_valued:
        listed = ", ".join(two_valued[:_LISTED]) + (" ..." if len(two_valued) > _LISTED else "")
        raise PrerequisiteError(
            f"The ground truth of {len(two_valued)} videos ({listed}) holds only the values 0 and 255, background and "
            "void, where object ids are expected; nothing was scored.",
            f"Get the masks with object ids. {fix}",
        )
    if empty and not seen:
        raise PrerequisiteError(
            f"No target of {dataset.card.title} ({dataset.split}) has a pixel in any scored frame; nothing was scored.",
            fix,
        )


def verify_command(dataset: Dataset) -> str:
    """The command that names every fault of a data root."""
    source, root = shlex.quote(str(dataset.card.source)), shlex.quote(str(dataset.root))
    return f"rvosbench datasets verify {source} --split {dataset.split} --data-root {root} --full"


def _only_void(ground_truth: PaletteGroundTruth, video: Video) -> bool:
    """Whether a video has void pixels and no object at all."""
    void = False
    try:
        for frame in range(len(video.frames)):
            labels_HW = ground_truth.labels(video, frame)
            if ((labels_HW != 0) & (labels_HW != VOID)).any():
                return False
            void = void or bool(labels_HW.any())
    except SampleError:
        return False
    return void
