"""Builds the SAM2 network of a checkpoint and loads its weights.

The package's own builder composes configurations through Hydra's process-wide state, which another library (or a
second builder) may hold or clear; here the package's YAML files are read directly, so any number of models can be
built in one process.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.extras import install_command
from rvosbench.methods.models.sam2.checkpoints import Checkpoint, Sam2Settings, digest, resolve
from rvosbench.methods.models.sam2.overrides import configured

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


def build(config: str, overrides: Sequence[str], target: str | None = None) -> Any:
    """A ``SAM2Base`` with fresh weights.

    Args:
        config: configuration file within the sam2 package, e.g. ``configs/sam2/sam2_hiera_l.yaml``.
        overrides: ``model.<key>=<value>``, see ``overrides``.
        target: class of the package to build in place of the configuration's own network.

    Raises:
        PrerequisiteError: the package is missing or shadowed, or the overrides do not describe a network.
    """
    try:
        import sam2
        from hydra.errors import InstantiationException
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
    base: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if target is not None:
        base["model"]["_target_"] = target
    node = OmegaConf.create(configured(base, overrides)["model"])
    try:
        return instantiate(node, _recursive_=True)
    except (InstantiationException, ValueError, TypeError, AssertionError, RuntimeError, MemoryError) as error:
        raise PrerequisiteError(
            f"{config} with its overrides describes no SAM2 network: {_first_line(error.__cause__ or error)}",
            "Correct the numbers in the checkpoint folder's config.yaml.",
        ) from error


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
    state = read_tensors(checkpoint.weights)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        # torch lists every name; the first of them say enough.
        raise PrerequisiteError(
            f"The weights of {checkpoint.weights} do not fit {checkpoint.config}: {' '.join(str(error).split())[:300]}",
            "Use the file under its released name, or correct the folder's config.yaml.",
        ) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file, or of a released ``.pt`` file; nothing else in it is made an object.

    Raises:
        PrerequisiteError: the file cannot be read, is damaged, or holds something else than named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            held: Any = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
            held = held.get("model") if isinstance(held, dict) else None
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile) as error:
        raise PrerequisiteError(
            f"{path} holds no tensors that can be read: {_first_line(error)}", "Copy or download the file again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError) as error:
        # What torch raises on archives whose records are not what they say.
        raise PrerequisiteError(
            f"{path} is damaged: {_first_line(error)}", "Copy or download the file again."
        ) from error
    if not isinstance(held, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
        raise PrerequisiteError(
            f"{path} holds no state dict of a SAM2 network under 'model'.", "Give a released file of SAM2."
        )
    return held


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"{line[:200].rstrip('.')}."
