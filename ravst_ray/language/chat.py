"""A chat model behind any OpenAI-compatible endpoint, by the ``openai`` client.

The client itself repeats what may pass (429, 5xx, broken connections, timeouts) with exponential backoff and jitter,
and heeds Retry-After. What is left is sorted here: a parameter that the endpoint doesn't take is sent otherwise from
then on (:mod:`ravst_ray.language.dialect`), what would meet every request aborts the run (:class:`Trial`), what has met
one costs the video that asked, and an endpoint that stays away is no longer waited for (:class:`Breaker`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from ravst_ray.config.annotate import LLMConfig
from ravst_ray.core.prompts import Message
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.language.dialect import Dialect, Refusal
from ravst_ray.language.protocols import ChatAnswer
from ravst_ray.logs import SECRET_NAME

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"
_SHORTEST_SECRET = 8  # a shorter key ("none", "EMPTY") is no secret, and may be part of any word
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LONGEST_BACKOFF_S = 8.0  # the openai client's own
_SHORT_CHARS = 4000
"""A prompt of less text that is refused as too long shows that the context is too small for any."""


@dataclass
class Breaker:
    """Refuses calls to an endpoint that stayed away ``threshold`` times in a row, all repeats included.

    While it is open, one call every ``cooldown_s`` is let through as a probe, and the first success closes it.
    """

    threshold: int = 3
    cooldown_s: float = 15.0
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    _probe_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the endpoint is taken to be away."""
        return self.failures >= self.threshold

    def admit(self) -> bool:
        """Whether a call may be made now; one that is admitted while the breaker is open is the probe."""
        if not self.is_open:
            return True
        if self.clock() < self._probe_at:
            return False
        self._probe_at = self.clock() + self.cooldown_s
        return True

    def record(self, reached: bool) -> None:
        """Note how a call went."""
        self.failures = 0 if reached else self.failures + 1
        if not reached:
            self._probe_at = self.clock() + self.cooldown_s


@dataclass
class Trial:
    """Tells what meets every request from what has met one: so many failed alike, and none has ever gone well."""

    needed: int = 3
    passed: bool = False
    _kind: str = ""
    _alike: int = 0

    def lost(self, kind: str) -> bool:
        """Note a failure of some kind; whether it is now taken to meet every request."""
        self._alike = self._alike + 1 if kind == self._kind else 1
        self._kind = kind
        return not self.passed and self._alike >= self.needed


