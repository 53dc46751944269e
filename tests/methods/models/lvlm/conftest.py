"""Small random checkpoints and loaded models, one of each family, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy.tiny_qwen import write_small

from rvosbench.harness.data.types import FrameHW3
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVOSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        # The hub client reads the environment when imported, which is over by now.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_small(family, root / family, seed=0) for family in FAMILIES}


@pytest.fixture(scope="session")
def settings(checkpoints: dict[str, Path]) -> Callable[..., LvlmSettings]:
    """Settings of a family's small checkpoint: float32, short answers, small clips."""

    def of(family: str, **changes: Any) -> LvlmSettings:
        defaults: dict[str, Any] = {"dtype": "float32", "clip_max_tokens": 24, "max_new_tokens": 6, "device": "cpu"}
        return lvlm_settings(str(checkpoints[family]), **{**defaults, **changes})

    return of


@pytest.fixture(scope="session")
def models(settings: Callable[..., LvlmSettings]) -> dict[str, Lvlm]:
    loaded = {family: load_lvlm(settings(family)) for family in FAMILIES}
    return loaded  # type: ignore[return-value]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, models: dict[str, Lvlm]) -> Lvlm:
    return models[request.param]


def noise(count: int, height: int = 90, width: int = 150, seed: int = 0) -> list[FrameHW3]:
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8))
