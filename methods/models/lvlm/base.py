"""The settings of a vision-language model and the inputs it is given, whatever its family. No torch is imported here.

Shape legend: L sequence, T frames, t h w merged visual token grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings, identity, runtime

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
    """Number type of weights and activations. The rollout itself is computed in float32 always."""
    attention: Literal["sdpa", "eager"] = identity("sdpa")
    """Attention kernel of the forward pass; on CUDA, "sdpa" picks a flash kernel."""
    max_new_tokens: int = identity(128)
    """Longest answer, in tokens, of a call that does not state its own limit."""
    clip_max_tokens: int = identity(400)
    """Largest number of visual tokens of one clip frame, for families that resize frames freely: a frame is shrunk to
    at most this many times (patch x merge)^2 pixels."""
    clip_min_tokens: int = identity(4)
    """Smallest number of visual tokens of one clip frame, for families that resize frames freely."""
    frame_scale: int = identity(2)
    """Size of a frame call. Families that resize frames freely: the clip's grid times this, in height and in width.
    Families that cut frames into tiles: above 1, as many tiles as the checkpoint gives a frame of its size; 1, one
    tile."""
    extra_tokens: Literal["keep", "drop"] = identity("keep")
    """LLaVA-OneVision: whether the tokens that are no cell of the map (a frame call's base image, the newlines of both
    calls) stand in the sequence. "keep" is the model as released, "drop" the change that DecAF's code makes."""
    seconds_per_grid: float = identity(1.0)
    """Time between temporal grid steps, in seconds, in families that are given times (Qwen2.5-VL, Qwen3-VL). DecAF's
    code passes no frame rate, so its processor assumes 2 frames a second with 2 frames to a step, whatever the real
    sampling."""
    device: str = runtime("auto")
    """Device of the model: "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:1"."""
    frame_batch: int = runtime(4)
    """Number of frame calls computed together. Rounding may differ between batch sizes, nothing else."""
    prefix_bytes: int = runtime(4 * 2**30)
    """Largest number of bytes of keys, values and queries kept at a time where prompts share a visual prefix. Fewer
    frames are then computed together; if one view takes more, nothing of it is shared. Rounding may differ, nothing
    else."""
    prefix_stack: int = runtime(32)
    """Number of prompts rolled out together over a shared prefix, a multiple of 8; what is kept of each of them comes
    on top of ``prefix_bytes``. Rounding may differ between sizes, nothing else."""

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
    """The checkpoint's local folder, or its hub name ``owner/name`` or ``owner/name@revision``. Not identity: a folder
    may move."""
    digest: str = identity()
    """Content of the checkpoint: a digest of the folder's files, or ``owner/name@commit``."""
    family: str = runtime("")
    """``model_type`` of the checkpoint, which the digest decides; "" where it was not looked up."""

    def uses(self) -> tuple[str, ...]:
        """The family's file: an artefact of one family does not depend on the files of the others."""
        from rvosbench.methods.models.lvlm.family import family_code

        return (family_code(self.family),) if self.family else ()


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """Where the cells of one image's or one video's map stand in the sequence."""

    cells_n: torch.Tensor
    """Position in the sequence of every cell, cells in row-major (t, h, w) order, (t h w,) int64. The positions need
    neither be neighbours nor rise: frames may have text between them, and tiles come tile by tile."""
    grid: Grid
    """Cells (t, h, w)."""


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """One chat as the model takes it, on the CPU, batch of one."""

    inputs: Mapping[str, torch.Tensor]
    """Keyword arguments of the model's forward pass; ``input_ids`` is (1, L)."""
    visuals: tuple[VisualTokens, ...] = ()
    """The cells of every image and video, in the chat's order."""
    chat: str = ""
    """The text that was tokenised, with one placeholder for every image and video; empty where it is not known."""
    soft: SoftPrompt | None = None
    """The learned vectors that its soft tokens stand for (see ``rvosbench.methods.models.lvlm.soft``), if any."""

    @property
    def length(self) -> int:
        """Number of tokens, L."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def last_token(self) -> int:
        """Position whose output predicts the first answer token: L - 1."""
        return self.length - 1

    @property
    def grid(self) -> Grid | None:
        """Cells (t, h, w) of the only image or video; None for a chat of text alone.

        Raises:
            ValueError: there are several images or videos.
        """
        return self._only().grid if self.visuals else None

    @property
    def visual_L(self) -> torch.Tensor:  # noqa: N802  shape suffix
        """True at the cells of all images and videos, (L,) bool."""
        is_cell_L = self.inputs["input_ids"][0] != self.inputs["input_ids"][0]
        for visual in self.visuals:
            is_cell_L[visual.cells_n] = True
        return is_cell_L

    @property
    def cell_order(self) -> torch.Tensor | None:
        """For every cell of the only image or video, in row-major (t, h, w) order, which of the visual tokens along the
        sequence shows it, (t h w,) int64; None where they stand in that order, or for a chat of text alone.

        Raises:
            ValueError: there are several images or videos.
        """
        if not self.visuals:
            return None
        cells_n = self._only().cells_n
        return None if bool((cells_n[1:] > cells_n[:-1]).all()) else cells_n.argsort().argsort()

    def to_grid(self, row_L: torch.Tensor) -> torch.Tensor:
        """The values (..., L) of a row at the cells of the only image or video, on their grid: (..., t, h, w).

        Raises:
            ValueError: a chat of text alone, or several images or videos (see ``to_grids``).
        """
        if not self.visuals:
            raise ValueError("a text prompt has no visual tokens")
        self._only()
        return self.to_grids(row_L)[0]

    def to_grids(self, row_L: torch.Tensor) -> list[torch.Tensor]:
        """The values (..., L) of a row at every image's and video's cells, on their grids: (..., t, h, w) each."""
        return [
            row_L[..., visual.cells_n.to(row_L.device)].reshape(*row_L.shape[:-1], *visual.grid)
            for visual in self.visuals
        ]

    def _only(self) -> VisualTokens:
        if len(self.visuals) != 1:
            raise ValueError(f"a chat with {len(self.visuals)} images and videos has no single grid")
        return self.visuals[0]
