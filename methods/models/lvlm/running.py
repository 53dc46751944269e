"""What every family does alike once its inputs are built: batches, answers, rollouts.

Shape legend: B batch, L sequence, t h w visual grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.attention.capture import Captured, capture
from rvosbench.methods.attention.recursion import Rows, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import Grid, LvlmSettings, MapThw, Prompted, Reading
from rvosbench.methods.models.lvlm.soft import soft_embeddings


class RunningLvlm(ABC):
    """A transformers model on its device. A family adds how inputs are built."""

    def __init__(self, family: str, model: Any, text_model: Any, tokenizer: Any, settings: LvlmSettings) -> None:
        self._family = family
        self.model = model
        self.text_model = text_model
        """The language model alone, with ``layers[i].self_attn``."""
        self.tokenizer = tokenizer
        self.settings = settings
        self.picture_marks: frozenset[int] = frozenset()
        """Ids of the tokens that stand right before and right behind a picture, where the family has such."""

    @property
    def family(self) -> str:
        return self._family

    @property
    def layers(self) -> int:
        return int(self.text_model.config.num_hidden_layers)

    @abstractmethod
    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> Prompted: ...

    @abstractmethod
    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> Prompted: ...

    @abstractmethod
    def text(self, prompt: str) -> Prompted: ...

    @abstractmethod
    def forget(self) -> None:
        """Drops whatever the model keeps from one call to the next."""

    def answer(self, prompted: Prompted) -> str:
        return self.answers([prompted])[0]

    def answers(self, prompted: Sequence[Prompted]) -> list[str]:
        answers: list[str] = [""] * len(prompted)
        for indices in self._batches(prompted):
            batch = [prompted[index] for index in indices]
            with self.running(batch):
                texts = self._generate(batch)
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text
        return answers

    def rollout(self, prompted: Prompted, spec: RolloutSpec) -> MapThw:
        return self.rollouts([prompted], spec)[0]

    def rollouts(self, prompted: Sequence[Prompted], spec: RolloutSpec) -> list[MapThw]:
        maps: dict[int, MapThw] = {}
        for indices in self._batches(prompted):
            batch = [prompted[index] for index in indices]
            with self.running(batch):
                with capture(self.text_model, spec.layers(self.layers)) as captured:
                    self.model.model(**self.batched(batch), use_cache=False)
                maps.update(zip(indices, _maps(batch, captured, spec), strict=True))
        return [maps[index] for index in range(len(prompted))]

    def readings(self, prompted: Sequence[Prompted], spec: RolloutSpec) -> list[Reading]:
        readings: dict[int, Reading] = {}
        for indices in self._batches(prompted):
            batch = [prompted[index] for index in indices]
            with self.running(batch):
                with capture(self.text_model, spec.layers(self.layers)) as captured:
                    texts = self._generate(batch)
                maps = _maps(batch, captured, spec)
            readings.update(zip(indices, map(Reading, texts, maps), strict=True))
        return [readings[index] for index in range(len(prompted))]

    def checked(
        self, inputs: Mapping[str, Tensor], visual_L: Tensor, grid: Grid | None, order_n: Tensor | None = None
    ) -> Prompted:
        """The prompt of one item's inputs.

        Raises:
            SampleError: the sequence is longer than the model's limit.
        """
        length = int(inputs["input_ids"].shape[1])
        limit = int(self.text_model.config.max_position_embeddings)
        if length > limit:
            raise SampleError(f"the prompt is {length} tokens long with its frames; the model takes {limit}")
        tokens = int(visual_L.sum())
        if tokens != (0 if grid is None else grid[0] * grid[1] * grid[2]):
            raise SampleError(f"the prompt holds {tokens} visual tokens where its grid {grid} was expected")
        return Prompted(dict(inputs), visual_L, grid, length - 1, order_n)

    def _batches(self, prompted: Sequence[Prompted]) -> Iterator[list[int]]:
        groups: dict[tuple[int, tuple[tuple[str, tuple[int, ...]], ...]], list[int]] = {}
        for index, item in enumerate(prompted):
            shape = tuple((name, tuple(value.shape)) for name, value in sorted(item.inputs.items()))
            groups.setdefault((id(item.soft), shape), []).append(index)
        size = self.settings.frame_batch
        for indices in groups.values():
            for start in range(0, len(indices), size):
                yield indices[start : start + size]

    def batched(self, batch: Sequence[Prompted]) -> dict[str, Tensor]:
        """The inputs of prompts of equal shape, one after the other, on the device."""
        names = batch[0].inputs
        return {name: torch.cat([item.inputs[name] for item in batch]).to(self.model.device) for name in names}

    def _generate(self, batch: Sequence[Prompted]) -> list[str]:
        if batch[0].soft is not None:
            raise ValueError("soft prompts steer attention; answers are those of the model without them")
        generated_BL = self.model.generate(
            **self.batched(batch), do_sample=False, num_beams=1, max_new_tokens=self.settings.max_new_tokens
        )
        new_BL = generated_BL[:, batch[0].length :]
        texts: list[str] = self.tokenizer.batch_decode(
            new_BL, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    @contextmanager
    def running(self, batch: Sequence[Prompted]) -> Iterator[None]:
        """Around everything that computes: no gradients, nothing left over in the model before or after, and the soft
        prompt of the batch, the same for all of it, embedded.

        Raises:
            SampleError: the device ran out of memory.
        """
        self.forget()
        try:
            with torch.inference_mode(), soft_embeddings(self.text_model, batch[0].soft):
                yield
        except torch.OutOfMemoryError as error:
            raise SampleError(
                f"the device ran out of memory with {len(batch)} prompts of {batch[0].length} tokens; lower frame_batch"
            ) from error
        finally:
            self.forget()


def _maps(batch: Sequence[Prompted], captured: Captured, spec: RolloutSpec) -> list[MapThw]:
    if any(item.grid is None for item in batch):
        raise ValueError("a text prompt has no visual tokens to roll out to")
    layers = captured.layers()
    visual_BL = torch.stack([item.visual_L for item in batch])
    return maps_of(batch, rollout_rows(layers, visual_BL.to(layers[0].query_BALD.device), spec))


def maps_of(batch: Sequence[Prompted], rows: Rows) -> list[MapThw]:
    """Rolled-out rows on their prompts' grids.

    Raises:
        SampleError: a row is not finite.
    """
    maps = [item.on_grid(row_L).numpy() for item, row_L in zip(batch, rows.rows_BL.float().cpu(), strict=True)]
    for map_thw in maps:
        if not np.isfinite(map_thw).all():
            raise SampleError("the rollout is not finite: attention overflowed in this model's number type")
    return maps


def resolve_device(name: str) -> torch.device:
    """The device of a setting.

    Raises:
        PrerequisiteError: it does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PrerequisiteError(f"There is no device '{name}'.", "Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PrerequisiteError(
            f"Device {name} was asked for, but {torch.cuda.device_count()} CUDA devices are visible.",
            "Set device: auto (or cpu), or run where the GPU is.",
        )
    return device


