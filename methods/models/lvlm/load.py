"""Loads a checkpoint with the code of its family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import local_folder, read_config, supported_family
from rvosbench.methods.models.lvlm.family import find_family

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm


def load_lvlm(settings: LvlmSettings) -> Lvlm:
    """Loads the checkpoint with its weights onto the device.

    Raises:
        PrerequisiteError: missing, not downloadable, unsupported, damaged, or the device does not exist.
    """
    folder = local_folder(settings)
    family = supported_family(read_config(folder), settings.checkpoint)
    return find_family(family).load(folder, settings)
