"""What a model says: after its thinking; and JSON in it, in a code fence, amid sentences. Linear in a text's length."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

_THINK, _THOUGHT = "<think>", "</think>"
_FALSE_STARTS = 64
"""Braces that may be no JSON: each failure costs the parser a look at all the text before it."""
_DECODER = json.JSONDecoder(parse_int=float)  # an int of thousands of digits would raise
_ANSWER = re.compile(r"<\s{0,8}(/?)\s{0,8}answer\s{0,8}>")

ANSWER_MALFORMATIONS: dict[str, str] = {
    "endless_thinking": "a <think> without </think> (what follows it isn't read)",
    "no_answer": "there is no <answer>",
    "several_answers": "there is more than one <answer>",
    "unclosed_answer": "</answer> is missing",
    "text_after_answer": "text follows </answer>",
}
"""What :func:`answer_span` counts, and what it means."""


class MalformedAnswer(ValueError):
    """A model's answer is not what was asked for."""


def after_thinking(text: str) -> tuple[int, int]:
    """Where what a model says begins and ends: behind its thinking, and before any that never ends.

    Example:
        >>> after_thinking("<think>hm</think>yes"), after_thinking("<think>perhaps yes")
        ((17, 20), (0, 0))
    """
    thought = text.rfind(_THOUGHT)
    start = thought + len(_THOUGHT) if thought >= 0 else 0
    again = text.find(_THINK, start)
    return start, again if again >= 0 else len(text)


def answer_span(text: str) -> tuple[tuple[int, int] | None, Counter[str]]:
    """Where the content of the last ``<answer>`` lies, after the thinking, and what is malformed around it.

    It ends with its end tag, or with what is spoken. None where there is no ``<answer>``.

    Example:
        >>> answer_span("<think>B?</think><answer>A</answer>"), answer_span("<answer>A")
        (((25, 26), Counter()), ((8, 9), Counter({'unclosed_answer': 1})))
    """
    start, end = after_thinking(text)
    malformed: Counter[str] = Counter()
    if end < len(text):
        malformed["endless_thinking"] += 1
    tags = list(_ANSWER.finditer(text, start, end))
    opened = [place for place, tag in enumerate(tags) if not tag.group(1)]
    if len(opened) != 1:
        malformed["several_answers" if opened else "no_answer"] += 1
    if not opened:
        return None, malformed
    closing = tags[opened[-1] + 1 :][:1]
    if not closing:
        malformed["unclosed_answer"] += 1
    elif text[closing[0].end() : end].strip():
        malformed["text_after_answer"] += 1
    return (tags[opened[-1]].end(), closing[0].start() if closing else end), malformed


def spoken(text: str) -> str:
    """What a model says after it has thought.

    Raises:
        MalformedAnswer: the thinking never ends, so what looks like an answer may be a draft.
    """
    start, end = after_thinking(text)
    if end < len(text):
        raise MalformedAnswer("the thinking never ends")
    return text[start:]


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of an answer that lie in no other, in their order; what is around them doesn't matter.

    Example:
        >>> list(json_objects('<think>{"a": 1}</think>Here {it} is: ```json {"b": {"c": []}} ``` {"d"'))
        [{'b': {'c': []}}]

    Raises:
        MalformedAnswer: as :func:`spoken`, or braces too deep for the parser.
    """
    said = spoken(text)
    at, false_starts = said.find("{"), 0
    while at >= 0 and false_starts < _FALSE_STARTS:
        try:
            found, at = _DECODER.raw_decode(said, at)
            yield found
        except json.JSONDecodeError as error:
            at, false_starts = max(at + 1, error.pos), false_starts + 1
        except RecursionError:
            raise MalformedAnswer("braces too deep to be read") from None
        at = said.find("{", at)
