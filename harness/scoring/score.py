"""``rvosbench score``: a folder of masks, or an RLE file, to scores, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rvosbench.harness.data.ground_truth import DiskGroundTruth
from rvosbench.harness.data.reader import Dataset, no_ground_truth
from rvosbench.harness.data.types import Sample, Video
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.scoring.plausibility import require_plausible, verify_command
from rvosbench.harness.scoring.predictions import (
    KINDS,
    Absence,
    Kind,
    Problem,
    Reading,
    Strictness,
    Tolerance,
    VideoMasks,
    open_predictions,
)
from rvosbench.harness.scoring.predictions.rle_files import RLE_SUFFIXES
from rvosbench.harness.scoring.predictions.trees import ARCHIVE_SUFFIXES
from rvosbench.harness.scoring.protocols import protocol_names, require_protocol
from rvosbench.harness.scoring.provenance import Origin, ground_truth_digest
from rvosbench.harness.scoring.rows import PairsKey, RecordedPairs
from rvosbench.harness.scoring.rules import Rule
from rvosbench.harness.scoring.sample import SampleResult, ScoredDataset
from rvosbench.harness.scoring.video import ExpressionScores, VideoScores, first_problem, score_video

Progress = Callable[[int, int], None]
"""(samples done, samples in all)."""


@dataclass(frozen=True)
class ScoreReport:
    """What happened."""

    rows: list[dict[str, Any]]
    """As in scores.json; empty when nothing was written."""
    problems: tuple[Problem, ...]
    """Everything wrong with the predictions and the ground truth, in the dataset's order."""
    written: bool
    """Whether the tables were written. Strict scoring writes nothing when there is a problem."""
    coverage: str
    """How much of the benchmark the data root holds."""
    notes: tuple[str, ...]
    """What the data root lacks."""
    statuses: dict[str, int]
    """Samples by status."""
    reading: Reading
    """How the predictions were read."""
    verify: str
    """The command that names the faults of the data root."""

    @property
    def problem_counts(self) -> dict[Kind, int]:
        """Masks concerned, by kind."""
        return {
            kind: sum(problem.masks for problem in self.problems if problem.kind == kind)
            for kind in KINDS
            if any(problem.kind == kind for problem in self.problems)
        }

    @property
    def exit_code(self) -> int:
        """0: complete. 3: scored with holes (lenient). 2: refused (strict)."""
        if not self.written:
            return 2
        return 3 if any(problem.kind != "extra" for problem in self.problems) else 0

    def raise_if_refused(self) -> None:
        """Charges a refusal to what caused it: the ground truth first, because no predictions can make up for it.

        Raises:
            PrerequisiteError: nothing was written.
        """
        if self.written:
            return
        counts = self.problem_counts
        samples = counts.pop("ground truth", 0)
        masks = sum(counts.values())
        if samples:
            also = f" Besides, {masks} predicted masks are missing, extra or unusable." if masks else ""
            raise PrerequisiteError(
                f"The ground truth of {samples} samples cannot be used; nothing was scored.{also}",
                f"Check it with {self.verify}, or score with --lenient, which counts these samples as 0.",
            )
        raise PrerequisiteError(
            f"{masks} masks are missing, extra or unusable; nothing was scored.",
            "Correct the predictions, or score with --lenient, which counts what is missing or unusable as 0; with "
            "--absent empty a mask without a file is an empty one.",
        )


@dataclass(frozen=True)
class _VideoTask:
    """What a worker gets."""

    index: int
    """The video's place in the dataset."""
    video: Video
    masks: VideoMasks
    ground_truth: DiskGroundTruth
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class _VideoOutcome:
    """What a worker returns."""

    index: int
    scores: VideoScores
    ground_truth: tuple[str, ...]
    """Digests, parallel to the video's expressions."""


