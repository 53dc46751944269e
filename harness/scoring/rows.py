"""The rows of ``scores.json``: per method, dataset, protocol and subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rvosbench.harness.results.schema import Counts, FallbackUse, Score
from rvosbench.harness.scoring.extras import davis_extras, hard_frames, robustness
from rvosbench.harness.scoring.kernel import gt_present
from rvosbench.harness.scoring.matching import AnnotatorItems
from rvosbench.harness.scoring.protocols import KEYFRAMES, BoolT, Counted, Rule, average, require_protocol
from rvosbench.harness.scoring.sample import SampleResult, ScoredDataset
from rvosbench.harness.scoring.statistics import NO_INTERVAL, Item, mean_of_groups, score_interval

_LISTED = 20
"""Names in one note."""


@dataclass(frozen=True)
class _Part:
    """The samples of one method on one dataset, or on a subset of it."""

    scored: ScoredDataset
    subset: str
    results: tuple[SampleResult, ...]
    keyframes: bool


def score_rows(
    results: Sequence[SampleResult],
    datasets: Sequence[ScoredDataset],
    annotator_items: AnnotatorItems | None,
) -> tuple[Score, ...]:
    """Every row, methods in the order of ``results``, then datasets, protocols and subsets ("all" first)."""
    methods = dict.fromkeys((result.method, result.lvlm) for result in results)
    rows = []
    for method, lvlm in methods:
        for scored in datasets:
            dataset = scored.dataset
            mine = tuple(
                result
                for result in results
                if (result.method, result.lvlm) == (method, lvlm)
                and (result.sample.video.dataset, result.sample.video.split) == (dataset.card.name, dataset.split)
            )
            if not mine:
                continue
            keyframes = any(result.evaluated == "keyframes" for result in mine)
            for name in scored.protocols:
                rule = require_protocol(name, dataset.card)
                for part in _parts(scored, rule, mine, keyframes):
                    rows.append(_row(rule, part, method, lvlm, annotator_items))
    return tuple(rows)


def counted_samples(results: Sequence[SampleResult], scored: ScoredDataset) -> list[Counted]:
    """What protocols need of results."""
    return [
        Counted(
            result.sample.video.name,
            result.sample.expression.id,
            result.sample.expression.subset,
            result.counts_T6,
            _ends(result, scored),
        )
        for result in results
    ]


def fallback_uses(results: Sequence[SampleResult]) -> tuple[FallbackUse, ...]:
    """How often each method's stages went their second way, in the order of ``results``; only stages that know one."""
    counted: dict[tuple[str, str | None, str], list[bool]] = {}
    for result in results:
        for stage, why in result.fallbacks.items():
            counted.setdefault((result.method, result.lvlm, stage), []).append(bool(why))
    return tuple(FallbackUse(*name, sum(used), len(used)) for name, used in counted.items())


def _parts(scored: ScoredDataset, rule: Rule, results: tuple[SampleResult, ...], keyframes: bool) -> Iterator[_Part]:
    yield _Part(scored, "all", results, keyframes)
    subsets = [name for name in scored.dataset.card.subsets if rule.group(name) is not None]
    parts = {name: tuple(result for result in results if result.sample.expression.subset == name) for name in subsets}
    if not rule.matches_objects:
        yield from (_Part(scored, name, mine, keyframes) for name, mine in parts.items() if mine)


