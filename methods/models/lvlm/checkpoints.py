"""Finds a checkpoint and names its content. No torch here: planning a run needs digests, not weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvosbench.harness.data.digests import MediaIndex
from rvosbench.harness.data.parsing import brief, load_json
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.paths import given_path
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.family import Family, family_names, find_family

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_SIZE = re.compile(
    r"(hidden|intermediate|vocab|patch|image|window|merge|embed).*_size|num_.*(layers|heads)|depth|.*_dim|max_position.*"
)
_LARGEST = 1 << 24
"""No size of a model in the field is as large; a larger one would be allocated, or looped over."""
_MOST_LAYERS = 1024
_NO_MODEL = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RuntimeError, AssertionError)
"""What building a model from a configuration raises when a value is missing, of another type, or fits no other."""
_NEEDED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that exists."""

    digest: str
    """Of the folder's files, or ``owner/name@commit``."""
    family: str
    """``model_type`` of its config.json."""


def lvlm_settings(checkpoint: str, **settings: Any) -> LvlmSettings:
    """Settings for a checkpoint, with its digest filled in; ``settings`` are further ``LvlmSettings`` fields.

    Raises:
        PrerequisiteError: the checkpoint is missing or of an unsupported family.
    """
    found = find(checkpoint)
    return LvlmSettings(checkpoint=checkpoint, digest=found.digest, family=found.family, **settings)


def find(checkpoint: str) -> Checkpoint:
    """The checkpoint a user named, without downloading weights.

    Raises:
        PrerequisiteError: missing, not downloadable, incomplete, or of a family that is not supported.
    """
    folder = given_path(checkpoint)
    if folder.is_dir():
        config = read_config(folder)
        if not any(folder.glob("*.safetensors")):
            raise PrerequisiteError(
                f"Checkpoint folder {folder} holds no *.safetensors weights.", "Download it again, all files."
            )
        return Checkpoint(folder_digest(folder), supported_family(config, checkpoint))
    if not _HUB_NAME.fullmatch(checkpoint) or folder.exists():
        raise _no_folder(checkpoint)
    return _find_on_hub(checkpoint)


def config_of(checkpoint: str) -> dict[str, Any]:
    """The config.json of a checkpoint, for estimates; nothing else is downloaded.

    Raises:
        PrerequisiteError: missing, or not downloadable.
    """
    folder = given_path(checkpoint)
    if folder.is_dir():
        return read_config(folder)
    if not _HUB_NAME.fullmatch(checkpoint):
        raise _no_folder(checkpoint)
    return read_config(_hub_folder(checkpoint))


def family_of(checkpoint: str) -> Family:
    """The family of a checkpoint, from its config.json.

    Raises:
        PrerequisiteError: the checkpoint is missing or not downloadable, or its family is not supported.
    """
    return find_family(supported_family(config_of(checkpoint), checkpoint))


def local_folder(settings: LvlmSettings) -> Path:
    """The folder with all files of the settings' checkpoint; downloads what the hub cache lacks.

    Raises:
        PrerequisiteError: the folder is gone, or the hub cannot be reached.
    """
    folder = given_path(settings.checkpoint)
    if folder.is_dir():
        return folder
    name, at, commit = settings.digest.partition("@")
    if not at:
        raise _no_folder(settings.checkpoint)
    from huggingface_hub import snapshot_download

    try:
        cached = _cached(name, commit)
        if cached is not None and _complete(cached):
            return cached
        # Where the hub cannot be reached this returns the half copy, without a word.
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=_NEEDED))
        if not _complete(folder):
            raise FileNotFoundError(f"the copy in {folder} lacks files")
        return folder
    except Exception as error:  # the hub's HTTP library has error types of its own; the reason is passed on
        raise _not_downloadable(settings.checkpoint, error) from error


def is_here(checkpoint: str, digest: str) -> bool:
    """Whether a checkpoint that ``find`` found needs no download: a folder, or a whole copy in the hub's cache."""
    if given_path(checkpoint).is_dir():
        return True
    name, _, commit = digest.partition("@")
    cached = _cached(name, commit)
    return cached is not None and _complete(cached)


