"""Times attention rollout: whole L x L matrices, as the references compute it, against the row recursion here.

Both get the same random queries and keys at Qwen2.5-VL-7B's shapes (28 heads, 4 key heads, head dim 128) for a
16-frame 480p clip (L = 3017) and for L = 1700, in float32 on one CPU thread. The plain way forms every head's matrix,
weighs, averages and multiplies a layer at a time. Times are per layer, so that few layers give the ratio of many;
the ratio is of CPU seconds, which other work on the machine disturbs less than the clock.

    python benchmarks/rollout.py [--layers 2] [--lengths 3017 1700] [--threads 1]

Shape legend: A attention heads, L sequence.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from methods.rollout.recursion import LayerQK, rollout_rows
from methods.rollout.spec import RolloutSpec

HEADS, KEY_HEADS, DEPTH = 28, 4, 128
TEXT = 105
"""Tokens that are not visual; the visual ones start at VISUAL_START."""
VISUAL_START = 15


def random_layers(length: int, layers: int) -> list[LayerQK]:
    """Queries and keys that make attention peaked but not one-hot."""
    generator = torch.Generator().manual_seed(0)
    return [
        LayerQK(
            1.5 * torch.randn(1, HEADS, length, DEPTH, generator=generator),
            torch.randn(1, KEY_HEADS, length, DEPTH, generator=generator),
            DEPTH**-0.5,
        )
        for _ in range(layers)
    ]


def visual_columns(length: int) -> Tensor:
    visual_BL = torch.zeros(1, length, dtype=torch.bool)
    visual_BL[0, VISUAL_START : VISUAL_START + length - TEXT] = True
    return visual_BL


def plain(layers: list[LayerQK], visual_BL: Tensor) -> Tensor:
    """The last row (L,), by L x L matrices: all heads' scores and softmax at once, then a product of matrices."""
    length = visual_BL.shape[1]
    future_LL = torch.ones(length, length, dtype=torch.bool).triu(1)
    rolled_LL = torch.eye(length)
    for layer in layers:
        key = layer.key_BKLD[0].repeat_interleave(HEADS // KEY_HEADS, dim=0)
        scores_ALL = (layer.query_BALD[0] @ key.transpose(1, 2)) * layer.scale
        attn_ALL = scores_ALL.masked_fill(future_LL, float("-inf")).softmax(-1)
        weight_A = attn_ALL[:, :, visual_BL[0]].amax(-1).mean(-1)
        mean_LL = ((weight_A / weight_A.amax())[:, None, None] * attn_ALL).mean(0)
        rolled_LL = (0.5 * mean_LL + 0.5 * torch.eye(length)) @ rolled_LL
    return rolled_LL[-1]


def recursion(layers: list[LayerQK], visual_BL: Tensor) -> Tensor:
    return rollout_rows(layers, visual_BL, RolloutSpec()).rows_BL[0]


WAYS: dict[str, Callable[[list[LayerQK], Tensor], Tensor]] = {"plain": plain, "recursion": recursion}


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this benchmark reads memory use from Linux's /proc")


def measure(way: str, length: int, layers: int, output: Path) -> None:
    """Runs one way in this process; prints clock and CPU seconds and the extra peak memory in bytes, writes the row."""
    inputs, visual_BL = random_layers(length, layers), visual_columns(length)
    WAYS[way]([LayerQK(qk.query_BALD[:, :, :64], qk.key_BKLD[:, :, :64], qk.scale) for qk in inputs], visual_BL[:, :64])
    before = peak = resident_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, started_cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        row_L = WAYS[way](inputs, visual_BL)
    clock, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    done.set()
    watcher.join()
    torch.save(row_L, output)
    print(clock, cpu, peak - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=2, help="layers to roll out (default 2)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[3017, 1700], help="sequence lengths L")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        way, output = arguments.measure
        measure(way, arguments.lengths[0], arguments.layers, Path(output))
        return

    print(f"{HEADS} heads, {KEY_HEADS} key heads, head dim {DEPTH}, float32, {arguments.threads} thread(s)")
    print(f"{'L':>6} {'way':<10} {'s/layer':>8} {'CPU s/layer':>12} {'extra MiB':>10}  against plain")
    for length in arguments.lengths:
        plain_way, plain_row = in_its_own_process("plain", length, arguments)
        ours, row = in_its_own_process("recursion", length, arguments)
        apart = float((plain_row - row).abs().max())
        against = f"{plain_way.cpu / ours.cpu:.1f}x faster, {plain_way.extra / max(ours.extra, 1):.0f}x less memory, "
        against += f"row differs by {apart:.1e}"
        for way, cost, ratio in (("plain", plain_way, ""), ("recursion", ours, against)):
            clock, cpu = cost.clock / arguments.layers, cost.cpu / arguments.layers
            line = f"{length:>6} {way:<10} {clock:>8.3f} {cpu:>12.3f} {cost.extra / 2**20:>10.0f}  {ratio}"
            print(line.rstrip(), flush=True)


@dataclass(frozen=True)
class Cost:
    clock: float
    cpu: float
    extra: int
    """Peak memory beyond the inputs, in bytes."""


def in_its_own_process(way: str, length: int, arguments: argparse.Namespace) -> tuple[Cost, Tensor]:
    """One measurement; a process of its own, so that memory of the other way does not count."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "row.pt"
        command = [sys.executable, __file__, "--lengths", str(length), "--layers", str(arguments.layers)]
        command += ["--threads", str(arguments.threads), "--measure", way, str(output)]
        clock, cpu, extra = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return Cost(float(clock), float(cpu), int(extra)), torch.load(output)


if __name__ == "__main__":
    main()
