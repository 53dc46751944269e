"""What a method may ask of a vision-language model, whatever its family. No torch is imported here.

A family is one file that builds ``Prompted`` inputs (see ``load.FAMILIES``); everything else is shared.

Shape legend: L sequence, T frames, t h w merged visual token grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.methods.attention.spec import RolloutSpec

if TYPE_CHECKING:
    import torch

    from rvosbench.methods.models.lvlm.soft import SoftPrompt

Grid = tuple[int, int, int]
"""Merged visual tokens (t, h, w): what the language model sees."""
MapThw = NDArray[np.float32]
"""Rollout values on the visual grid, (t, h, w) float32, not normalised."""


@dataclass(frozen=True, kw_only=True)
class LvlmOptions(Settings):
    """How a model runs and sees images, whichever it is. Defaults are those of DecAF's released scripts."""

    dtype: Literal["bfloat16", "float16", "float32"] = identity("bfloat16")
    """Of weights and activations. Rollout itself is float32 always."""
    attention: Literal["sdpa", "eager"] = identity("sdpa")
    """Attention kernel of the forward pass; on CUDA, "sdpa" picks a flash kernel."""
    max_new_tokens: int = identity(128)
    """Longest answer."""
    clip_max_tokens: int = identity(400)
    """Most visual tokens of one clip frame: a frame is shrunk to at most this many times (patch x merge)^2 pixels."""
    clip_min_tokens: int = identity(4)
    """Fewest, same unit."""
    frame_scale: int = identity(2)
    """Qwen: a frame call's grid is the clip's grid times this, in height and in width. InternVL3 and LLaVA-OneVision,
    which cut frames into tiles: above 1, as many tiles as the checkpoint gives a frame of its size; 1, one tile."""
    extra_tokens: Literal["keep", "drop"] = identity("keep")
    """LLaVA-OneVision: whether the tokens that are no cell of the map (a frame call's base picture, the newlines of
    both calls) stand in the sequence. "keep" is the model as released, "drop" the change that DecAF's code makes."""
    seconds_per_grid: float = identity(1.0)
    """Qwen2.5-VL: time between temporal grid steps as told to the model. The reference passes no frame rate, so its
    processor assumes 2 frames a second with 2 frames to a step, whatever the real sampling."""
    device: str = runtime("auto")
    """"auto" (CUDA when there is one), "cpu", "cuda", "cuda:1"."""
    frame_batch: int = runtime(4)
    """Frame calls computed together. Rounding may differ between batch sizes, nothing else."""
    prefix_bytes: int = runtime(4 * 2**30)
    """Where prompts share what comes before them: most bytes of keys, values and queries kept at a time. Fewer frames
    are then computed together; if one view takes more, nothing of it is shared. Rounding may differ, nothing else."""
    prefix_stack: int = runtime(32)
    """Prompts rolled out together over a shared prefix, a multiple of 8; what is kept of each of them comes on top of
    ``prefix_bytes``. Rounding may differ between sizes, nothing else."""

    def __post_init__(self) -> None:
        sizes = ("max_new_tokens", "clip_max_tokens", "clip_min_tokens", "frame_scale", "frame_batch")
        for name in (*sizes, "prefix_bytes", "prefix_stack"):
            if getattr(self, name) < 1:
                raise PrerequisiteError(f"{name} is {getattr(self, name)}.", "Choose at least 1.")
        if self.prefix_stack % 8:
            raise PrerequisiteError(f"prefix_stack is {self.prefix_stack}.", "Choose a multiple of 8.")
        if self.extra_tokens not in ("keep", "drop"):
            raise PrerequisiteError(f"extra_tokens is '{self.extra_tokens}'.", "Choose keep or drop.")
        if self.seconds_per_grid <= 0:
            raise PrerequisiteError(f"seconds_per_grid is {self.seconds_per_grid}.", "Choose a positive time.")


