"""From a recipe to the complete list of artefacts: every sample of every variant, with all its keys.

Keys depend on keys, never on results, so the whole plan is known before anything runs: what is missing is a set
difference with the store, independent of the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rvosbench.harness.data.digests import MediaIndex
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import Sample, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.execute.work import PendingExpression, WorkItem
from rvosbench.harness.pipeline.score import ground_truth_key, score_spec
from rvosbench.harness.recipes import DatasetChoice, Recipe
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.provenance import ground_truth_digest
from rvosbench.harness.scoring.sample import ScoredDataset
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.history import History
from rvosbench.harness.store.keys import artefact_key, code_part, digest_of
from rvosbench.harness.variants import SCORE, Variant, resolve, variants_of

_USUAL_SIZE = (480, 854)
"""(H, W) of most DAVIS videos, for memory estimates."""


@dataclass(frozen=True)
class ChosenDataset:
    """A dataset split with the protocols it is scored under."""

    scored: ScoredDataset
    media: dict[str, str]
    """Digest of the frame bytes, by video name."""

    @property
    def dataset(self) -> Dataset:
        """The split as it lies on disk."""
        return self.scored.dataset

    def holds(self, sample: Sample) -> bool:
        """Whether a sample is of this split."""
        return (sample.video.dataset, sample.video.split) == (self.dataset.card.name, self.dataset.split)


@dataclass(frozen=True)
class PlannedSample:
    """One row of ``samples.parquet``: a sample of a variant and the keys of all its artefacts."""

    variant: Variant
    sample: Sample
    keys: dict[str, str]
    """By stage name, in flow order; no "score" where the ground truth is hidden."""
    ground_truth: str | None
    """Digest of the sample's ground truth; None where it is hidden."""


