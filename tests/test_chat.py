import asyncio
import logging
import pickle

import pytest

from ravst_ray.backends import chat as chat_module
from ravst_ray.backends.chat import Breaker, ChatClient, endpoint_of
from ravst_ray.backends.local_llm import free_port
from ravst_ray.backends.protocols import ChatAnswer
from ravst_ray.config.annotate import LLMConfig
from ravst_ray.errors import AbortError, StepError
from tests.fake_endpoint import FakeEndpoint, Reply, completion, error

HELLO = [{"role": "user", "content": "hello"}]
SECRET = "sk-very-secret"


def client(base_url, retries=0, timeout_s=30.0, **more):
    return ChatClient("m", base_url, SECRET, timeout_s=timeout_s, max_retries=retries, **more)


def ask(chat, times=1):
    """The answers or errors of ``times`` questions, one after another."""

    async def run():
        results = []
        for _ in range(times):
            try:
                results.append(await chat.complete(HELLO, seed=7))
            except (StepError, AbortError) as error:
                results.append(error)
        return results

    return asyncio.run(run())


def test_an_answer_with_what_it_cost():
    with FakeEndpoint(lambda *_: completion("hi", 12, 3)) as endpoint:
        assert ask(client(endpoint.base_url)) == [ChatAnswer("hi", 12, 3)]
    wanted = {"model": "m", "messages": HELLO, "max_tokens": 256, "temperature": 0.0, "seed": 7}
    assert endpoint.requests == [wanted]
    assert endpoint.keys == [f"Bearer {SECRET}"]


def test_a_schema_asks_for_structured_output():
    schema = {"type": "object", "properties": {}}
    with FakeEndpoint(lambda *_: completion("{}")) as endpoint:
        asyncio.run(client(endpoint.base_url).complete(HELLO, schema))
    named = {"name": "answer", "strict": True, "schema": schema}
    assert endpoint.requests[0]["response_format"] == {"type": "json_schema", "json_schema": named}


def test_rate_limits_and_server_errors_are_repeated():
    soon = {"retry-after-ms": "10"}
    replies = [error(429, **soon), error(500, **soon), error(503, **soon), completion("at last")]
    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        (answer,) = ask(client(endpoint.base_url, retries=3))
    assert answer.text == "at last" and len(endpoint.requests) == 4


def test_retries_end_and_bad_requests_are_not_repeated():
    with FakeEndpoint(lambda *_: error(429, **{"retry-after-ms": "10"})) as endpoint:
        (limited,) = ask(client(endpoint.base_url, retries=2))
    assert len(endpoint.requests) == 3
    assert (limited.reason, limited.retryable) == ("llm_rate_limited", True)
    with FakeEndpoint(lambda *_: error(400, "too long")) as endpoint:
        (refused,) = ask(client(endpoint.base_url, retries=2))
    assert len(endpoint.requests) == 1
    assert (refused.reason, refused.retryable) == ("llm_refused", False) and "too long" in refused.message


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(401, f"Incorrect API key provided: {SECRET}"), "refuses the API key"),
        (error(403), "refuses the API key"),
        (error(404), "knows no such model"),
        (error(429, code="insufficient_quota"), "quota"),
    ],
)
def test_faults_of_the_set_up_abort(reply, words):
    with FakeEndpoint(lambda *_: reply) as endpoint:
        (abort,) = ask(client(endpoint.base_url))
    assert isinstance(abort, AbortError) and words in str(abort) and SECRET not in str(abort)


def test_an_endpoint_that_is_down_or_slow_is_unreachable():
    (down,) = ask(client(f"http://127.0.0.1:{free_port()}/v1"))
    with FakeEndpoint(lambda *_: Reply(200, completion("late").body, delay_s=3.0)) as endpoint:
        (slow,) = ask(client(endpoint.base_url, timeout_s=0.3))
    for failure in (down, slow):
        assert (failure.reason, failure.retryable) == ("llm_unreachable", True)


def test_an_endpoint_that_drips_is_bounded(monkeypatch):
    monkeypatch.setattr(chat_module, "_LONGEST_BACKOFF_S", 0.1)
    with FakeEndpoint(lambda *_: Reply(200, completion("x" * 500).body, drip_s=0.1)) as endpoint:
        (failure,) = ask(client(endpoint.base_url, timeout_s=1.0))
    assert failure.reason == "llm_unreachable" and "TimeoutError" in failure.message


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{broken", b"<html></html>", b"null", b"[]", b'{"choices": []}', b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 5}}], "usage": {"prompt_tokens": "many"}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_nonsense_is_an_empty_answer(body, kind):
    with FakeEndpoint(lambda *_: Reply(200, body, {"Content-Type": kind})) as endpoint:
        assert ask(client(endpoint.base_url)) == [ChatAnswer("")]


def test_a_proxy_of_the_environment_is_not_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with FakeEndpoint(lambda *_: completion("direct")) as endpoint:
        assert ask(client(endpoint.base_url))[0].text == "direct"


def test_the_key_shows_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    chat = client("http://127.0.0.1:1/v1")
    (failure,) = ask(chat)
    assert SECRET not in repr(chat) + str(failure) + caplog.text
    assert pickle.loads(pickle.dumps(chat)).api_key == SECRET


def test_breaker_opens_probes_and_closes():
    now = [0.0]
    breaker = Breaker(threshold=3, cooldown_s=10.0, clock=lambda: now[0])
    for _ in range(3):
        assert breaker.admit()
        breaker.record(reached=False)
    assert breaker.is_open and not breaker.admit()
    now[0] = 10.0
    assert breaker.admit() and not breaker.admit()  # one probe, not two
    breaker.record(reached=False)
    now[0] = 19.9
    assert not breaker.admit()
    now[0] = 20.0
    assert breaker.admit()
    breaker.record(reached=True)
    assert not breaker.is_open and breaker.admit() and breaker.admit()


def test_a_dead_endpoint_is_asked_less_and_found_again():
    now = [0.0]
    replies = [error(503)] * 4 + [completion("back"), completion("again")]
    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        chat = client(endpoint.base_url, breaker=Breaker(3, 10.0, lambda: now[0]))
        first = ask(chat, 6)
        assert [failure.reason for failure in first] == ["llm_unreachable"] * 6
        assert len(endpoint.requests) == 3 and "not asked" in first[5].message
        chat = pickle.loads(pickle.dumps(client(endpoint.base_url, breaker=Breaker(3, 10.0, failures=3))))
        chat.breaker.clock = lambda: now[0]
        chat.max_retries = 5  # a probe is not repeated
        assert ask(chat)[0].reason == "llm_unreachable" and len(endpoint.requests) == 4
        now[0] = 10.0
    with FakeEndpoint(lambda *_: completion("back")) as endpoint:
        chat = client(endpoint.base_url, breaker=Breaker(3, 10.0, lambda: now[0], failures=3))
        assert [answer.text for answer in ask(chat, 2)] == ["back", "back"]
        assert chat.breaker.failures == 0


def test_endpoint_and_key_come_from_configuration_and_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert endpoint_of(LLMConfig(backend="openai")) == ("https://api.openai.com/v1", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other:1/v1/")
    assert endpoint_of(LLMConfig(backend="openai")) == ("http://other:1/v1", SECRET)
    assert endpoint_of(LLMConfig(backend="openai", base_url="http://own/v1"))[0] == "http://own/v1"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert endpoint_of(LLMConfig(backend="openai", base_url="http://[::1]:8/v1")) == ("http://[::1]:8/v1", "none")
