"""What trained soft prompts do to the maps of clips nobody trained on: without one, untrained, and trained.

    python benchmarks/soft_prompt_maps.py [--prompts FOLDER ...] [--worlds 4 5 6 7 8 9] [--clips 4]

"Untrained" are the vectors that the training of the first folder began with. Loss, concentration (the map's mass on the
target) and pointing (its highest cell there) are means over the calls by which training judges a prompt; differences
have intervals with videos resampled, and the last row is the mean of all trained prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from rvosbench.harness.scoring.statistics import Item, difference_interval
from rvosbench.methods.steerseg.training.evaluation import UNTRAINED, WITHOUT, EvalResults, PromptEvaluator
from rvosbench.methods.steerseg.training.recipe import View

SHAPES = Path("checkpoints/shapes/steerseg")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [SHAPES / "qwen2_5_vl", SHAPES / "seeds" / "1", SHAPES / "seeds" / "2"]
    parser.add_argument("--prompts", type=Path, nargs="+", default=default)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6, 7, 8, 9])
    parser.add_argument("--clips", type=int, default=4)
    given = parser.parse_args()
    logging.disable_progress_bar()
    evaluator = PromptEvaluator({f"trained, {folder.name}": folder for folder in given.prompts})
    views: tuple[View, ...] = ("clip", "frame")
    for view in views:
        rows: dict[str, EvalResults] = {}
        for seed in given.seeds:
            for name, results in evaluator.evaluate(view, seed, given.clips).items():
                rows.setdefault(name, {}).update(results)
        Console(width=140).print(_table(view, rows))


def _table(view: View, rows: dict[str, EvalResults]) -> Table:
    names = ("loss", "concentration", "pointing")
    trained = [values for name, values in rows.items() if name not in (WITHOUT, UNTRAINED)]
    table = Table(
        f"{view} calls ({len(rows[WITHOUT])})", *(f"{name}, minus without, minus untrained" for name in names)
    )
    for label, values in rows.items():
        table.add_row(label, *(_cell([values], rows, name) for name in names))
    table.add_row("mean of the trained", *(_cell(trained, rows, name) for name in names))
    return table


def _cell(some: list[EvalResults], rows: dict[str, EvalResults], name: str) -> str:
    value = {key: float(np.mean([getattr(row[key], name) for row in some])) for key in rows[WITHOUT]}
    words = [f"{np.mean(list(value.values())):.3f}"]
    for base in (rows[WITHOUT], rows[UNTRAINED]):
        gaps = {key: mine - float(getattr(base[key], name)) for key, mine in value.items()}
        if any(gaps.values()):
            items = [Item(video, call, "", gap, gap) for (video, call), gap in gaps.items()]
            interval = difference_interval(items, ("",))
            between = "" if interval is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
            words.append(f"{np.mean(list(gaps.values())):+.3f}{between}")
    return "\n".join(words)


if __name__ == "__main__":
    main()
