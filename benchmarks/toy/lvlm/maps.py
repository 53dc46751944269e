"""Where fused maps lie: raw or contrasted, one view or both, one way to weigh heads or another.

For every expression about one thing of a lesson, object and background prompt (v3) are rolled out over the clip and
over every keyframe, fused as DecAF fuses them, and compared with the target. No SAM2, so that many expressions can be
measured.

Shape legend: T keyframes, h w token grid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rvosbench.harness.errors import SampleError
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.fusion import Float32, FusionSettings, RolloutMaps, fuse
from rvosbench.methods.ground.shared_prefix import ClipAndFrames, clip_and_frame_rollouts
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.reason.expression_prompts import background_prompt, object_prompt
from toy.lvlm.evaluate import target_share
from toy.lvlm.lessons import Lesson

FULL = FusionSettings()
ROWS: dict[str, tuple[RolloutSpec, FusionSettings]] = {
    "DecAF": (RolloutSpec(), FULL),
    "raw attention": (RolloutSpec(), replace(FULL, subtract_background=False)),
    "clip only": (RolloutSpec(), replace(FULL, views="clip")),
    "frames only": (RolloutSpec(), replace(FULL, views="frame")),
    "mean of heads": (RolloutSpec(head_weights="mean"), FULL),
}


@dataclass(frozen=True)
class Placed:
    """One expression's fused map against its target."""

    concentration: float
    pointing: float
    chance: float
    """Of pointing, for a cell drawn at random."""


def measure(lvlm: Lvlm, lessons: Sequence[Lesson]) -> dict[str, list[Placed]]:
    """Every row on every expression about one thing, in the same order."""
    placed: dict[str, list[Placed]] = defaultdict(list)
    for lesson in lessons:
        texts = dict(_about_one(lesson))
        prompts = {text: (object_prompt("v0", text), background_prompt("v3", text, None)) for text in texts}
        asked = [prompt for pair in prompts.values() for prompt in pair]
        maps = {
            spec: clip_and_frame_rollouts(lvlm, list(lesson.frames_THW3), asked, spec)
            for spec in {spec for spec, _ in ROWS.values()}
        }
        for text, targets in texts.items():
            for row, (spec, fusion) in ROWS.items():
                shown, empty = (_maps(maps[spec][prompt]) for prompt in prompts[text])
                placed[row].append(_placed(RolloutMaps(*shown, *empty), fusion, lesson, targets))
    return placed


def _about_one(lesson: Lesson) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Expressions about one thing with their target, as the bare question asks them."""
    for question in lesson.clip:
        if question.kind == "bare" and len(question.targets) == 1:
            yield question.prompt, question.targets
        elif question.kind == "describe":
            yield question.prompt.removesuffix(" Describe it.").rstrip("."), question.targets


def _maps(outcome: ClipAndFrames | SampleError) -> ClipAndFrames:
    if isinstance(outcome, SampleError):
        raise outcome
    return outcome


def _placed(maps: RolloutMaps, fusion: FusionSettings, lesson: Lesson, targets: tuple[int, ...]) -> Placed:
    fused_Thw: Float32 = fuse(maps, fusion)
    share_Thw = target_share(lesson, range(len(lesson.frames_THW3)), targets, fused_Thw.shape)
    return Placed(
        concentration=float((fused_Thw * share_Thw).sum() / max(float(fused_Thw.sum()), 1e-12)),
        pointing=float(share_Thw.flat[fused_Thw.argmax()] >= 0.5),
        chance=float((share_Thw >= 0.5).mean()),
    )
