"""Where the maps of a small trained model lie on the synthetic dataset: raw or contrasted, one view or both, which
heads.

    python benchmarks/synthetic_maps.py [--checkpoint checkpoints/shapes/qwen2_5_vl] [--seeds 1 2 3] [--clips 6]

"Concentration" is the fraction of the fused map's mass on the target, "pointing" whether the map's highest cell lies on
it. A seed selects clips of the valid split; both are printed for each, because a margin on one seed may be chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from toy.lvlm.examples import held_out
from toy.lvlm.inputs import training_settings
from toy.lvlm.maps import ROWS, Placed, measure
from transformers.utils import logging

from rvosbench.methods.models.lvlm.load import load_lvlm


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/shapes/qwen2_5_vl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clips", type=int, default=6)
    given = parser.parse_args()
    logging.disable_progress_bar()
    lvlm = load_lvlm(training_settings(given.checkpoint, "cpu"))
    by_seed = {seed: measure(lvlm, held_out(seed, given.clips)) for seed in given.seeds}
    table = Table("map", "expressions", "concentration, pointing", "by chance", *(f"seed {w}" for w in given.seeds))
    for row in ROWS:
        placed = [one for seed in by_seed.values() for one in seed[row]]
        table.add_row(
            row,
            str(len(placed)),
            _both(placed),
            f"{np.mean([one.chance for one in placed]):.3f}",
            *(_both(seed[row]) for seed in by_seed.values()),
        )
    Console(width=120).print(table)


def _both(placed: list[Placed]) -> str:
    return ", ".join(f"{np.mean([getattr(one, name) for one in placed]):.3f}" for name in ("concentration", "pointing"))


if __name__ == "__main__":
    main()
