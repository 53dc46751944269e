"""How good a checkpoint is on held-out clips: answers by kind of question, and where attention points.

    python -m toy.lvlm.evaluate FOLDER

measures it and completes its model card.

An answer counts when every token of it is the model's first choice given the ones before, which is to say that greedy
decoding gives it word for word. Captions list things in any order, so of them the share of right tokens is told.

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
from toy.lvlm.inputs import buckets, thing_shares, training_settings
from toy.lvlm.lessons import Lesson, held_out
from toy.lvlm.loop import pack
from toy.lvlm.network import Learner
from toy.lvlm.questions import Question


@dataclass(frozen=True)
class Pointing:
    """Where the raw rollout of the object prompt points."""

    hits: float
    """Share of prompts whose highest cell lies on the target."""
    chance: float
    """The same for a cell drawn at random."""
    mass: float
    """Mean share of the map's mass on the target."""
    prompts: int


@dataclass(frozen=True)
class Quality:
    """What a model card says."""

    answers: dict[str, float]
    """Per "view, kind of question": share of right answers (captions: of right tokens)."""
    asked: dict[str, int]
    pointing: dict[str, Pointing]
    """By view: clip, picture."""


def evaluate(folder: Path, lessons: Sequence[Lesson], device: str, spec: RolloutSpec, workers: int = 1) -> Quality:
    """Judges the checkpoint in ``folder`` as the methods load it, in float32."""
    lvlm: Any = load_lvlm(training_settings(folder, device))
    answers, asked = _answers(folder, lvlm, lessons, workers)
    return Quality(answers, asked, {view: pointing(lvlm, lessons, view, spec) for view in ("clip", "picture")})


def judge(folder: Path, seed: int, clips: int, device: str) -> list[str]:
    """Measures a checkpoint on clips of the valid split, completes its card and says what was measured."""
    quality = evaluate(folder, held_out(seed, clips), device, RolloutSpec())
    write_card(folder, {**read_card(folder), "quality": {"clips": clips, **_rounded(asdict(quality))}})
    return [
        *(f"{name}: {share:.3f} of {quality.asked[name]}" for name, share in quality.answers.items()),
        *(f"{view}: {where}" for view, where in quality.pointing.items()),
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


@torch.inference_mode()
def _answers(
    folder: Path, lvlm: Any, lessons: Sequence[Lesson], workers: int
) -> tuple[dict[str, float], dict[str, int]]:
    learner = Learner(lvlm).eval().to(lvlm.model.device)
    device = lvlm.model.device
    right: dict[str, list[float]] = defaultdict(list)
    for bucket in buckets(folder, lessons, workers):
        bucket.to(device)
        for view, (asked, kinds) in enumerate(zip(bucket.asked, bucket.kinds, strict=True)):
            packed = pack([asked]).to(device)
            correct_S = learner.correct(bucket, torch.tensor([view], device=device), packed)[0].cpu().numpy()
            question_S, answer_S = packed.question_CS[0].cpu().numpy(), packed.answer_CS[0].cpu().numpy()
            for index, kind in enumerate(kinds):
                tokens = correct_S[(question_S == index) & answer_S]
                told = float(tokens.mean()) if kind == "caption" else float(tokens.all())
                right[f"{bucket.kind}, {kind}"].append(told)
    names = sorted(right)
    return {name: float(np.mean(right[name])) for name in names}, {name: len(right[name]) for name in names}


def pointing(lvlm: Any, lessons: Sequence[Lesson], view: str, spec: RolloutSpec) -> Pointing:
    """Pointing of the object prompts about one target, on clips or on single pictures."""
    hits, chances, masses = [], [], []
    for lesson in lessons:
        if view == "clip":
            shown = [(list(range(len(lesson.frames_THW3))), lesson.clip)]
        else:
            shown = [([frame], asked) for frame, asked in zip(lesson.pictures, lesson.alone, strict=True)]
        for frames, questions in shown:
            for question in _about_one(questions):
                clip = lvlm.clip(list(lesson.frames_THW3), question.prompt)
                prompted = clip
                if view == "picture":
                    prompted = lvlm.frame(lesson.frames_THW3[frames[0]], question.prompt, clip.grid)
                map_thw = lvlm.rollout(prompted, spec)
                share_thw = target_share(lesson, frames, question.targets, map_thw.shape)
                hits.append(float(share_thw.flat[map_thw.argmax()] >= 0.5))
                chances.append(float((share_thw >= 0.5).mean()))
                masses.append(float((map_thw * share_thw).sum() / map_thw.sum()))
    return Pointing(float(np.mean(hits)), float(np.mean(chances)), float(np.mean(masses)), len(hits))


def _about_one(questions: Sequence[Question]) -> list[Question]:
    return [q for q in questions if q.kind.startswith("object") and len(q.targets) == 1][:3]


def target_share(
    lesson: Lesson, frames: Sequence[int], targets: Sequence[int], grid: tuple[int, ...]
) -> NDArray[np.float32]:
    """How much of each cell the targets fill, (t, h, w) float32 in [0, 1]: the mean over the frames of a slot."""
    share_thw: NDArray[np.float32] = thing_shares(lesson, frames, grid)[[target - 1 for target in targets]].sum(0)
    return share_thw


def main() -> None:
    """Measures and completes the card."""
    parser = argparse.ArgumentParser(prog="python -m toy.lvlm.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    parser.add_argument("--clips", type=int, default=60, help="of the valid split")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    for line in judge(given.folder, given.seed, given.clips, given.device):
        print(line)


if __name__ == "__main__":
    main()
