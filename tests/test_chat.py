import asyncio
import json
import logging
import pickle
import re

import pytest

from ravst_ray.config.annotate import LLMConfig
from ravst_ray.errors import AbortError, StepError
from ravst_ray.language import chat as chat_module
from ravst_ray.language.chat import Breaker, ChatClient, Trial, endpoint_of
from ravst_ray.language.dialect import ADAPTATIONS, Dialect
from ravst_ray.language.local import free_port
from ravst_ray.language.protocols import ChatAnswer
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


# --- what an endpoint doesn't take ---


SCHEMA = {"type": "object", "properties": {"objects": {"type": "array"}}}
PLAIN = {"max_tokens", "temperature", "seed", "response_format"}


def openai_error(message, param=None, code=None, status=400):
    return Reply(status, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}})


def extra(name):
    """As pydantic words it."""
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]}


REFUSALS = [
    # OpenAI and Azure
    (
        openai_error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "max_tokens",
            "unsupported_parameter",
        ),
        "max_completion_tokens",
    ),
    (
        openai_error(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
            "supported.",
            "temperature",
            "unsupported_value",
        ),
        "no_temperature",
    ),
    (
        openai_error(
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
            "response_format",
        ),
        "json_object",
    ),
    (
        openai_error(
            "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later",
            code="BadRequest",
        ),
        "json_object",
    ),
    (openai_error("Unrecognized request argument supplied: seed"), "no_seed"),
    # GitHub Copilot, Kimi, Bedrock
    (
        Reply(
            400,
            {
                "error": {
                    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                    "Use 'max_completion_tokens' instead.",
                    "code": "invalid_request_body",
                }
            },
        ),
        "max_completion_tokens",
    ),
    (openai_error("invalid temperature: only 1 is allowed for this model"), "no_temperature"),
    (
        openai_error("The model returned the following errors: temperature is deprecated for this model."),
        "no_temperature",
    ),
    # Groq, DeepSeek, xAI
    (openai_error("This model does not support response format `json_schema`. See supported models"), "json_object"),
    (openai_error("The model only supports response formats: [json text]."), "json_object"),
    (openai_error("invalid schema for response format: response_format/x: minItems is not supported"), "json_object"),
    (openai_error("This response_format type is unavailable now", code="invalid_request_error"), "json_object"),
    (
        openai_error(
            "Failed to deserialize the JSON body into the target type: response_format: response_format.type "
            "`json_schema` is unavailable now at line 1 column 1193",
            status=422,
        ),
        "json_object",
    ),
    (
        Reply(
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "The response_format parameter is unsupported at the moment. Leave it unset.",
            },
        ),
        "json_object",
    ),
    # Mistral, by itself and behind Azure; vLLM; Gemini; LiteLLM
    (Reply(422, {"object": "error", "message": extra("seed"), "type": "invalid_request_error"}), "no_seed"),
    (Reply(422, extra("seed")), "no_seed"),
    (
        Reply(
            400,
            {
                "object": "error",
                "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not "
                "permitted', 'input': 42}]",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
        ),
        "no_seed",
    ),
    (
        Reply(400, [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]),
        "no_seed",
    ),
    (Reply(500, {"error": {"message": "ollama does not support parameters: {'seed': 1}", "code": 500}}), "no_seed"),
    # llama.cpp and its relative, LM Studio
    (openai_error("JSON schema conversion failed:\nUnrecognized schema: {}"), "json_object"),
    (
        Reply(
            500,
            {
                "error": {
                    "code": 500,
                    "message": 'response_format type must be one of "text" or "json_object", but got: json_schema',
                    "type": "server_error",
                }
            },
        ),
        "json_object",
    ),
    (Reply(400, {"error": "'response_format.json_schema.schema' must be an object"}), "json_object"),
]


