"""Numbers beside a score: on visible frames, of an empty prediction, DAVIS recall and decay, ReVOS robustness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rvosbench.harness.scoring.kernel import f, j
from rvosbench.harness.scoring.protocols import (
    Counted,
    Rule,
    average,
    counted,
    decay,
    on_visible_frames,
    recall,
    with_empty_predictions,
)
from rvosbench.harness.scoring.sample import SampleResult
from rvosbench.harness.scoring.statistics import Item, mean_of_groups

NO_TARGET = "no_target"
"""The subset of expressions that refer to nothing."""

Extra = dict[str, float | None]


def hard_frames(rule: Rule, samples: Sequence[Counted], groups: Sequence[str]) -> Extra:
    """J&F on frames where the target is visible, and J&F of predicting nothing at all.

    Frames without the target are free points for a prediction that is empty there; these two numbers show how many.
    """
    visible = on_visible_frames(rule, samples)
    nothing = average(rule, with_empty_predictions(samples)).items
    return {"J_and_F_visible": _j_and_f(visible, groups), "J_and_F_all_empty": _j_and_f(nothing, groups)}


def davis_extras(rule: Rule, samples: Sequence[Counted], notes: list[str]) -> Extra:
    """Recall and decay of J and F, averaged over objects; a sample without integers has recall and decay 0."""
    recalls: dict[str, list[float]] = {"J": [], "F": []}
    decays: dict[str, list[float | None]] = {"J": [], "F": []}
    for sample in samples:
        counts_T6 = counted(rule, sample) if sample.counts_T6 is not None else None
        if counts_T6 is not None and not len(counts_T6):
            continue
        for name, value in (("J", j), ("F", f)):
            recalls[name].append(0.0 if counts_T6 is None else recall(value(counts_T6)))
            decays[name].append(0.0 if counts_T6 is None else decay(value(counts_T6)))
    if None in decays["J"]:
        notes.append("No decay: a video has more than 256 frames, for which the reference's decay is not defined.")
    out: Extra = {}
    for name in ("J", "F"):
        known = [value for value in decays[name] if value is not None]
        out[f"{name}_recall"] = float(np.mean(recalls[name])) if recalls[name] else None
        out[f"{name}_decay"] = float(np.mean(known)) if known and len(known) == len(decays[name]) else None
    return out


def robustness(results: Sequence[SampleResult], groups: Sequence[str]) -> Extra:
    """ReVOS: R_bool on expressions with and without a target, and how often nothing was predicted for the latter.

    R_bool needs ``areas_T2``; a sample without a result has R 0. Values that cannot be computed are left out.
    """
    without = [result for result in results if result.sample.expression.subset == NO_TARGET]
    out: Extra = {}
    if without:
        silent = [r.counts_T6 is not None and not r.missing_frames and not r.counts_T6[:, 1].any() for r in without]
        out["empty_predictions_type2"] = float(np.mean(silent))
    for name, wanted, mine in (
        ("R_bool_types01", groups, [r for r in results if r.sample.expression.subset in groups]),
        ("R_bool_type2", (NO_TARGET,), without),
    ):
        if mine and all(result.areas_T2 is not None or result.counts_T6 is None for result in mine):
            subsets = [result.sample.expression.subset or "" for result in mine]
            mean = mean_of_groups([r_bool(result) for result in mine], subsets, wanted)
            if mean is not None:
                out[name] = mean
    return out


def r_bool(result: SampleResult) -> float:
    """Mean over frames of max(0, 1 - false positive pixels / foreground pixels); 0 for a sample without a result.

    A frame without foreground scores 1 when nothing is predicted, else 0. A missing mask scores 0.
    """
    if result.counts_T6 is None or result.areas_T2 is None or result.status != "scored":
        return 0.0
    wrong_T = result.counts_T6[:, 1] - result.areas_T2[:, 0]
    foreground_T = result.areas_T2[:, 1]
    share_T = np.where(foreground_T > 0, wrong_T / np.maximum(foreground_T, 1), wrong_T > 0)
    return float(np.maximum(0.0, 1.0 - share_T).mean())


def _j_and_f(items: Sequence[Item], groups: Sequence[str]) -> float | None:
    return mean_of_groups([item.J_and_F for item in items], [item.group for item in items], groups)
