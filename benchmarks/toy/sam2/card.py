"""The model card of a trained SAM2, and the checkpoint folder it lies in."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.sam2.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from toy.sam2.architecture import BASE, OVERRIDES
from toy.tiny_sam2 import write_folder

CARD_FILE = "card.yaml"
_PACKAGES = ("torch", "sam2", "numpy", "pillow", "opencv-python-headless", "safetensors")


def package_versions() -> dict[str, str]:
    """Python and what training and data depend on; "unknown" for what was put on the path without being installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


@dataclass(frozen=True)
class Card:
    """Where a checkpoint comes from."""

    seed: int
    data_seed: int
    data_version: int
    """Of the shapes generator."""
    device: str
    batch: int
    learning_rate: float
    split: str = "train"
    command: str = ""
    """That makes such a run again."""
    clips: int = 0
    """The first clips of the split, this many, were seen."""
    data_digest: str = ""
    """SHA-256 over the rendered clips, in order."""
    steps: int = 0
    seconds: float = 0.0
    complete: bool = False
    """False for a run that was cut off."""
    losses: dict[str, float] = field(default_factory=dict)
    """Means over the last steps, on training data."""
    averaged: dict[str, float] = field(default_factory=dict)
    """The same measured with the weights that are written."""

    def write(self, folder: Path, state: Mapping[str, torch.Tensor]) -> None:
        """Writes the checkpoint folder: configuration, weights rounded to float16, card. Each file is replaced whole.

        Raises:
            PrerequisiteError: a weight is too large for float16.
        """
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        for name, tensor in half.items():
            if not bool(torch.isfinite(tensor).all()):
                raise PrerequisiteError(f"The weights of {name} do not fit float16.", "Lower --learning-rate.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as temporary:
            fresh = write_folder(Path(temporary), BASE, OVERRIDES, half)
            content = {
                "model": "SAM2.1, small, trained on the bundled shapes dataset only",
                "parameters": sum(tensor.numel() for tensor in half.values()),
                "weights_dtype": "float16",
                "weights_sha256": hashlib.sha256((fresh / WEIGHTS_FILE).read_bytes()).hexdigest(),
                **asdict(self),
                "packages": package_versions(),
            }
            (fresh / CARD_FILE).write_text(_dump(content), encoding="utf-8")
            # A run cut off in between leaves new weights beside an old card, whose digest tells.
            for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
                (fresh / name).replace(folder / name)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint folder.

    Raises:
        PrerequisiteError: there is no card, or it was written for other weights.
    """
    path = folder / CARD_FILE
    if not (path.is_file() and (folder / WEIGHTS_FILE).is_file()):
        raise PrerequisiteError(f"{folder} holds no {CARD_FILE} or no weights.", "Give a folder that training wrote.")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    if content.get("weights_sha256") != digest:
        raise PrerequisiteError(f"{path} was written for other weights.", "Train again, or restore the folder.")
    return content


def add_quality(folder: Path, quality: Mapping[str, Any]) -> None:
    """Writes what was measured into the card of a checkpoint folder.

    Raises:
        PrerequisiteError: there is no card, or it was written for other weights.
    """
    content = read_card(folder)
    content["quality"] = dict(quality)
    path = folder / CARD_FILE
    temporary = path.with_name(f".{CARD_FILE}.{os.getpid()}")
    temporary.write_text(_dump(content), encoding="utf-8")
    temporary.replace(path)


def _dump(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, width=120)
