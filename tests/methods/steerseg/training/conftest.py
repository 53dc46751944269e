"""Small models and a recipe that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from toy.tiny_qwen import write_small

from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.steerseg.training.recipe import TrainRecipe

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_onevision", "internvl")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVOSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """As the workers have: sums in another order are other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("checkpoints")

    def of(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else write_small(family, folder, seed=0)

    return of


@pytest.fixture(scope="session")
def loaded(checkpoints: Callable[[str], Path]) -> Callable[[str], Lvlm]:
    models: dict[str, Lvlm] = {}

    def of(family: str) -> Lvlm:
        if family not in models:
            settings = LvlmSettings(
                checkpoint=str(checkpoints(family)), digest="0", dtype="float32", device="cpu", clip_max_tokens=24
            )
            model = load_lvlm(settings)
            models[family] = model
        return models[family]

    return of


@pytest.fixture
def recipe(checkpoints: Callable[[str], Path], tmp_path: Path) -> Callable[..., TrainRecipe]:
    """Four clips made in memory, one of them held out; dotted keys change what is given."""

    def of(**changes: Any) -> TrainRecipe:
        values: dict[str, Any] = {
            "name": "tiny",
            "lvlm": str(checkpoints("qwen2_5_vl")),
            "runs": str(tmp_path / "runs"),
            "options": {"dtype": "float32", "clip_max_tokens": 12, "device": "cpu", "frame_scale": 1},
            "data": {"name": "shapes", "generate": 4, "held_out": 0.25},
            "granularity": "clip",
            "keyframes": 3,
            "tokens": 4,
            "evaluate_samples": 2,
            "checkpoint_every": 2,
            "pictures": 1,
            "optimiser": {"steps": 6, "clips": 2, "frames": 2, "frames_per_sample": 1, "rate": 0.05},
            "workers": {"executor": "inprocess"},
            "tracking": {"enabled": False},
        }
        for key, value in changes.items():
            *path, last = key.split("__")
            target = values
            for part in path:
                target = target.setdefault(part, {})
            target[last] = value
        return TypeAdapter(TrainRecipe).validate_python(values)

    return of
