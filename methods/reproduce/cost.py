"""GPU-hours of a line of the table, from the calls its method makes.

Per sample (a video with one expression), K keyframes (the published count is 16): DecAF makes 2K + 3 calls (its object
and background prompts on the clip and on every keyframe, and one text-only choice), SteerSeg K + 2 (one reasoning call,
its prompt on the clip and on every keyframe), Loc-Head K. What they cost here:

* a view's visual tokens are run once per video where prompts share them (DecAF's and SteerSeg's rollouts), once per
  sample where an answer is generated (DecAF's object name: K + 1 views; SteerSeg's reasoning: the clip) and for
  Loc-Head; text tokens are run in every call;
* answers are generated ``frame_batch`` keyframes at a time, a word in DecAF, a paragraph in SteerSeg's reasoning;
* SAM2 encodes every frame of a video once per line, tracks every candidate over the keyframes and every kept one over
  the video.

Everything else (decoding images, scoring, loading models) is left out. The numbers are assumptions of the world's
``cost`` section, not measurements; they hold for models of 7 to 8 billion parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_SECONDS = 3600.0
Method = Literal["decaf", "lochead", "steerseg"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ViewTokens(_Model):
    """Visual tokens of an LVLM's two kinds of call."""

    clip: int = Field(ge=0)
    """0: it has no clip call."""
    frame: int = Field(ge=1)


class Size(_Model):
    """How much a benchmark holds."""

    videos: int = Field(ge=1)
    samples: int = Field(ge=1)
    frames: int = Field(ge=1)
    """Of all videos."""


class Cost(_Model):
    """What is assumed of one GPU and of the methods."""

    gpu: str
    """Which one, for people."""
    prefill_tokens_per_second: float = Field(gt=0)
    """Vision tower, language model and rollout together."""
    decoding_steps_per_second: float = Field(gt=0)
    """One token for every sequence of a batch."""
    sam2_frames_per_second: float = Field(gt=0)
    """Encoding."""
    sam2_masks_per_second: float = Field(gt=0)
    """One object on one frame, through the memory."""
    keyframes: int = Field(16, ge=2)
    frame_batch: int = Field(4, ge=1)
    text_tokens: int = Field(105, ge=1)
    """Of a prompt with its chat frame."""
    answer_tokens: int = Field(3, ge=1)
    """Of an object's name."""
    reasoning_tokens: int = Field(80, ge=1)
    candidates: float = Field(10, gt=0)
    """Tracklets of a sample."""
    kept: float = Field(1.5, gt=0)
    """Those tracked through the whole video."""
    views: dict[str, ViewTokens]
    """By the LVLM's name in the table."""
    sizes: dict[str, Size] = {}
    """By the benchmark's name in the table; for benchmarks that are not on disk."""


@dataclass(frozen=True)
class Work:
    """What a method does for one benchmark."""

    calls: int
    """To the model, per sample."""
    tokens: float
    """Run through the model in prefills, in all."""
    steps: float
    """Of decoding, in all."""


def work(method: Method, views: ViewTokens, size: Size, cost: Cost) -> Work:
    """Calls, tokens and decoding steps of a method on a benchmark."""
    k, text = cost.keyframes, cost.text_tokens
    both_views = views.clip + k * views.frame
    batches = -(-k // cost.frame_batch)
    if method == "decaf":
        named = both_views + (k + 2) * text
        rolled = 2 * (k + 1) * text
        steps = (1 + batches + 1) * cost.answer_tokens
        return Work(2 * k + 3, size.samples * (named + rolled) + size.videos * both_views, size.samples * steps)
    if method == "steerseg":
        reasoned = views.clip + text
        rolled = (k + 1) * text
        tokens = size.samples * (reasoned + rolled) + size.videos * both_views
        return Work(k + 2, tokens, size.samples * cost.reasoning_tokens)
    return Work(k, size.samples * k * (views.frame + text), 0.0)


def gpu_hours(method: Method, lvlm: str, size: Size, cost: Cost) -> float | None:
    """Hours of one GPU for a line of the table on a benchmark; None where the LVLM's tokens are not known."""
    views = cost.views.get(lvlm)
    if views is None:
        return None
    needed = work(method, views, size, cost)
    length = size.frames / size.videos
    masks = size.samples * (cost.candidates * min(cost.keyframes, length) + cost.kept * length)
    seconds = (
        needed.tokens / cost.prefill_tokens_per_second
        + needed.steps / cost.decoding_steps_per_second
        + size.frames / cost.sam2_frames_per_second
        + masks / cost.sam2_masks_per_second
    )
    return seconds / _SECONDS


def assumptions(cost: Cost) -> str:
    """The numbers behind an estimate, in one sentence."""
    return (
        f"Estimated for {cost.gpu}: {cost.prefill_tokens_per_second:,.0f} tokens a second in prefills, "
        f"{cost.decoding_steps_per_second:,.0f} decoding steps, {cost.sam2_frames_per_second:,.0f} frames encoded and "
        f"{cost.sam2_masks_per_second:,.0f} masks tracked by SAM2; {cost.keyframes} keyframes, {cost.text_tokens} text "
        f"tokens a call, {cost.reasoning_tokens} tokens of reasoning, {cost.candidates:g} tracklets a sample of which "
        f"{cost.kept:g} are kept. Assumed, not measured."
    )
