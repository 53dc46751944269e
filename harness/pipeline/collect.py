"""From the store and the event log to one result per sample: everything the tables are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rvosbench.harness.data.types import MaskTrack, Video
from rvosbench.harness.pipeline.plan import Plan, PlannedSample
from rvosbench.harness.pipeline.score import scored_result
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.scoring.matching import AnnotatorItems, items_from_tracks
from rvosbench.harness.scoring.sample import SampleResult
from rvosbench.harness.scoring.statistics import Item
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.records import Record
from rvosbench.harness.store.tracks import mask_track
from rvosbench.harness.variants import SCORE

Records = Mapping[tuple[str, str], Record]


def collect_results(plan: Plan, store: ArtefactStore, folder: RunFolder) -> list[SampleResult]:
    """One result per planned sample, in plan order; none is dropped."""
    records = folder.records()
    return [_result(planned, store, records) for planned in plan.samples]


def annotator_items(plan: Plan, results: Sequence[SampleResult], store: ArtefactStore) -> AnnotatorItems:
    """Scores videos under ``refdavis17/anno4`` from the run's mask tracks, which are read only when asked for."""

    def track(result: SampleResult) -> MaskTrack | None:
        key = result.keys.get("segment")
        return mask_track(store.read("segment", key)) if key and store.has("segment", key) else None

    by_dataset: dict[tuple[str, str], AnnotatorItems] = {}
    for chosen in plan.datasets:
        dataset = chosen.dataset
        if dataset.ground_truth is not None:
            name = (dataset.card.name, dataset.split)
            mine = [result for result in results if (result.sample.video.dataset, result.sample.video.split) == name]
            by_dataset[name] = items_from_tracks(mine, dataset.ground_truth, track)

    def items(method: str, lvlm: str | None, video: Video) -> Sequence[Item]:
        return by_dataset[video.dataset, video.split](method, lvlm, video)

    return items


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
    )
    result = replace(result, fallbacks=_fallbacks(planned, store))
    absent = next((stage for stage in stages if not store.has(stage, planned.keys[stage])), None)
    if absent is None:
        return scored_result(result, store.read(SCORE, planned.keys[SCORE]) if SCORE in planned.keys else None)
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
