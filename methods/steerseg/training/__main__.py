"""``python -m rvosbench.methods.steerseg.training RECIPE [KEY=VALUE ...]``: the training alone.

For machines with torch and transformers but without Ray, MLflow and the command line's packages: one worker, nothing
mirrored, nothing drawn unless ``pictures=N`` asks for it. Resumes like ``rvosbench train steerseg``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.text import shown
from rvosbench.methods.steerseg.training.launch import folder_of, launch
from rvosbench.methods.steerseg.training.recipe import load_recipe
from rvosbench.methods.steerseg.training.report import report


def main() -> int:
    """Trains; 2 for what the user must fix."""
    parser = argparse.ArgumentParser(prog="python -m rvosbench.methods.steerseg.training", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    try:
        alone = ("workers.executor=inprocess", "workers.count=1")
        recipe = load_recipe(given.recipe, ("pictures=0", *given.overrides, *alone))
        launch(recipe, _say)
    except PrerequisiteError as error:
        print(shown(str(error)), file=sys.stderr)
        return 2
    for line in (*report(folder_of(recipe)), f"Prompts: {folder_of(recipe) / 'prompts'}"):
        _say(line)
    return 0


def _say(text: str) -> None:
    print(shown(text))


if __name__ == "__main__":
    sys.exit(main())
