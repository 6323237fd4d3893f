"""The judge of free answers: V-STaR's prompt, an OpenAI-compatible endpoint, and the comparison without a judge."""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ravst_ray.config.annotate import LLMConfig
from ravst_ray.config.benchmarks import JudgeConfig
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.language.cache import LLMCache, cache_key
from ravst_ray.language.protocols import ChatModel
from ravst_ray.logs import get_logger

log = get_logger(__name__)
RIGHT_FROM = 2
"""The mark of 0 to 3 from which an answer is right, by the published code; its README says "0 to 4" and "above 2"."""
FAILED = -1
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)
_SYSTEM = """
As an AI assistant, your task is to evaluate a candidate answer in comparison to a given correct answer.
The question itself, the correct 'groundtruth' answer, and the candidate answer will be provided to you.
Your assessment should range from 0 to 3, \
based solely on the semantic similarity between the groundtruth and the candidate answer, \
disregarding any grammatical differences.
A rating of 0 suggests no similarity, implying the candidate answer is entirely incorrect.
A rating of 1 suggests low similarity, meaning the candidate answer is largely incorrect.
A rating of 2 suggests high similarity, meaning the candidate answer is largely correct.
Lastly, a rating of 3 indicates complete similarity, which means the candidate answer is entirely correct.
Your response should be a single integer from 0, 1, 2, or 3.
"""
_ASKED = "Question: {}\nGroundtruth answer: {}\nCandidate answer: {}\nYour response: "


def normalised(text: str) -> str:
    """Small letters, without punctuation and articles, single spaces.

    Example:
        >>> normalised("The dog's  ball."), normalised("dogs ball")
        ('dogs ball', 'dogs ball')
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def judge_messages(question: str, truth: str, answer: str) -> list[dict[str, Any]]:
    """The conversation, word for word that of V-STaR's evaluation code (arXiv 2503.11495)."""
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": _ASKED.format(question, truth, answer)},
    ]


def read_verdict(text: str) -> int:
    """The mark that a judge gave; ``FAILED`` for what is no whole number, which is never right."""
    try:
        return int(text)
    except ValueError:
        return FAILED


def judge_client(config: JudgeConfig) -> ChatModel:
    """The client of the endpoint.

    Raises:
        ConfigError: the endpoint is no http(s) address, or there is no key for it.
    """
    from ravst_ray.language.chat import ChatClient, endpoint_of

    try:
        url, key = endpoint_of(LLMConfig(backend="openai", model=config.model, base_url=config.base_url))
    except ConfigError as error:
        raise ConfigError(str(error).replace("llm.backend openai", "the judge").replace("llm.", "judge.")) from None
    return ChatClient(config.model, url, key, config.concurrency, config.timeout_s, config.max_retries)


def ask_judge(
    asked: Mapping[str, list[dict[str, Any]]], config: JudgeConfig, cache_path: Path, client: ChatModel | None = None
) -> dict[str, int]:
    """Marks by key, greedy; those already given are not asked for again.

    A conversation that the endpoint fails on is marked ``FAILED``, and counted in the log.

    Raises:
        ConfigError: as :func:`judge_client`.
        AbortError: the endpoint refuses all.
    """
    client = client or judge_client(config)
    cache = LLMCache(cache_path)

    async def one(messages: list[dict[str, Any]]) -> int:
        key = cache_key("judge", config.model, config.max_tokens, messages)
        kept = cache.get(key)
        if kept is None:
            try:
                kept = (await client.complete(messages, max_tokens=config.max_tokens)).text
            except StepError as error:
                log.warning("no verdict: %s", error.message)
                return FAILED
            if read_verdict(kept) != FAILED:
                cache.put(key, kept)
        return read_verdict(kept)

    async def every() -> list[int]:
        return list(await asyncio.gather(*(one(messages) for messages in asked.values())))

    verdicts = dict(zip(asked, asyncio.run(every()), strict=True))
    cache.close()
    if failed := sum(verdict == FAILED for verdict in verdicts.values()):
        log.warning("%d of %d answers have no verdict; they count as wrong", failed, len(verdicts))
    return verdicts
