"""The client against servers that are slow, busy, broken, gone or not what was asked for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from fake_server import ANSWER, FakeServer, Reply, completion

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.servers import replica_order
from rvosbench.harness.serving.endpoints import EndpointClient, Endpoints, endpoints_of_model

_NOWHERE = "http://127.0.0.1:9"
"""Nothing listens at the discard port."""


def ask(servers: EndpointClient, affinity: str = "video", text: str = "what?", **options: Any) -> str:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return servers.complete(messages, affinity=affinity, max_tokens=7, **options)


def chat(*urls: str, pauses: list[float] | None = None, **options: Any) -> EndpointClient:
    """A client that does not wait, but notes how long it would have."""
    noted = [] if pauses is None else pauses
    return EndpointClient(Endpoints("small", urls, **options), sleep=noted.append)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only server is asked again at once."""
    monkeypatch.setattr("rvosbench.harness.serving.endpoints._COOLDOWN_SECONDS", 0.0)


def scripted(*replies: Reply | None) -> FakeServer:
    left = list(replies)
    return FakeServer(lambda body: left.pop(0) if left else completion(ANSWER))


def test_what_is_sent() -> None:
    with FakeServer() as server:
        assert ask(chat(server.url), schema={"type": "object"}) == ANSWER
        (body,) = server.bodies
    assert body["model"] == "small" and body["temperature"] == 0 and body["max_tokens"] == 7
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("failure", [(500, {}), (503, "no JSON"), (429, {}), None])
def test_what_passes_is_tried_again(failure: Reply | None) -> None:
    with scripted(failure, failure) as server:
        assert ask(chat(server.url)) == ANSWER
        assert len(server.bodies) == 3


@pytest.mark.parametrize("nonsense", [(200, "no JSON"), (200, {}), (200, {"choices": []}), (200, [1])])
def test_an_answer_that_is_no_completion_fails_its_request_alone(nonsense: Reply) -> None:
    with scripted(nonsense) as server:
        servers = chat(server.url)
        with pytest.raises(SampleError, match="sent no chat completion"):
            ask(servers)
        assert ask(servers) == ANSWER


def test_a_request_that_ends_every_connection_fails_alone(restless: None) -> None:
    with scripted(None, None) as server:
        servers = chat(server.url, attempts=2)
        with pytest.raises(SampleError, match=r"failed 2 times; the last time .* dropped the connection"):
            ask(servers)
        assert ask(servers) == ANSWER


def test_attempts_end() -> None:
    with scripted(*[(500, {"error": {"message": "EngineCore died"}})] * 9) as server:
        with pytest.raises(SampleError, match=r"failed 3 times; the last time .* answered 500: EngineCore died$"):
            ask(chat(server.url, attempts=3))
        assert len(server.bodies) == 3


def test_a_slow_answer_is_given_up() -> None:
    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(1.0)
        return completion(ANSWER)

    with (
        FakeServer(slow) as server,
        pytest.raises(SampleError, match=r"no answer within 0\.1 s"),
    ):
        ask(chat(server.url, request_seconds=0.1, attempts=1))


def test_a_prompt_that_is_too_long_fails_alone_and_at_once() -> None:
    message = "This model's maximum context length is 64 tokens. However, your prompt contains 99."
    with scripted((400, {"error": {"message": message}})) as server:
        servers = chat(server.url)
        with pytest.raises(SampleError, match="the prompt is longer than the server takes: This model's maximum"):
            ask(servers)
        assert len(server.bodies) == 1
        assert ask(servers) == ANSWER


def test_a_refused_request_is_not_tried_again() -> None:
    with scripted((400, {"error": {"message": "no such thing"}})) as server:
        with pytest.raises(SampleError, match=r"refused the request \(400\): no such thing"):
            ask(chat(server.url))
        assert len(server.bodies) == 1


def test_another_model_is_refused_in_one_sentence() -> None:
    with FakeServer(model="big") as server:
        with pytest.raises(PrerequisiteError) as caught:
            endpoints_of_model(Endpoints("small", (server.url,)))
        assert caught.value.problem == f"{server.url} serves big, not small."
        assert "--served-model-name" in caught.value.fix
        with FakeServer() as right:
            both = Endpoints("small", (server.url, right.url))
            assert endpoints_of_model(both).urls == (right.url,), "the servers of several models may be listed together"
    with (
        scripted((404, {"error": {"message": "The model `small` does not exist."}})) as server,
        pytest.raises(PrerequisiteError, match="does not serve small"),
    ):
        ask(chat(server.url))
    with (
        FakeServer(lambda body: completion(ANSWER, "big")) as server,
        pytest.raises(PrerequisiteError, match="serves big, not small"),
    ):
        ask(chat(server.url))


def test_the_key_is_sent_and_a_wrong_one_named() -> None:
    with FakeServer(key="secret") as server:
        right, wrong = Endpoints("small", (server.url,), key="secret"), Endpoints("small", (server.url,), key="guess")
        endpoints_of_model(right)
        assert ask(EndpointClient(right)) == ANSWER
        for attempt in (lambda: endpoints_of_model(wrong), lambda: ask(EndpointClient(wrong))):
            with pytest.raises(PrerequisiteError, match="refuses the API key"):
                attempt()
    assert "secret" not in repr(right)


def test_no_server_at_all() -> None:
    with pytest.raises(PrerequisiteError, match=r"no OpenAI-compatible server at http://127\.0\.0\.1:9"):
        endpoints_of_model(Endpoints("small", (_NOWHERE,)))
    with pytest.raises(PrerequisiteError, match=r"No server of small was reached .* takes no connection"):
        ask(chat(_NOWHERE, patience_seconds=0.0))


def test_the_requests_of_a_video_go_to_one_endpoint_and_move_only_when_it_is_gone() -> None:
    with FakeServer() as one, FakeServer() as two:
        both = (one, two)
        servers = chat(one.url, two.url)
        videos = [f"video {index}" for index in range(40)]
        homes = {video: both[replica_order(video, [server.url for server in both])[0]] for video in videos}
        assert min(Counter(server.url for server in homes.values()).values()) >= 10, "an even spread"
        for video in videos * 2:
            before = len(homes[video].bodies)
            ask(servers, video)
            assert len(homes[video].bodies) == before + 1
        urls = [one.url, two.url, _NOWHERE]
        lost = next(video for video in videos if replica_order(video, urls)[0] == 2)
        before = len(homes[lost].bodies)
        assert ask(chat(*urls, attempts=1), lost) == ANSWER
        assert len(homes[lost].bodies) == before + 1, "it goes where it would go without the one that is gone"


def test_requests_in_flight_are_bounded_per_server() -> None:
    def slowly(body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return completion(ANSWER)

    with FakeServer(slowly) as server:
        servers = chat(server.url, concurrency=2)
        threads = [threading.Thread(target=ask, args=(servers, f"video {index}")) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.bodies) == 8
        assert server.most_at_once == 2
    assert servers.in_flight == 2
