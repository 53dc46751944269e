"""Loads weights and processors of checkpoint folders, with one sentence for whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.base import LvlmSettings

_DAMAGE = (TypeError, KeyError, AttributeError, IndexError, ArithmeticError, AssertionError, StrictDataclassError)
"""What transformers raises, beside its own errors, on files that are not what their names say."""


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
            f"Device {name} is set, but {torch.cuda.device_count()} CUDA devices are visible.",
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
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, *_DAMAGE) as error:
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
    except Exception as error:  # tokenizers raises the bare class for a file that it cannot parse
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PrerequisiteError(f"The processor of {folder} cannot be loaded: {reason.rstrip('.')}.", fix) from error
    if not processor.chat_template:
        raise PrerequisiteError(f"Checkpoint {folder} has no chat template.", fix)
    return processor
