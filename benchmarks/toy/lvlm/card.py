"""The model card of a trained small checkpoint: what it is, how it was made, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rvosbench.harness.settings import Json

CARD = "README.md"

_HEAD = """\
# Small {name} of the shapes dataset

A small model of the real class `{model_class}`, trained on the train split of the bundled shapes benchmark and on
nothing else, by

    {command}

It exists to prove and to teach the harness on a laptop. Its numbers say nothing about released models.
"""
_QUALITY = """
Held-out clips (valid split, {clips} of them). Captions: share of right tokens; all others: answers that are right word
for word under greedy decoding.

| question | right | asked |
| --- | --- | --- |
{answers}

Where the raw rollout of the object prompt points (V-Max, upper half of the layers; no background, no soft prompt):

| view | highest cell on the target | by chance | mass on the target | prompts |
| --- | --- | --- | --- | --- |
{pointing}
"""


def write_card(folder: Path, facts: Mapping[str, Json]) -> None:
    """Writes ``README.md``: the facts as front matter for programs, then the same for people.

    Args:
        facts: with ``model_class`` and ``command``; ``quality`` once it is measured (``evaluate.evaluate_checkpoint``).
    """
    front = yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True, width=110)
    text = _HEAD.format(name=folder.name, model_class=facts["model_class"], command=facts["command"])
    quality: Any = facts.get("quality")
    if quality is not None:
        text += _QUALITY.format(
            clips=quality["clips"],
            answers="\n".join(
                f"| {name} | {fraction:.3f} | {quality['asked'][name]} |"
                for name, fraction in quality["answers"].items()
            ),
            pointing="\n".join(
                f"| {view} | {p['hits']:.3f} | {p['chance']:.3f} | {p['mass']:.3f} | {p['prompts']} |"
                for view, p in quality["pointing"].items()
            ),
        )
    (folder / CARD).write_text(f"---\n{front}---\n\n{text}", encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of a checkpoint's card."""
    _, front, _ = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    facts: dict[str, Any] = yaml.safe_load(front)
    return facts
