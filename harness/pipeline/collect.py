"""From the store and the event log to one result per sample: everything the tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rvosbench.harness.data.types import MaskTrack, Sample
from rvosbench.harness.errors import SampleError
from rvosbench.harness.pipeline.plan import Plan, PlannedSample
from rvosbench.harness.pipeline.score import scored_result
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.rows import PairsKey, RecordedPairs
from rvosbench.harness.scoring.rules import PairCounts
from rvosbench.harness.scoring.sample import SampleResult
from rvosbench.harness.scoring.tracks import masks_of_tracks
from rvosbench.harness.scoring.video import score_video
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.records import Record
from rvosbench.harness.store.tracks import mask_track
from rvosbench.harness.variants import SCORE

Records = Mapping[tuple[str, str], Record]


def collect_results(plan: Plan, store: ArtefactStore, folder: RunFolder) -> list[SampleResult]:
    """One result per planned sample, in plan order; none is dropped."""
    records = folder.records()
    return [_result(planned, store, records) for planned in plan.samples]


def recorded_pairs(plan: Plan, results: Sequence[SampleResult], store: ArtefactStore) -> RecordedPairs:
    """Scores whole videos again, from the run's mask tracks, under the protocols that need all masks of a video."""
    samples: dict[tuple[str, str | None, str, str], list[SampleResult]] = {}
    for result in results:
        video = result.sample.video
        samples.setdefault((result.method, result.lvlm, video.dataset, video.split), []).append(result)
    pairs: dict[PairsKey, dict[str, PairCounts]] = {}
    for chosen in plan.datasets:
        dataset = chosen.dataset
        rules = [require_protocol(name, dataset.card) for name in chosen.scored.protocols]
        rules = [rule for rule in rules if rule.records == "videos"]
        if dataset.ground_truth is None or not rules:
            continue
        for variant in plan.variants:
            place = (variant.label, variant.lvlm, dataset.card.name, dataset.split)
            masks_of = masks_of_tracks(_tracks(samples.get(place, ()), store))
            for video in dataset.videos:
                scores = score_video(video, dataset.ground_truth, masks_of(video), rules)
                for rule in rules:
                    pairs.setdefault(PairsKey(*place, rule.id), {})[video.name] = scores.pairs[rule.id]
    return pairs


def _tracks(results: Sequence[SampleResult], store: ArtefactStore) -> Callable[[Sample], MaskTrack | None]:
    """The mask tracks of the samples that were scored."""
    keys = {result.sample.id: result.keys["segment"] for result in results if result.status == "scored"}

    def track(sample: Sample) -> MaskTrack | None:
        key = keys.get(sample.id)
        return mask_track(store.read("segment", key)) if key is not None else None

    return track


def _result(planned: PlannedSample, store: ArtefactStore, records: Records) -> SampleResult:
    stages = list(planned.keys)
    ended = {stage: records[stage, key] for stage, key in planned.keys.items() if (stage, key) in records}
    seconds = {stage: record.seconds for stage, record in ended.items() if record.seconds is not None}
    result = SampleResult(
        method=planned.variant.label,
        lvlm=planned.variant.lvlm,
        sample=planned.sample,
        status="missing",
        seconds=seconds,
        keys=planned.keys,
        ground_truth=planned.ground_truth,
    )
    result = replace(result, fallbacks=_fallbacks(planned, store))
    absent = next((stage for stage in stages if not store.has(stage, planned.keys[stage])), None)
    if absent is None:
        score = store.read(SCORE, planned.keys[SCORE]) if SCORE in planned.keys else None
        try:
            return scored_result(result, score)
        except SampleError as error:
            return replace(result, status="failed", error=f"{SCORE}: {error}")
    failure = ended.get(absent)
    if failure is not None and failure.status == "failed":
        return replace(result, status="failed", error=f"{absent}: {failure.error}")
    return result


def _fallbacks(planned: PlannedSample, store: ArtefactStore) -> dict[str, str]:
    """By stage whose artefact says that it has a fallback: why that was gone, or ""."""
    found: dict[str, str] = {}
    for stage, key in planned.keys.items():
        if stage != SCORE and store.has(stage, key):
            why = store.read_meta(stage, key).get("fallback")
            if isinstance(why, str):
                found[stage] = why
    return found
