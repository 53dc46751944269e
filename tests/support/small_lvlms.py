"""Small random checkpoints of every family and a clip, as fixtures, and a way to run stages over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import clips
import pytest
from toy.tiny_qwen import write_small

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.types import Video
from rvosbench.harness.stages import Request, StageSpec
from rvosbench.harness.store.artefacts import Artefact

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_onevision", "internvl", "llava")
TEXTS = ["the bright square", "The dark gradient."]


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
    return clips.write_clip(tmp_path_factory.mktemp("frames"), "squares", TEXTS, frames=3)


def run_all(specs: Sequence[StageSpec], video: Video, groups: Sequence[Sequence[int]]) -> list[dict[str, Artefact]]:
    """Every stage over the video's expressions, called once per group; the artefacts of each expression by stage."""
    done: list[dict[str, Artefact]] = [{} for _ in video.expressions]
    for spec in specs:
        stage = spec.build()
        for group in groups:
            requests = [Request(video.expressions[i], {name: done[i][name] for name in spec.consumes}) for i in group]
            for position, outcome in stage.run(DecodedFrames(video), requests):
                assert isinstance(outcome, Artefact), outcome
                done[group[position]][spec.name] = outcome
    return done
