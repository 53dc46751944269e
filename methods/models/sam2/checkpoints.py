"""SAM2 checkpoints by name, file or folder, and the settings that say how to run one. Imports no torch.

A checkpoint is found, in this order:

* a path: a released ``.pt`` file under its released name, or a folder with ``config.yaml`` and ``model.safetensors``;
* a name, below the folder that the environment variable ``RVOSBENCH_CHECKPOINTS`` points to: such a folder called
  like the name, or the released file, directly or inside a folder called like the name;
* a released name, on the Hugging Face hub (or in its local cache).

``config.yaml`` names a configuration of the sam2 package and what differs from it::

    base: configs/sam2.1/sam2.1_hiera_t.yaml
    overrides:
      - model.image_size=128
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rvosbench.harness.data.parsing import load_yaml
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.paths import given_path
from rvosbench.harness.recipes import describe
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.methods.models.sam2.overrides import MOST_OVERRIDES, parse_override

FOLDER_VARIABLE = "RVOSBENCH_CHECKPOINTS"
_LONGEST_HEADER = 100 << 20
"""Bytes; the limit of the safetensors format."""
CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.safetensors"

_SIZES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
_VERSIONS = ("sam2", "sam2.1")


@dataclass(frozen=True)
class Sam2Settings(Settings):
    """Which SAM2 and how it post-processes. The defaults are the package's video predictor, without hole filling."""

    checkpoint: str = runtime("sam2-hiera-large")
    """A name ("sam2-hiera-large", "sam2.1-hiera-tiny", ...), a ``.pt`` file or a checkpoint folder."""
    digest: str = identity("")
    """SHA-256 of the configuration and the weights, filled in by ``with_digest``; loading other weights is refused."""
    dtype: Literal["float32", "bfloat16"] = identity("float32")
    """bfloat16 runs the network under autocast; the weights stay float32."""
    fall_back_to_multimask: bool = identity(True)
    """Where a single mask is asked for and it is unstable, take the best of the three candidates instead."""
    stability_delta: float = identity(0.05)
    """Stability is the IoU of the mask at logits above +delta and above -delta."""
    stability_threshold: float = identity(0.98)
    """Below this a single mask counts as unstable."""
    binarise_prompted_masks: bool = identity(True)
    """Masks of prompted frames enter the memory as 0/1, not as probabilities."""
    fill_hole_area: Annotated[int, Field(ge=0)] = identity(0)
    """Background components of up to this many pixels of the low-resolution mask are filled; 0 fills none. The
    package fills 8 if its CUDA extension was built and none otherwise; here the value decides, on every device."""
    device: str = runtime("auto")
    """"auto" is the GPU where there is one."""
    object_batch: Annotated[int, Field(ge=1)] = runtime(16)
    """Objects tracked in one batch. Sizes differ in rounding only (logits by about 1e-4), which can move a pixel that
    lies exactly on a mask's border; 1 is the package's own arithmetic, bit for bit."""
    feature_budget_bytes: Annotated[int, Field(ge=1)] = runtime(8 * 2**30)
    """Encoded frames of a video beyond this stay in host memory."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a checkpoint lies and how its network is built."""

    config: str
    """Configuration file within the sam2 package."""
    overrides: tuple[str, ...]
    """``model.<key>=<value>``, applied to the configuration."""
    weights: Path
    """A released ``.pt`` file, or a ``.safetensors`` file."""


class _FolderConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    base: str
    overrides: tuple[str, ...] = ()


def model_names() -> tuple[str, ...]:
    """The released models."""
    return tuple(f"{version}-hiera-{size}" for version in _VERSIONS for size in _SIZES)


def _released(name: str) -> tuple[str, str]:
    """Configuration and file name of a released model."""
    version, _, size = name.partition("-hiera-")
    config = f"configs/{version}/{version}_hiera_{_SIZES[size]}.yaml"
    return config, f"{version}_hiera_{size.replace('-', '_')}.pt"


def resolve(checkpoint: str, *, download: bool = True) -> Checkpoint:
    """Finds a checkpoint; a released one that is nowhere on this machine is downloaded from the hub.

    Args:
        checkpoint: name, file or folder.
        download: False finds what is here and downloads nothing.

    Raises:
        PrerequisiteError: nothing is there, the name is unknown, or the folder is malformed.
    """
    path = given_path(checkpoint)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file() or path.suffix in (".pt", ".safetensors"):
        return _from_file(path)
    name = checkpoint.removeprefix("facebook/")
    local = _below_variable(name)
    if local is not None:
        return local
    if name not in model_names():
        raise PrerequisiteError(
            f"There is no SAM2 checkpoint '{checkpoint}': no such file or folder, and no released model of that name.",
            nearest_name(name, model_names()),
        )
    config, filename = _released(name)
    return Checkpoint(config, (), _download(name, filename) if download else _cached(name, filename))


def require_on_hub(checkpoint: str) -> None:
    """Asks the hub for a released checkpoint without downloading it.

    Raises:
        PrerequisiteError: it is no released one, or the hub does not answer; the reason is named.
    """
    name = checkpoint.removeprefix("facebook/")
    if name not in model_names():
        raise PrerequisiteError(f"There is no released SAM2 '{checkpoint}'.", nearest_name(name, model_names()))
    filename = _released(name)[1]
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        get_hf_file_metadata(hf_hub_url(f"facebook/{name}", filename))
    except Exception as error:  # the hub's HTTP library has error types of its own; the reason is passed on
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PrerequisiteError(
            f"SAM2 '{name}' is not on this machine and cannot be downloaded: {reason.rstrip('.')}.", _get(filename)
        ) from error