def _row(
    rule: Rule,
    part: _Part,
    method: str,
    lvlm: str | None,
    annotator_items: AnnotatorItems | None,
) -> Score:
    dataset = part.scored.dataset
    notes: list[str] = []
    extra: dict[str, float | None] = {}
    counts = _counts(part.results)
    items: Sequence[Item] = ()
    groups = rule.groups
    if dataset.ground_truth is None or not rule.scored_here:
        notes.append("Ground truth is hidden: export a submission archive and record what the server says.")
    elif rule.matches_objects:
        items = _matched(part, method, lvlm, annotator_items, notes)
    else:
        samples = counted_samples(part.results, part.scored)
        averaged = average(rule, samples)
        items = averaged.items
        out = {(sample.video, sample.expression) for sample in averaged.left_out}
        counts = _counts([r for r in part.results if (r.sample.video.name, r.sample.expression.id) not in out])
        if part.subset != "all":
            groups = tuple(group for group in groups if group == rule.group(part.subset))
        if out:
            notes.append(f"{len(out)} samples enter no mean of this protocol.")
        extra |= hard_frames(rule, samples, groups)
        if rule.davis_extras:
            extra |= davis_extras(rule, samples, notes)
        if rule.robustness and part.subset == "all":
            extra |= robustness(part.results, groups)
    notes += _remarks(part, counts)
    j = mean_of_groups([item.J for item in items], [item.group for item in items], groups)
    f = mean_of_groups([item.F for item in items], [item.group for item in items], groups)
    interval = None
    if j is not None:
        interval = score_interval(items, groups)
        if interval is None:
            notes.append(NO_INTERVAL)
    elif items:
        empty = [group for group in groups if not any(item.group == group for item in items)]
        notes.append(f"No score: this protocol averages {' and '.join(groups)}, and here is none of {_listed(empty)}.")
    elif rule.scored_here and dataset.ground_truth is not None and not rule.matches_objects:
        notes.append("No score: no sample enters this protocol.")
    missing_frames = sum(result.missing_frames for result in part.results)
    if missing_frames:
        extra["missing_frames"] = float(missing_frames)
    return Score(
        method=method,
        lvlm=lvlm,
        dataset=dataset.card.name,
        split=dataset.split,
        subset=part.subset,
        protocol=rule.id + (KEYFRAMES if part.keyframes else ""),
        J=j,
        F=f,
        J_and_F=None if j is None or f is None else (j + f) / 2,
        counts=counts,
        interval=interval,
        coverage=dataset.coverage,
        extra=extra,
        notes=tuple(notes),
    )


def _matched(
    part: _Part, method: str, lvlm: str | None, annotator_items: AnnotatorItems | None, notes: list[str]
) -> list[Item]:
    if annotator_items is None:
        notes.append("No score: matching objects needs the masks, which were not given.")
        return []
    videos = {result.sample.video.name: result.sample.video for result in part.results}
    return [item for video in videos.values() for item in annotator_items(method, lvlm, video)]


def _remarks(part: _Part, counts: Counts) -> Iterator[str]:
    if part.keyframes:
        yield "Masks exist on keyframes only; other frames are not scored."
    if counts.failed or counts.missing:
        yield f"{counts.failed} failed and {counts.missing} missing samples count as 0."
    for use in fallback_uses(part.results):
        if use.used:
            yield f"{use.used} of {use.of} samples used the fallback of {use.stage}."
    partly = [r for r in part.results if r.status == "scored" and r.missing_frames]
    if partly:
        frames = sum(result.missing_frames for result in partly)
        yield f"{frames} frames of {len(partly)} more samples have no usable mask and count as 0."
    yield from _known_defects(part)
    never = [
        f"{result.sample.video.name}/{result.sample.expression.id}"
        for result in part.results
        if result.evaluated == "all"
        and result.sample.expression.targets
        and result.counts_T6 is not None
        and not gt_present(result.counts_T6).any()
    ]
    if never:
        yield f"The target of {len(never)} expressions is in no frame; only empty masks score: {_listed(never)}."


def _known_defects(part: _Part) -> Iterator[str]:
    """What is known to be wrong with the data that the samples are scored on."""
    dataset = part.scored.dataset
    names = [result.sample.video.name for result in part.results]
    for defect, count in dataset.card.defects(dataset.split, names):
        if defect.touches_scores:
            yield f"Known defect of the data ({count} of {len(names)} samples): {defect.text}"


def _counts(results: Sequence[SampleResult]) -> Counts:
    ended = Counter(result.status for result in results)
    return Counts(len(results), ended["scored"], ended["failed"], ended["missing"])


def _ends(result: SampleResult, scored: ScoredDataset) -> BoolT | None:
    """Which frames are the first or last with ground truth, where that is not simply the first and last row."""
    ground_truth = scored.dataset.ground_truth
    if result.evaluated == "all" or result.counts_T6 is None or ground_truth is None:
        return None
    video = result.sample.video
    frames = ground_truth.scored_frames(video, result.sample.expression)
    return np.isin(np.array(result.frames), [video.frames[frames[0]], video.frames[frames[-1]]])


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
