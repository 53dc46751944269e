"""Worlds of small random checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2

WriteWorld = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVOSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("RVOSBENCH_CHECKPOINTS", raising=False)
        patch.delenv("RVOSBENCH_DATA", raising=False)
        # The hub client reads the environment when imported, which is over by now.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for family in ("qwen2_5_vl", "llava_onevision"):
        write_small_lvlm(family, root / family, seed=0)
    write_small_sam2(root / "sam2", seed=0)
    return root


@pytest.fixture
def write_world(checkpoints: Path, tmp_path: Path) -> WriteWorld:
    """Writes a world of two small models on one official layout; keyword arguments replace its sections."""

    def write(**changes: Any) -> str:
        world: dict[str, Any] = {
            "name": "small-table",
            "note": "random models",
            "data_root": str(tmp_path / "data"),
            "shapes": {"seed": 8, "videos": 1},
            "lvlms": {
                "Qwen2.5VL-7B": {"checkpoint": str(checkpoints / "qwen2_5_vl"), "heads": "L1H0 L2H3"},
                "LLaVA-OV-7B": {"checkpoint": str(checkpoints / "llava_onevision")},
            },
            "sam2": str(checkpoints / "sam2"),
            "settings": {
                "keyframes": 2,
                "lvlm": {"dtype": "float32", "device": "cpu", "max_new_tokens": 2, "clip_max_tokens": 12},
                "sam2": {"device": "cpu"},
            },
            "methods": {
                "Loc-Head": {"method": "lochead", "settings": {"masks": "attention"}},
                # A threshold of 1 leaves the map's highest cell as the only point.
                "DecAF": {"method": "decaf", "settings": {"background_prompt": "v3", "tau_point": 1.0}},
            },
            "datasets": {"ReVOS": {"name": "revos", "split": "valid", "protocol": "revos/v1", "layout": "revos"}},
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
            **changes,
        }
        path = tmp_path / "world.yaml"
        path.write_text(yaml.safe_dump(world))
        return str(path)

    return write
