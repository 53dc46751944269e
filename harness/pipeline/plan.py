"""From a recipe to the complete list of artefacts: every sample of every variant, with all its keys.

Keys depend on keys, never on results, so the whole plan is known before anything runs: what is missing is a set
difference with the store, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rvosbench.harness.data.digests import MediaIndex
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import GroundTruth, Sample, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.execute.work import PendingExpression, WorkItem
from rvosbench.harness.pipeline.score import score_spec
from rvosbench.harness.recipes import DatasetChoice, MethodChoice, Recipe, method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.sample import ScoredDataset
from rvosbench.harness.settings import Settings
from rvosbench.harness.stages import Method, StageSpec
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.keys import artefact_key, digest_of

SCORE = "score"
_USUAL_SIZE = (480, 854)
"""(H, W) of most DAVIS videos, for memory estimates."""


@dataclass(frozen=True)
class Variant:
    """A method on an LVLM: one row of the results table."""

    label: str
    lvlm: str | None
    """As printed: the last component of the hub name or folder."""
    stages: tuple[StageSpec, ...]


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


@dataclass(frozen=True)
class PlannedSample:
    """One row of ``samples.parquet``: a sample of a variant and the keys of all its artefacts."""

    variant: Variant
    sample: Sample
    keys: dict[str, str]
    """By stage name, in flow order; no "score" where the ground truth is hidden."""


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
            mine = tuple(planned for planned in self.samples if planned.variant is variant)
            for spec in variant.stages:
                yield Batch(spec, mine)
            for chosen in self.datasets:
                dataset = chosen.dataset
                of_dataset = tuple(
                    planned
                    for planned in mine
                    if SCORE in planned.keys and _from_dataset(planned.sample.video, dataset)
                )
                if of_dataset:
                    yield Batch(score_spec(dataset), of_dataset)


def make_plan(recipe: Recipe, index: MediaIndex) -> Plan:
    """Opens the datasets, builds the variants, computes every key.

    Raises:
        PrerequisiteError: a dataset, method, setting, checkpoint or protocol is missing or wrong.
    """
    variants = tuple(variant for choice in recipe.methods for variant in _variants(choice, recipe.lvlms))
    _require_unique(variants)
    datasets = tuple(_choose(choice, recipe.data_root, index) for choice in recipe.datasets)
    names = [(chosen.dataset.card.name, chosen.dataset.split) for chosen in datasets]
    if len(set(names)) < len(names):
        raise PrerequisiteError("The recipe lists a dataset split twice.", "Keep one entry per dataset and split.")
    samples = [
        PlannedSample(variant, sample, _keys(variant, sample, chosen))
        for variant in variants
        for chosen in datasets
        for sample in chosen.dataset.samples()
    ]
    if not samples:
        raise PrerequisiteError("The recipe's datasets hold no sample.", "Check rvosbench datasets verify.")
    return Plan(datasets, variants, tuple(samples))


def memory_lines(recipe: Recipe) -> list[str]:
    """What a worker of each method and LVLM needs for 480p frames; needs neither data nor weights."""
    lines: dict[str, None] = {}
    for choice in recipe.methods:
        method, settings, lvlms = _resolve(choice, recipe.lvlms)
        for lvlm in lvlms:
            lines[method.memory(settings, lvlm, _USUAL_SIZE)] = None
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


def _from_dataset(video: Video, dataset: Dataset) -> bool:
    return video.dataset == dataset.card.name and video.split == dataset.split


def _choose(choice: DatasetChoice, data_root: Path, index: MediaIndex) -> ChosenDataset:
    dataset = open_dataset(choice.name, data_root, choice.split)
    if choice.limit_videos is not None:
        whole = dataset.expected_videos or len(dataset.videos)
        dataset = replace(dataset, videos=dataset.videos[: choice.limit_videos], expected_videos=whole)
    protocols = choice.protocols or dataset.card.splits[dataset.split].protocols
    for protocol in protocols:
        require_protocol(protocol)
    return ChosenDataset(
        ScoredDataset(dataset, protocols), {video.name: _media_digest(video, index) for video in dataset.videos}
    )


def _media_digest(video: Video, index: MediaIndex) -> str:
    """The digest of the frames; of the reason where they cannot be read, which the stages will meet and record."""
    try:
        return index.video(video)
    except SampleError as error:
        return digest_of({"unreadable": str(error)})


def _mask_digest(ground_truth: GroundTruth, sample: Sample) -> str:
    """Like ``_media_digest``: masks that cannot be read are met and recorded when the sample is scored."""
    try:
        return ground_truth.digest(sample.video, sample.expression)
    except SampleError as error:
        return digest_of({"unreadable": str(error)})


def _variants(choice: MethodChoice, recipe_lvlms: Sequence[str]) -> Iterator[Variant]:
    method, settings, lvlms = _resolve(choice, recipe_lvlms)
    for lvlm in lvlms:
        shown = lvlm.rstrip("/").rpartition("/")[2] if lvlm else None
        yield Variant(choice.label or method.title, shown, method.stages(settings, lvlm))


def _resolve(choice: MethodChoice, recipe_lvlms: Sequence[str]) -> tuple[Method, Settings, Sequence[str | None]]:
    """The method, its settings, and the LVLMs to run it on; one None where it needs none."""
    method = load_method(choice.method)
    settings = method_settings(method.settings_type, choice.settings, choice.method)
    if not method.needs_lvlm:
        return method, settings, [None]
    lvlms = choice.lvlms if choice.lvlms is not None else recipe_lvlms
    if not lvlms:
        raise PrerequisiteError(
            f"Method '{choice.method}' needs an LVLM and the recipe names none.",
            "Add lvlms: [Qwen/Qwen2.5-VL-7B-Instruct], or a local checkpoint folder.",
        )
    return method, settings, lvlms


def _require_unique(variants: Sequence[Variant]) -> None:
    seen: set[tuple[str, str | None]] = set()
    for variant in variants:
        name = (variant.label, variant.lvlm)
        if name in seen:
            on = f" on {variant.lvlm}" if variant.lvlm else ""
            raise PrerequisiteError(
                f"Two entries of the recipe would both be called '{variant.label}'{on}.",
                "Give each entry of methods its own label.",
            )
        seen.add(name)


def _keys(variant: Variant, sample: Sample, chosen: ChosenDataset) -> dict[str, str]:
    keys: dict[str, str] = {}
    media = chosen.media[sample.video.name]
    for spec in variant.stages:
        upstream = {stage: keys[stage] for stage in spec.consumes}
        keys[spec.name] = artefact_key(spec, media=media, text=sample.expression.text, upstream=upstream)
    ground_truth = chosen.dataset.ground_truth
    if ground_truth is not None:
        masks = _mask_digest(ground_truth, sample)
        keys[SCORE] = artefact_key(
            score_spec(chosen.dataset),
            media=media,
            text=sample.expression.text,
            upstream={"segment": keys["segment"]},
            ground_truth=digest_of({"masks": masks, "frames": list(sample.video.frames)}),
        )
    return keys
