"""``python -m harness.data.shapes OUT --layout L --split S --seed N --videos K``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.data.shapes.layouts import LAYOUTS
from harness.data.shapes.write import write_shapes
from harness.errors import PrerequisiteError


def main(arguments: list[str] | None = None) -> int:
    """Writes a split and prints its folder; exit code 2 with one sentence when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m harness.data.shapes", description="Writes the bundled benchmark.")
    parser.add_argument("out", type=Path, help="data root; the benchmark's folder is made in it")
    parser.add_argument("--layout", default="shapes", help=f"one of {', '.join(LAYOUTS)} (default: shapes)")
    parser.add_argument("--split", default="valid", help="train, valid; mevis: also valid_u (default: valid)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=20)
    given = parser.parse_args(arguments)
    try:
        folder = write_shapes(given.out, layout=given.layout, split=given.split, seed=given.seed, videos=given.videos)
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
