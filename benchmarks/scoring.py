"""How much faster J and F are than the reference algorithm, on one core, on real masks, and what scoring takes.

    python benchmarks/scoring.py

The baseline is the algorithm of davis2017-evaluation written plainly:
numpy over the whole frame for J and the boundary, one OpenCV dilation of the whole frame with the disk for each of
the two boundaries. OpenCV and BLAS run on one thread. The masks are the OSVOS submission and the ground truth of
DAVIS 2016 at 854x480, enlarged by nearest neighbour for the other sizes. Every pair is first checked to give the
same six integers. Best of several passes, baseline and kernel taking turns. Then ``rvosbench score`` scores 5,504 masks
in a process of its own, and its peak memory, workers included, is printed.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scoring_memory import peak_memory

from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.scoring.kernel import GroundTruthFrame, frame_counts

SIZES = {"854x480": (480, 854), "1280x720": (720, 1280), "1920x1080": (1080, 1920)}
PAIRS = {"854x480": 120, "1280x720": 40, "1920x1080": 16}
PASSES = 5

Pair = tuple[BoolHW, BoolHW]


def plain_boundary(mask_HW: BoolHW) -> BoolHW:
    right_HW, below_HW, across_HW = (np.zeros_like(mask_HW) for _ in range(3))
    right_HW[:, :-1] = mask_HW[:, 1:]
    below_HW[:-1, :] = mask_HW[1:, :]
    across_HW[:-1, :-1] = mask_HW[1:, 1:]
    edge_HW = (mask_HW ^ right_HW) | (mask_HW ^ below_HW) | (mask_HW ^ across_HW)
    edge_HW[-1, :] = mask_HW[-1, :] ^ right_HW[-1, :]
    edge_HW[:, -1] = mask_HW[:, -1] ^ below_HW[:, -1]
    edge_HW[-1, -1] = False
    return edge_HW


def plain_counts(gt_HW: BoolHW, pred_HW: BoolHW) -> tuple[int, ...]:
    """The reference algorithm: whole frame, one dilation per boundary."""
    intersection, union = np.sum(gt_HW & pred_HW), np.sum(gt_HW | pred_HW)
    reach = math.ceil(0.008 * np.linalg.norm(gt_HW.shape))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= reach**2).astype(np.uint8)
    gt_edge_HW, pred_edge_HW = plain_boundary(gt_HW), plain_boundary(pred_HW)
    near_gt_HW = cv2.dilate(gt_edge_HW.astype(np.uint8), disk)
    near_pred_HW = cv2.dilate(pred_edge_HW.astype(np.uint8), disk)
    matched_gt, matched_pred = np.sum(gt_edge_HW * near_pred_HW), np.sum(pred_edge_HW * near_gt_HW)
    values = (intersection, union, np.sum(gt_edge_HW), np.sum(pred_edge_HW), matched_gt, matched_pred)
    return tuple(int(value) for value in values)


def load_pairs(samples: Path, wanted: int) -> list[Pair]:
    """Pairs of ground truth and prediction spread over all sequences."""
    pairs = []
    with zipfile.ZipFile(samples / "davis16_results" / "osvos.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        names = [name for name in names if (samples / "davis16_val_gt" / name).is_file()]
        for name in names[:: max(1, len(names) // wanted)][:wanted]:
            with Image.open(samples / "davis16_val_gt" / name) as gt:
                gt_HW = np.asarray(gt) != 0
            with Image.open(io.BytesIO(archive.read(name))) as pred:
                pairs.append((gt_HW, np.asarray(pred) != 0))
    return pairs


def enlarged(mask_HW: BoolHW, size: tuple[int, int]) -> BoolHW:
    height, width = size
    return cv2.resize(mask_HW.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) != 0


def milliseconds(function: Callable[[int], object], pairs: Sequence[Pair]) -> float:
    start = time.perf_counter()
    for index in range(len(pairs)):
        function(index)
    return (time.perf_counter() - start) / len(pairs) * 1e3


def main() -> int:
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    samples = Path(os.environ.get("RVOSBENCH_SAMPLES", default))
    if not (samples / "davis16_results").is_dir():
        print(f"No sample masks in {samples}; set RVOSBENCH_SAMPLES.", file=sys.stderr)
        return 2
    cv2.setNumThreads(1)
    print(f"J and F of one mask pair, milliseconds, one core, best of {PASSES} passes")
    print(f"{'size':>10} {'pairs':>6} {'reference':>10} {'kernel':>8} {'ratio':>7} {'shared GT':>10} {'ratio':>7}")
    for name, size in SIZES.items():
        pairs = load_pairs(samples, PAIRS[name])
        if size != pairs[0][0].shape:
            pairs = [(enlarged(gt_HW, size), enlarged(pred_HW, size)) for gt_HW, pred_HW in pairs]
        prepared = [GroundTruthFrame(gt_HW) for gt_HW, _ in pairs]
        for gt, (gt_HW, pred_HW) in zip(prepared, pairs, strict=True):
            if not plain_counts(gt_HW, pred_HW) == frame_counts(gt_HW, pred_HW) == gt.counts(pred_HW):
                print(f"The kernel differs from the reference at {name}.", file=sys.stderr)
                return 1
        ways: list[Callable[[int], object]] = [
            lambda index, pairs=pairs: plain_counts(*pairs[index]),
            lambda index, pairs=pairs: frame_counts(*pairs[index]),
            lambda index, pairs=pairs, prepared=prepared: prepared[index].counts(pairs[index][1]),
        ]
        times = [[milliseconds(way, pairs) for way in ways] for _ in range(PASSES)]
        plain, kernel, shared = (min(column) for column in zip(*times, strict=True))
        print(
            f"{name:>10} {len(pairs):>6} {plain:>10.3f} {kernel:>8.3f} {plain / kernel:>6.1f}x {shared:>10.3f} "
            f"{plain / shared:>6.1f}x"
        )
    if sys.platform == "linux":
        print(peak_memory(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
