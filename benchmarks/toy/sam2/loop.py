"""The training loop: first clicks on single frames, then short windows, then long ones.

A run ends after a number of steps or of seconds; the learning rate falls to nothing by then. Weights are averaged over
the last twentieth of the steps so far, and written every so often and when the run is told to stop, so that a run that
is cut off leaves a checkpoint that works. With ``steps`` equal seeds give equal runs on one machine; with ``seconds``
the machine's speed decides how many steps there are.

Shape legend: B objects of a batch, T frames of a window.
"""

from __future__ import annotations

import copy
import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.sam2.model import choose_device
from toy.sam2.architecture import IMAGE_SIZE, build_trainable
from toy.sam2.bank import Bank, Batch
from toy.sam2.card import Card
from toy.sam2.losses import NAMES, losses
from toy.sam2.rendering import RenderedClip
from toy.sam2.unroll import unroll

OBJECTS_PER_WINDOW = 3
"""They share the window's encoded frames."""
MOST_OBJECTS = 768
WARM_UP_STEPS = 150
AVERAGING_POWER = 20
"""Step s of n has weight about (s / n) ** 20 in the average of weights. What a curriculum's stage starts to train must
not be averaged with what it was before: a fixed horizon of 500 steps halved J of a run with 300 steps of tracking."""
FIRST_CLIPS = 64
"""Training starts when so many clips are rendered, and draws on one more with every step."""
CHECKED_LENGTH, CHECKED_WINDOWS = 8, 32
"""The averaged weights are measured on such windows whenever they are written."""
OWN_MASK_SHARE = 0.5
"""Trackers prompted with the mask that the click gave, as methods do it; the others get the true mask."""
VIDEO_LENGTHS = (8, 41)
"""Range of the number of frames the network is told a video has."""
LOG_EVERY = 25


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum; it ends when a measure is good enough, at the latest after a fraction of the run."""

    lengths: tuple[int, ...]
    """Window lengths, drawn from with equal chances."""
    until: float = 1.0
    measure: str = ""
    goal: float = 1.0


CURRICULUM = (
    Stage((1,), 0.35, "click_iou", 0.8),
    Stage((3,), 0.5, "track_iou", 0.7),
    Stage((1, 4, 8, 8, 12), 0.6),
    Stage((1, 8, 12, 16)),
)


@dataclass(frozen=True)
class Plan:
    """What decides a run."""

    folder: Path
    seed: int = 0
    steps: int | None = None
    """Ends the run, or else ``seconds`` do."""
    seconds: float | None = None
    clips: int = 1200
    batch: int = 1536
    """Objects times frames of a step, at most; there are never more than ``MOST_OBJECTS`` objects."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    device: str = "auto"
    save_every: float = 30.0
    """Seconds between checkpoints."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise PrerequisiteError("A training run ends after steps or after seconds.", "Give --steps or --seconds.")
        for name in ("steps", "seconds", "clips", "batch", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise PrerequisiteError(f"--{name.replace('_', '-')} is {value}.", "Give a number above 0.")


def train(
    plan: Plan,
    clips: Iterator[RenderedClip],
    card: Card,
    report: Callable[[str], None] = print,
    stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """Trains, and writes the checkpoint folder ``plan.folder`` again and again, the last time at the end.

    Args:
        plan: what to do.
        clips: at least ``plan.clips`` of them.
        card: what is known of the run beforehand.
        report: takes lines for people.
        stopped: asked after every step; a run that is told to stop writes its checkpoint and returns.

    Raises:
        PrerequisiteError: there is no such device, or the loss is not a number; the last checkpoint stays.
    """
    trainer = Trainer(plan, clips)
    report("training starts")
    began = saved = time.monotonic()
    fraction, stop = 0.0, False
    while fraction < 1 and not stop:
        trainer.step(fraction)
        stop = stopped()
        elapsed = time.monotonic() - began
        fraction = trainer.steps / plan.steps if plan.steps is not None else elapsed / (plan.seconds or 1)
        if trainer.steps % LOG_EVERY == 0 or fraction >= 1 or stop:
            report(f"{elapsed:6.1f}s {fraction:5.1%} " + trainer.measures())
        if fraction >= 1 or stop or time.monotonic() - saved > plan.save_every:
            averaged = trainer.check()
            report("averaged weights: " + _words(averaged))
            described = replace(
                card, command=_command(plan, trainer.steps), steps=trainer.steps, seconds=round(elapsed, 1),
                clips=len(trainer.bank), data_digest=trainer.bank.digest, complete=fraction >= 1,
                losses=trainer.latest, averaged=averaged,
            )  # fmt: skip
            described.write(plan.folder, trainer.weights())
            saved = time.monotonic()
    return plan.folder


class Trainer:
    """A network in training."""

    def __init__(self, plan: Plan, clips: Iterator[RenderedClip]) -> None:
        device = choose_device(plan.device)
        torch.manual_seed(plan.seed)
        torch.set_float32_matmul_precision("high")
        self._plan = plan
        self._rng = np.random.default_rng(plan.seed)
        self._generator = torch.Generator(device).manual_seed(plan.seed)
        self.bank = Bank(clips, plan.clips, IMAGE_SIZE, device)
        self.network = build_trainable().to(device)
        self._average = copy.deepcopy(self.network).requires_grad_(False)
        self._optimizer = torch.optim.AdamW(_groups(self.network, plan.weight_decay), betas=(0.9, 0.98), fused=True)
        self.steps = self._stage = 0
        self.latest: dict[str, float] = {}
        """Losses and measures at the last report, means over the steps since the one before."""
        self._since: list[torch.Tensor] = []

    def step(self, fraction: float) -> None:
        """One update, at this fraction of the run."""
        batch = self._batch(fraction)
        self._learn(batch, self._plan.learning_rate * _rate(fraction, self.steps))
        self.steps += 1

    def measures(self) -> str:
        """The losses since the last call, in words, kept in ``latest``.

        Raises:
            PrerequisiteError: one is not a number.
        """
        values_n7 = torch.stack(self._since).cpu().double()
        if not bool(torch.isfinite(values_n7[:, 0]).all()):
            raise PrerequisiteError(
                f"The loss is not a number within the last {len(values_n7)} steps before step {self.steps}.",
                "Lower --learning-rate; the last checkpoint written is unharmed.",
            )
        self._since.clear()
        # track_iou is NaN in steps without a tracked frame.
        self.latest = _named(values_n7.nanmean(dim=0))
        return f"step {self.steps:5d} " + _words(self.latest)

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Losses and measures of the averaged weights on the same windows of training clips every time."""
        rng = np.random.default_rng(self._plan.seed)
        windows = min(CHECKED_WINDOWS, max(1, self._plan.batch // CHECKED_LENGTH // OBJECTS_PER_WINDOW))
        available = min(self._plan.clips, FIRST_CLIPS)
        drawn = self.bank.draw(rng, available, windows, OBJECTS_PER_WINDOW, CHECKED_LENGTH)
        device = self._generator.device
        batch = self.bank.gather(drawn, torch.Generator(device).manual_seed(self._plan.seed))
        own_mask_B = torch.arange(windows * OBJECTS_PER_WINDOW, device=device) % 2 == 0
        steps = unroll(self._average, batch, own_mask_B, VIDEO_LENGTHS[1] - 1)
        return _named(losses(steps, batch.masks_TBSS).values().cpu().double())

    def weights(self) -> dict[str, torch.Tensor]:
        """The averaged weights."""
        state: dict[str, torch.Tensor] = self._average.state_dict()
        return state

    def _batch(self, fraction: float) -> Batch:
        stage = CURRICULUM[self._stage]
        if fraction >= stage.until or self.latest.get(stage.measure, 0.0) >= stage.goal:
            self._stage += 1
            stage = CURRICULUM[self._stage]
        length = int(self._rng.choice(stage.lengths))
        windows = max(1, min(MOST_OBJECTS, self._plan.batch // length) // OBJECTS_PER_WINDOW)
        available = min(self._plan.clips, FIRST_CLIPS + self.steps)
        return self.bank.gather(
            self.bank.draw(self._rng, available, windows, OBJECTS_PER_WINDOW, length), self._generator
        )

    def _learn(self, batch: Batch, learning_rate: float) -> None:
        length, objects = batch.masks_TBSS.shape[:2]
        device = batch.masks_TBSS.device
        own_mask_B = torch.rand(objects, device=device, generator=self._generator) < OWN_MASK_SHARE
        video_length = int(self._rng.integers(max(length, VIDEO_LENGTHS[0]), VIDEO_LENGTHS[1]))
        found = losses(unroll(self.network, batch, own_mask_B, video_length), batch.masks_TBSS)
        self._optimizer.zero_grad(set_to_none=True)
        found.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.average()
        self._since.append(found.values())

    @torch.no_grad()
    def average(self) -> None:
        """Takes the network's weights into the average of those of ``steps`` steps before; the first replace it."""
        newest = (AVERAGING_POWER + 1) / (self.steps + AVERAGING_POWER + 1)
        torch._foreach_lerp_(list(self._average.parameters()), list(self.network.parameters()), newest)


def _named(values_7: torch.Tensor) -> dict[str, float]:
    """What is a number, rounded, by name."""
    return {name: round(value, 4) for name, value in zip(NAMES, values_7.tolist(), strict=True) if value == value}


def _command(plan: Plan, steps: int) -> str:
    """What makes such a run again, whatever the machine's speed."""
    words = ["python", "-m", "toy.sam2", str(plan.folder), "--steps", str(steps)]
    words += ["--seed", str(plan.seed), "--clips", str(plan.clips), "--batch", str(plan.batch)]
    return shlex.join([*words, "--learning-rate", str(plan.learning_rate)])


def _words(measures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in measures.items())


def _rate(fraction: float, step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2)


def _groups(network: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
