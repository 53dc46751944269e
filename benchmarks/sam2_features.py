"""Times SAM2's part of DecAF: the package's predictor driven as the reference drives it, against shared features.

    python benchmarks/sam2_features.py [--frames 24] [--expressions 4] [--keyframes 8] [--checkpoint ...] [--threads 1]

The reference opens a predictor state per expression over the keyframes, prompts and tracks both ways from every
keyframe that keeps a mask, then opens a state over the whole video and tracks both ways once more; the predictor keeps
the features of one frame only and takes objects one by one. Here a frame is encoded once per video, and objects of a
frame are tracked as a batch. Both get the same weights, frames, maps and points, and must select the same tracklets;
in batches of one every mask must be equal, in larger ones rounding may move pixels on borders (counted below).

Without ``--checkpoint`` the network is the released tiny one with random weights on 128-pixel frames, and every
keyframe has its best cell as a point. How much time the shared features save depends on how much of it the image
encoder takes: more in a larger model, less with more tracklets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from toy.tiny_sam2 import write_small

from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import FrameHW3, MaskTrack
from rvosbench.methods.ground.fusion import Points, points_above, resize
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.model import load
from rvosbench.methods.models.sam2.stock import StockVideo, stock_predictor
from rvosbench.methods.models.sam2.tracking import Sam2Video
from rvosbench.methods.segment.from_points import Segmentation, segment_tracklets, tracklets_from_points
from rvosbench.methods.segment.ranking import by_consistency
from rvosbench.methods.segment.settings import PromptSettings

SIZE = (120, 214)
GRID = (14, 26)
TINY = (
    "model.image_encoder.trunk.embed_dim=96",
    "model.image_encoder.trunk.stages=[1,2,7,2]",
    "model.image_encoder.trunk.global_att_blocks=[5,7,9]",
    "model.image_encoder.neck.backbone_channel_list=[768,384,192,96]",
    "model.memory_attention.num_layers=4",
    "model.num_maskmem=7",
)
"""What ``write_small`` makes smaller, as in the released tiny model."""


@dataclass(frozen=True)
class Question:
    """What the stages before hand over for one expression."""

    map: NDArray[np.float32]
    """(T, h, w)"""
    points: Points


@dataclass(frozen=True)
class Measured:
    """One way's answers and what they cost."""

    results: list[Segmentation]
    encoder_calls: int
    cpu_seconds: float
    """Per expression; other work on the machine disturbs it less than the clock."""
    seconds: float
    """Per expression, on the clock."""


def make_video(frames: int) -> list[FrameHW3]:
    """Bright blocks that move over noise."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    video = rng.integers(0, 120, (frames, height, width, 3))
    for k in range(4):
        colour, top, left = rng.integers(100, 255, 3), rng.integers(0, height // 2), rng.integers(0, width // 2)
        for t in range(frames):
            y, x = top + t % (height // 4), left + (3 * t) % (width // 4)
            video[t, y : y + height // 4, x : x + width // (4 + k)] = colour
    return [frame.astype(np.uint8) for frame in video]


def make_question(seed: int, keyframes: int) -> Question:
    """A smooth random map whose largest cell on every keyframe is a point."""
    coarse = np.random.default_rng(seed).random((keyframes, 5, 7)).astype(np.float32)
    fine = resize(coarse, GRID)
    map_Thw = fine / fine.max(axis=(1, 2), keepdims=True)
    return Question(map_Thw, points_above(map_Thw, 1.0))


def measure(
    questions: Sequence[Question],
    keyframes: Sequence[int],
    settings: PromptSettings,
    videos: Sequence[StockVideo | Sam2Video],
) -> Measured:
    """Answers every question with its own video: one opened for it alone, or one shared by all."""
    cpu, clock = time.process_time(), time.perf_counter()
    results = []
    for question, video in zip(questions, videos, strict=True):
        tracklets = tracklets_from_points(
            video, keyframes, question.points, nms_iou=settings.nms_iou, deletion=settings.nms_deletion
        )
        rank = by_consistency(question.map, settings.keep)
        results.append(segment_tracklets(video, keyframes, tracklets, rank))
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    calls = sum(
        video.encoder_calls if isinstance(video, StockVideo) else video.features.encoder_calls
        for video in {id(video): video for video in videos}.values()
    )
    return Measured(results, calls, cpu / len(questions), clock / len(questions))


def masks(track: MaskTrack) -> NDArray[np.bool_]:
    return np.stack([decode(rle, track.height, track.width) for rle in track.rles])


def differing_pixels(a: Measured, b: Measured) -> tuple[int, int]:
    """Pixels of the final masks that differ, of how many.

    Raises:
        SystemExit: the two ways keep or select different tracklets.
    """
    differ = total = 0
    for one, other in zip(a.results, b.results, strict=True):
        if [t.xy for t in one.tracklets] != [t.xy for t in other.tracklets] or one.selected != other.selected:
            raise SystemExit("the two ways keep or select different tracklets")
        mine, theirs = masks(one.track), masks(other.track)
        differ, total = differ + int((mine != theirs).sum()), total + mine.size
    return differ, total


def row(name: str, measured: Measured) -> str:
    return f"{name:32} {measured.encoder_calls:8d} {measured.cpu_seconds:12.2f} {measured.seconds:12.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--expressions", type=int, default=4)
    parser.add_argument("--keyframes", type=int, default=8)
    parser.add_argument("--checkpoint", help="default: small random weights")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    video = make_video(arguments.frames)
    count = min(arguments.keyframes, arguments.frames)
    keyframes = np.linspace(0, arguments.frames - 1, count).astype(int).tolist()
    questions = [make_question(seed, count) for seed in range(arguments.expressions)]
    settings = PromptSettings()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or str(write_small(Path(folder), seed=3, overrides=TINY))
        model = load(Sam2Settings(checkpoint=checkpoint))
        predictor = stock_predictor(model)
    single = replace(model, settings=replace(model.settings, object_batch=1))
    reference = measure(
        questions, keyframes, settings, [StockVideo(model, predictor, video, keyframes) for _ in questions]
    )
    one_by_one = measure(questions, keyframes, settings, [Sam2Video(single, video)] * len(questions))
    batched = measure(questions, keyframes, settings, [Sam2Video(model, video)] * len(questions))

    points = sum(len(question.points.value_n) for question in questions)
    tracklets = sum(len(result.tracklets) for result in reference.results)
    print(f"{arguments.frames} frames, {count} keyframes, {len(questions)} expressions")
    print(f"{points} points, {tracklets} tracklets")
    print(f"{'':32} {'encoder':>8} {'CPU s per':>12} {'clock s per':>12}")
    print(f"{'':32} {'calls':>8} {'expression':>12} {'expression':>12}")
    print(row("package, as the reference", reference))
    print(row("shared features, batches of 1", one_by_one))
    print(row(f"shared features, batches of {model.settings.object_batch}", batched))
    calls, cpu = reference.encoder_calls / batched.encoder_calls, reference.cpu_seconds / batched.cpu_seconds
    print(f"ratio: {calls:.1f} times fewer encoder calls, {cpu:.1f} times less CPU time")
    for name, measured in (("batches of 1", one_by_one), (f"batches of {model.settings.object_batch}", batched)):
        differ, total = differing_pixels(measured, reference)
        print(f"{name}: same tracklets selected, {differ} of {total} mask pixels differ")


if __name__ == "__main__":
    main()
