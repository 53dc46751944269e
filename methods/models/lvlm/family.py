"""A family of vision-language models: everything about it that other code needs to know, in one object of one file.

The package's families are lines of ``BUILT_IN``; another package adds its own under the entry-point group
``rvosbench.families``, named after the ``model_type`` of the checkpoint's config.json:

    [project.entry-points."rvosbench.families"]
    my_vl = "my_package.my_vl:FAMILY"

Nothing outside a family's file asks which family a model is of. Planning a run reads families, so their files import
torch and transformers inside the functions that need them.

Shape legend: T frames, H W pixels, L sequence.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import PIL.Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.settings import CodeTable
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings, VisualTokens
from rvosbench.methods.models.lvlm.messages import Clip, Part, Text, Visual
from rvosbench.methods.models.lvlm.views import Views

if TYPE_CHECKING:
    from torch import Tensor

    from rvosbench.methods.models.lvlm.model import Lvlm

GROUP = "rvosbench.families"
Edge = Literal["bottom", "top", "left", "right"]
"""An edge of a map."""

BUILT_IN: CodeTable = {
    "internvl": "rvosbench.methods.models.lvlm.internvl:FAMILY",
    "llava": "rvosbench.methods.models.lvlm.llava:FAMILY",
    "llava_onevision": "rvosbench.methods.models.lvlm.llava_onevision:FAMILY",
    "qwen2_vl": "rvosbench.methods.models.lvlm.qwen2_vl:FAMILY",
    "qwen2_5_vl": "rvosbench.methods.models.lvlm.qwen2_5_vl:FAMILY",
    "qwen3_vl": "rvosbench.methods.models.lvlm.qwen3_vl:FAMILY",
}
"""``model_type`` -> ``module:attribute`` of the family's object."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a family makes of a chat."""

    inputs: Mapping[str, Tensor]
    """Keyword arguments of the model's forward pass; ``input_ids`` is (1, L)."""
    visuals: tuple[VisualTokens, ...]
    """Where the cells of every image and video stand, in the chat's order."""


