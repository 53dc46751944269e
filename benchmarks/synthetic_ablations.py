"""Ablation of a method's components on the synthetic dataset: a recipe with several seeds, paired differences.

    python benchmarks/synthetic_ablations.py [--recipe recipes/synthetic_ablations.yaml] [--seeds 1 2 3] [--videos 6]
    [--set ...]

A seed selects the videos of the shapes benchmark's valid split; checkpoints were evaluated on seed 0. Every method of
the recipe is compared with the first one, or with each that ``--minus`` names, on the same samples, videos resampled;
and so again for the expressions whose target has a look-alike, an object that differs from it in one of shape, colour
and size. The difference is printed for every seed, because a margin on one seed may be chance. The last row is the
score of the true mask of an object drawn at random, the result of attention that finds objects, but not the right one.
The result of SAM2 from a perfect point is measured by ``python -m toy.sam2.evaluate``.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.data.synthetic.clip import Clip, make_clip
from rvosbench.harness.data.synthetic.language import Sentence
from rvosbench.harness.pipeline.engine import Run
from rvosbench.harness.recipes import load_recipe
from rvosbench.harness.results.reader import read_run, read_samples
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.scoring import kernel
from rvosbench.harness.scoring.statistics import Item, difference_interval

SeedScores = dict[int, dict[tuple[str, str], float]]
"""Scores by seed, and by video and expression."""


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/synthetic_ablations.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--minus", nargs="+", default=[], metavar="ROW", help="a table of differences to each")
    parser.add_argument("--mean-of", metavar="WORDS", help="one more row: the mean of the rows that begin so")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    console = Console(width=max(120, 84 + 11 * len(given.seeds)))
    logging.disable_progress_bar()
    scores: dict[str, SeedScores] = defaultdict(dict)
    chance: SeedScores = {seed: {} for seed in given.seeds}
    alike: SeedScores = {seed: {} for seed in given.seeds}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in given.seeds:
            root = Path(scratch) / str(seed)
            write_shapes(root, layout="shapes", split="valid", seed=seed, videos=given.videos)
            recipe = load_recipe(given.recipe, (f"data_root={root}", f"runs={root / 'runs'}", *given.overrides))
            folder = RunFolder.create(recipe)
            Run(recipe, folder, Console(quiet=True)).execute()
            samples = read_samples(read_run(folder.path)).fillna({"J_and_F": 0.0})
            for row in samples.itertuples():
                name = f"{row.method}" if len(recipe.lvlms) < 2 else f"{row.method} ({Path(row.lvlm).name})"
                scores[name].setdefault(seed, {})[(row.video, row.expression)] = float(row.J_and_F)
            if unknown := sorted(set(given.minus) - scores.keys()):
                parser.error(f"--minus names {', '.join(unknown)}; the rows are {', '.join(scores)}")
            if given.mean_of and not any(name.startswith(given.mean_of) for name in scores):
                parser.error(f"no row begins with --mean-of {given.mean_of}; the rows are {', '.join(scores)}")
            for clip in (make_clip(seed, "valid", index) for index in range(given.videos)):
                for number, sentence in enumerate(clip.sentences):
                    chance[seed][clip.name, str(number)] = _random_object(clip, sentence)
                    alike[seed][clip.name, str(number)] = float(_has_similar_object(clip, sentence))
    if given.mean_of:
        those = [rows for name, rows in scores.items() if name.startswith(given.mean_of)]
        scores[f"mean of {len(those)} rows {given.mean_of}"] = _mean(those)
    scores["an object at random"] = chance
    for base in given.minus or [next(iter(scores))]:
        console.print(_table(scores, alike, base))


def _mean(rows: list[SeedScores]) -> SeedScores:
    """Sample by sample."""
    return {
        seed: {key: float(np.mean([row[seed][key] for row in rows])) for key in samples}
        for seed, samples in rows[0].items()
    }


def _random_object(clip: Clip, sentence: Sentence) -> float:
    """The mean J&F of the true masks of every object of the clip."""
    values = []
    for obj in np.unique(clip.ids_THW[clip.ids_THW > 0]):
        pairs = [(clip.mask(sentence.targets, t), clip.ids_THW[t] == obj) for t in range(len(clip.ids_THW))]
        counts_T6 = np.array([kernel.frame_counts(true_HW, object_HW) for true_HW, object_HW in pairs])
        values.append((kernel.j(counts_T6).mean() + kernel.f(counts_T6).mean()) / 2)
    return float(np.mean(values))


def _has_similar_object(clip: Clip, sentence: Sentence) -> bool:
    """Whether an object that is not meant differs from one that is in one of shape, colour and size."""
    appearances = {obj.id: (obj.shape, obj.colour, obj.size) for obj in clip.scene.objects}
    others = appearances.keys() - set(sentence.targets)
    pairs = itertools.product(sentence.targets, others)
    return any(
        sum(a != b for a, b in zip(appearances[one], appearances[other], strict=True)) == 1 for one, other in pairs
    )


def _table(scores: dict[str, SeedScores], alike: SeedScores, base: str) -> Table:
    count = int(sum(value for samples in alike.values() for value in samples.values()))
    heads = ("J&F", f"minus {base}, all seeds [95%]", f"with a look-alike ({count}) [95%]")
    table = Table("method", *heads, *(f"seed {seed}" for seed in alike))
    first = scores[base]
    for name, by_seed in scores.items():
        mean = np.mean([value for samples in by_seed.values() for value in samples.values()])
        gaps = {w: {key: by_seed[w][key] - value for key, value in first[w].items()} for w in alike}
        like = {w: {key: gap for key, gap in samples.items() if alike[w][key]} for w, samples in gaps.items()}
        table.add_row(
            name,
            f"{100 * mean:.1f}",
            *("" if by_seed is first else _difference(some) for some in (gaps, like)),
            *(f"{100 * np.mean(list(gaps[w].values())):+.1f}" for w in alike),
        )
    return table


def _difference(gaps: SeedScores) -> str:
    """The mean, and its interval over videos."""
    items = [
        Item(f"{seed} {video}", expression, "", gap, gap)
        for seed, samples in gaps.items()
        for (video, expression), gap in samples.items()
    ]
    interval = difference_interval(items, ("",))
    mean = f"{100 * np.mean([item.J_and_F for item in items]):+.1f}" if items else ""
    return mean if interval is None else f"{mean} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


if __name__ == "__main__":
    main()
