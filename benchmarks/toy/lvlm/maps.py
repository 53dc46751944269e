"""Where fused maps lie: raw or contrasted, one view or both, one way to weigh heads or another.

For every expression about one object of a training example, object and background prompt (v3) are rolled out over the
clip and over every keyframe, fused as DecAF fuses them, and compared with the target. No SAM2, so that many expressions
can be measured.

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
from toy.lvlm.evaluate import target_fraction
from toy.lvlm.examples import Example

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


def measure(lvlm: Lvlm, examples: Sequence[Example]) -> dict[str, list[Placed]]:
    """Every row on every expression about one object, in the same order."""
    placed: dict[str, list[Placed]] = defaultdict(list)
    for example in examples:
        texts = dict(_about_one(example))
        prompts = {text: (object_prompt("v0", text), background_prompt("v3", text, None)) for text in texts}
        queries = [prompt for pair in prompts.values() for prompt in pair]
        maps = {
            spec: clip_and_frame_rollouts(lvlm, list(example.frames_THW3), queries, spec)
            for spec in {spec for spec, _ in ROWS.values()}
        }
        for text, targets in texts.items():
            for row, (spec, fusion) in ROWS.items():
                shown, empty = (_maps(maps[spec][prompt]) for prompt in prompts[text])
                placed[row].append(_placed(RolloutMaps(*shown, *empty), fusion, example, targets))
    return placed


def _about_one(example: Example) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Expressions about one object with their target, as the bare question asks them."""
    for question in example.clip:
        if question.kind == "bare" and len(question.targets) == 1:
            yield question.prompt, question.targets
        elif question.kind == "describe":
            yield question.prompt.removesuffix(" Describe it.").rstrip("."), question.targets


def _maps(outcome: ClipAndFrames | SampleError) -> ClipAndFrames:
    if isinstance(outcome, SampleError):
        raise outcome
    return outcome


def _placed(maps: RolloutMaps, fusion: FusionSettings, example: Example, targets: tuple[int, ...]) -> Placed:
    fused_Thw: Float32 = fuse(maps, fusion)
    fraction_Thw = target_fraction(example, range(len(example.frames_THW3)), targets, fused_Thw.shape)
    return Placed(
        concentration=float((fused_Thw * fraction_Thw).sum() / max(float(fused_Thw.sum()), 1e-12)),
        pointing=float(fraction_Thw.flat[fused_Thw.argmax()] >= 0.5),
        chance=float((fraction_Thw >= 0.5).mean()),
    )
