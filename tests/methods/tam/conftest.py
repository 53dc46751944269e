"""Small random checkpoints and a clip, made once."""

from __future__ import annotations

from collections.abc import Iterator

import clips
import pytest

from harness.data.types import Video
from methods.lvlm.small import write_small

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "llava_onevision", "internvl", "llava")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVOSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("lvlm")
    return {family: str(write_small(family, root / family, seed=1)) for family in FAMILIES}


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    texts = ["the bright square", "The dark gradient."]
    return clips.write_clip(tmp_path_factory.mktemp("frames"), "squares", texts, frames=3)
