"""The client of OpenAI-compatible servers that hold one model: affinity, limits, retries.

Every question about a video goes to the same server while that lives (rendezvous hashing), so that what the server
keeps of the video is used again; when it does not answer, the next one in the video's own order takes over.

What fails how: a connection refused is the server's matter (it may be starting again), waited out and never counted
against a sample; a dropped connection, a time-out, an error of the server (5xx) or "busy" (429) is tried again with
growing, jittered pauses, at most ``attempts`` times; any other 4xx is the request's fault and is not tried again.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.servers import Servers

_CONNECT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_COOL_DOWN_SECONDS = 5.0
"""How long an endpoint that took no connection, dropped one or broke is left alone."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BUSY = 429
_TOO_LONG = ("maximum context length", "context_length_exceeded", "longer than the maximum model length", "too long")


class ChatServers:
    """Servers of one model; used by many threads.

    Args:
        servers: where they are and how patiently they are asked.
        sleep: waits; tests pass their own.
    """

    def __init__(self, servers: Servers, sleep: Callable[[float], None] = time.sleep) -> None:
        self._servers = servers
        self._sleep = sleep
        self._client = http_client(servers, servers.request_seconds)
        self._slots = {url: threading.BoundedSemaphore(servers.concurrency) for url in servers.endpoints}
        self._lock = threading.Lock()
        self._resting: dict[str, float] = {}
        """Until when an endpoint is left alone."""
        self._last_contact = time.monotonic()
        self._jitter = random.Random()

    @property
    def in_flight(self) -> int:
        """Most requests at a time."""
        return self._servers.concurrency * len(self._servers.endpoints)

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        affinity: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """The greedy answer to a chat.

        Args:
            messages: as in the OpenAI interface.
            affinity: questions with the same one go to the same server.
            max_tokens: longest answer.
            schema: JSON schema the answer follows, where the server can.

        Raises:
            SampleError: the prompt is longer than the server takes, the request is refused, or every attempt failed.
            PrerequisiteError: no server takes connections, the key is refused, or another model is served.
        """
        body: dict[str, Any] = {
            "model": self._servers.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        if schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": dict(schema), "strict": True},
            }
        attempt, why = 1, ""
        while attempt <= self._servers.attempts:
            url = self._choose(affinity)
            if url is None:
                self._wait_for_any(why)
                continue
            try:
                with self._slots[url]:
                    response = self._client.post(f"{url}/v1/chat/completions", json=body)
            except _NEVER_SENT as error:
                why = f"{url} takes no connection ({_said(error)})"
                self._rest(url)
                continue
            except httpx.TimeoutException:
                why = f"{url} gave no answer within {self._servers.request_seconds:g} s"
            except httpx.TransportError as error:
                why = f"{url} dropped the connection ({_said(error)})"
                self._rest(url)
            else:
                self._last_contact = time.monotonic()
                if response.status_code == httpx.codes.OK:
                    text = self._text(url, response)
                    if text is not None:
                        return text
                    why = f"{url} sent no chat completion"
                elif response.status_code >= 500 or response.status_code == _BUSY:
                    why = f"{url} answered {response.status_code}: {_message(response)}"
                    if response.status_code != _BUSY:
                        self._rest(url)  # its engine may be gone, and it with it in a moment
                else:
                    raise self._refused(url, response)
            self._sleep(self._pause(attempt))
            attempt += 1
        times = "once" if self._servers.attempts == 1 else f"{self._servers.attempts} times"
        raise SampleError(f"the model server failed {times}; the last time {why}")

    def software(self) -> str:
        """What answers, e.g. "vllm 0.32.0"; "server" where it does not say."""
        for url in self._servers.endpoints:
            try:
                return f"vllm {self._client.get(f'{url}/version', timeout=_CONNECT_SECONDS).json()['version']}"
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                continue
        return "server"

    def _choose(self, affinity: str) -> str | None:
        """The first endpoint in the affinity's own order that is not resting."""
        now = time.monotonic()
        with self._lock:
            awake = [url for url in self._servers.endpoints if self._resting.get(url, 0.0) <= now]
        return min(awake, key=lambda url: rendezvous(affinity, url), default=None)

    def _rest(self, url: str) -> None:
        with self._lock:
            self._resting[url] = time.monotonic() + _COOL_DOWN_SECONDS

    def _wait_for_any(self, why: str) -> None:
        """All endpoints rest: wait for the first to be tried again, or give up.

        Raises:
            PrerequisiteError: none took a connection for ``patience_seconds``.
        """
        now = time.monotonic()
        silent = now - self._last_contact
        if silent > self._servers.patience_seconds:
            raise PrerequisiteError(
                f"No server of {self._servers.model} was to be reached for {silent:.0f} s; the last: {why}.",
                "Start one (or mend serving.endpoints), then run the same command again: all committed work is kept.",
            )
        with self._lock:
            until = min(self._resting.values())
        self._sleep(max(0.05, until - now) * self._jitter.uniform(1.0, 1.2))

    def _pause(self, attempt: int) -> float:
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (attempt - 1)) * self._jitter.uniform(0.5, 1.0)

    def _text(self, url: str, response: httpx.Response) -> str | None:
        try:
            body = response.json()
            text, model = body["choices"][0]["message"]["content"], body.get("model", self._servers.model)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if model != self._servers.model:
            raise PrerequisiteError(f"{url} serves {model}, not {self._servers.model}.", _SAME_MODEL)
        return text if isinstance(text, str) else ""

    def _refused(self, url: str, response: httpx.Response) -> PrerequisiteError | SampleError:
        message, status = _message(response), response.status_code
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return _key_refused(url)
        if status == httpx.codes.NOT_FOUND:
            # The model, or the whole interface, is not there: no sample can succeed.
            return PrerequisiteError(f"{url} does not serve {self._servers.model}: {message}.", _SAME_MODEL)
        if any(phrase in message for phrase in _TOO_LONG):
            return SampleError(f"the prompt is longer than the server takes: {message}")
        return SampleError(f"the server refused the request ({status}): {message}")


