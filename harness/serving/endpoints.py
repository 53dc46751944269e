"""The client of servers that run already: OpenAI-compatible endpoints of one model, named in the recipe.

What fails how: a dropped connection, a timeout, an error of the server (5xx), "busy" (429) and a lock (409) are tried
again by the ``openai`` client with growing pauses (``Retry-After`` is followed), ``attempts`` times in all; an endpoint
that takes no connection is left alone for a while and the next one in the request's own order is used; when none has
taken a connection for ``patience_seconds`` the stage stops. Any other 4xx is the request's fault and is not repeated.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.servers import replica_order

if TYPE_CHECKING:
    import openai

_CONNECT_SECONDS = 10.0
_COOLDOWN_SECONDS = 5.0
"""How long an endpoint that took no connection is left alone."""
_TOO_LONG = ("maximum context length", "context_length_exceeded", "longer than the maximum model length", "too long")
_SAME_MODEL = (
    "Serve the recipe's checkpoint under that name (--served-model-name), or give the server's name as "
    "reasoning.served_name if it is the same checkpoint."
)


@dataclass(frozen=True)
class Endpoints:
    """Running servers of one model and the limits of their use."""

    model: str
    """The name that requests carry; see ``ModelServer.served_name``."""
    urls: tuple[str, ...]
    """The base addresses without ``/v1``, e.g. ``http://10.0.0.3:8000``; all serve the same model."""
    key: str = field(default="", repr=False)
    """The bearer token that is sent where it is not empty."""
    concurrency: int = 8
    """The largest number of requests in flight per endpoint and worker."""
    request_seconds: float = 300.0
    """The timeout of one answer, in seconds."""
    attempts: int = 4
    """How often a request may fail before its sample is given up."""
    patience_seconds: float = 120.0
    """The seconds without any connection after which the stage stops."""

    @property
    def replicas(self) -> int:
        """The number of endpoints."""
        return len(self.urls)

    def connect(self) -> EndpointClient:
        """Opens a connection for one worker."""
        return EndpointClient(self)

    def client(self, url: str, seconds: float) -> openai.OpenAI:
        """Returns the OpenAI client of one endpoint; ``seconds`` is the timeout of one answer."""
        try:
            import openai
        except ModuleNotFoundError as error:
            raise PrerequisiteError(
                f"Model servers are used through the package '{error.name}', which is not installed.",
                "Install the extra: pip install 'rvosbench[models]'",
            ) from error
        timeout = openai.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        # The client refuses to start without a key, and a server without one ignores what is sent.
        key = self.key or "none"
        return openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=timeout, max_retries=self.attempts - 1)