def load_model(model_class: Any, folder: Path, settings: LvlmSettings) -> Any:
    """Weights onto the device in the settings' type and kernel, ready for greedy decoding.

    The checkpoint's own generation settings stay in force where greedy decoding leaves them a part (end tokens,
    repetition penalty), as in the reference.

    Raises:
        PrerequisiteError: files are missing or damaged, weights do not fit the config, or the device does not exist.
    """
    device = resolve_device(settings.device)
    fix = "Download the checkpoint again, all files."
    try:
        model, report = model_class.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PrerequisiteError(f"Checkpoint {folder} cannot be loaded: {reason.rstrip('.')}.", fix) from error
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise PrerequisiteError(
            f"Checkpoint {folder} lacks {len(absent)} weights of its model (the first is {absent[0]}).", fix
        )
    greedy = model.generation_config
    greedy.do_sample, greedy.temperature, greedy.top_p, greedy.top_k = False, None, None, None
    return model.eval().requires_grad_(False).to(device)


def load_processor(processor_class: Any, folder: Path) -> Any:
    """The checkpoint's processor with the limits, sizes and chat template its own files give.

    Raises:
        PrerequisiteError: a file is missing or damaged.
    """
    fix = "Download the checkpoint again, all files (tokenizer, processor configuration, chat template)."
    try:
        processor = processor_class.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PrerequisiteError(f"The processor of {folder} cannot be loaded: {reason.rstrip('.')}.", fix) from error
    if not processor.chat_template:
        raise PrerequisiteError(f"Checkpoint {folder} has no chat template.", fix)
    return processor
