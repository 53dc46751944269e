"""The rows of ``scores.json``: per method, dataset, protocol and subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rvosbench.harness.results.schema import FallbackUse, Provenance, Score, StatusCounts
from rvosbench.harness.scoring.kernel import gt_present
from rvosbench.harness.scoring.oddities import WARNING, both_wrong, oddity_notes
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.provenance import Origin, provenance
from rvosbench.harness.scoring.rules import KEYFRAMES, WHOLE, BoolT, PairCounts, Part, ProtocolScore, Rule, SampleCounts
from rvosbench.harness.scoring.sample import SampleResult, ScoredDataset
from rvosbench.harness.scoring.statistics import NO_INTERVAL, mean_of_groups, score_interval

_LISTED = 20
"""Names in one note."""


class PairsKey(NamedTuple):
    """A method on a dataset split under a protocol."""

    method: str
    lvlm: str | None
    dataset: str
    split: str
    protocol: str


RecordedPairs = Mapping[PairsKey, Mapping[str, PairCounts]]
"""Pair counts by video, of the protocols that record whole videos."""


@dataclass(frozen=True)
class _Group:
    """The samples of one method on one dataset, or on a subset of it."""

    scored: ScoredDataset
    subset: str
    results: tuple[SampleResult, ...]
    keyframes: bool
    provenance: Provenance


def score_rows(
    results: Sequence[SampleResult],
    datasets: Sequence[ScoredDataset],
    pairs: RecordedPairs,
    origin: Origin,
) -> tuple[Score, ...]:
    """Every row, methods in the order of ``results``, then datasets, protocols and subsets ("all" first)."""
    methods = dict.fromkeys((result.method, result.lvlm) for result in results)
    rows = []
    for method, lvlm in methods:
        for scored in datasets:
            dataset = scored.dataset
            members = tuple(
                result
                for result in results
                if (result.method, result.lvlm) == (method, lvlm)
                and (result.sample.video.dataset, result.sample.video.split) == (dataset.card.name, dataset.split)
            )
            if not members:
                continue
            keyframes = any(result.evaluated == "keyframes" for result in members)
            whence = provenance(
                dataset, origin, [r.ground_truth or "none" for r in members], [r.masks or "none" for r in members]
            )
            whole = _Group(scored, WHOLE, members, keyframes, whence)
            for name in scored.protocols:
                rule = require_protocol(name, dataset.card)
                key = PairsKey(method, lvlm, dataset.card.name, dataset.split, rule.id)
                for group in _groups(rule, whole):
                    rows.append(_row(rule, group, method, lvlm, pairs.get(key)))
    return tuple(rows)


def sample_counts(results: Sequence[SampleResult], scored: ScoredDataset) -> tuple[SampleCounts, ...]:
    """What protocols need of results."""
    return tuple(
        SampleCounts(
            result.sample.video.name,
            result.sample.expression.id,
            result.sample.expression.subset,
            result.counts_T6,
            _ends(result, scored),
            result.missing_frames,
            result.recorded,
        )
        for result in results
    )


def fallback_uses(results: Sequence[SampleResult]) -> tuple[FallbackUse, ...]:
    """How often each method's stages went their second way, in the order of ``results``; only stages that know one."""
    counted: dict[tuple[str, str | None, str], list[bool]] = {}
    for result in results:
        for stage, why in result.fallbacks.items():
            counted.setdefault((result.method, result.lvlm, stage), []).append(bool(why))
    return tuple(FallbackUse(*name, sum(used), len(used)) for name, used in counted.items())


def _groups(rule: Rule, whole: _Group) -> Iterator[_Group]:
    yield whole
    if rule.records == "videos":
        return
    for name in whole.scored.dataset.card.subsets:
        members = tuple(result for result in whole.results if result.sample.expression.subset == name)
        if members and rule.group(name) is not None:
            yield _Group(whole.scored, name, members, whole.keyframes, whole.provenance)


