"""A chat model behind any OpenAI-compatible endpoint, by the ``openai`` client.

The client itself repeats what may pass (429, 5xx, broken connections, timeouts) with exponential backoff and jitter,
and heeds Retry-After. What is left is sorted here: a fault of the run's set-up aborts it, a fault of the endpoint costs
the video that asked, and an endpoint that stays away is no longer waited for (:class:`Breaker`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from ravst_ray.backends.protocols import ChatAnswer
from ravst_ray.config.annotate import LLMConfig
from ravst_ray.core.prompts import Message
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.logs import SECRET_NAME, get_logger

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = get_logger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LONGEST_BACKOFF_S = 8.0  # the openai client's own


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

        An answer that is no chat completion at all comes back as an empty text: it is for the caller to judge.

        Raises:
            StepError: ``llm_unreachable`` or ``llm_rate_limited`` (both retryable), or ``llm_refused``, this request.
            AbortError: the key, the model or the quota; no request of this run can succeed.
        """
        wanted: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": max_tokens}
        wanted |= {"temperature": temperature, "seed": seed}
        if schema is not None:
            named = {"name": "answer", "strict": True, "schema": schema}
            wanted["response_format"] = {"type": "json_schema", "json_schema": named}
        async with self._slots:
            if not self.breaker.admit():
                raise self._unreachable("it stayed away several times in a row, so it was not asked")
            return await self._send(wanted)

    async def _send(self, wanted: dict[str, Any]) -> ChatAnswer:
        import openai

        retries = 0 if self.breaker.is_open else self.max_retries
        client = self._client.with_options(max_retries=retries)
        # The timeout of the HTTP client starts anew with every byte: an endpoint that drips needs a bound over all.
        bound_s = (self.timeout_s + _LONGEST_BACKOFF_S) * (retries + 1)
        try:
            async with asyncio.timeout(bound_s):
                response = await client.chat.completions.create(**wanted)
        except (openai.APIConnectionError, openai.InternalServerError, TimeoutError) as error:
            self.breaker.record(reached=False)
            raise self._unreachable(f"{type(error).__name__} after {retries + 1} attempts") from None
        except openai.APIStatusError as error:
            self.breaker.record(reached=True)
            raise self._sorted(error) from None
        except (openai.APIError, ValueError):  # not the protocol: HTML with status 200, broken JSON
            self.breaker.record(reached=True)
            return ChatAnswer("")
        self.breaker.record(reached=True)
        return _read(response)

    def _sorted(self, error: Any) -> Exception:
        """What a status other than 2xx and 5xx means for the run."""
        place = f"model {self.model!r} at {self.base_url}"
        if error.status_code in (401, 403):
            return AbortError(f"{place}: the endpoint refuses the API key (status {error.status_code})")
        if error.status_code == 404:
            return AbortError(f"{place}: the endpoint knows no such model or path (status 404)")
        if error.status_code == 429 and getattr(error, "code", None) == "insufficient_quota":
            return AbortError(f"{place}: the quota of the API key is used up")
        if error.status_code == 429:
            return StepError("llm_rate_limited", f"{place}: rate limit, still after all retries", retryable=True)
        detail = error.body.get("message") if isinstance(error.body, dict) else None
        passing = error.status_code in (408, 409, 425)
        message = f"{place}: status {error.status_code}: {str(detail or '-')[:300]}"
        return StepError("llm_refused", message, retryable=passing)

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
        text = response.choices[0].message.content
    except (AttributeError, IndexError, TypeError, KeyError):
        return ChatAnswer("")
    usage = getattr(response, "usage", None)
    prompt, completion = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
    return ChatAnswer(
        text if isinstance(text, str) else "",
        prompt if isinstance(prompt, int) else 0,
        completion if isinstance(completion, int) else 0,
    )
