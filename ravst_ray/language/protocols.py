"""A language model as the annotation graph sees it. This module imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ChatAnswer:
    """What a language model said, and what it cost.

    Attributes:
        text: without what it thought, where the endpoint tells the two apart.
        prompt_tokens, completion_tokens: what was counted.
        cut_off: the token limit was hit.
        adapted: what was sent otherwise than asked, because the endpoint doesn't take it; keys of
            :data:`ravst_ray.language.dialect.ADAPTATIONS`.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_off: bool = False
    adapted: tuple[str, ...] = ()


class ChatModel(Protocol):
    """A language model that is talked to."""

    async def complete(
        self,
        messages: list[dict[str, Any]],
        schema: dict[str, Any] | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> ChatAnswer:
        """Ask once; ``schema`` (JSON schema) shapes the answer.

        Raises ``StepError`` for this request, ``AbortError`` where every request would fail.
        """
        ...