@pytest.mark.parametrize(("refusal", "adaptation"), REFUSALS)
def test_what_an_endpoint_does_not_take_is_sent_otherwise(refusal, adaptation):
    """Once: the second question is asked at once as the endpoint wants it."""

    async def twice(chat):
        return [await chat.complete(HELLO, SCHEMA, seed=7) for _ in range(2)]

    with FakeEndpoint(lambda _, number: completion("{}") if number else refusal) as endpoint:
        answers = asyncio.run(twice(client(endpoint.base_url)))
    assert [answer.adapted for answer in answers] == [(adaptation,)] * 2
    first, second, third = endpoint.requests
    assert second == third and set(first) - {"model", "messages"} == PLAIN
    sent = {key: value for key, value in second.items() if key not in ("model", "messages")}
    kept = {key: value for key, value in first.items() if key in sent and key != "response_format"}
    assert (
        sent
        == kept
        | {
            "max_completion_tokens": {"max_completion_tokens": 256, "response_format": first["response_format"]},
            "no_temperature": {"response_format": first["response_format"]},
            "no_seed": {"response_format": first["response_format"]},
            "json_object": {"response_format": {"type": "json_object"}},
        }[adaptation]
    )
    assert ("of this schema" in str(second["messages"])) == (adaptation == "json_object")


def test_a_strict_endpoint_is_adapted_to_step_by_step():
    """A reasoning model behind a server that knows no structured output at all; many ask it at once."""

    def respond(request, number):
        if "max_tokens" in request:
            return REFUSALS[0][0]
        if "temperature" in request:
            return REFUSALS[1][0]
        if "response_format" in request:
            return Reply(400, {"error": "'response_format.type' must be 'text'"})
        return completion('{"objects": []}') if "seed" not in request else Reply(422, extra("seed"))

    async def all_at_once(chat):
        return await asyncio.gather(*(chat.complete(HELLO, SCHEMA) for _ in range(8)))

    with FakeEndpoint(respond) as endpoint:
        answers = asyncio.run(all_at_once(client(endpoint.base_url)))
    assert {answer.text for answer in answers} == {'{"objects": []}'}
    assert set(answers[0].adapted) == set(ADAPTATIONS) and len(answers[0].adapted) == len(ADAPTATIONS)
    last = endpoint.requests[-1]
    assert set(last) == {"model", "messages", "max_completion_tokens"}
    system, user = last["messages"]
    assert user == HELLO[0] and system["role"] == "system" and json.dumps(SCHEMA) in system["content"]


def test_the_schema_joins_the_instructions_that_are_there():
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    system = {"role": "system", "content": "You read."}
    wanted = {"messages": [system, *HELLO], "max_tokens": 9, "temperature": 0.0, "seed": 0, "response_format": form}
    sent = Dialect(("json_object",)).request(wanted)
    asked = f"You read. Answer with nothing but JSON of this schema: {json.dumps(SCHEMA)}"
    assert sent["messages"] == [{"role": "system", "content": asked}, *HELLO]
    assert wanted["messages"][0] == system


@pytest.mark.parametrize(
    "refusal",
    [
        openai_error("Something is wrong with this request"),
        openai_error("max_tokens is too large: 256. This model supports at most 100 completion tokens", "max_tokens"),
        openai_error(
            "'max_tokens' or 'max_completion_tokens' is too large: 256. This model's maximum context length is 300 "
            "tokens and your request has 100 input tokens"
        ),
        openai_error("Invalid 'messages[0].content': must be a string", "messages[0].content"),
    ],
)
def test_a_refusal_that_names_nothing_is_not_guessed_at(refusal):
    with FakeEndpoint(lambda *_: refusal) as endpoint:
        (refused,) = ask(client(endpoint.base_url))
    assert refused.reason == "llm_refused" and len(endpoint.requests) == 1


def test_each_adaptation_is_tried_once():
    with FakeEndpoint(lambda *_: REFUSALS[1][0]) as endpoint:
        (refused,) = ask(client(endpoint.base_url))
    assert refused.reason == "llm_refused" and "does not support 0" in refused.message
    assert ["temperature" in request for request in endpoint.requests] == [True, False]


