"""DAVIS recall and decay, numbers beside a semi-supervised score.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.scoring.kernel import f, j
from rvosbench.harness.scoring.rules import Extra, Rule, SampleCounts, select_frames


def davis_extras(rule: Rule, samples: Sequence[SampleCounts], notes: list[str]) -> Extra:
    """Recall and decay of J and F, averaged over objects; a sample without integers has recall and decay 0."""
    recalls: dict[str, list[float]] = {"J": [], "F": []}
    decays: dict[str, list[float | None]] = {"J": [], "F": []}
    for sample in samples:
        counts_T6 = select_frames(rule, sample) if sample.counts_T6 is not None else None
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


def recall(values_T: NDArray[np.float64]) -> float:
    """DAVIS recall: the fraction of frames above 0.5."""
    return float((values_T > 0.5).mean())


def decay(values_T: NDArray[np.float64]) -> float | None:
    """DAVIS decay: mean of the first quarter of the frames minus mean of the last one.

    Returns:
        None beyond 256 frames, where the reference's 8-bit bin edges overflow and its value means nothing.
    """
    if len(values_T) > 256:
        return None
    # The reference adds 1e-10 so that halves round up.
    edges = np.round(np.linspace(1, len(values_T), 5) + 1e-10).astype(int) - 1
    return float(values_T[edges[0] : edges[1] + 1].mean() - values_T[edges[3] : edges[4] + 1].mean())
