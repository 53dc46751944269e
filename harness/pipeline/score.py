"""The "score" stage: a mask track and the ground truth in, the six integers per frame out.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.reader import Dataset, no_ground_truth, open_dataset
from rvosbench.harness.data.types import Expression, GroundTruth, MaskTrack, Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.kernel import Counts, GroundTruthFrame
from rvosbench.harness.scoring.sample import SampleResult
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.harness.stages import Outcome, Request, StageSpec, VideoFrames
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import mask_track


@dataclass(frozen=True)
class ScoreSettings(Settings):
    """Which ground truth to compare with."""

    dataset: str = identity()
    """The card's name."""
    split: str = identity()
    """A split of the card."""
    card: str = runtime()
    """What the card is found by: its name, or the path of its file."""
    data_root: str = runtime()
    """Where the ground truth lies on this machine; its content enters the key by its digest."""


def score_spec(dataset: Dataset) -> StageSpec:
    """The stage that scores mask tracks on an opened dataset."""
    settings = ScoreSettings(dataset.card.name, dataset.split, dataset.card.source, str(dataset.root.resolve()))
    return StageSpec("score", "rvosbench.harness.pipeline.score:build", settings, consumes=("segment",))


def build(settings: ScoreSettings) -> ScoreStage:
    """The stage; the dataset is opened with the first video."""
    return ScoreStage(settings)


def scored_result(result: SampleResult, artefact: Artefact | None) -> SampleResult:
    """``result`` as scored, with the integers of its score artefact; None where ground truth is hidden."""
    if artefact is None:
        return replace(result, status="scored")
    frames, evaluated = artefact.meta["frames"], artefact.meta["evaluated"]
    assert isinstance(frames, list)
    return replace(
        result,
        status="scored",
        frames=tuple(str(name) for name in frames),
        counts_T6=np.asarray(artefact.arrays["counts"], dtype=np.int64),
        evaluated="all" if evaluated == "all" else "keyframes",
    )


class ScoreStage:
    """Scores the mask tracks of one video at a time; expressions with the same targets share the ground truth."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._settings = settings

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Counts are ``arrays["counts"]``, (T, 6) int64, of the frames named in ``meta["frames"]``.

        A track that covers only some of the frames with ground truth is scored on those ("evaluated": "keyframes").
        """
        truths: dict[tuple[str, ...], _Truth] = {}
        for index, request in enumerate(requests):
            expression = request.expression
            truth = truths.setdefault(expression.targets, _Truth(self._ground_truth, video.video, expression))
            try:
                yield index, _score(truth, mask_track(request.inputs["segment"]))
            except SampleError as error:
                yield index, error

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        settings = self._settings
        dataset = open_dataset(settings.card, Path(settings.data_root), settings.split, needs="masks")
        if dataset.ground_truth is None:
            raise no_ground_truth(dataset)
        return dataset.ground_truth


class _Truth:
    """The ground truth of one target set in one video, prepared frame by frame and kept for the next expression."""

    def __init__(self, ground_truth: GroundTruth, video: Video, expression: Expression) -> None:
        self._ground_truth = ground_truth
        self.video = video
        self._expression = expression
        self._prepared: dict[int, GroundTruthFrame] = {}

    def frames(self) -> Sequence[int]:
        return self._ground_truth.scored_frames(self.video, self._expression)

    def frame(self, index: int) -> GroundTruthFrame:
        if index not in self._prepared:
            mask_HW = self._ground_truth.mask(self.video, self._expression, index)
            self._prepared[index] = GroundTruthFrame(mask_HW)
        return self._prepared[index]


def _score(truth: _Truth, track: MaskTrack) -> Artefact:
    predicted = dict(zip(track.frames, track.rles, strict=True))
    names = truth.video.frames
    if predicted and max(predicted) >= len(names):
        raise SampleError(f"the mask track names frame {max(predicted)} of a video with {len(names)} frames")
    wanted = truth.frames()
    frames = [index for index in wanted if index in predicted]
    if not frames:
        raise SampleError("the mask track covers no frame that has ground truth")
    counts: list[Counts] = []
    for index in frames:
        gt = truth.frame(index)
        if gt.shape != (track.height, track.width):
            height, width = gt.shape
            raise SampleError(
                f"masks are {track.height}x{track.width} (HxW), but the ground truth of frame "
                f"{names[index]} is {height}x{width}"
            )
        counts.append(gt.counts(decode(predicted[index], track.height, track.width)))
    return Artefact(
        meta={
            "frames": [names[index] for index in frames],
            "evaluated": "all" if len(frames) == len(wanted) else "keyframes",
        },
        arrays={"counts": np.array(counts, dtype=np.int64)},
    )
