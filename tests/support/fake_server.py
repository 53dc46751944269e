"""A stand-in for a model server: vLLM's arguments and the OpenAI interface, up in a moment, misbehaving on request.

As a program it takes the launcher's arguments and, like vLLM, starts an engine process that outlives it. The variable
``FAKE_SERVER`` names a folder: a line goes to ``starts`` for each start (with arguments and GPUs) and to ``requests``
for each question (server's port, digest of the clip, text). A file in it changes what it does: ``refuse`` (says why and
ends), ``model`` (the name it serves), ``delay`` (seconds to each answer). So do the words "die" and "long" in a
question. In a test's own process ``FakeServer`` answers from a script instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = tuple[int, Any]
ANSWER = json.dumps({"reasons": "It is red.", "attributes": ["red", "on the left", "small"]})


def completion(text: str, model: str = "small") -> Reply:
    return 200, {"model": model, "choices": [{"message": {"role": "assistant", "content": text}}]}


def question(body: dict[str, Any]) -> tuple[str, str]:
    """(what it shows, what it asks) of a request."""
    parts = body["messages"][-1]["content"]
    shown = next((part["video_url"]["url"] for part in parts if part["type"] == "video_url"), "")
    return shown, next(part["text"] for part in parts if part["type"] == "text")


class FakeServer:
    """Serves in threads of this process.

    Args:
        answer: from a question's body to (status, JSON) or None, which drops the connection.
        model: the name under /v1/models.
        key: the API key it wants; "" for none.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Reply | None] = lambda body: completion(ANSWER),
        model: str = "small",
        key: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._at_once = 0
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/health":
                    return self.reply(200, {})
                if self.path == "/version":
                    return self.reply(200, {"version": "0.0"})
                if key and self.headers["Authorization"] != f"Bearer {key}":
                    return self.reply(401, {"error": "Unauthorized"})
                return self.reply(200, {"data": [{"id": model}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if key and self.headers["Authorization"] != f"Bearer {key}":
                    return self.reply(401, {"error": "Unauthorized"})
                with lock:
                    fake.bodies.append(body)
                    fake._at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake._at_once)
                try:
                    found = answer(body)
                finally:
                    with lock:
                        fake._at_once -= 1
                if found is None:
                    self.close_connection = True
                    return None
                return self.reply(*found)

            def reply(self, status: int, body: Any) -> None:
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--served-model-name")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    given, _ = parser.parse_known_args()
    folder = Path(os.environ["FAKE_SERVER"])
    with (folder / "starts").open("a") as file:
        file.write(json.dumps({"argv": sys.argv[1:], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}) + "\n")
    if (folder / "refuse").is_file():
        sys.exit((folder / "refuse").read_text())
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    model = (folder / "model").read_text() if (folder / "model").is_file() else given.served_model_name

    def answer(body: dict[str, Any]) -> Reply | None:
        shown, asked = question(body)
        with (folder / "requests").open("a") as file:
            file.write(f"{given.port} {hashlib.sha256(shown.encode()).hexdigest()[:8]} {asked.splitlines()[0]}\n")
        time.sleep(float((folder / "delay").read_text()) if (folder / "delay").is_file() else 0.0)
        if "die" in asked and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        if "long" in asked:
            return 400, {"error": {"message": "This model's maximum context length is 64 tokens."}}
        return completion(ANSWER, model)

    FakeServer(answer, model, os.environ.get("VLLM_API_KEY", ""), given.host, given.port).wait()


if __name__ == "__main__":
    main()