class EndpointClient:
    """One worker's connection to all endpoints of a model; see ``ChatModel``."""

    def __init__(self, endpoints: Endpoints, sleep: Callable[[float], None] = time.sleep) -> None:
        self._endpoints = endpoints
        self._sleep = sleep
        self._clients = [endpoints.client(url, endpoints.request_seconds) for url in endpoints.urls]
        self._slots = [threading.BoundedSemaphore(endpoints.concurrency) for _ in endpoints.urls]
        self._lock = threading.Lock()
        self._cooldown_until = [0.0] * len(endpoints.urls)
        self._last_contact = time.monotonic()

    @property
    def in_flight(self) -> int:
        """See ChatModel."""
        return self._endpoints.concurrency * len(self._endpoints.urls)

    def software(self) -> str:
        """See ChatModel; "server" where none states its version."""
        for url in self._endpoints.urls:
            with (
                suppress(OSError, ValueError, LookupError, TypeError),
                urlopen(f"{url}/version", timeout=_CONNECT_SECONDS) as answer,
            ):
                return f"vllm {json.loads(answer.read(10_000))['version']}"
        return "server"

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        affinity: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """See ChatModel."""
        import openai

        body: dict[str, Any] = {"messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        if schema is not None:
            form = {"name": "answer", "schema": dict(schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        failure = "every endpoint is in its cooldown"
        while True:
            for index in replica_order(affinity, self._endpoints.urls):
                if self._cooldown_until[index] > time.monotonic():
                    continue
                try:
                    with self._slots[index]:
                        return self._answer(index, body)
                except openai.APIConnectionError as error:
                    url, reason = self._endpoints.urls[index], _one_line(error.__cause__ or error)
                    if _never_connected(error):
                        failure = f"{url} takes no connection ({reason})"
                    elif isinstance(error, openai.APITimeoutError):
                        seconds = self._endpoints.request_seconds
                        raise self._given_up(index, f"gave no answer within {seconds:g} s") from error
                    else:
                        raise self._given_up(index, f"dropped the connection ({reason})") from error
                    with self._lock:
                        self._cooldown_until[index] = time.monotonic() + _COOLDOWN_SECONDS
            self._wait(failure)

    def _answer(self, index: int, body: Mapping[str, Any]) -> str:
        """Returns one endpoint's answer.

        Raises:
            openai.APIConnectionError: it took no connection, or the answer came too late.
        """
        import openai

        url, wanted = self._endpoints.urls[index], self._endpoints.model
        try:
            completion = self._clients[index].chat.completions.create(model=wanted, **body)
            text, model = completion.choices[0].message.content, completion.model
        except openai.APIStatusError as error:
            self._last_contact = time.monotonic()
            raise self._refused(url, error) from error
        except (openai.APIResponseValidationError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise self._given_up(index, "sent no chat completion") from error
        self._last_contact = time.monotonic()
        if model and model != wanted:
            raise PrerequisiteError(f"{url} serves {model}, not {wanted}.", _SAME_MODEL)
        return text or ""

    def _wait(self, failure: str) -> None:
        """Waits until an endpoint may be tried again.

        Raises:
            PrerequisiteError: none took a connection for ``patience_seconds``.
        """
        silent = time.monotonic() - self._last_contact
        if silent > self._endpoints.patience_seconds:
            raise PrerequisiteError(
                f"No server of {self._endpoints.model} was reached for {silent:.0f} s; the last failure: {failure}.",
                "Start one (or correct serving.endpoints), then run the same command again: committed work is kept.",
            )
        self._sleep(max(0.05, min(self._cooldown_until) - time.monotonic()))

    def _given_up(self, index: int, what: str) -> SampleError:
        attempts = self._endpoints.attempts
        times = "once" if attempts == 1 else f"{attempts} times"
        return SampleError(f"the model server failed {times}; the last time {self._endpoints.urls[index]} {what}")

    def _refused(self, url: str, error: openai.APIStatusError) -> PrerequisiteError | SampleError:
        """Returns what an answer other than 200 means, after the client's own attempts."""
        message, status = _server_message(error), error.status_code
        if status in (401, 403):
            return _key_refused(url)
        if status == 404:
            # The model, or the whole interface, is not there: no sample can succeed.
            return PrerequisiteError(f"{url} does not serve {self._endpoints.model}: {message}.", _SAME_MODEL)
        if status >= 500 or status in (408, 409, 429):
            return self._given_up(self._endpoints.urls.index(url), f"answered {status}: {message}")
        if status == 413 or any(phrase in message for phrase in _TOO_LONG):
            return SampleError(f"the prompt is longer than the server takes: {message}")
        return SampleError(f"the server refused the request ({status}): {message}")


def endpoints_of_model(endpoints: Endpoints, seconds: float = _CONNECT_SECONDS) -> Endpoints:
    """Returns those endpoints that serve the model; a recipe with several models lists the servers of all.

    Raises:
        PrerequisiteError: one cannot be reached or wants another key, or all serve other models.
    """
    found, others = [], []
    for url in endpoints.urls:
        names = _served_models(endpoints, url, seconds)
        if endpoints.model in names:
            found.append(url)
        else:
            others.append(f"{url} serves {', '.join(names) or 'nothing'}")
    if not found:
        raise PrerequisiteError(f"{'; '.join(others)}, not {endpoints.model}.", _SAME_MODEL)
    return Endpoints(**{**vars(endpoints), "urls": tuple(found)})


def _served_models(endpoints: Endpoints, url: str, seconds: float) -> list[str]:
    import openai

    try:
        with endpoints.client(url, seconds).with_options(max_retries=0) as client:
            return [str(model.id) for model in client.models.list().data]
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise _key_refused(url) from error
    except (openai.OpenAIError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise PrerequisiteError(
            f"There is no OpenAI-compatible server at {url} ({_one_line(error.__cause__ or error)}).",
            "Start it, or correct serving.endpoints (without /v1).",
        ) from error


def _key_refused(url: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"{url} refuses the API key.", "Put the right one in the variable that serving.key_variable names."
    )


def _never_connected(error: BaseException | None) -> bool:
    """Returns whether the request was never sent. The HTTP library below ``openai`` changes; its names do not."""
    while error is not None:
        if type(error).__name__ in ("ConnectError", "ConnectTimeout"):
            return True
        error = error.__cause__
    return False


def _server_message(error: openai.APIStatusError) -> str:
    """Returns the server's own words, in one line."""
    body = error.body
    return _one_line(body["message"] if isinstance(body, Mapping) and "message" in body else error.message)


def _one_line(what: object) -> str:
    return " ".join(str(what).split())[:500].rstrip(".") or type(what).__name__
