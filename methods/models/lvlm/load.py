"""Model families by the checkpoint's ``model_type``. Adding one: its file, its line here, its tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rvosbench.methods.models.lvlm.base import Lvlm, LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import local_folder, read_config, supported_family

if TYPE_CHECKING:
    LoadFamily = Callable[[Path, LvlmSettings], Lvlm]

FAMILIES: Mapping[str, str] = {
    "internvl": "rvosbench.methods.models.lvlm.internvl:load",
    "llava": "rvosbench.methods.models.lvlm.llava:load",
    "llava_onevision": "rvosbench.methods.models.lvlm.llava_onevision:load",
    "qwen2_vl": "rvosbench.methods.models.lvlm.qwen2_vl:load",
    "qwen2_5_vl": "rvosbench.methods.models.lvlm.qwen2_5_vl:load",
}
"""``model_type`` -> ``module:function`` with the signature (folder, settings) -> Lvlm."""


def load_lvlm(settings: LvlmSettings) -> Lvlm:
    """Loads the checkpoint with its weights onto the device.

    Raises:
        PrerequisiteError: missing, not downloadable, unsupported, damaged, or the device does not exist.
    """
    folder = local_folder(settings)
    family = supported_family(read_config(folder), settings.checkpoint)
    module, _, function = FAMILIES[family].partition(":")
    load: LoadFamily = getattr(importlib.import_module(module), function)
    return load(folder, settings)
