"""Builds the SAM2 network of a checkpoint and loads its weights.

The package's own builder composes configurations through Hydra's process-wide state, which another library (or a
second builder) may hold or clear; here the package's YAML files are read directly, so any number of models can be
built in one process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.extras import install_command
from rvosbench.methods.models.sam2.checkpoints import Checkpoint, Sam2Settings, digest, resolve

INSTALL = f"Install the extra: {install_command('sam2')}"


@dataclass(frozen=True, eq=False)
class Sam2:
    """A loaded network, ready for any number of videos."""

    network: Any
    """``sam2.modeling.sam2_base.SAM2Base`` in evaluation mode."""
    settings: Sam2Settings
    device: torch.device

    def precision(self) -> AbstractContextManager[Any]:
        """The context every call of the network runs in."""
        if self.settings.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def load(settings: Sam2Settings) -> Sam2:
    """Loads the checkpoint that ``settings`` name.

    Raises:
        PrerequisiteError: the checkpoint or the package is missing, the weights do not fit the configuration, or
            they are not those of ``settings.digest``.
    """
    checkpoint = resolve(settings.checkpoint)
    if settings.digest and digest(checkpoint) != settings.digest:
        raise PrerequisiteError(
            f"{checkpoint.weights} holds other weights than those this run was planned with.",
            "Give every machine the same checkpoint, or start a new run.",
        )
    network = build(checkpoint.config, [*checkpoint.overrides, *post_processing(settings)])
    _load_weights(network, checkpoint)
    if network.non_overlap_masks_for_mem_enc:
        raise PrerequisiteError(
            f"{checkpoint.weights} couples objects (non_overlap_masks_for_mem_enc), so batching would change results.",
            "Remove that override from its configuration.",
        )
    device = choose_device(settings.device)
    return Sam2(network.to(device).eval(), settings, device)


def build(config: str, overrides: Sequence[str]) -> Any:
    """A ``SAM2Base`` with fresh weights.

    Args:
        config: configuration file within the sam2 package, e.g. ``configs/sam2/sam2_hiera_l.yaml``.
        overrides: ``model.<key>=<value>``.

    Raises:
        PrerequisiteError: the package is missing or shadowed.
    """
    try:
        import sam2
        from hydra.utils import instantiate
        from omegaconf import OmegaConf
    except ModuleNotFoundError as error:
        raise PrerequisiteError(f"SAM2 needs the package '{error.name}', which is not installed.", INSTALL) from error
    package = Path(next(iter(sam2.__path__)))
    path = package / config
    if (package / "sam2").is_dir() or not path.is_file():
        raise PrerequisiteError(
            f"'import sam2' finds {package}, which is not the installed package.",
            f"Run from another folder than the one that holds a clone of SAM2, or install it. {INSTALL}",
        )
    node = OmegaConf.load(path)
    node.merge_with_dotlist(list(overrides))
    return instantiate(node.model, _recursive_=True)


def choose_device(name: str) -> torch.device:
    """The device of a setting.

    Raises:
        PrerequisiteError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise PrerequisiteError(f"sam2.device is '{name}'.", "Write auto, cpu, cuda or cuda:<n>.")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise PrerequisiteError(
            f"sam2.device is '{name}', but there are {torch.cuda.device_count()} GPUs.", "Write auto."
        )
    return torch.device(name)


def post_processing(settings: Sam2Settings) -> list[str]:
    """The settings as overrides of a configuration; hole filling is not the network's business."""
    decoder = "model.sam_mask_decoder_extra_args"
    return [
        f"{decoder}.dynamic_multimask_via_stability={str(settings.fall_back_to_multimask).lower()}",
        f"{decoder}.dynamic_multimask_stability_delta={settings.stability_delta}",
        f"{decoder}.dynamic_multimask_stability_thresh={settings.stability_threshold}",
        f"model.binarize_mask_from_pts_for_mem_enc={str(settings.binarise_prompted_masks).lower()}",
    ]


def _load_weights(network: Any, checkpoint: Checkpoint) -> None:
    if checkpoint.weights.suffix == ".safetensors":
        state = load_file(checkpoint.weights)
    else:
        state = torch.load(checkpoint.weights, map_location="cpu", weights_only=True)["model"]
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise PrerequisiteError(
            f"The weights of {checkpoint.weights} do not fit {checkpoint.config}: {error}",
            "Use the file under its released name, or correct the folder's config.yaml.",
        ) from error
