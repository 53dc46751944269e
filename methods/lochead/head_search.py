"""Finds a model's localization heads: shows it the pairs, reads every head, counts selections, and records the
provenance.

Shape legend: N layers looked at, A heads of a layer, M = N A heads counted layer by layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.settings import Json, identity_of
from rvosbench.methods.lochead.attention import all_head_maps, build_inputs, query_position
from rvosbench.methods.lochead.calibration import PairHeads, Trial, most_frequent, read_maps, run_trial
from rvosbench.methods.lochead.heads import Frequency, HeadFile, OfModel
from rvosbench.methods.lochead.pairs import Pair, Pairs, draw_trial
from rvosbench.methods.lochead.settings import CalibrateSettings, Prompt, resolved_prompt
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.model import Lvlm

Progress = Callable[[int, int], None]
"""Pairs done, of how many."""


@dataclass(frozen=True)
class Drawn:
    """The pairs of all trials."""

    trials: tuple[tuple[Pair, ...], ...]
    failed: tuple[str, ...]
    """Why pairs could not be drawn, one sentence each."""

    @property
    def distinct(self) -> list[Pair]:
        """Every pair once."""
        return list({pair.name: pair for trial in self.trials for pair in trial}.values())


def draw(pairs: Pairs, settings: CalibrateSettings) -> Drawn:
    """The pairs of every trial.

    Raises:
        PrerequisiteError: there is none.
    """
    calibration = settings.calibration
    trials, failed = [], []
    for trial in range(calibration.trials):
        drawn, bad = draw_trial(pairs, calibration.samples, calibration.seed, trial)
        if not drawn:
            why = f": {bad[0]}" if bad else "."
            raise PrerequisiteError(f"There is no pair of an image and an expression to calibrate on{why}")
        trials.append(tuple(drawn))
        failed += bad
    return Drawn(tuple(trials), tuple(dict.fromkeys(failed)))


def find(
    lvlm: Lvlm, model: LvlmSettings, pairs: Pairs, drawn: Drawn, settings: CalibrateSettings, progress: Progress
) -> HeadFile:
    """The heads, with their provenance. Deterministic: the same inputs give the same file on the same machine.

    Args:
        lvlm: loaded.
        model: its settings, for name and digest.
        pairs: where ``drawn`` came from.
        drawn: see ``draw``.
        settings: the prompt and the criteria.
        progress: called after every pair.

    Raises:
        PrerequisiteError: no pair could be shown to the model, or no head was ever selected.
    """
    calibration = settings.calibration
    if calibration.first_layer >= lvlm.layers:
        raise PrerequisiteError(
            f"first_layer is {calibration.first_layer}, but the model has layers 0 to {lvlm.layers - 1}.",
            "Choose an earlier layer.",
        )
    prompt = resolved_prompt(settings.prompt, lvlm.definition)
    distinct = drawn.distinct
    read: dict[str, PairHeads] = {}
    failed = list(drawn.failed)
    for number, pair in enumerate(distinct, 1):
        try:
            read[pair.name] = _read(lvlm, pair, prompt, settings)
        except SampleError as error:
            failed.append(str(error))
        progress(number, len(distinct))
    usable = [[read[pair.name] for pair in trial if pair.name in read] for trial in drawn.trials]
    if not all(usable):
        raise PrerequisiteError(
            f"None of the pairs could be shown to the model; the first: {failed[0]}.", "Correct or change the data."
        )
    trials = [run_trial(of_trial, calibration) for of_trial in usable]
    heads_per_layer = int(lvlm.text_model.config.num_attention_heads)
    chosen = most_frequent(trials, calibration.keep)
    if not chosen:
        raise PrerequisiteError(
            "No head was selected on any pair: all of them are sinks, or no map has anything above its mean.",
            "Change calibration.sink_edges, sink_above or cut.",
        )
    names = [_name(head, heads_per_layer, calibration.first_layer) for head in range(len(trials[0].frequency_M))]
    data: dict[str, Json] = {
        **pairs.describe(),
        "pairs_available": len(pairs),
        "pairs_per_trial": [len(of_trial) for of_trial in usable],
        "pairs_drawn_sha256": _digest(drawn),
        "failed": len(failed),
        "failed_first": failed[0] if failed else None,
    }
    resolved: dict[str, Json] = {"prompt": prompt, "sink_edges": list(calibration.edges(lvlm.definition))}
    return HeadFile(
        model=OfModel(
            checkpoint=model.checkpoint,
            digest=model.digest,
            family=lvlm.family,
            layers=lvlm.layers,
            heads_per_layer=heads_per_layer,
        ),
        heads=tuple(names[head] for head in chosen),
        frequencies=_frequencies(trials, [pair for of_trial in usable for pair in of_trial], names),
        thresholds=tuple(trial.threshold for trial in trials),
        data=data,
        settings={**identity_of(settings), "resolved": resolved},
        versions={name: version(name) for name in ("rvosbench", "torch", "transformers", "numpy", "scipy")},
    )


def _read(lvlm: Lvlm, pair: Pair, prompt: Prompt, settings: CalibrateSettings) -> PairHeads:
    frame = pair.picture()
    prompted = build_inputs(lvlm, frame, lvlm.clip_grid(frame), prompt, pair.expression)
    position = query_position(lvlm, prompted, prompt, settings.query, pair.expression)
    calibration = settings.calibration
    maps_NAhw = all_head_maps(lvlm, prompted, position, calibration.first_layer)
    return read_maps(maps_NAhw, calibration, calibration.edges(lvlm.definition))


def _frequencies(
    trials: Sequence[Trial], pairs: Sequence[PairHeads], names: Sequence[tuple[int, int]]
) -> tuple[Frequency, ...]:
    sum_M = np.mean([pair.sum_M for pair in pairs], axis=0)
    return tuple(
        Frequency(
            layer=names[head][0],
            head=names[head][1],
            frequency=float(np.mean([trial.frequency_M[head] for trial in trials])),
            by_trial=tuple(float(trial.frequency_M[head]) for trial in trials),
            attention_sum=float(sum_M[head]),
        )
        for head in most_frequent(trials, len(names))
    )


def _name(head: int, heads_per_layer: int, first_layer: int) -> tuple[int, int]:
    return first_layer + head // heads_per_layer, head % heads_per_layer


def _digest(drawn: Drawn) -> str:
    lines = [f"{number} {pair.name}" for number, trial in enumerate(drawn.trials) for pair in trial]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
