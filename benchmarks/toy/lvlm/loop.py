"""The training loop: first the vision tower names cells, then the language model reads what it sees.

Batches are drawn from a seed; AdamW with a cosine over steps or over time. In this order the language model never
has to read from a tower that is still blind.

Shape legend: C views, S questions and answers about each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toy.lvlm.inputs import Bucket, Query
from toy.lvlm.network import Glances, Learner, Packed

VIEW_FRACTIONS = {"clip": 0.5, "picture": 0.43, "text": 0.07}
"""How many batches show a clip, one image, nothing."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: first the vision tower learns to name cells, then the language model learns to answer."""

    look_steps: int
    read_steps: int
    seconds: float | None = None
    """At most, for both; each part then gets its share and its learning rate falls with the time."""
    look_share: float = 0.22
    views: int = 12
    """To a batch of the second part; twice as many to one of the first."""
    questions: int = 8
    """About each view."""
    glance: float = 0.3
    """Weight of looking at what a question is about, beside answering it."""
    rate: float = 1.2e-3
    warm_up: float = 0.03
    decay: float = 0.05
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """What the loop did."""

    look_steps: int
    read_steps: int
    seconds: float
    cell_loss: float
    """Mean over the last steps of the first part, likewise below."""
    read_loss: float


def train(
    learner: Learner, buckets: Sequence[Bucket], schedule: Schedule, log: Callable[[str], None]
) -> TrainingResult:
    """Trains in place.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    device = next(learner.parameters()).device
    rng = np.random.default_rng(schedule.seed)
    drawn = _Draw(buckets, rng)
    started = time.monotonic()

    def look() -> Tensor:
        bucket = drawn.bucket(("clip", "picture"))
        views = torch.from_numpy(rng.integers(len(bucket), size=2 * schedule.views)).to(device)
        return learner.cell_loss(bucket, views)

    def read() -> Tensor:
        bucket = drawn.bucket(tuple(VIEW_FRACTIONS))
        views = rng.integers(len(bucket), size=schedule.views)
        chosen = [rng.integers(len(bucket.queries[view]), size=schedule.questions) for view in views]
        queries = pack([[bucket.queries[v][q] for q in some] for v, some in zip(views, chosen, strict=True)])
        looked = glances(bucket, views, chosen).to(device)
        return learner.read_loss(
            bucket, torch.from_numpy(views).to(device), queries.to(device), looked, schedule.glance
        )

    learner.train()
    seconds = None if schedule.seconds is None else schedule.look_share * schedule.seconds
    look_steps, cells = _part("cells", learner, look, schedule, schedule.look_steps, seconds, log)
    for bucket in buckets:
        learner.remember(bucket, 4 * schedule.views)
    seconds = None if schedule.seconds is None else schedule.seconds - (time.monotonic() - started)
    read_steps, answers = _part("answers", learner, read, schedule, schedule.read_steps, seconds, log)
    learner.eval()
    return TrainingResult(look_steps, read_steps, time.monotonic() - started, cells, answers)


def _part(
    name: str,
    learner: Learner,
    loss_of: Callable[[], Tensor],
    schedule: Schedule,
    steps: int,
    seconds: float | None,
    log: Callable[[str], None],
) -> tuple[int, float]:
    """Steps made, and the mean loss of the last ones."""
    if not steps:
        return 0, 0.0
    device = next(learner.parameters()).device
    optimiser = _optimiser(learner, schedule)
    started = last_log = time.monotonic()
    recent: list[Tensor] = []
    step, progress = 0, 0.0
    while progress < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * _factor(progress, schedule.warm_up)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learner.parameters(), schedule.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        recent = [*recent[-199:], loss.detach()]
        progress = step / steps
        if seconds is not None:
            progress = max(progress, (time.monotonic() - started) / seconds)
        if time.monotonic() - last_log > 20 or progress >= 1.0:
            last_log = time.monotonic()
            mean = float(torch.stack(recent).mean())
            log(f"{name}: step {step} at {last_log - started:.0f} s, loss {mean:.4f}")
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss of {name} is not finite near step {step}")
    return step, float(torch.stack(recent).mean())


def _factor(progress: float, warm_up: float) -> float:
    if progress < warm_up:
        return (progress + 1e-3) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _optimiser(learner: Learner, schedule: Schedule) -> torch.optim.Optimizer:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in learner.named_parameters():
        parameter.requires_grad_(True)
        (decayed if parameter.dim() >= 2 and "embed_tokens" not in name else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": schedule.decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98), fused=True)


class _Draw:
    """Draws buckets: the kind of view by ``VIEW_FRACTIONS``, among its buckets by their size."""

    def __init__(self, buckets: Sequence[Bucket], rng: np.random.Generator) -> None:
        self.rng = rng
        self.groups = {kind: [b for b in buckets if b.kind == kind] for kind in VIEW_FRACTIONS}

    def bucket(self, among: Sequence[str]) -> Bucket:
        kinds = [kind for kind in among if self.groups[kind]]
        weights = np.array([VIEW_FRACTIONS[kind] for kind in kinds])
        group = self.groups[kinds[int(self.rng.choice(len(kinds), p=weights / weights.sum()))]]
        sizes = np.array([len(bucket) for bucket in group], dtype=float)
        return group[int(self.rng.choice(len(group), p=sizes / sizes.sum()))]


def pack(chosen: Sequence[Sequence[Query]]) -> Packed:
    """The questions of each view one after the other."""
    longest = max(sum(len(tokens) for tokens, _ in queries) for queries in chosen)
    token_CS, question_CS, place_CS = (np.zeros((len(chosen), longest), dtype=np.int64) for _ in range(3))
    answer_CS = np.zeros((len(chosen), longest), dtype=bool)
    weight_CS = np.zeros((len(chosen), longest), dtype=np.float32)
    for row, queries in enumerate(chosen):
        at = 0
        for question, (tokens, start) in enumerate(queries):
            span = slice(at, at + len(tokens))
            token_CS[row, span] = tokens
            question_CS[row, span] = question
            place_CS[row, span] = np.arange(len(tokens))
            answer_CS[row, at + start : at + len(tokens)] = True
            weight_CS[row, at + start : at + len(tokens)] = (len(tokens) - start) ** -0.5
            at += len(tokens)
        question_CS[row, at:] = len(queries)
    return Packed(*(torch.from_numpy(array) for array in (token_CS, question_CS, place_CS, answer_CS, weight_CS)))


def glances(bucket: Bucket, views: NDArray[np.int64], chosen: Sequence[NDArray[np.int64]]) -> Glances:
    """Of the chosen questions (C lists of them) about each view, those about objects that are to be seen in it."""
    view_G, place_G, fractions_Gn = [], [], []
    for row, (view, questions) in enumerate(zip(views, chosen, strict=True)):
        at = 0
        for question in questions:
            tokens, start = bucket.queries[view][question]
            objects = [obj - 1 for obj in bucket.about[view][question]]
            fraction_n = bucket.fractions_Nkthw[view, objects].sum(0, dtype=np.float32).ravel() / 255.0
            if fraction_n.any():
                view_G.append(row)
                place_G.append(at + start - 1)
                fractions_Gn.append(fraction_n.clip(max=1.0))
            at += len(tokens)
    cells = int(np.prod(bucket.fractions_Nkthw.shape[2:]))
    fraction_Gn = torch.from_numpy(np.array(fractions_Gn, dtype=np.float32).reshape(len(fractions_Gn), cells))
    return Glances(torch.tensor(view_G, dtype=torch.int64), torch.tensor(place_G, dtype=torch.int64), fraction_Gn)
