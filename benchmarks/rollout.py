"""Times attention rollout: whole L x L matrices, as the references compute it, against the row recursion here.

Both get the same random queries and keys at Qwen2.5-VL-7B's shapes (28 heads, 4 key heads, head dim 128) for a
16-frame 480p clip (L = 3017) and for L = 1700, in float32 on one CPU thread. The plain way forms every head's matrix,
weighs, averages and multiplies a layer at a time. Times are per layer, so that few layers give the ratio of many;
the ratio is of CPU seconds, which other work on the machine disturbs less than the clock.

A second table has the gradient of a function of the row with respect to queries and keys, as training soft prompts
needs it: autograd through the whole matrices against blocks computed again, at L = 1024 with 8 heads and 2 key heads,
forward and backward together.

    python benchmarks/rollout.py [--layers 2] [--lengths 3017 1700] [--gradient-lengths 1024] [--threads 1]

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

from rvosbench.methods.attention.recursion import LayerQK, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec

HEADS = {"rows": (28, 4), "gradients": (8, 2)}
"""Heads and key heads of each table."""
DEPTH = 128
TEXT = 105
"""Tokens that are not visual; the visual ones start at VISUAL_START."""
VISUAL_START = 15


def random_layers(length: int, layers: int, heads: tuple[int, int]) -> list[LayerQK]:
    """Queries and keys that make attention peaked but not one-hot."""
    generator = torch.Generator().manual_seed(0)
    return [
        LayerQK(
            1.5 * torch.randn(1, heads[0], length, DEPTH, generator=generator),
            torch.randn(1, heads[1], length, DEPTH, generator=generator),
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
        query, key = layer.query_BALD[0], layer.key_BKLD[0]
        key = key.repeat_interleave(query.shape[0] // key.shape[0], dim=0)
        scores_ALL = (query @ key.transpose(1, 2)) * layer.scale
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


def row(way: str, layers: list[LayerQK], visual_BL: Tensor) -> Tensor:
    with torch.inference_mode():
        return WAYS[way](layers, visual_BL)


def gradients(way: str, layers: list[LayerQK], visual_BL: Tensor) -> Tensor:
    """Of a weighted sum of the row with respect to every layer's queries and keys, one after the other."""
    inputs = [tensor.requires_grad_(True) for qk in layers for tensor in (qk.query_BALD, qk.key_BKLD)]
    weights_L = torch.randn(visual_BL.shape[1], generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(WAYS[way](layers, visual_BL) @ weights_L, inputs)
    return torch.cat([tensor.flatten() for tensor in found])


TABLES: dict[str, Callable[[str, list[LayerQK], Tensor], Tensor]] = {"rows": row, "gradients": gradients}


def measure(table: str, way: str, length: int, layers: int, output: Path) -> None:
    """Runs one way in this process; prints clock and CPU seconds and the extra peak memory in bytes."""
    run = TABLES[table]
    inputs, visual_BL = random_layers(length, layers, HEADS[table]), visual_columns(length)
    # A short run first, so that starting libraries is not measured.
    run(way, random_layers(128, 1, HEADS[table]), visual_columns(128))
    before = peak = resident_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, started_cpu = time.perf_counter(), time.process_time()
    result = run(way, inputs, visual_BL)
    clock, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    done.set()
    watcher.join()
    torch.save(result, output)
    print(clock, cpu, peak - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=2, help="layers to roll out (default 2)")
    parser.add_argument("--lengths", type=int, nargs="*", default=[3017, 1700], help="sequence lengths L of rows")
    parser.add_argument("--gradient-lengths", type=int, nargs="*", default=[1024], help="sequence lengths of gradients")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument("--measure", nargs=4, metavar=("TABLE", "WAY", "LENGTH", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        table, way, length, output = arguments.measure
        measure(table, way, int(length), arguments.layers, Path(output))
        return
    for table, lengths in (("rows", arguments.lengths), ("gradients", arguments.gradient_lengths)):
        if lengths:
            print_table(table, lengths, arguments)


def print_table(table: str, lengths: list[int], arguments: argparse.Namespace) -> None:
    heads, key_heads = HEADS[table]
    what = {"rows": "the row", "gradients": "the row and its gradients"}[table]
    print(f"{what}: {heads} heads, {key_heads} key heads, head dim {DEPTH}, float32, {arguments.threads} thread(s)")
    print(f"{'L':>6} {'way':<10} {'s/layer':>8} {'CPU s/layer':>12} {'extra MiB':>10}  against plain")
    for length in lengths:
        plain_way, plain_result = in_its_own_process(table, "plain", length, arguments)
        ours, result = in_its_own_process(table, "recursion", length, arguments)
        apart = float((plain_result - result).norm() / plain_result.norm())
        against = f"{plain_way.cpu / ours.cpu:.1f}x faster, {plain_way.extra / max(ours.extra, 1):.0f}x less memory, "
        against += f"{table} differ by {apart:.1e} of their size"
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


def in_its_own_process(table: str, way: str, length: int, arguments: argparse.Namespace) -> tuple[Cost, Tensor]:
    """One measurement; a process of its own, so that memory of the other way does not count."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.pt"
        command = [sys.executable, __file__, "--layers", str(arguments.layers), "--threads", str(arguments.threads)]
        command += ["--measure", table, way, str(length), str(output)]
        clock, cpu, extra = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return Cost(float(clock), float(cpu), int(extra)), torch.load(output)


if __name__ == "__main__":
    main()
