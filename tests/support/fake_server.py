"""A stand-in for a running model server: the OpenAI interface, answered from a script in threads of this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]
ANSWER = json.dumps({"reasons": "It is red.", "attributes": ["red", "on the left", "small"]})


def completion(text: str, model: str = "small") -> Reply:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}


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
                return self.reply(200, {"object": "list", "data": [{"id": model, "object": "model"}]})

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
