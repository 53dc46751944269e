"""Order of the training calls, drawn from the recipe's seed alone, whatever the number of workers.

A *unit* is one call: an expression on a clip, or on one of its keyframes that show the object. Everything drawn for
a unit depends on its own numbers, never on what came before, so any worker may take any unit and a resumed training
meets the same ones.

Shape legend: T keyframes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, View
from rvosbench.methods.steerseg.training.sources import BoolTHW, Source

Attributes = Mapping[str, Sequence[str]]
"""Attributes by "video/expression id"."""


@dataclass(frozen=True)
class Sample:
    """A video with one of its expressions."""

    video: str
    expression: str
    text: str
    attributes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.video}/{self.expression}"


@dataclass(frozen=True)
class Unit:
    """One call to train on."""

    sample: Sample
    view: View
    draw: int
    """Which of the drawn keyframes; 0 for a clip call."""
    epoch: int
    prompt: str


@dataclass(frozen=True)
class Split:
    """Samples of the videos that are trained on, and of those that never are."""

    trained: tuple[Sample, ...]
    held_out: tuple[Sample, ...]

    def videos(self, samples: Sequence[Sample]) -> int:
        """How many there are among samples."""
        return len({sample.video for sample in samples})


def split(recipe: TrainRecipe, source: Source, attributes: Attributes) -> Split:
    """Holds out whole videos, at least one, those whose names hash lowest.

    Raises:
        PrerequisiteError: fewer than two videos.
    """
    videos = list(source.videos)
    if len(videos) < 2:
        raise PrerequisiteError(
            f"There are {len(videos)} videos to train on; one is held out.", "Give at least two videos with masks."
        )
    ranked = sorted(videos, key=lambda name: hashlib.sha256(f"{recipe.seed} {name}".encode()).digest())
    kept_out = set(ranked[: max(1, min(len(videos) - 1, round(recipe.data.held_out * len(videos))))])
    samples = [
        Sample(video, candidate.id, candidate.text, tuple(attributes.get(f"{video}/{candidate.id}", ())))
        for video in videos
        for candidate in source.expressions(video)
    ]
    return Split(
        tuple(sample for sample in samples if sample.video not in kept_out),
        tuple(sample for sample in samples if sample.video in kept_out),
    )


class UnitSampler:
    """The units of a view, epoch after epoch."""

    def __init__(self, recipe: TrainRecipe, samples: Sequence[Sample], view: View) -> None:
        self.recipe = recipe
        self.samples = samples
        self.view: View = view
        self.each = 1 if view == "clip" else recipe.optimiser.frames_per_sample
        """Units of a sample in an epoch."""
        self.batch = recipe.optimiser.clips if view == "clip" else recipe.optimiser.frames
        """Units of a step."""

    @property
    def steps(self) -> int:
        """As the recipe says, or enough for its epochs."""
        optimiser = self.recipe.optimiser
        per_epoch = math.ceil(len(self.samples) * self.each / self.batch)
        return optimiser.steps or optimiser.epochs * per_epoch

    def units(self, start: int) -> Iterator[list[Unit]]:
        """The batches of step ``start`` and of all later ones. A batch never spans two epochs."""
        per_epoch = math.ceil(len(self.samples) * self.each / self.batch)
        epoch, first = divmod(start, per_epoch)
        while True:
            order = self._rng("order", epoch).permutation(len(self.samples) * self.each)
            for step in range(first, per_epoch):
                yield [self._unit(int(index), epoch) for index in order[step * self.batch : (step + 1) * self.batch]]
            epoch, first = epoch + 1, 0

    def keyframe(self, unit: Unit, masks_THW: BoolTHW) -> int | None:
        """The keyframe of a frame call, one that shows the object; None where none does."""
        shown = np.flatnonzero(masks_THW.any((1, 2)))
        if not len(shown):
            return None
        order = self._rng("keyframes", unit.epoch, unit.sample.id).permutation(shown)
        return int(order[unit.draw % len(order)])

    def _unit(self, index: int, epoch: int) -> Unit:
        sample, draw = self.samples[index // self.each], index % self.each
        attributes = sample.attributes
        if attributes and self._rng("drop", epoch, sample.id, draw).random() < self.recipe.attributes.drop:
            attributes = ()
        return Unit(sample, self.view, draw, epoch, attention_prompt(sample.text, attributes))

    def _rng(self, *what: object) -> np.random.Generator:
        text = json.dumps([self.recipe.seed, self.view, *what])
        return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def evaluation_samples(recipe: TrainRecipe, samples: Sequence[Sample]) -> list[Sample]:
    """The held-out samples that are evaluated: spread over the videos, the same at every evaluation."""
    ranked = sorted(samples, key=lambda sample: hashlib.sha256(sample.id.encode()).digest())
    turns: dict[str, int] = {}
    order = []
    for sample in ranked:
        turns[sample.video] = turns.get(sample.video, 0) + 1
        order.append((turns[sample.video], sample))
    chosen = [sample for _, sample in sorted(order, key=lambda entry: entry[0])][: recipe.evaluate_samples]
    return sorted(chosen, key=lambda sample: sample.id)