@dataclass
class ChatClient:
    """One model at one endpoint. Picklable while unused; use it from a single event loop.

    Args:
        model: its name at the endpoint.
        base_url: endpoint, up to ``/v1``.
        api_key: never logged, never in an error message.
        concurrency: requests in flight at most.
        timeout_s: for one request.
        max_retries: repeats by the client, with backoff.
    """

    model: str
    base_url: str
    api_key: str = field(repr=False)
    concurrency: int = 8
    timeout_s: float = 60.0
    max_retries: int = 5
    breaker: Breaker = field(default_factory=Breaker)
    dialect: Dialect = field(default_factory=Dialect)
    trial: Trial = field(default_factory=Trial)

    async def complete(
        self,
        messages: list[Message],
        schema: dict[str, Any] | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> ChatAnswer:
        """Ask once; ``schema`` constrains the answer where the endpoint knows structured outputs.

        A parameter that the endpoint refuses is sent otherwise, at once and for good. An answer that is no chat
        completion at all comes back as an empty text: it is for the caller to judge.

        Raises:
            StepError: ``llm_unreachable`` or ``llm_rate_limited`` (both retryable), or ``llm_refused``, this request.
            AbortError: the key, the model or the quota, or the first three requests are refused alike, but for their
                content or their length; no request of this run can succeed.
        """
        wanted: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": max_tokens}
        wanted |= {"temperature": temperature, "seed": seed}
        if schema is not None:
            named = {"name": "answer", "strict": True, "schema": schema}
            wanted["response_format"] = {"type": "json_schema", "json_schema": named}
        async with self._slots:
            answer: ChatAnswer | Refusal | None = None
            while not isinstance(answer, ChatAnswer):
                if not self.breaker.admit():
                    raise self._unreachable("it stayed away several times in a row, so it was not asked")
                spoken = self.dialect
                sent = spoken.request(wanted)
                answer = await self._send(sent)
                if isinstance(answer, Refusal) and spoken is self.dialect:  # else another has learned meanwhile
                    better = spoken.after(answer, sent)
                    if better == spoken:
                        raise self._sorted(answer, messages)
                    self.dialect = better
            return replace(answer, adapted=spoken.made)

    async def _send(self, wanted: dict[str, Any]) -> ChatAnswer | Refusal:
        import openai

        retries = 0 if self.breaker.is_open else self.max_retries
        client = self._client.with_options(max_retries=retries)
        # The timeout of the HTTP client starts anew with every byte: an endpoint that drips needs a bound over all.
        bound_s = (self.timeout_s + _LONGEST_BACKOFF_S) * (retries + 1)
        try:
            async with asyncio.timeout(bound_s):
                response = await client.chat.completions.create(**wanted)
        except openai.APIStatusError as error:
            refusal = Refusal.of(error, self.api_key if len(self.api_key) >= _SHORTEST_SECRET else "")
            # Some servers name a parameter that they don't know with a 500.
            away = refusal.status >= 500 and not set(refusal.names()) & set(wanted)
            self.breaker.record(reached=not away)
            if away:
                raise self._unreachable(f"{type(error).__name__} after {retries + 1} attempts") from None
            return refusal
        except (openai.APIConnectionError, TimeoutError) as error:
            self.breaker.record(reached=False)
            raise self._unreachable(f"{type(error).__name__} after {retries + 1} attempts") from None
        except (openai.APIError, ValueError):  # not the protocol: HTML with status 200, broken JSON
            self.breaker.record(reached=True)
            return ChatAnswer("")
        self.breaker.record(reached=True)
        self.trial.passed = True
        return _read(response)

    def _sorted(self, refusal: Refusal, messages: list[Message]) -> Exception:
        """What a status other than 2xx and 5xx means for the run."""
        place, said = f"model {self.model!r} at {self.base_url}", f"status {refusal.status}: {refusal.words}"
        if refusal.unpaid:
            return AbortError(f"{place}: the quota of the API key is used up ({said})")
        if refusal.status in (401, 403) and not refusal.filtered:
            return AbortError(f"{place}: the endpoint refuses the API key, check OPENAI_API_KEY ({said})")
        if refusal.unknown_model:
            return AbortError(
                f"{place}: the endpoint knows no such model or path, check llm.model and llm.base_url ({said})"
            )
        if refusal.status == 429:
            return StepError("llm_rate_limited", f"{place}: rate limit, still after all retries", retryable=True)
        if refusal.status in (408, 409, 425):
            return StepError("llm_refused", f"{place}: {said}", retryable=True)
        own = refusal.filtered or (refusal.too_long and _chars(messages) >= _SHORT_CHARS)
        if not own and self.trial.lost(f"{refusal.status} {refusal.code}"):
            remedy = "serve it with a longer context" if refusal.too_long else "change what it names"
            return AbortError(
                f"{place}: the endpoint refused the first {self.trial.needed} requests alike, so it would refuse all; "
                f"{remedy}, or choose another llm.model or llm.base_url ({said})"
            )
        return StepError("llm_refused", f"{place}: {said}")

    def _unreachable(self, why: str) -> StepError:
        return StepError("llm_unreachable", f"the LLM endpoint {self.base_url} can't be reached: {why}", retryable=True)

    def move_to(self, base_url: str) -> None:
        """Ask another server from now on; what was known of the last one is forgotten."""
        self.base_url = base_url
        self.breaker.failures = 0
        vars(self).pop("_client", None)

    @cached_property
    def _slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self.concurrency)

    @cached_property
    def _client(self) -> AsyncOpenAI:
        import openai

        # A proxy that the environment names is not for a server on this machine.
        http = openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(self.base_url))
        limit = openai.Timeout(self.timeout_s, connect=min(10.0, self.timeout_s))
        return openai.AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, timeout=limit, http_client=http)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_slots", "_client")}


def endpoint_of(config: LLMConfig) -> tuple[str, str]:
    """The endpoint and the key that backend ``openai`` uses, from the configuration and the environment.

    Raises:
        ConfigError: the endpoint is no http(s) address, or holds a password, or there is no key for it.
    """
    url = (config.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"llm.base_url: {url!r} is no endpoint; expected something like http://host:8000/v1")
    if parts.username or parts.password or any(SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query)):
        raise ConfigError("llm.base_url: a user name or a key in the address would be saved; use OPENAI_API_KEY")
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not is_loopback(url):
        raise ConfigError(f"llm.backend openai needs the environment variable OPENAI_API_KEY for {parts.hostname}")
    return url, key or "none"


def is_loopback(url: str) -> bool:
    """Whether an endpoint is a server on this very machine."""
    return urlsplit(url).hostname in _LOOPBACK


def _read(response: Any) -> ChatAnswer:
    """The client doesn't check what it was sent, so every part of the answer may be absent or of another kind."""
    try:
        choice = response.choices[0]
        text = choice.message.content
    except (AttributeError, IndexError, TypeError, KeyError):
        return ChatAnswer("")
    if isinstance(text, list):  # parts; those that think have no text of their own
        text = "".join(part["text"] for part in text if isinstance(part, dict) and isinstance(part.get("text"), str))
    usage = getattr(response, "usage", None)
    prompt, completion = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
    return ChatAnswer(
        text if isinstance(text, str) else "",
        prompt if isinstance(prompt, int) else 0,
        completion if isinstance(completion, int) else 0,
        cut_off=getattr(choice, "finish_reason", None) == "length",
    )


def _chars(messages: list[Message]) -> int:
    """Characters of text; pictures don't count."""
    return sum(len(content) for message in messages if isinstance(content := message["content"], str))
