"""What a line of the table needs, and what of it is missing. Looks, downloads nothing, imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.lochead.heads import find_heads, read_heads
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import Checkpoint, find, is_here
from rvosbench.methods.models.sam2.checkpoints import require_on_hub, resolve
from rvosbench.methods.reproduce.cost import Size
from rvosbench.methods.reproduce.table import Line
from rvosbench.methods.reproduce.world import SHAPES_SPLIT, World
from rvosbench.methods.steerseg.prompt_files import SoftPromptSettings, read_card, with_digest


@dataclass(frozen=True)
class Piece:
    """Something that a run needs."""

    what: str
    """"ReVOS", "heads of Qwen2VL-7B"."""
    problem: str = ""
    """What is wrong with it; "" where nothing is."""
    fix: str = ""
    comes: str = ""
    """How it comes by itself when a run starts; "" where it is here, or cannot."""


class Pieces:
    """Looks for the pieces of a world, each once."""

    def __init__(self, world: World, data_root: Path) -> None:
        self.world = world
        self.data_root = data_root
        self._seen: dict[tuple[str, str], Piece] = {}
        self._datasets: dict[str, Dataset | PrerequisiteError] = {}

    def of(self, line: Line, dataset: str) -> list[Piece]:
        """Everything that a line needs on a benchmark; a line the world does not know needs just that."""
        world = self.world
        if line.lvlm not in world.lvlms:
            fix = f"Add {line.lvlm} under lvlms in the world file."
            return [Piece(line.lvlm, f"The world names no checkpoint for {line.lvlm}.", fix)]
        if dataset not in world.datasets:
            return [Piece(dataset, f"The world names no data for {dataset}.", f"Add {dataset} under datasets.")]
        out = [
            self._once("data", dataset, lambda: self._data(dataset)),
            self._once("checkpoint", line.lvlm, lambda: self._checkpoint(line.lvlm)),
            self._once("sam2", "", self._sam2),
        ]
        method = world.methods[line.method].method
        if method == "lochead":
            out.append(self._once("heads", line.lvlm, lambda: self._heads(line.lvlm)))
        if method == "steerseg":
            out.append(self._once("prompts", line.lvlm, lambda: self._prompts(line.lvlm)))
        return out

    def size(self, dataset: str) -> Size | None:
        """How much of a benchmark there is: on disk, else as the world assumes, else None."""
        opened = self._opened(dataset)
        if isinstance(opened, PrerequisiteError):
            return self.world.cost.sizes.get(dataset) if self.world.cost else None
        limit = self.world.datasets[dataset].limit_videos
        videos = opened.videos[:limit]
        samples = sum(len(video.expressions) for video in videos)
        return Size(videos=len(videos), samples=samples, frames=sum(len(video.frames) for video in videos))

    def _once(self, kind: str, name: str, look: Callable[[], Piece]) -> Piece:
        if (kind, name) not in self._seen:
            self._seen[kind, name] = look()
        return self._seen[kind, name]

    def _opened(self, dataset: str) -> Dataset | PrerequisiteError:
        if dataset not in self._datasets:
            place = self.world.datasets[dataset]
            try:
                self._datasets[dataset] = open_dataset(place.name, self.data_root, place.split)
            except PrerequisiteError as error:
                self._datasets[dataset] = error
        return self._datasets[dataset]

    def _data(self, dataset: str) -> Piece:
        opened = self._opened(dataset)
        if isinstance(opened, PrerequisiteError):
            if self.world.shapes is not None:
                shapes, layout = self.world.shapes, self.world.datasets[dataset].layout
                return Piece(
                    dataset,
                    comes=f"{shapes.videos} videos of the bundled world are written in the layout {layout} "
                    f"({SHAPES_SPLIT}, seed {shapes.seed})",
                )
            return Piece(dataset, opened.problem, opened.fix)
        if opened.ground_truth is None:
            return Piece(dataset, f"{dataset} has no masks below {self.data_root}.", opened.card.obtain)
        return Piece(dataset)

    def _checkpoint(self, lvlm: str) -> Piece:
        checkpoint = self.world.lvlms[lvlm].checkpoint
        found = self._found(lvlm)
        if isinstance(found, PrerequisiteError):
            return Piece(checkpoint, found.problem, found.fix)
        if not is_here(checkpoint, found.digest):
            return Piece(checkpoint, comes="downloaded from the hub")
        return Piece(checkpoint)

    def _sam2(self) -> Piece:
        what = f"SAM2 {self.world.sam2}"
        try:
            resolve(self.world.sam2, download=False)
            return Piece(what)
        except PrerequisiteError as error:
            absent = error
        try:
            require_on_hub(self.world.sam2)
        except PrerequisiteError:
            return Piece(what, absent.problem, absent.fix)
        return Piece(what, comes="downloaded from the hub")

    def _heads(self, lvlm: str) -> Piece:
        what, model = f"localization heads of {lvlm}", self.world.lvlms[lvlm]
        where = model.heads or "HEADS.json"
        command = f"rvosbench calibrate lochead --lvlm {model.checkpoint} --dataset NAME"
        fix = f"Find them: {command} --out {where if where.endswith('.json') else f'{where}/{lvlm}.json'}"
        if model.heads is None:
            return Piece(what, f"The world names no heads for {lvlm}.", f"{fix}; then name them in the world.")
        found = self._found(lvlm)
        try:
            if not isinstance(found, PrerequisiteError):
                find_heads(model.heads, LvlmSettings(checkpoint=model.checkpoint, digest=found.digest))
            elif model.heads.endswith(".json"):
                # Of which checkpoint they are cannot be seen without it.
                read_heads(Path(model.heads).expanduser())
            elif "/" in model.heads and not any(Path(model.heads).expanduser().glob("*.json")):
                return Piece(what, f"There are no heads files in {model.heads}.", fix)
        except PrerequisiteError as error:
            return Piece(what, error.problem, fix)
        return Piece(what)

    def _prompts(self, lvlm: str) -> Piece:
        what, model = f"soft prompts of {lvlm}", self.world.lvlms[lvlm]
        fix = (
            f"Train them (rvosbench train steerseg RECIPE) with {model.checkpoint}, and name their folder in the world."
        )
        if model.soft_prompts is None:
            return Piece(what, f"The world names no soft prompts for {lvlm}.", fix)
        try:
            with_digest(SoftPromptSettings(folder=model.soft_prompts))
            base = read_card(Path(model.soft_prompts).expanduser()).base_model
        except PrerequisiteError as error:
            return Piece(what, error.problem, fix)
        found = self._found(lvlm)
        if not isinstance(found, PrerequisiteError) and base.digest != found.digest:
            return Piece(
                what, f"The soft prompts in {model.soft_prompts} were trained for {base.name}, another checkpoint.", fix
            )
        return Piece(what)

    def _found(self, lvlm: str) -> Checkpoint | PrerequisiteError:
        return self._checkpoints[lvlm]

    @cached_property
    def _checkpoints(self) -> dict[str, Checkpoint | PrerequisiteError]:
        out: dict[str, Checkpoint | PrerequisiteError] = {}
        for name, lvlm in self.world.lvlms.items():
            try:
                out[name] = find(lvlm.checkpoint)
            except PrerequisiteError as error:
                out[name] = error
        return out
