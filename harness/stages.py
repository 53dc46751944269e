"""What a stage is: a pure function from a video and its expressions to artefacts.

Flow: reason -> ground -> segment -> score; a method may add stages of its own. A stage knows nothing of Ray, MLflow or
folders, and its results must not depend on which expressions were grouped into one call.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, TypeVar

from rvosbench.harness.data.types import Expression, FrameHW3, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.plugins import load_file, module_name
from rvosbench.harness.servers import ModelServer, Servers
from rvosbench.harness.settings import Json, Settings, identity_of, uses_of
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.code import Code, code_of


@dataclass(frozen=True)
class Request:
    """One expression to process, with the artefacts of the stages before."""

    expression: Expression
    inputs: Mapping[str, Artefact]
    """By stage name, e.g. ``inputs["ground"]``."""


Outcome = Artefact | SampleError


class VideoFrames(Protocol):
    """A video whose frames are decoded once and shared by all its expressions."""

    @property
    def video(self) -> Video: ...

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames. Raises SampleError when they differ or cannot be read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> FrameHW3:
        """Frame ``index`` as (H, W, 3) uint8 RGB. Raises SampleError naming an unreadable file."""
        ...


class Stage(Protocol):
    """Loaded once per worker, then called once per video."""

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yields ``(index into requests, artefact or error)``, each request exactly once, as they finish."""
        ...


_ALWAYS_USED = ("rvosbench.harness.data.frames:DecodedFrames",)
"""What computes with every stage: how frames are decoded."""
_SERVER_PACKAGES = ("vllm",)
"""What answers where a stage asks a model server."""


@dataclass(frozen=True)
class StageSpec:
    """How a worker builds a stage: pickled to workers, hashed into artefact keys."""

    name: str
    """Any name of small letters, digits and underscores; the stage that writes mask tracks is called "segment"."""
    factory: str
    """``module:callable``; called with ``settings`` (and ``servers``, where it needs a server), returns a Stage."""
    settings: Settings
    consumes: tuple[str, ...] = ()
    """Names of the stages whose artefacts it reads."""
    server: ModelServer | None = None
    """The model server that must run while the stage does. Not identity: the settings say which model is asked."""
    servers: Servers | None = None
    """Filled in by the engine once they run."""
    driver_code: Code | None = None
    """What computes the stage on the machine that planned it; filled in by the engine, compared by workers."""
    file: Path | None = None
    """The file of the method, where a recipe names one; filled in by the engine."""

    def identity(self) -> dict[str, Json]:
        """What of it changes results, as plain JSON: no runtime settings, and not the code."""
        return {"stage": self.name, "factory": self._factory_name(), "settings": identity_of(self.settings)}

    def code(self) -> Code:
        """What computes the stage: the source that its factory reaches and the packages behind it.

        Raises:
            PrerequisiteError: the factory's module does not exist.
        """
        files = () if self.file is None else ((module_name(self.file), self.file),)
        packages = () if self.server is None else _SERVER_PACKAGES
        return code_of((self._factory(), *uses_of(self.settings), *_ALWAYS_USED), packages, files)

    def build(self) -> Stage:
        """Imports the factory and builds the stage (loads models)."""
        if self.file is not None:
            load_file(self.file)
        module, _, attribute = self._factory().partition(":")
        factory: Callable[..., Stage] = getattr(importlib.import_module(module), attribute)
        return factory(self.settings) if self.server is None else factory(self.settings, self.servers)

    def __reduce__(self) -> tuple[Callable[..., StageSpec], tuple[Path | None, bytes]]:
        """The settings' class may lie in the method's file, which a worker loads before it can read them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _unpickled, (self.file, pickle.dumps(values))

    def _factory(self) -> str:
        """The factory with the module's real name: a method's file may call itself by its file name."""
        module, colon, attribute = self.factory.partition(":")
        if self.file is not None and module == self.file.stem:
            module = module_name(self.file)
        return f"{module}{colon}{attribute}"

    def _factory_name(self) -> str:
        """The factory without the place of its file, which may move."""
        factory = self._factory()
        return factory if self.file is None else factory.replace(module_name(self.file), self.file.name)


def _unpickled(file: Path | None, values: bytes) -> StageSpec:
    if file is not None:
        load_file(file)
    return StageSpec(**pickle.loads(values))


SettingsT = TypeVar("SettingsT", bound=Settings)


class Method(Protocol[SettingsT]):
    """A registered method: turns validated settings into stages."""

    name: str
    title: str
    """As printed in tables, e.g. "DecAF"."""
    paper: str
    settings_type: type[SettingsT]
    needs_lvlm: bool

    def stages(self, settings: SettingsT, lvlm: str | None) -> tuple[StageSpec, ...]:
        """The method's stages in order; the last one writes mask tracks (see ``segment_artefact``).

        ``lvlm`` is a hub name (``owner/name`` or ``owner/name@revision``) or a local folder.

        Raises:
            PrerequisiteError: a checkpoint is missing or unsupported.
        """
        ...

    def memory(self, settings: SettingsT, lvlm: str | None, size: tuple[int, int]) -> str:
        """What a worker needs for frames of ``size`` (H, W), in one sentence, from configurations alone; "" if nothing.

        Raises:
            PrerequisiteError: the model's configuration is not to be had.
        """
        ...


def required_lvlm(lvlm: str | None, title: str) -> str:
    """The model that a method with ``needs_lvlm`` was given.

    Raises:
        PrerequisiteError: none was.
    """
    if lvlm is None:
        raise PrerequisiteError(f"{title} needs a vision-language model.", "Name one under lvlms in the recipe.")
    return lvlm


def one_by_one(requests: Sequence[Request], function: Callable[[Request], Artefact]) -> Iterator[tuple[int, Outcome]]:
    """Runs requests separately; a SampleError of one leaves the others alone."""
    for index, request in enumerate(requests):
        try:
            yield index, function(request)
        except SampleError as error:
            yield index, error
