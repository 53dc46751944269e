"""Two runs on the same samples: paired difference per dataset and protocol, with an interval over videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from rvosbench.harness.data.cards import kept_card
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import FRAMES, SAMPLES, Run, read_frames, read_samples, require_columns
from rvosbench.harness.results.schema import Score
from rvosbench.harness.scoring.kernel import PixelCounts
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.rules import KEYFRAMES, SampleCounts, average
from rvosbench.harness.scoring.statistics import Difference, Item, difference, mean_of_groups

_ROUNDING = 1e-6
"""More than the rounding of sums and of numbers in JSON, less than any sample contributes."""


@dataclass(frozen=True)
class Comparison:
    """One row: what the second run's method gains over the first's."""

    first: Score
    second: Score
    difference: Difference | None
    """None: see ``why``."""
    only_in_one: int
    """Samples that one of the two did not attempt; they are left out of the difference."""
    why: str | None = None
    """Why there is no difference."""
    other_ground_truth: bool = False
    """The two were scored against different ground truth, so that a difference would mean nothing."""
    unknown_ground_truth: int = 0
    """Samples scored in both of which a table does not record the ground truth: it may have been another one."""


def compare(
    first: Run,
    second: Run,
    *,
    first_label: str | None = None,
    second_label: str | None = None,
) -> list[Comparison]:
    """Every dataset and protocol that both runs have, for each pair of methods.

    Args:
        first_label: only this method of the first run. Without labels, methods of the same name and LVLM are
            compared, or the only ones there are.

    Raises:
        PrerequisiteError: nothing in common, a damaged table, or tables that do not give the score beside them.
    """
    pairs = list(_pairs(_whole(first, first_label), _whole(second, second_label)))
    if not pairs:
        raise PrerequisiteError(
            f"{first.folder} and {second.folder} have no method, dataset and protocol in common.",
            "Name the methods with --first and --second; rvosbench leaderboard --scores lists them.",
        )
    return [_compared(first, a, second, b) for a, b in pairs]


def _whole(run: Run, label: str | None) -> list[Score]:
    """The rows over whole datasets, of one method if a label is given."""
    return [score for score in run.scores if score.subset == "all" and label in (None, score.method)]


def _pairs(first: Sequence[Score], second: Sequence[Score]) -> Iterator[tuple[Score, Score]]:
    single = all(len({(score.method, score.lvlm) for score in scores}) == 1 for scores in (first, second))
    for a, b in product(first, second):
        same_method = (a.method, a.lvlm) == (b.method, b.lvlm)
        same_place = (a.dataset, a.split, a.protocol) == (b.dataset, b.split, b.protocol)
        if same_place and (single or same_method):
            yield a, b


def _compared(first: Run, a: Score, second: Run, b: Score) -> Comparison:
    rule = require_protocol(a.protocol.removesuffix(KEYFRAMES), kept_card(first.folder, a.dataset))
    samples_a, samples_b = _samples(first, a), _samples(second, b)
    differing, unknown, common = _differing(samples_a, samples_b)
    if differing:
        why = f"scored against different ground truth: {differing} of {common} common samples"
        return Comparison(a, b, None, 0, why, other_ground_truth=True)
    ends_unknown = rule.drops_ends and a.protocol.endswith(KEYFRAMES)
    if rule.records == "videos" or not rule.scored_here or ends_unknown:
        return Comparison(a, b, None, 0, "the tables do not hold what this protocol or these frames need")
    items, others = _items(first, a, samples_a), _items(second, b, samples_b)
    for run, score, own in ((first, a, items), (second, b, others)):
        if not _gives(score, own, rule.groups):
            raise PrerequisiteError(
                f"The tables in {run.folder} do not give the score of '{score.method}' under {score.protocol} that its "
                "scores.json holds: some are damaged, absent or were changed.",
                "Score the masks again.",
            )
    names = {(item.video, item.name) for item in items} ^ {(item.video, item.name) for item in others}
    paired = difference(items, others, rule.groups)
    why_not = "no sample is in both" if paired is None else None
    return Comparison(a, b, paired, len(names), why_not, unknown_ground_truth=unknown)


def _gives(score: Score, items: Sequence[Item], groups: Sequence[str]) -> bool:
    """Whether the items average to the score they are the items of."""
    mean = mean_of_groups([item.J_and_F for item in items], [item.group for item in items], groups)
    if mean is None or score.J_and_F is None:
        return mean is score.J_and_F
    return abs(mean - score.J_and_F) < _ROUNDING


def _differing(first: pd.DataFrame, second: pd.DataFrame) -> tuple[int, int, int]:
    """How many of the common samples have other ground truth, of how many it is not known, how many there are.

    It is not known of samples scored in both whose tables are from before digests were recorded.
    """
    columns = ["video", "expression", "status", "digest_ground_truth"]
    a, b = (samples.reindex(columns=columns) for samples in (first, second))
    both = a.merge(b, on=["video", "expression"], suffixes=("_a", "_b"))
    digests_a, digests_b = both["digest_ground_truth_a"], both["digest_ground_truth_b"]
    known = digests_a.notna() & digests_b.notna()
    scored = (both["status_a"] == "scored") & (both["status_b"] == "scored")
    return int((known & (digests_a != digests_b)).sum()), int((~known & scored).sum()), len(both)


def _samples(run: Run, score: Score) -> pd.DataFrame:
    """The rows of samples.parquet behind a score."""
    samples = read_samples(run)
    for column, value in _where(score).items():
        samples = samples[samples[column].isna() if value is None else samples[column] == value]
    return samples


def _where(score: Score) -> dict[str, str | None]:
    return {"method": score.method, "lvlm": score.lvlm, "dataset": score.dataset, "split": score.split}


def _items(run: Run, score: Score, samples: pd.DataFrame) -> list[Item]:
    """The items behind a row, from the integers in the tables."""
    frames = read_frames(run, **_where(score))
    if len(frames):
        require_columns(frames, FRAMES, PixelCounts._fields)
    require_columns(samples, SAMPLES, ("subset",))
    counts = {
        key: group[list(PixelCounts._fields)].to_numpy(dtype=np.int64)
        for key, group in frames.groupby(["video", "expression"], sort=False)
    }
    rows = zip(samples["video"], samples["expression"], samples["subset"], strict=True)
    counted = [
        SampleCounts(video, expression, None if pd.isna(subset) else subset, counts.get((video, expression)))
        for video, expression, subset in rows
    ]
    rule = require_protocol(score.protocol.removesuffix(KEYFRAMES), kept_card(run.folder, score.dataset))
    return list(average(rule, counted).items)
