"""What an endpoint's refusal of a request means, and how it is asked from then on. Pure; no network.

Endpoints that call themselves OpenAI-compatible differ in the parameters that they take, and say so in words of their
own: ``error.param`` where they are kind, else somewhere in the body.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ravst_ray.core.prompts import Message

ADAPTATIONS: dict[str, str] = {
    "max_completion_tokens": "the limit is sent as max_completion_tokens, not as max_tokens",
    "no_temperature": "no temperature is sent, the model's own holds",
    "no_seed": "no seed is sent",
    "json_object": "any JSON is asked for, the schema stands in the prompt",
    "json_in_words": "the prompt alone asks for JSON, and holds the schema",
}
"""What may be sent otherwise; each is tried once, where a refusal names what it replaces."""

_NAMES = {
    "max_tokens": re.compile(r"\bmax_tokens\b"),
    "temperature": re.compile(r"\btemperature\b", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b"),
    "response_format": re.compile(r"response[ _]formats?\b|json[ _](schema|object)|structured output", re.IGNORECASE),
}
_REFUSES = re.compile(
    r"support|unavailable|unrecogni[sz]ed|unknown|unexpected|(not|n't) (permitted|allowed|accepted)|extra_forbidden|"
    r"deprecated|invalid|must be|only .{0,40}(allowed|enabled)|cannot|conversion failed",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum context|too (long|large|many tokens)|reduce the length|inputs.? tokens",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[ _-]?(filter|management|polic)|moderation|flagged|responsible ?ai|safety|inappropriate|data_?inspection",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_not_found|no models? (is |are )?loaded|(invalid|unknown|no such) model|"
    r"model\b.{0,100}(not found|not exist|n't exist|not available)",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient[_ ](quota|balance|credits?|funds)|exceeded_current_quota|billing_(hard_limit|not_active)|"
    r"(credit )?balance is too low|out of credits",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusal:
    """An answer that is no completion.

    Attributes:
        status: of HTTP.
        code: the endpoint's own, or empty.
        param: the parameter at fault where the endpoint says it, or empty.
        words: its message, for people, at most 300 characters.
        body: all that it sent, but for what it quotes of the request.
    """

    status: int
    code: str
    param: str
    words: str
    body: str

    @classmethod
    def of(cls, error: Any, secret: str = "") -> Refusal:
        """From an ``openai.APIStatusError``; ``secret`` is masked wherever the endpoint quotes it."""
        hide = lambda text: text.replace(secret, "$OPENAI_API_KEY") if secret else text  # noqa: E731
        found = error.body
        while isinstance(found, list | dict):  # {"error": …}, [{"error": …}], {"message": {"detail": …}}
            inner = found[:1] if isinstance(found, list) else [found.get(key) for key in ("message", "error", "detail")]
            found = next(filter(None, inner), json.dumps(found))
        words = " ".join(hide(str(found or "no reason given")).split())[:300]
        return cls(error.status_code, _text(error.code), _text(error.param), words, hide(_body(error.response.text)))

    @property
    def too_long(self) -> bool:
        """Whether the prompt and the room for its answer exceed the model's context."""
        return bool(_TOO_LONG.search(self.body))

    @property
    def filtered(self) -> bool:
        """Whether the prompt's content is what is refused."""
        return self.status in (400, 403, 422) and bool(_FILTERED.search(self.body))

    @property
    def unknown_model(self) -> bool:
        """Whether there is no such model, or no such path."""
        said = f"{self.code} {self.words}"
        return self.status == 404 or (self.status in (400, 422) and bool(_NO_MODEL.search(said)))

    @property
    def unpaid(self) -> bool:
        """Whether the key's quota or money is used up: a rate limit passes, this doesn't."""
        return self.status == 402 or (self.status in (400, 403, 429) and bool(_NO_MONEY.search(self.body)))

    def names(self) -> list[str]:
        """The request's parameters that the endpoint doesn't take as they are."""
        if self.status not in (400, 422, 500) or self.too_long or self.filtered or self.unknown_model:
            return []
        if told := [name for name in _NAMES if self.param.startswith(name)]:
            return told
        return [name for name, word in _NAMES.items() if word.search(self.body)] if _REFUSES.search(self.body) else []


@dataclass(frozen=True)
class Dialect:
    """How an endpoint is asked: ``made`` are the keys of ``ADAPTATIONS`` that it needed so far."""

    made: tuple[str, ...] = ()

    def request(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """A request in OpenAI's form, as this endpoint takes it."""
        sent = dict(wanted)
        if "max_completion_tokens" in self.made:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        for name in ("temperature", "seed"):
            if f"no_{name}" in self.made:
                sent.pop(name)
        form = sent.get("response_format")
        if form and {"json_object", "json_in_words"} & set(self.made):
            sent["messages"] = _with_schema(sent["messages"], form["json_schema"]["schema"])
            sent["response_format"] = {"type": "json_object"}
        if form and "json_in_words" in self.made:
            del sent["response_format"]
        return sent

    def after(self, refusal: Refusal, sent: dict[str, Any]) -> Dialect:
        """What to try once ``sent`` was refused; the same dialect where there is nothing left to try."""
        steps = {"max_tokens": "max_completion_tokens", "temperature": "no_temperature", "seed": "no_seed"}
        if "response_format" in sent:
            strict = sent["response_format"]["type"] == "json_schema"
            steps["response_format"] = "json_object" if strict else "json_in_words"
        new = [steps[name] for name in refusal.names() if name in sent]
        return Dialect((*self.made, *(one for one in new if one not in self.made)))


def _with_schema(messages: list[Message], schema: dict[str, Any]) -> list[Message]:
    asked = f"Answer with nothing but JSON of this schema: {json.dumps(schema, ensure_ascii=False)}"
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']} {asked}"}, *messages[1:]]
    return [{"role": "system", "content": asked}, *messages]


def _body(text: str) -> str:
    """Without the ``input`` of pydantic's errors: the request itself, whose words say nothing of the endpoint."""
    try:
        found = json.loads(text)
        for one in found["detail"]:
            one.pop("input", None)
    except (ValueError, LookupError, TypeError, AttributeError):
        return text
    return json.dumps(found)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