@dataclass(frozen=True)
class Batch:
    """One stage over the samples that share its settings: what an executor runs at a time."""

    spec: StageSpec
    samples: tuple[PlannedSample, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a recipe asks for."""

    datasets: tuple[ChosenDataset, ...]
    variants: tuple[Variant, ...]
    samples: tuple[PlannedSample, ...]

    def batches(self) -> Iterator[Batch]:
        """Stages in flow order, variant by variant; a stage two variants share comes twice and is reused."""
        for variant in self.variants:
            subset = tuple(planned for planned in self.samples if planned.variant is variant)
            for spec in variant.stages:
                yield Batch(spec, subset)
            for chosen in self.datasets:
                of_dataset = tuple(
                    planned for planned in subset if SCORE in planned.keys and chosen.holds(planned.sample)
                )
                if of_dataset:
                    yield Batch(score_spec(chosen.scored), of_dataset)


def make_plan(recipe: Recipe, index: MediaIndex, older: History | None = None) -> Plan:
    """Opens the datasets, builds the variants, computes every key.

    Args:
        index: remembers digests of frames.
        older: artefacts that are reused though other code computed them; None: none are.

    Raises:
        PrerequisiteError: a dataset, method, setting, checkpoint or protocol is missing or wrong.
    """
    variants = variants_of(recipe)
    datasets = tuple(_choose(choice, recipe.data_root, index) for choice in recipe.datasets)
    names = [(chosen.dataset.card.name, chosen.dataset.split) for chosen in datasets]
    if len(set(names)) < len(names):
        raise PrerequisiteError("The recipe lists a dataset split twice.", "Keep one entry per dataset and split.")
    samples = [
        PlannedSample(variant, sample, _keys(variant, sample, chosen, older), _truth_digest(sample, chosen))
        for variant in variants
        for chosen in datasets
        for sample in chosen.dataset.samples()
    ]
    if not samples:
        raise PrerequisiteError("The recipe's datasets hold no sample.", "Check rvosbench datasets verify.")
    return Plan(datasets, variants, tuple(samples))


def reasons_to_compute(batch: Batch, store: ArtefactStore, history: History) -> tuple[int, list[str]]:
    """How many artefacts of a batch are to be computed, and why those that were computed before are computed again."""
    stage = batch.spec.name
    missing = {planned.keys[stage]: planned for planned in batch.samples if not store.has(stage, planned.keys[stage])}
    if not missing:
        return 0, []
    upstream = {name: next(iter(missing.values())).keys[name] for name in batch.spec.consumes}
    return len(missing), history.reasons(stage, missing, batch.spec.code(), upstream)


def record_code(plan: Plan, history: History) -> None:
    """Writes down what code the plan's artefacts are computed by, for later plans to compare with.

    Raises:
        PrerequisiteError: the disk refuses.
    """
    for batch in plan.batches():
        spec = batch.spec
        by_code = {code_part(planned.keys[spec.name]): planned.keys for planned in batch.samples}
        for keys in by_code.values():
            history.record(spec.name, keys[spec.name], spec.code(), {name: keys[name] for name in spec.consumes})


def memory_lines(recipe: Recipe) -> list[str]:
    """What a worker of each method and LVLM needs for 480p frames; needs neither data nor weights."""
    lines: dict[str, None] = {}
    for choice in recipe.methods:
        method, settings, lvlms = resolve(choice, recipe.lvlms)
        for lvlm in lvlms:
            try:
                lines[method.memory(settings, lvlm, _USUAL_SIZE)] = None
            except PrerequisiteError as error:
                # What a worker needs is for readers; a checkpoint that cannot be used is refused with its stages.
                lines[f"Memory of {lvlm or method.title}: not known. {error}"] = None
    return [line for line in lines if line]


def work_items(batch: Batch, store: ArtefactStore) -> list[WorkItem]:
    """What is missing of a batch and can be computed now, grouped by video; equal keys once.

    A sample whose upstream artefact is missing (its stage failed) is left out.
    """
    by_video: dict[tuple[str, str, str], tuple[Video, dict[str, PendingExpression]]] = {}
    for planned in batch.samples:
        key = planned.keys[batch.spec.name]
        inputs = tuple((stage, planned.keys[stage]) for stage in batch.spec.consumes)
        if store.has(batch.spec.name, key) or not all(store.has(*upstream) for upstream in inputs):
            continue
        video = planned.sample.video
        _, pending = by_video.setdefault((video.dataset, video.split, video.name), (video, {}))
        pending.setdefault(key, PendingExpression(planned.sample.expression, key, inputs))
    return [WorkItem(video, tuple(pending.values())) for video, pending in by_video.values()]


def _choose(choice: DatasetChoice, data_root: Path, index: MediaIndex) -> ChosenDataset:
    dataset = open_dataset(choice.source, data_root, choice.split)
    if choice.limit_videos is not None:
        whole = dataset.expected_videos or len(dataset.videos)
        dataset = replace(dataset, videos=dataset.videos[: choice.limit_videos], expected_videos=whole)
    protocols = choice.protocols or dataset.protocols
    for protocol in protocols:
        require_protocol(protocol, dataset.card).require_fit(dataset.card)
    return ChosenDataset(
        ScoredDataset(dataset, protocols), {video.name: _media_digest(video, index) for video in dataset.videos}
    )


def _media_digest(video: Video, index: MediaIndex) -> str:
    """The digest of the frames; of the reason where they cannot be read, which the stages will meet and record."""
    try:
        return index.video(video)
    except SampleError as error:
        return digest_of({"unreadable": str(error)})


def _truth_digest(sample: Sample, chosen: ChosenDataset) -> str | None:
    ground_truth = chosen.dataset.ground_truth
    return None if ground_truth is None else ground_truth_digest(ground_truth, sample.video, sample.expression)


def _keys(variant: Variant, sample: Sample, chosen: ChosenDataset, older: History | None) -> dict[str, str]:
    keys: dict[str, str] = {}
    media = chosen.media[sample.video.name]

    def add(spec: StageSpec, ground_truth: str | None = None) -> None:
        upstream = {stage: keys[stage] for stage in spec.consumes}
        key = artefact_key(spec, media=media, text=sample.expression.text, upstream=upstream, ground_truth=ground_truth)
        others = () if older is None or older.has(spec.name, key) else older.others(spec.name, key)
        keys[spec.name] = others[0] if others else key

    for spec in variant.stages:
        add(spec)
    if chosen.dataset.ground_truth is not None:
        add(score_spec(chosen.scored), ground_truth_key(chosen.scored, chosen.dataset.ground_truth, sample))
    return keys