# --- what would meet every request ---


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (openai_error(f"Incorrect API key provided: {SECRET}", status=401), r"provided: \$OPENAI_API_KEY\)"),
        (error(403, "Forbidden"), r"refuses the API key, check OPENAI_API_KEY \(status 403: Forbidden\)"),
        (error(404), "knows no such model"),
        (openai_error('Invalid model identifier "m". Please specify', "model", "model_not_found"), "check llm.model"),
        (Reply(400, {"error": "No models loaded. Please load a model in the developer page"}), "knows no such model"),
        (openai_error("You exceeded your current quota", None, "insufficient_quota", 429), "exceeded your current"),
        (Reply(429, {"error": {"type": "exceeded_current_quota_error", "message": "suspended"}}), "quota"),
        (openai_error("Insufficient Balance", status=402), "Insufficient Balance"),
        (openai_error("Your credit balance is too low to access the API."), "credit balance"),
    ],
)
def test_faults_of_the_set_up_abort(reply, words):
    with FakeEndpoint(lambda *_: reply) as endpoint:
        (abort,) = ask(client(endpoint.base_url))
    assert isinstance(abort, AbortError) and SECRET not in str(abort)
    assert re.search(words, str(abort)), str(abort)


def test_the_first_three_requests_refused_alike_end_the_run():
    refusal = openai_error("At most 0 image(s) may be provided in one prompt.", code="bad_pictures")
    with FakeEndpoint(lambda *_: refusal) as endpoint:
        first, second, third = ask(client(endpoint.base_url), 3)
    assert (first.reason, second.reason) == ("llm_refused",) * 2 and isinstance(third, AbortError)
    assert "refused the first 3 requests alike" in str(third) and "At most 0 image(s)" in str(third)


FILTERED = openai_error(
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "prompt",
    "content_filter",
)
TOO_LONG = openai_error("This model's maximum context length is 2048 tokens.", code="context_length_exceeded")


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        ([completion("yes"), *[openai_error("odd")] * 4], "hello"),  # one was answered
        ([openai_error("odd", code="a"), openai_error("odd", code="b")] * 2, "hello"),
        ([FILTERED] * 4, "hello"),
        ([error(403, "Your input was flagged by moderation")] * 4, "hello"),
        ([TOO_LONG] * 4, "long " * 1000),
    ],
)
def test_refusals_that_are_a_requests_own_do_not(replies, text):
    async def run(chat):
        hello = [{"role": "user", "content": text}]
        return await asyncio.gather(*(chat.complete(hello) for _ in replies), return_exceptions=True)

    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        results = asyncio.run(run(client(endpoint.base_url, concurrency=1)))
    reasons = [getattr(result, "reason", type(result).__name__) for result in results]
    assert reasons == ["ChatAnswer" if reply.status == 200 else "llm_refused" for reply in replies]


def test_a_context_that_is_too_small_for_any_prompt_ends_the_run():
    with FakeEndpoint(lambda *_: TOO_LONG) as endpoint:
        abort = ask(client(endpoint.base_url), 3)[-1]
    assert isinstance(abort, AbortError) and "serve it with a longer context" in str(abort)


def test_a_trial_counts_what_is_alike_and_ends_with_the_first_success():
    trial = Trial(needed=2)
    assert [trial.lost(kind) for kind in "aba"] == [False] * 3 and trial.lost("a")
    trial.passed = True
    assert not trial.lost("a")


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


def test_an_answer_in_parts_and_one_that_is_cut_off():
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a dog"}]
    replies = [completion(parts), completion(None, finish_reason="length")]
    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        assert ask(client(endpoint.base_url), 2) == [
            ChatAnswer("a dog", 100, 10), ChatAnswer("", 100, 10, cut_off=True),
        ]  # fmt: skip


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