def _cached(name: str, commit: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _complete(folder: Path) -> bool:
    """Whether a cached snapshot, which may be half downloaded, holds every file a model is loaded from."""
    index = folder / "model.safetensors.index.json"
    weights = {"model.safetensors"}
    if index.is_file():
        shards = load_json(index)
        shards = shards.get("weight_map") if isinstance(shards, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            return False
        weights = set(shards.values())
    processor = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    tokenizer = (folder / "tokenizer.json").is_file()
    return processor and tokenizer and all((folder / name).is_file() for name in ("config.json", *weights))


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        PrerequisiteError: missing, or not a JSON object.
    """
    path = folder / "config.json"
    fix = "Give the folder of a whole transformers checkpoint (config.json, *.safetensors, tokenizer, processor)."
    if not path.is_file():
        raise PrerequisiteError(f"Checkpoint folder {folder} has no config.json.", fix)
    config = load_json(path)
    if not isinstance(config, dict):
        raise PrerequisiteError(f"{path} is not a JSON object.", fix)
    for name in ("text_config", "vision_config"):
        if not isinstance(config.get(name, {}), dict):
            raise PrerequisiteError(f"{path}: {name} must be a mapping.", fix)
    for section in (config, config.get("text_config", {}), config.get("vision_config", {})):
        _require_sizes(section, path)
    return config


def _require_sizes(section: dict[str, Any], path: Path) -> None:
    """Refuses sizes that no model has: they would be allocated or looped over before anything else is looked at."""
    for key, value in section.items():
        if not _SIZE.fullmatch(key) or value is None or isinstance(value, list | dict):
            continue
        most = _MOST_LAYERS if key == "depth" or key.endswith("layers") else _LARGEST
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise PrerequisiteError(
                f"{path}: {brief(key)} must be a whole number of at most {most:,}, found {brief(value)}.",
                "Download the checkpoint again, all files.",
            )


@contextmanager
def describing_a_model() -> Iterator[None]:
    """Turns what transformers raises on a config.json that describes no model into one sentence.

    Raises:
        PrerequisiteError: with what was found.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (*_NO_MODEL, StrictDataclassError) as error:
        lines = str(error).strip().splitlines() or [""]
        reason = brief(f"{type(error).__name__}: {lines[0]}", 200)
        raise PrerequisiteError(
            f"The checkpoint's config.json describes no model that can be built: {reason}.",
            "Download the checkpoint again, all files.",
        ) from error


def folder_digest(folder: Path) -> str:
    """SHA-256 (hex) over the names and bytes of a checkpoint folder's files, hidden ones aside.

    Remembered by size and time of the files in ``RVOSBENCH_CACHE`` (default: the user's cache folder), because
    reading the weights of a large model takes long.
    """
    cache = os.environ.get("RVOSBENCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rvosbench")
    return MediaIndex(Path(cache).expanduser() / "checkpoints").folder(folder)


def supported_family(config: dict[str, Any], checkpoint: str) -> str:
    """The family of a config.

    Raises:
        PrerequisiteError: not supported; the nearest family is named. Or some layers see only a window of the
            sequence, which rollout over all earlier positions would misread.
    """
    model_type = str(config.get("model_type"))
    known = family_names()
    if model_type not in known:
        raise PrerequisiteError(
            f"Checkpoint {checkpoint} is of family '{model_type}', which is not supported.",
            nearest_name(model_type, known),
        )
    text = {**config, **config.get("text_config", {})}
    if text.get("use_sliding_window") or "sliding_attention" in (text.get("layer_types") or ()):
        raise PrerequisiteError(
            f"Checkpoint {checkpoint} has layers with sliding-window attention, which rollout cannot read.",
            "Use a checkpoint whose layers attend to the whole sequence.",
        )
    return model_type


def _find_on_hub(checkpoint: str) -> Checkpoint:
    folder = _hub_folder(checkpoint)
    family = supported_family(read_config(folder), checkpoint)
    return Checkpoint(f"{checkpoint.partition('@')[0]}@{folder.name}", family)


def _hub_folder(checkpoint: str) -> Path:
    """The cached snapshot, named after its commit; holds config.json, the rest perhaps not yet."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, revision = checkpoint.partition("@")
    try:
        try:
            return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            commit = HfApi().model_info(name, revision=revision or None).sha
            return Path(hf_hub_download(name, "config.json", revision=commit)).parent
    except Exception as error:  # the hub's HTTP library has error types of its own; the reason is passed on
        raise _not_downloadable(checkpoint, error) from error


def _no_folder(checkpoint: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"Checkpoint folder {checkpoint} does not exist.",
        "Give an existing folder, or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct.",
    )


def _not_downloadable(checkpoint: str, error: Exception) -> PrerequisiteError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return PrerequisiteError(
        f"Checkpoint {checkpoint} is not a folder and cannot be downloaded from the hub: {reason.rstrip('.')}.",
        "Check the name and the network, or download it elsewhere (`hf download NAME --local-dir FOLDER`) "
        "and give the folder.",
    )
