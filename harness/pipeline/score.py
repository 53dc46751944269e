"""The "score" stage: mask tracks and the ground truth in, the six integers per frame out.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rvosbench.harness.data.reader import no_ground_truth, open_dataset
from rvosbench.harness.data.types import GroundTruth, MaskTrack, Sample
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.provenance import ground_truth_digest
from rvosbench.harness.scoring.sample import SampleResult, ScoredDataset
from rvosbench.harness.scoring.tracks import TrackMasks
from rvosbench.harness.scoring.video import ExpressionScores, first_problem, score_video
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.harness.stages import Outcome, Request, StageSpec, VideoFrames
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.keys import digest_of
from rvosbench.harness.store.tracks import mask_track

_RECORDED = "recorded_"
"""Precedes the names of recorded arrays in an artefact."""


@dataclass(frozen=True)
class ScoreSettings(Settings):
    """Which ground truth to compare with."""

    dataset: str = identity()
    """The card's name."""
    split: str = identity()
    """A split of the card."""
    recorded: tuple[str, ...] = identity()
    """Protocols for which more than the six integers per frame is recorded."""
    card: str = runtime()
    """What the card is found by: its name, or the path of its file."""
    data_root: str = runtime()
    """Where the ground truth lies on this machine; its content enters the key by its digest."""


def score_spec(scored: ScoredDataset) -> StageSpec:
    """The stage that scores mask tracks on an opened dataset."""
    dataset = scored.dataset
    root = str(dataset.root.resolve())
    settings = ScoreSettings(dataset.card.name, dataset.split, _recorded(scored), dataset.card.source, root)
    return StageSpec("score", "rvosbench.harness.pipeline.score:build", settings, consumes=("segment",))


def ground_truth_key(scored: ScoredDataset, ground_truth: GroundTruth, sample: Sample) -> str:
    """What a score artefact depends on beside masks and settings: all ground truth that enters it."""
    video = sample.video
    masks = ground_truth_digest(ground_truth, video, sample.expression)
    key: dict[str, str | list[str]] = {"masks": masks, "frames": list(video.frames)}
    if _recorded(scored):
        # Areas are measured against everything that any expression of the video refers to.
        key["video"] = [ground_truth_digest(ground_truth, video, expression) for expression in video.expressions]
    return digest_of(key)


def _recorded(scored: ScoredDataset) -> tuple[str, ...]:
    rules = (require_protocol(name, scored.dataset.card) for name in scored.protocols)
    return tuple(sorted(rule.id for rule in rules if rule.records == "expressions"))


def build(settings: ScoreSettings) -> ScoreStage:
    """The stage; the dataset is opened with the first video."""
    return ScoreStage(settings)


def scored_result(result: SampleResult, artefact: Artefact | None) -> SampleResult:
    """``result`` as scored, with what its score artefact holds; None where ground truth is hidden.

    Raises:
        SampleError: the artefact is no score's.
    """
    if artefact is None:
        return replace(result, status="scored")
    frames = typed.names(artefact, "frames")
    return replace(
        result,
        status="scored",
        frames=frames,
        counts_T6=typed.integers(artefact, "counts", (len(frames), 6)),
        evaluated="all" if typed.text(artefact, "evaluated") == "all" else "keyframes",
        recorded={
            name.removeprefix(_RECORDED): np.asarray(array, dtype=np.int64)
            for name, array in artefact.arrays.items()
            if name.startswith(_RECORDED)
        },
        oddities=typed.counts(artefact, "oddities"),
        masks=typed.text(artefact, "masks"),
    )


class ScoreStage:
    """Scores the mask tracks of one video at a time."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._settings = settings
        self._rules = [require_protocol(name) for name in settings.recorded]

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Counts are ``arrays["counts"]``, (T, 6) int64, of the frames named in ``meta["frames"]``.

        A track that covers only some of the frames with ground truth is scored on those ("evaluated": "keyframes"). A
        track with a mask that cannot be used fails as a whole.
        """
        tracks: dict[str, MaskTrack] = {}
        readable: list[int] = []
        for index, request in enumerate(requests):
            try:
                tracks[request.expression.id] = mask_track(request.inputs["segment"])
                readable.append(index)
            except SampleError as error:
                yield index, error
        if not readable:
            return
        masks = TrackMasks(video.video, lambda expression: tracks[expression.id])
        expressions = [requests[index].expression for index in readable]
        scores = score_video(video.video, self._ground_truth, masks, self._rules, expressions)
        for index, ended in zip(readable, scores.expressions, strict=True):
            yield index, _outcome(ended)

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        settings = self._settings
        dataset = open_dataset(settings.card, Path(settings.data_root), settings.split, needs="masks")
        if dataset.ground_truth is None:
            raise no_ground_truth(dataset)
        return dataset.ground_truth


def _outcome(ended: ExpressionScores) -> Outcome:
    problem = first_problem(ended.problems)
    if problem is not None:
        return SampleError(problem)
    if ended.counts_T6 is None or not len(ended.counts_T6):
        return SampleError("the mask track covers no frame that has ground truth")
    return Artefact(
        meta={
            "frames": list(ended.frames),
            "evaluated": ended.evaluated,
            "masks": ended.masks,
            "oddities": dict(ended.oddities),
        },
        arrays={"counts": ended.counts_T6} | {_RECORDED + name: array for name, array in ended.recorded.items()},
    )
