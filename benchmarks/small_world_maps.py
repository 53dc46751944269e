"""Where the maps of a small trained model lie on the bundled world: raw or contrasted, one view or both, which heads.

    python benchmarks/small_world_maps.py [--checkpoint checkpoints/shapes/qwen2_5_vl] [--worlds 1 2 3] [--clips 6]

"Concentration" is the share of the fused map's mass on the target, "pointing" whether the map's highest cell lies on
it. A world is a seed of the valid split; both are printed for each, because what one world shows may be luck.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from toy.lvlm.inputs import training_settings
from toy.lvlm.lessons import held_out
from toy.lvlm.maps import ROWS, Placed, measure
from transformers.utils import logging

from rvosbench.methods.models.lvlm.load import load_lvlm


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/shapes/qwen2_5_vl"))
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clips", type=int, default=6)
    given = parser.parse_args()
    logging.disable_progress_bar()
    lvlm = load_lvlm(training_settings(given.checkpoint, "cpu"))
    by_world = {world: measure(lvlm, held_out(world, given.clips)) for world in given.worlds}
    table = Table("map", "expressions", "concentration, pointing", "by chance", *(f"world {w}" for w in given.worlds))
    for row in ROWS:
        placed = [one for world in by_world.values() for one in world[row]]
        table.add_row(
            row,
            str(len(placed)),
            _both(placed),
            f"{np.mean([one.chance for one in placed]):.3f}",
            *(_both(world[row]) for world in by_world.values()),
        )
    Console(width=120).print(table)


def _both(placed: list[Placed]) -> str:
    return ", ".join(f"{np.mean([getattr(one, name) for one in placed]):.3f}" for name in ("concentration", "pointing"))


if __name__ == "__main__":
    main()
