"""How good a checkpoint is on held-out clips: answers by kind of question, and where attention points.

    python -m toy.lvlm.evaluate FOLDER

measures it and completes its model card.

An answer counts when every token of it is the model's first choice given the ones before, which is to say that greedy
decoding gives it word for word. Captions list objects in any order, so of them the fraction of right tokens is
reported.

Shape legend: t h w visual grid, H W pixels, S questions and answers behind a prefix.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.load import load_lvlm
from toy.lvlm.card import read_card, write_card
from toy.lvlm.examples import Example, held_out
from toy.lvlm.inputs import buckets, object_fractions, training_settings
from toy.lvlm.loop import pack
from toy.lvlm.network import Learner
from toy.lvlm.questions import Question


@dataclass(frozen=True)
class Pointing:
    """Where the raw rollout of the object prompt points."""

    hits: float
    """Fraction of prompts whose highest cell lies on the target."""
    chance: float
    """The same for a cell drawn at random."""
    mass: float
    """Mean fraction of the map's mass on the target."""
    prompts: int


@dataclass(frozen=True)
class Quality:
    """What a model card says."""

    answers: dict[str, float]
    """Per "view, kind of question": fraction of right answers (captions: of right tokens)."""
    asked: dict[str, int]
    pointing: dict[str, Pointing]
    """By view: clip, image."""


def evaluate(folder: Path, examples: Sequence[Example], device: str, spec: RolloutSpec, workers: int = 1) -> Quality:
    """Judges the checkpoint in ``folder`` as the methods load it, in float32."""
    lvlm: Any = load_lvlm(training_settings(folder, device))
    answers, queries = _answers(folder, lvlm, examples, workers)
    return Quality(answers, queries, {view: pointing(lvlm, examples, view, spec) for view in ("clip", "picture")})


def evaluate_checkpoint(folder: Path, seed: int, clips: int, device: str) -> list[str]:
    """Measures a checkpoint on clips of the valid split, completes its card and says what was measured."""
    quality = evaluate(folder, held_out(seed, clips), device, RolloutSpec())
    write_card(folder, {**read_card(folder), "quality": {"clips": clips, **_rounded(asdict(quality))}})
    return [
        *(f"{name}: {fraction:.3f} of {quality.asked[name]}" for name, fraction in quality.answers.items()),
        *(f"{view}: {where}" for view, where in quality.pointing.items()),
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


@torch.inference_mode()
def _answers(
    folder: Path, lvlm: Any, examples: Sequence[Example], workers: int
) -> tuple[dict[str, float], dict[str, int]]:
    learner = Learner(lvlm).eval().to(lvlm.model.device)
    device = lvlm.model.device
    right: dict[str, list[float]] = defaultdict(list)
    for bucket in buckets(folder, examples, workers):
        bucket.to(device)
        for view, (queries, kinds) in enumerate(zip(bucket.queries, bucket.kinds, strict=True)):
            packed = pack([queries]).to(device)
            correct_S = learner.correct(bucket, torch.tensor([view], device=device), packed)[0].cpu().numpy()
            question_S, answer_S = packed.question_CS[0].cpu().numpy(), packed.answer_CS[0].cpu().numpy()
            for index, kind in enumerate(kinds):
                tokens = correct_S[(question_S == index) & answer_S]
                right_fraction = float(tokens.mean()) if kind == "caption" else float(tokens.all())
                right[f"{bucket.kind}, {kind}"].append(right_fraction)
    names = sorted(right)
    return {name: float(np.mean(right[name])) for name in names}, {name: len(right[name]) for name in names}


def pointing(lvlm: Any, examples: Sequence[Example], view: str, spec: RolloutSpec) -> Pointing:
    """Pointing of the object prompts about one target, on clips or on single images."""
    hits, chances, masses = [], [], []
    for example in examples:
        if view == "clip":
            shown = [(list(range(len(example.frames_THW3))), example.clip)]
        else:
            shown = [([frame], queries) for frame, queries in zip(example.images, example.by_image, strict=True)]
        for frames, questions in shown:
            for question in _about_one(questions):
                clip = lvlm.clip(list(example.frames_THW3), question.prompt)
                prompted = clip
                if view == "picture":
                    prompted = lvlm.frame(example.frames_THW3[frames[0]], question.prompt, clip.grid)
                map_thw = lvlm.rollout(prompted, spec)
                fraction_thw = target_fraction(example, frames, question.targets, map_thw.shape)
                hits.append(float(fraction_thw.flat[map_thw.argmax()] >= 0.5))
                chances.append(float((fraction_thw >= 0.5).mean()))
                masses.append(float((map_thw * fraction_thw).sum() / map_thw.sum()))
    return Pointing(float(np.mean(hits)), float(np.mean(chances)), float(np.mean(masses)), len(hits))


def _about_one(questions: Sequence[Question]) -> list[Question]:
    return [q for q in questions if q.kind.startswith("object") and len(q.targets) == 1][:3]


def target_fraction(
    example: Example, frames: Sequence[int], targets: Sequence[int], grid: tuple[int, ...]
) -> NDArray[np.float32]:
    """How much of each cell the targets fill, (t, h, w) float32 in [0, 1]: the mean over the frames of a slot."""
    fraction_thw: NDArray[np.float32] = object_fractions(example, frames, grid)[[target - 1 for target in targets]].sum(
        0
    )
    return fraction_thw


def main() -> None:
    """Measures and completes the card."""
    parser = argparse.ArgumentParser(prog="python -m toy.lvlm.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic dataset")
    parser.add_argument("--clips", type=int, default=60, help="of the valid split")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    for line in evaluate_checkpoint(given.folder, given.seed, given.clips, given.device):
        print(line)


if __name__ == "__main__":
    main()
