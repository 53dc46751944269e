"""The chain-of-thought attributes that prompts are trained with: read from a file, or asked of the frozen model once.

T: keyframes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rvosbench.harness.data.parsing import load_json
from rvosbench.harness.data.types import Expression, FrameHW3, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.stages import Request
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.reason import reason_stage
from rvosbench.methods.steerseg.training.files import ATTRIBUTES, TrainingFolder
from rvosbench.methods.steerseg.training.lessons import Attributes
from rvosbench.methods.steerseg.training.recipe import TrainRecipe
from rvosbench.methods.steerseg.training.sources import Source, open_source

_ASKED = "asked.jsonl"
"""What was asked so far, one line an expression."""


def attributes_of(recipe: TrainRecipe, path: Path) -> Attributes:
    """By "video/expression id", the attributes that the recipe trains with; empty without any.

    Args:
        recipe: says where they come from.
        path: the training's folder.

    Raises:
        PrerequisiteError: the file is missing or damaged.
    """
    if recipe.attributes.source == "none":
        return {}
    return read_attributes(recipe.attributes.file or path / ATTRIBUTES)


def ask_attributes(recipe: TrainRecipe, path: Path, say: Callable[[str], None]) -> None:
    """Asks the model about every expression and keeps what it says in the folder; what is there is not asked again.

    Raises:
        PrerequisiteError: the model or the data is missing or damaged.
    """
    folder = TrainingFolder(path)
    if recipe.attributes.source != "reason" or (path / ATTRIBUTES).is_file():
        return
    source = open_source(recipe.data, recipe.data_root, recipe.runs / "media-index", recipe.keyframes)
    known = {line["sample"]: json.loads(line["attributes"]) for line in folder.lines(_ASKED)}
    todo = [
        (video, requests)
        for video in source.videos
        if (requests := [said for said in _expressions(source, video) if f"{video}/{said.id}" not in known])
    ]
    if todo:
        settings = lvlm_settings(recipe.lvlm, **vars(recipe.options))
        stage = reason_stage(recipe.attributes.reasoning, settings).build()
    for done, (video, expressions) in enumerate(todo):
        say(f"attributes: {done} of {len(todo)} videos asked")
        shown = _Shown(video, source, recipe)
        for index, outcome in stage.run(shown, [Request(said, {}) for said in expressions]):
            if isinstance(outcome, SampleError):
                raise PrerequisiteError(
                    f"The model cannot be asked about video '{video}': {outcome}.", "Correct it, or leave it out."
                )
            key = f"{video}/{expressions[index].id}"
            known[key] = outcome.meta["attributes"]
            folder.append(_ASKED, {"sample": key, "attributes": json.dumps(known[key])})
    folder.replace(ATTRIBUTES, json.dumps(known, indent=0, ensure_ascii=False, sort_keys=True).encode())


def read_attributes(path: Path) -> Attributes:
    """A file of attributes.

    Raises:
        PrerequisiteError: missing, or not of the expected form.
    """
    fix = 'Give a JSON file: {"video/expression id": ["attribute", ...]}.'
    raw = load_json(path)
    if not isinstance(raw, dict) or not all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in raw.values()
    ):
        raise PrerequisiteError(f"{path} does not hold attributes.", fix)
    return {str(key): tuple(texts) for key, texts in raw.items()}


class _Shown:
    """A training video as the reason stage takes it: its keyframes alone."""

    def __init__(self, name: str, source: Source, recipe: TrainRecipe) -> None:
        self._frames = source.frames(name)
        self.video = Video(recipe.data.name, recipe.data.split, name, (), (), _expressions(source, name))

    @property
    def size(self) -> tuple[int, int]:
        height, width = self._frames[0].shape[:2]
        return height, width

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> FrameHW3:
        return self._frames[index]


def _expressions(source: Source, video: str) -> tuple[Expression, ...]:
    return tuple(Expression(said.id, said.text) for said in source.expressions(video))