@dataclass(frozen=True)
class LvlmSettings(LvlmOptions):
    """Which model, and how it runs.

    Build it with ``rvosbench.methods.models.lvlm.checkpoints.lvlm_settings``, which fills ``digest``.
    """

    checkpoint: str = runtime()
    """Local folder, or hub name ``owner/name`` or ``owner/name@revision``. Not identity: a folder may move."""
    digest: str = identity()
    """What the checkpoint holds: a digest of the folder's files, or ``owner/name@commit``."""
    family: str = runtime("")
    """``model_type`` of the checkpoint, which the digest decides; "" where it was not looked up."""

    def uses(self) -> tuple[str, ...]:
        """The family's file: an artefact of one family does not depend on the files of the others."""
        from rvosbench.methods.models.lvlm.load import FAMILIES

        return (FAMILIES[self.family],) if self.family else ()


@dataclass(frozen=True, eq=False)
class Prompted:
    """One prompt as the model takes it, on the CPU, batch of one."""

    inputs: Mapping[str, torch.Tensor]
    """Keyword arguments of the model's forward pass; ``input_ids`` is (1, L)."""
    visual_L: torch.Tensor
    """True at the visual tokens, (L,) bool."""
    grid: Grid | None
    """Their grid; None for a text prompt."""
    response: int
    """Position whose output predicts the first answer token: L - 1."""
    order_n: torch.Tensor | None = None
    """Cell by cell in row-major (t, h, w) order, which of the visual tokens along L shows it, (t h w,) int64; None:
    they stand in that order."""
    soft: SoftPrompt | None = None
    """What its soft tokens stand for (see ``rvosbench.methods.models.lvlm.soft``); None: it has none."""

    @property
    def length(self) -> int:
        """L."""
        return self.response + 1

    def on_grid(self, row_L: torch.Tensor) -> torch.Tensor:
        """The visual tokens' values of a row (..., L), on their grid: (..., t, h, w).

        Raises:
            ValueError: a text prompt.
        """
        if self.grid is None:
            raise ValueError("a text prompt has no visual tokens")
        visual_n = row_L[..., self.visual_L.to(row_L.device)]
        if self.order_n is not None:
            visual_n = visual_n[..., self.order_n.to(row_L.device)]
        return visual_n.reshape(*row_L.shape[:-1], *self.grid)


@dataclass(frozen=True, eq=False)
class Reading:
    """Answer and rollout of one prompt from a single prefill."""

    answer: str
    map_thw: MapThw


class Lvlm(Protocol):
    """A loaded model. Greedy and deterministic; used by one thread at a time.

    The plural methods take prompts of any lengths and views; those of equal shape are computed together, at most
    ``frame_batch`` at a time, so that no padding ever enters.
    """

    @property
    def family(self) -> str:
        """The checkpoint's ``model_type``."""
        ...

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        ...

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> Prompted:
        """All frames as one video, then the prompt.

        Raises:
            SampleError: no frames, frames of different sizes, or a sequence longer than the model's limit.
        """
        ...

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> Prompted:
        """One frame as an image, as ``frame_scale`` says, beside the grid its clip had (``clip(...).grid``)."""
        ...

    def text(self, prompt: str) -> Prompted:
        """The prompt alone."""
        ...

    def answer(self, prompted: Prompted) -> str:
        """Greedy answer, special tokens removed, otherwise as generated."""
        ...

    def answers(self, prompted: Sequence[Prompted]) -> list[str]: ...

    def rollout(self, prompted: Prompted, spec: RolloutSpec) -> MapThw:
        """Rolled-out attention of the response position to the visual tokens, (t, h, w) float32; prefill only.

        Raises:
            ValueError: a text prompt.
        """
        ...

    def rollouts(self, prompted: Sequence[Prompted], spec: RolloutSpec) -> list[MapThw]: ...

    def readings(self, prompted: Sequence[Prompted], spec: RolloutSpec) -> list[Reading]:
        """``answers`` and ``rollouts`` of the same prompts, for the cost of one prefill."""
        ...