def serving_model(servers: Servers, seconds: float = _CONNECT_SECONDS) -> tuple[str, ...]:
    """The endpoints that serve the model; a recipe with several models lists the servers of all.

    Raises:
        PrerequisiteError: one cannot be reached or wants another key, or all serve other models.
    """
    found, others = [], []
    with http_client(servers, seconds) as client:
        for url in servers.endpoints:
            try:
                response = client.get(f"{url}/v1/models")
                if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    raise _key_refused(url)
                response.raise_for_status()
                names = [str(entry["id"]) for entry in response.json()["data"]]
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                raise PrerequisiteError(
                    f"There is no OpenAI-compatible server at {url} ({_said(error)}).",
                    "Start it, or correct serving.endpoints (without /v1).",
                ) from error
            if servers.model in names:
                found.append(url)
            else:
                others.append(f"{url} serves {', '.join(names) or 'nothing'}")
    if not found:
        raise PrerequisiteError(f"{'; '.join(others)}, not {servers.model}.", _SAME_MODEL)
    return tuple(found)


def http_client(servers: Servers, seconds: float) -> httpx.Client:
    """A client that sends the key; ``seconds`` is for one answer."""
    return httpx.Client(
        headers={"Authorization": f"Bearer {servers.key}"} if servers.key else {},
        timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
        limits=httpx.Limits(max_connections=None),
        # Proxies of the environment are for the world outside; servers this run started are not there.
        trust_env=not servers.owned,
    )


def rendezvous(affinity: str, url: str) -> bytes:
    """The place of an endpoint in the order of an affinity: the smallest is asked first.

    Removing an endpoint moves only what it had; nothing else changes its place.
    """
    return hashlib.sha256(f"{affinity}\n{url}".encode()).digest()


_SAME_MODEL = (
    "Serve the recipe's checkpoint under that name (--served-model-name), or give the server's name as "
    "reasoning.served_name if it is the same checkpoint."
)


def _key_refused(url: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"{url} refuses the API key.", "Put the right one in the variable that serving.key_variable names."
    )


def _message(response: httpx.Response) -> str:
    """The server's own words, in one line."""
    try:
        body = response.json()
        error = body.get("error", body)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:500].rstrip(".")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
