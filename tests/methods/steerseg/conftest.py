"""Small random checkpoints and soft prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toy.tiny_qwen import SmallShape
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2

from rvosbench.methods.models.lvlm.checkpoints import find
from rvosbench.methods.models.lvlm.soft import SoftPrompt
from rvosbench.methods.steerseg.prompt_files import BaseModelFacts, DataFacts, save_soft_prompts


def write_prompts(folder: Path, lvlm: str, count: int, seed: int = 0) -> str:
    """Untrained prompts of a small checkpoint, large enough to move its attention."""
    width = SmallShape().hidden
    generator = torch.Generator().manual_seed(seed)
    both = {role: SoftPrompt(torch.randn(count, width, generator=generator)) for role in ("clip", "frame")}
    checkpoint = find(lvlm)
    save_soft_prompts(
        folder,
        both,
        base_model=BaseModelFacts(
            name=lvlm, digest=checkpoint.digest, family=checkpoint.family, width=width, dtype="float32"
        ),
        training=dict.fromkeys(both, ("random", 0, {})),
        data=DataFacts(dataset="none", split="none", digest="0", videos=0, held_out_videos=0, samples=0),
        seed=seed,
        recipe={},
    )
    return str(folder)


@dataclass(frozen=True)
class World:
    """Where the small models are."""

    lvlm: str
    other_lvlm: str
    """The same family, other weights."""
    sam2: str
    prompts: Mapping[int, str]
    """Folders by number of tokens."""

    def settings(self, **changes: Any) -> dict[str, Any]:
        """A recipe's settings for these models."""
        return {
            "keyframes": 3,
            "reasoning": {"keyframes": 2, "max_new_tokens": 4},
            "soft_prompts": {"folder": self.prompts[64]},
            "lvlm": {"dtype": "float32", "device": "cpu", "max_new_tokens": 2, "clip_max_tokens": 12},
            "tau_point": 0.9,
            # Masks of a random SAM2 are much alike.
            "nms_iou": 0.95,
            "sam2": {"checkpoint": self.sam2, "device": "cpu"},
            **changes,
        }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("steerseg")
    lvlm = str(write_small_lvlm("qwen2_5_vl", folder / "lvlm", seed=1))
    return World(
        lvlm,
        str(write_small_lvlm("qwen2_5_vl", folder / "other", seed=2)),
        str(write_small_sam2(folder / "sam2", seed=0)),
        {count: write_prompts(folder / f"n{count}", lvlm, count) for count in (16, 32, 64, 128)},
    )
