"""GPU-hours of a method on a dataset: what it asks of its models, times the rates that a recipe assumes.

A method says how many views, prompts and answers a sample takes (``Work``); a recipe's ``cost`` section holds what one
GPU does in a second, how long texts are, and what LVLMs make of a view. Decoding images, scoring and loading models are
left out, and so is what entries of a recipe share. These are assumptions, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field

from rvosbench.harness.settings import Settings, runtime

_SECONDS = 3600.0


@dataclass(frozen=True)
class Work:
    """What a method asks of its models, per sample (a video with one expression) and per video."""

    calls: int
    """To the language model, per sample, as its paper counts them."""
    texts: int
    """Prompts whose text tokens are run, per sample."""
    clips: int = 0
    """Clip views whose visual tokens are run, per sample."""
    frames: int = 0
    """Frame views whose visual tokens are run, per sample."""
    shared_clips: int = 0
    """Clip views that are run once per video, for all of its prompts."""
    shared_frames: int = 0
    """Frame views that are run once per video."""
    short_answers: int = 0
    """Generations of a word, per sample; a batch counts once."""
    long_answers: int = 0
    """Generations of a paragraph, per sample."""
    tracked_keyframes: int = 0
    """Keyframes over which SAM2 tracks every candidate; 0: SAM2 makes no masks."""


@runtime_checkable
class Priced(Protocol):
    """A method that says what it asks of its models."""

    def work(self, settings: Any) -> Work:
        """What these settings ask for."""
        ...


@dataclass(frozen=True, kw_only=True)
class ViewTokens(Settings):
    """Visual tokens of an LVLM's two kinds of view."""

    clip: Annotated[int, Field(ge=0)] = runtime()
    """0: it sees no clips."""
    frame: Annotated[int, Field(ge=1)] = runtime()


@dataclass(frozen=True, kw_only=True)
class Size(Settings):
    """How much a dataset holds."""

    videos: Annotated[int, Field(ge=1)] = runtime()
    samples: Annotated[int, Field(ge=1)] = runtime()
    frames: Annotated[int, Field(ge=1)] = runtime()
    """Of all videos."""


@dataclass(frozen=True, kw_only=True)
class Cost(Settings):
    """What is assumed of one GPU, of the models and of texts."""

    gpu: str = runtime()
    """Which one, for people."""
    prefill_tokens_per_second: Annotated[float, Field(gt=0)] = runtime()
    """Vision tower, language model and rollout together."""
    decoding_steps_per_second: Annotated[float, Field(gt=0)] = runtime()
    """One token for every sequence of a batch."""
    sam2_frames_per_second: Annotated[float, Field(gt=0)] = runtime()
    """Encoding."""
    sam2_masks_per_second: Annotated[float, Field(gt=0)] = runtime()
    """One object on one frame, through the memory."""
    text_tokens: Annotated[int, Field(ge=1)] = runtime(105)
    """Of a prompt with its chat frame."""
    short_answer_tokens: Annotated[int, Field(ge=1)] = runtime(3)
    long_answer_tokens: Annotated[int, Field(ge=1)] = runtime(80)
    candidates: Annotated[float, Field(gt=0)] = runtime(10)
    """Tracklets of a sample."""
    kept: Annotated[float, Field(gt=0)] = runtime(1.5)
    """Those tracked through the whole video."""
    views: dict[str, ViewTokens] = runtime()
    """By the LVLM's name in the recipe."""
    sizes: dict[str, Size] = runtime(default_factory=dict)
    """By the dataset's name in the recipe; for datasets that are not on disk."""


def prefill_tokens(work: Work, views: ViewTokens, size: Size, cost: Cost) -> int:
    """Tokens that are run through the language model in prefills."""
    of_sample = work.clips * views.clip + work.frames * views.frame + work.texts * cost.text_tokens
    of_video = work.shared_clips * views.clip + work.shared_frames * views.frame
    return size.samples * of_sample + size.videos * of_video


def decoding_steps(work: Work, size: Size, cost: Cost) -> int:
    """Steps of generation."""
    of_sample = work.short_answers * cost.short_answer_tokens + work.long_answers * cost.long_answer_tokens
    return size.samples * of_sample


def gpu_hours(work: Work, views: ViewTokens, size: Size, cost: Cost) -> float:
    """Hours of one GPU for a method with an LVLM on a dataset."""
    seconds = prefill_tokens(work, views, size, cost) / cost.prefill_tokens_per_second
    seconds += decoding_steps(work, size, cost) / cost.decoding_steps_per_second
    if work.tracked_keyframes:
        length = size.frames / size.videos
        masks = size.samples * (cost.candidates * min(work.tracked_keyframes, length) + cost.kept * length)
        seconds += size.frames / cost.sam2_frames_per_second + masks / cost.sam2_masks_per_second
    return seconds / _SECONDS


def assumptions(cost: Cost) -> str:
    """The numbers behind an estimate, in two sentences."""
    return (
        f"Estimated for {cost.gpu}: {cost.prefill_tokens_per_second:,.0f} tokens a second in prefills, "
        f"{cost.decoding_steps_per_second:,.0f} decoding steps, {cost.sam2_frames_per_second:,.0f} frames encoded and "
        f"{cost.sam2_masks_per_second:,.0f} masks tracked by SAM2; {cost.text_tokens} text tokens a call, "
        f"{cost.long_answer_tokens} tokens of reasoning, {cost.candidates:g} tracklets a sample of which "
        f"{cost.kept:g} are kept. Assumed, not measured; without what entries share."
    )
