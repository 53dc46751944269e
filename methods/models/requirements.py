"""Whether the models that a method needs are here, as its list of requirements says it. No torch is imported."""

from __future__ import annotations

from functools import cache

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.paths import given_path
from rvosbench.harness.requirements import Requirement, missing
from rvosbench.methods.models.lvlm.checkpoints import Checkpoint, find, is_here
from rvosbench.methods.models.sam2.checkpoints import require_on_hub, resolve


def found_checkpoint(lvlm: str) -> Checkpoint | PrerequisiteError:
    """The checkpoint of a vision-language model, without its weights, or why there is none.

    The hub is asked once for a name.
    """
    return _found(lvlm) if given_path(lvlm).is_dir() else _on_hub(lvlm)


def lvlm_requirement(lvlm: str) -> Requirement:
    """A vision-language model."""
    found = found_checkpoint(lvlm)
    if isinstance(found, PrerequisiteError):
        return missing("checkpoint", lvlm, found)
    if not is_here(lvlm, found.digest):
        return Requirement("checkpoint", lvlm, "automatic", "it is downloaded from the hub")
    return Requirement("checkpoint", lvlm)


def sam2_requirement(checkpoint: str) -> Requirement:
    """A SAM2 checkpoint."""
    try:
        resolve(checkpoint, download=False)
        return Requirement("SAM2", checkpoint)
    except PrerequisiteError as error:
        absent = error
    try:
        require_on_hub(checkpoint)
    except PrerequisiteError:
        return missing("SAM2", checkpoint, absent)
    return Requirement("SAM2", checkpoint, "automatic", "it is downloaded from the hub")


def _found(lvlm: str) -> Checkpoint | PrerequisiteError:
    try:
        return find(lvlm)
    except PrerequisiteError as error:
        return error


_on_hub = cache(_found)