def digest(checkpoint: Checkpoint) -> str:
    """SHA-256 hex digest of the configuration, its overrides and the bytes of the weights."""
    stat = checkpoint.weights.stat()
    described = [
        checkpoint.config,
        *checkpoint.overrides,
        _file_digest(checkpoint.weights, stat.st_size, stat.st_mtime_ns),
    ]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def with_digest(settings: Sam2Settings) -> Sam2Settings:
    """The same settings with the digest of the weights they lead to; call it before settings are hashed into keys.

    Raises:
        PrerequisiteError: the checkpoint is missing, or its weights are not in the format that their name says.
    """
    found = resolve(settings.checkpoint)
    require_format(found.weights)
    return replace(settings, digest=digest(found))


def require_format(weights: Path) -> None:
    """Refuses a file that begins as no weights do; the tensors themselves are read when the network is loaded.

    Raises:
        PrerequisiteError: a safetensors file whose header does not fit it, or a ``.pt`` file that is no archive.
    """
    fix = "Copy or download the file again."
    if weights.suffix == ".safetensors":
        size = weights.stat().st_size
        with weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, _LONGEST_HEADER))
        if size < 8 + length or length > _LONGEST_HEADER or not header.startswith(b"{"):
            raise PrerequisiteError(f"{weights} is no safetensors file, or only the first part of one.", fix)
    elif not zipfile.is_zipfile(weights):
        raise PrerequisiteError(f"{weights} is no file of tensors that torch saved, or only a part of one.", fix)


@cache
def _file_digest(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _below_variable(name: str) -> Checkpoint | None:
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise PrerequisiteError(f"{FOLDER_VARIABLE} points to {folder}, which is not a folder.", "Correct or unset it.")
    if (folder / name / CONFIG_FILE).is_file():
        return _from_folder(folder / name)
    if name in model_names():
        config, filename = _released(name)
        for candidate in (folder / filename, folder / name / filename):
            if candidate.is_file():
                return Checkpoint(config, (), candidate)
    return None


def _from_file(path: Path) -> Checkpoint:
    known = {_released(name)[1]: _released(name)[0] for name in model_names()}
    if not path.is_file():
        raise PrerequisiteError(f"There is no SAM2 checkpoint at {path}.", "Correct sam2.checkpoint.")
    if path.name not in known:
        raise PrerequisiteError(
            f"The file name {path.name} does not say which SAM2 it is.",
            f"Give it its released name, or put it into a folder with {CONFIG_FILE}. {nearest_name(path.name, known)}",
        )
    return Checkpoint(known[path.name], (), path)


def _from_folder(folder: Path) -> Checkpoint:
    config_path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for path in (config_path, weights):
        if not path.is_file():
            raise PrerequisiteError(
                f"The SAM2 checkpoint folder {folder} has no {path.name}.",
                f"It needs {CONFIG_FILE} and {WEIGHTS_FILE}; or give a released name: {', '.join(model_names())}.",
            )
    try:
        config = _FolderConfig.model_validate(load_yaml(config_path, "SAM2 configuration"))
    except ValidationError as error:
        raise PrerequisiteError(
            f"{config_path} is malformed: {describe(error)}.", "It holds 'base' and 'overrides'."
        ) from error
    bases = {_released(name)[0] for name in model_names()}
    if config.base not in bases:
        raise PrerequisiteError(
            f"{config_path} names no SAM2 configuration: '{config.base}'.", nearest_name(config.base, bases)
        )
    if len(config.overrides) > MOST_OVERRIDES:
        raise PrerequisiteError(f"{config_path} has {len(config.overrides)} overrides.", f"At most {MOST_OVERRIDES}.")
    for override in config.overrides:
        try:
            parse_override(override)
        except ValueError as error:
            raise PrerequisiteError(
                f"{config_path} has the override '{override[:100]}': {error}.",
                "Write model.<key>=<number, true, false or a list of numbers>.",
            ) from error
    return Checkpoint(config.base, config.overrides, weights)


def _cached(name: str, filename: str) -> Path:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        cached = None
    else:
        cached = try_to_load_from_cache(f"facebook/{name}", filename)
    if not isinstance(cached, str):
        raise PrerequisiteError(f"SAM2 '{name}' is not on this machine.", _get(filename))
    return Path(cached)


def _download(name: str, filename: str) -> Path:
    fix = _get(filename)
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise PrerequisiteError(
            f"SAM2 '{name}' is not on this machine and huggingface_hub is not installed.", fix
        ) from error
    try:
        return Path(hf_hub_download(repo_id=f"facebook/{name}", filename=filename))
    except OSError as error:  # the hub's connection, HTTP and cache errors all derive from it
        raise PrerequisiteError(f"SAM2 '{name}' is not on this machine and could not be downloaded.", fix) from error


def _get(filename: str) -> str:
    return (
        f"Go online, or put {filename} into a folder and point {FOLDER_VARIABLE} to it, "
        "or set sam2.checkpoint to a file or folder."
    )