def _row(
    rule: Rule,
    group: _Group,
    method: str,
    lvlm: str | None,
    pairs: Mapping[str, PairCounts] | None,
) -> Score:
    dataset = group.scored.dataset
    if dataset.ground_truth is None or not rule.scored_here:
        note = "Ground truth is hidden: export a submission archive and record what the server states."
        scored = ProtocolScore((), rule.groups, notes=(note,))
    else:
        videos = {result.sample.video.name: result.sample.video for result in group.results}
        samples = sample_counts(group.results, group.scored)
        scored = rule.score(Part(group.subset, samples, tuple(videos.values()), pairs))
    out = {(sample.video, sample.expression) for sample in scored.left_out}
    counts = _counts([r for r in group.results if (r.sample.video.name, r.sample.expression.id) not in out])
    notes = [*scored.notes, *_remarks(group, counts)]
    in_groups = [item.group for item in scored.items]
    j = mean_of_groups([item.J for item in scored.items], in_groups, scored.groups)
    f = mean_of_groups([item.F for item in scored.items], in_groups, scored.groups)
    if j is None and scored.items:
        empty = [name for name in scored.groups if name not in in_groups]
        averaged = " and ".join(scored.groups)
        notes.append(f"No score: this protocol averages {averaged}, and here is none of {_listed(empty)}.")
    interval = score_interval(scored.items, scored.groups) if j is not None else None
    if j is not None and interval is None:
        notes.append(NO_INTERVAL)
    extra = dict(scored.extra)
    missing_frames = sum(result.missing_frames for result in group.results)
    if missing_frames:
        extra["missing_frames"] = float(missing_frames)
    return Score(
        method=method,
        lvlm=lvlm,
        dataset=dataset.card.name,
        split=dataset.split,
        subset=group.subset,
        protocol=rule.id + (KEYFRAMES if group.keyframes else ""),
        J=j,
        F=f,
        J_and_F=None if j is None or f is None else (j + f) / 2,
        counts=counts,
        interval=interval,
        coverage=dataset.coverage,
        extra=extra,
        notes=tuple(notes),
        provenance=group.provenance,
    )


def _remarks(group: _Group, counts: StatusCounts) -> Iterator[str]:
    if group.keyframes:
        yield "Masks exist on keyframes only; other frames are not scored."
    if counts.failed or counts.missing:
        yield f"{counts.failed} failed and {counts.missing} missing samples count as 0."
    for use in fallback_uses(group.results):
        if use.used:
            yield f"{use.used} of {use.of} samples used the fallback of {use.stage}."
    partly = [r for r in group.results if r.status == "scored" and r.missing_frames]
    if partly:
        frames = sum(result.missing_frames for result in partly)
        yield f"{frames} frames of {len(partly)} more samples have no usable mask and count as 0."
    yield from _known_defects(group)
    never = [
        f"{result.sample.video.name}/{result.sample.expression.id}"
        for result in group.results
        if result.evaluated == "all"
        and result.sample.expression.targets
        and result.counts_T6 is not None
        and not gt_present(result.counts_T6).any()
    ]
    if never:
        yield f"The target of {len(never)} expressions is in no frame; only empty masks score: {_listed(never)}."
    yield from _warnings(group.results)


def _known_defects(group: _Group) -> Iterator[str]:
    """What is known to be wrong with the data that the samples are scored on."""
    dataset = group.scored.dataset
    names = [result.sample.video.name for result in group.results]
    for defect, count in dataset.card.defects(dataset.split, names):
        if defect.touches_scores:
            yield f"Known defect of the data ({count} of {len(names)} samples): {defect.text}"


def _warnings(results: Sequence[SampleResult]) -> Iterator[str]:
    """What puts the numbers in doubt."""
    found: Counter[str] = Counter()
    for result in results:
        found.update(result.oddities)
    yield from oddity_notes(found)
    swapped = sum(result.counts_T6 is not None and both_wrong(*result.mean_j_and_f()) for result in results)
    if swapped:
        yield f"{WARNING}J is 0 and F is 100 in {swapped} samples, as for masks with object and background swapped."


def _counts(results: Sequence[SampleResult]) -> StatusCounts:
    ended = Counter(result.status for result in results)
    return StatusCounts(len(results), ended["scored"], ended["failed"], ended["missing"])


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
