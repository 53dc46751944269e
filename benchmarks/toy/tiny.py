"""``python -m toy.tiny FOLDER``: small random checkpoints of every supported architecture.

They make the whole path run on a laptop. Untrained: they prove the path, not the accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers.utils import logging

from toy.tiny_qwen import small_families
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2


def main() -> None:
    """Writes ``FOLDER/<family>`` for every LVLM family and ``FOLDER/sam2``; equal seeds give equal bytes."""
    parser = argparse.ArgumentParser(prog="python -m toy.tiny", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for family in small_families():
        print(write_small_lvlm(family, given.folder / family, given.seed))
    print(write_small_sam2(given.folder / "sam2", given.seed))


if __name__ == "__main__":
    main()
