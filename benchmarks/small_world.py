"""What the pieces of a method are worth on the bundled world: a recipe on several worlds, paired differences.

    python benchmarks/small_world.py [--recipe recipes/small_world.yaml] [--worlds 1 2 3] [--videos 6] [--set ...]

A world is a seed of the shapes benchmark's valid split; seed 0 is the one that checkpoints were judged on. Every method
of the recipe is compared with the first one on the same samples, videos resampled, and the difference is printed for
every world, because a margin that one world shows may be luck.
The last row is what the true mask of a thing drawn at random would get: what attention that finds things, but not the
right one, leads to. What SAM2 makes of a perfect point is measured by
``python -m methods.segmentation.training.evaluate``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from harness.data.shapes import write_shapes
from harness.data.shapes.clip import make_clip
from harness.pipeline.engine import Run
from harness.pipeline.runfolder import RunFolder
from harness.recipes import load_recipe
from harness.runs import read_run, read_samples
from harness.scoring import kernel
from harness.scoring.statistics import Bootstrap


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/small_world.yaml"))
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    console = Console(width=120)
    logging.disable_progress_bar()
    scores: dict[str, dict[int, dict[tuple[str, str], float]]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as scratch:
        for world in given.worlds:
            root = Path(scratch) / str(world)
            write_shapes(root, layout="shapes", split="valid", seed=world, videos=given.videos)
            recipe = load_recipe(given.recipe, (f"data_root={root}", f"runs={root / 'runs'}", *given.overrides))
            folder = RunFolder.create(recipe)
            Run(recipe, folder, Console(quiet=True)).execute()
            samples = read_samples(read_run(folder.path)).fillna({"J_and_F": 0.0})
            for row in samples.itertuples():
                name = f"{row.method}" if len(recipe.lvlms) < 2 else f"{row.method} ({Path(row.lvlm).name})"
                scores[name].setdefault(world, {})[(row.video, row.expression)] = float(row.J_and_F)
            for key, value in _random_thing(world, given.videos).items():
                scores["a thing at random"].setdefault(world, {})[key] = value
    scores["a thing at random"] = scores.pop("a thing at random")
    console.print(_table(scores, given.worlds))


def _random_thing(world: int, videos: int) -> dict[tuple[str, str], float]:
    """By video and expression, the mean J&F of the true masks of every thing of the video."""
    found: dict[tuple[str, str], float] = {}
    for index in range(videos):
        clip = make_clip(world, "valid", index)
        things = np.unique(clip.ids_THW[clip.ids_THW > 0])
        for number, sentence in enumerate(clip.sentences):
            values = []
            for thing in things:
                pairs = [(clip.mask(sentence.targets, t), clip.ids_THW[t] == thing) for t in range(len(clip.ids_THW))]
                counts_T6 = np.array([kernel.frame_counts(true_HW, thing_HW) for true_HW, thing_HW in pairs])
                values.append((kernel.j(counts_T6).mean() + kernel.f(counts_T6).mean()) / 2)
            found[clip.name, str(number)] = float(np.mean(values))
    return found


def _table(scores: dict[str, dict[int, dict[tuple[str, str], float]]], worlds: list[int]) -> Table:
    table = Table("method", "J&F", "minus the first, all worlds [95%]", *(f"world {world}" for world in worlds))
    first = next(iter(scores.values()))
    for name, by_world in scores.items():
        mean = np.mean([value for samples in by_world.values() for value in samples.values()])
        gaps = {w: {key: by_world[w][key] - value for key, value in first[w].items()} for w in worlds}
        low, high = _interval(gaps)
        total = np.mean([gap for samples in gaps.values() for gap in samples.values()])
        table.add_row(
            name,
            f"{100 * mean:.1f}",
            "" if by_world is first else f"{100 * total:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            *(f"{100 * np.mean(list(gaps[w].values())):+.1f}" for w in worlds),
        )
    return table


def _interval(gaps: dict[int, dict[tuple[str, str], float]]) -> tuple[float, float]:
    """Videos resampled with replacement."""
    videos: dict[tuple[int, str], list[float]] = defaultdict(list)
    for world, samples in gaps.items():
        for (video, _), gap in samples.items():
            videos[world, video].append(gap)
    sums, counts = (np.array([f(gaps) for gaps in videos.values()], dtype=float) for f in (sum, len))
    settings = Bootstrap()
    rng = np.random.default_rng(settings.seed)
    drawn = rng.integers(len(sums), size=(settings.resamples, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