class Family(ABC):
    """The definition of a family. Its objects hold no state of a model; methods are given the model they are about."""

    model_type: ClassVar[str]
    """``model_type`` of the checkpoint's config.json."""
    title: ClassVar[str]
    """The family's name for readers."""
    system_turn: ClassVar[str | None] = None
    """The system turn of a chat that has none; None: what the chat template does on its own."""
    takes_videos: ClassVar[bool] = True
    """Whether a chat can hold a video; False: images alone."""
    cuts_into_tiles: ClassVar[bool] = False
    """Whether a frame call cuts its frame into tiles."""
    lochead_prompt: ClassVar[Literal["expression", "role_free"]] = "expression"
    """The prompt that Loc-Head's "auto" stands for. Only a family with "role_free" can be given that prompt."""
    sink_edges: ClassVar[tuple[Edge, ...]] = ()
    """Edges of the map on which the attention sinks of this family lie, as far as papers state them."""
    server_frame_tokens: ClassVar[int] = 280
    """Largest number of tokens of a clip's frame on a server, text around the frame included."""

    @abstractmethod
    def views(self, config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
        """How many tokens the calls on ``frames`` H x W frames take; the text of the prompt is not counted.

        Args:
            config: the whole model's configuration, as transformers builds it.
            options: the sizes that can be chosen.
            frames, height, width: of the sampled clip, in pixels.
        """

    def empty_model(self, config: Mapping[str, Any]) -> Any:
        """The model that a config.json describes, on torch's meta device: shapes without weights.

        Raises:
            PrerequisiteError: transformers does not know the ``model_type``; such a family overrides this.
        """
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        values = dict(config)
        name = values.pop("model_type")
        try:
            described: Any = AutoConfig.for_model(name, **values)
        except ValueError as error:
            raise PrerequisiteError(
                f"transformers does not know the model type '{name}', so its parameters cannot be counted.",
                f"The family {self.title} must define empty_model.",
            ) from error
        factory: Any = AutoModelForImageTextToText
        with torch.device("meta"):
            return factory.from_config(described)

    @abstractmethod
    def load(self, folder: Path, settings: LvlmSettings) -> Lvlm:
        """The checkpoint in ``folder``, on its device.

        Raises:
            PrerequisiteError: the checkpoint is damaged, or its files disagree.
        """

    @abstractmethod
    def check(self, model: Any, processor: Any) -> None:
        """Compares the processor with the model.

        Raises:
            PrerequisiteError: they disagree about sizes or tokens.
        """

    @abstractmethod
    def placeholders(self, lvlm: Lvlm) -> tuple[str, ...]:
        """The texts that the processor or the model takes for an image or a video; no prompt may hold them."""

    @abstractmethod
    def prepare(self, lvlm: Lvlm, chat: str, visuals: Sequence[Visual]) -> Prepared:
        """The inputs of a chat that the template has rendered.

        Args:
            lvlm: the model.
            chat: its text, with a placeholder for every image and video.
            visuals: the images and videos in the chat's order; at most one video, of at least one frame, its frames of
                one size.

        Raises:
            SampleError: something cannot be shown.
            PrerequisiteError: the settings do not fit the checkpoint.
        """

    def template_content(self, parts: Sequence[Part], processor: Any) -> list[dict[str, str]]:
        """A turn's parts in the form that the chat template takes.

        Families whose template renders images before texts whatever their order override this.
        """
        return [template_item(part) for part in parts]

    def vision_marks(self, model: Any, processor: Any) -> frozenset[int]:
        """Ids of the tokens that stand right before and right behind an image, where the family has such."""
        return frozenset()

    def server_clip(
        self, frames: Sequence[FrameHW3], config: Mapping[str, Any], options: LvlmOptions
    ) -> list[PIL.Image.Image]:
        """The frames of a clip as a model server must be sent them, so that it sees the pixels that the local model
        sees.

        Args:
            frames: T frames of one size.
            config: as in config.json.
            options: the sizes that can be chosen.
        """
        return [PIL.Image.fromarray(frame) for frame in frames]

    def server_frame_limit(self, options: LvlmOptions) -> int:
        """Largest number of tokens of a clip's frame on a server."""
        return self.server_frame_tokens

    def server_frame_rate(self, config: Mapping[str, Any], options: LvlmOptions) -> float | None:
        """Frames per second that a server must be given for a clip; None: the family is given no times."""
        return None


def template_item(part: Part) -> dict[str, str]:
    """A part in the form that chat templates take."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "video" if isinstance(part, Clip) else "image"}


def family_names() -> list[str]:
    """The ``model_type`` of every family there is, sorted; imports nothing.

    Raises:
        PrerequisiteError: two packages define one family.
    """
    return sorted(_known(tuple(sys.path)))


def find_family(model_type: str) -> Family:
    """The family of a ``model_type``.

    Raises:
        PrerequisiteError: there is none, with the nearest name; or it cannot be imported, or is no ``Family``.
    """
    code = family_code(model_type)
    module, _, attribute = code.partition(":")
    try:
        family = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PrerequisiteError(
            f"Model family '{model_type}' ({code}) cannot be imported: {error}.",
            "Install what its package needs, or correct the entry point.",
        ) from error
    if not isinstance(family, Family) or family.model_type != model_type:
        raise PrerequisiteError(
            f"{code} is not the model family '{model_type}'.",
            f"Its entry point in the group {GROUP} must name a Family with that model_type.",
        )
    return family


def family_code(model_type: str) -> str:
    """``module:attribute`` of a family's object.

    Raises:
        PrerequisiteError: there is no such family, with the nearest name.
    """
    known = _known(tuple(sys.path))
    if model_type not in known:
        raise PrerequisiteError(f"There is no model family '{model_type}'.", nearest_name(model_type, known))
    return known[model_type]


@cache
def _known(_path: tuple[str, ...]) -> dict[str, str]:
    # The search path is the key, because a package may be added to it while Python runs.
    known = dict(BUILT_IN)
    for entry in entry_points(group=GROUP):
        if known.setdefault(entry.name, entry.value) != entry.value:
            raise PrerequisiteError(
                f"Two model families are called '{entry.name}': {known[entry.name]} and {entry.value}.",
                "Uninstall one of the packages that provide them.",
            )
    return known
