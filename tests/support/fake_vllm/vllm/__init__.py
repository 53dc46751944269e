"""A stand-in for vLLM's offline interface, up in a moment, misbehaving on request.

The variable ``FAKE_VLLM`` names a folder: a line goes to ``starts`` for each engine (arguments, GPUs, process) and to
``requests`` for each request (process, digest of the clip, text). A file in it changes what the engine does:
``refuse`` (states why and does not start), ``crash`` (its process ends while it loads), ``delay`` (seconds before each
answer). So do the words "die" (its process ends, once), "break" (the engine raises, once) and "long" in a question.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_server import ANSWER, question

from vllm.exceptions import VLLMClientError

__version__ = "0.0"


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    structured_outputs: Any = None


class LLM:
    def __init__(self, **arguments: Any) -> None:
        self._folder = Path(os.environ["FAKE_VLLM"])
        self._note("starts", {"arguments": arguments, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})
        if (self._folder / "refuse").is_file():
            raise RuntimeError((self._folder / "refuse").read_text())
        if (self._folder / "crash").is_file():
            print("Segmentation fault in a kernel", flush=True)
            os._exit(1)
        self._queue: list[tuple[str, str]] = []
        self._count = 0
        core = SimpleNamespace(shutdown=lambda: self._note("stops", {}))
        self.llm_engine = SimpleNamespace(step=self._step, engine_core=core)

    def get_default_sampling_params(self) -> SamplingParams:
        return SamplingParams()

    def enqueue_chat(self, conversations: Any, params: SamplingParams, use_tqdm: bool) -> list[str]:
        assert params.temperature == 0.0 and not use_tqdm
        (messages,) = conversations
        shown, asked = question({"messages": messages})
        line = asked.splitlines()[0]
        self._note("requests", {"clip": hashlib.sha256(shown.encode()).hexdigest()[:8], "text": line})
        if "long" in asked:
            raise VLLMClientError("The decoder prompt (length 99) is longer than the maximum model length of 64.")
        self._queue.append((str(self._count), asked))
        self._count += 1
        return [f"{self._queue[-1][0]}-9f3a"]

    def _step(self) -> list[Any]:
        time.sleep(float((self._folder / "delay").read_text()) if (self._folder / "delay").is_file() else 0.0)
        number, asked = self._queue.pop(0)
        if "die" in asked and self._first("died"):
            os._exit(1)
        if "break" in asked and self._first("broke"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [SimpleNamespace(finished=True, request_id=number, outputs=[SimpleNamespace(text=ANSWER)])]

    def _first(self, what: str) -> bool:
        try:
            (self._folder / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _note(self, name: str, values: dict[str, Any]) -> None:
        with (self._folder / name).open("a") as file:
            file.write(json.dumps({"process": os.getpid(), **values}) + "\n")