def score_predictions(
    predictions: Path,
    dataset: Dataset,
    protocols: Sequence[str] = (),
    *,
    out: Path,
    strictness: Strictness = "strict",
    absence: Absence | None = None,
    label: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ScoreReport:
    """Scores every sample of the dataset and writes ``samples.parquet``, ``frames.parquet`` and ``scores.json``.

    Args:
        dataset: opened with ``needs="masks"``; what it lists is what is scored.
        protocols: ids; none for the split's own, the primary one first, of those that the predictions have masks for.
        strictness: whether unusable masks are refused, or score 0 and are counted.
        absence: what a mask without a file means; None: strict refuses it, lenient scores it 0.
        label: the method's name in the tables; default: the name of the predictions.
        workers: processes; default: one per available core, at most one per video.
        progress: called after each video.

    Raises:
        PrerequisiteError: the ground truth is hidden, absent or cannot be right, a protocol is unknown or does not fit,
            the predictions cannot be read or none of them fits the dataset, or the output cannot be written.
    """
    chosen = _protocols(dataset, protocols)
    tolerance = Tolerance.of(strictness, absence)
    source = open_predictions(predictions, dataset, tolerance.absence)
    chosen = _readable(chosen, source.reading, explicit=bool(protocols))
    ground_truth = dataset.ground_truth
    assert ground_truth is not None
    tasks = [
        _VideoTask(index, video, source.of_video(video), ground_truth, tuple(chosen))
        for index, video in enumerate(dataset.videos)
    ]
    outcomes: list[_VideoOutcome] = []
    total = sum(len(video.expressions) for video in dataset.videos)
    done = 0
    for outcome in _outcomes(tasks, workers):
        outcomes.append(outcome)
        done += len(outcome.scores.expressions)
        if progress is not None:
            progress(done, total)
    outcomes.sort(key=lambda outcome: outcome.index)
    method = label or _default_label(predictions)
    results = [
        _result(method, Sample(video, expression), ended, digest)
        for video, outcome in zip(dataset.videos, outcomes, strict=True)
        for expression, ended, digest in zip(
            video.expressions, outcome.scores.expressions, outcome.ground_truth, strict=True
        )
    ]
    problems = [problem for outcome in outcomes for ended in outcome.scores.expressions for problem in ended.problems]
    problems += source.unexpected()
    refused = tolerance.refuses(problems)
    rows: list[dict[str, Any]] = []
    if not refused:
        if all(result.counts_T6 is None for result in results):
            raise PrerequisiteError(
                f"The ground truth of all {len(results)} samples cannot be used: {problems[0]}.",
                f"Check it with {verify_command(dataset)}.",
            )
        _require_usable(dataset, results, problems)
        require_plausible(dataset, results)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        origin = Origin(date, predictions.absolute(), source.reading.text, tolerance.absence)
        rows = _write(out, dataset, chosen, results, outcomes, origin)
    return ScoreReport(
        rows=rows,
        problems=tuple(problems),
        written=not refused,
        coverage=dataset.coverage,
        notes=dataset.notes,
        statuses=dict(Counter(result.status for result in results)),
        reading=source.reading,
        verify=verify_command(dataset),
    )


def _require_usable(dataset: Dataset, results: Sequence[SampleResult], problems: Sequence[Problem]) -> None:
    """Refuses predictions of which not one mask can be used: a score of 0 would say nothing about the method."""
    counted = [result for result in results if result.counts_T6 is not None]
    if any(result.missing_frames < len(result.frames) for result in counted):
        return
    first = next((problem for problem in problems if problem.kind not in ("ground truth", "extra")), None)
    if first is None:
        return
    masks = sum(result.missing_frames for result in counted)
    raise PrerequisiteError(
        f"Not one of the {masks} masks is usable; nothing was scored. The first: {first}.",
        f"Correct the predictions; if they are right, check the data root with {verify_command(dataset)}.",
    )


def _write(
    out: Path,
    dataset: Dataset,
    rules: Sequence[Rule],
    results: Sequence[SampleResult],
    outcomes: Sequence[_VideoOutcome],
    origin: Origin,
) -> list[dict[str, Any]]:
    # Here, so that scoring processes are started without pyarrow in their memory.
    from rvosbench.harness.scoring.results import write_tables

    method = results[0].method if results else ""
    pairs: RecordedPairs = {
        PairsKey(method, None, dataset.card.name, dataset.split, rule.id): {
            video.name: outcome.scores.pairs[rule.id] for video, outcome in zip(dataset.videos, outcomes, strict=True)
        }
        for rule in rules
        if rule.records == "videos"
    }
    return write_tables(
        out,
        results,
        [ScoredDataset(dataset, tuple(rule.id for rule in rules))],
        pairs=pairs,
        origin=origin,
    )


def _protocols(dataset: Dataset, names: Sequence[str]) -> list[Rule]:
    split = dataset.card.splits[dataset.split]
    if dataset.ground_truth is None:
        raise no_ground_truth(dataset)
    if not names and not dataset.protocols:
        raise PrerequisiteError(f"{split.title} has no protocol of its own.", nearest_name("", protocol_names()))
    chosen = [require_protocol(name, dataset.card) for name in dict.fromkeys(names or dataset.protocols)]
    for rule in chosen:
        if not rule.scored_here:
            raise PrerequisiteError(
                f"Protocol '{rule.id}' is scored by a server, not here.", "Use rvosbench export-submission."
            )
        rule.require_fit(dataset.card)
    return chosen


def _readable(rules: list[Rule], reading: Reading, *, explicit: bool) -> list[Rule]:
    """The protocols that the layout of the predictions holds masks for."""
    fitting = [rule for rule in rules if reading.protocol in (None, rule.id)]
    if not fitting or (explicit and len(fitting) < len(rules)):
        other = next(rule for rule in rules if rule not in fitting)
        raise PrerequisiteError(
            f"Protocol '{other.id}' needs a mask for each expression, but the predictions are {reading.layout}.",
            f"Score them with --protocol {reading.protocol}.",
        )
    return fitting


def _outcomes(tasks: Sequence[_VideoTask], workers: int | None) -> Iterator[_VideoOutcome]:
    """Longest videos first, so that no core ends up alone with one."""
    tasks = sorted(tasks, key=lambda task: -len(task.video.frames) * len(task.video.expressions))
    processes = min(workers or available_cores(), len(tasks))
    if processes <= 1:
        yield from map(_score, tasks)
        return
    # A forked worker shares mask dictionaries that are loaded already; workers start no threads of their own.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(_score, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise PrerequisiteError(
                "A scoring process was killed, probably for memory.", "Use fewer workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _score(task: _VideoTask) -> _VideoOutcome:
    video, ground_truth = task.video, task.ground_truth
    scores = score_video(video, ground_truth, task.masks, task.rules)
    digests = tuple(ground_truth_digest(ground_truth, video, expression) for expression in video.expressions)
    return _VideoOutcome(task.index, scores, digests)


def available_cores() -> int:
    """Cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _default_label(predictions: Path) -> str:
    name = predictions.resolve().name
    if predictions.is_file():
        for suffix in (".gz", ".bz2", ".xz", *ARCHIVE_SUFFIXES, *RLE_SUFFIXES):
            name = name.removesuffix(suffix)
    return name


def _result(method: str, sample: Sample, ended: ExpressionScores, ground_truth: str) -> SampleResult:
    return SampleResult(
        method=method,
        lvlm=None,
        sample=sample,
        status=ended.status,
        frames=ended.frames,
        counts_T6=ended.counts_T6,
        evaluated=ended.evaluated,
        missing_frames=ended.missing_frames,
        recorded=ended.recorded,
        oddities=ended.oddities,
        ground_truth=ground_truth,
        masks=ended.masks,
        error=first_problem(ended.problems),
    )
