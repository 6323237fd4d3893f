"""What a model says: after its thinking; and JSON in it, in a code fence, amid sentences. Linear in a text's length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_THINK, _THOUGHT = "<think>", "</think>"
_FALSE_STARTS = 64
"""Braces that may be no JSON: each failure costs the parser a look at all the text before it."""
_DECODER = json.JSONDecoder(parse_int=float)  # an int of thousands of digits would raise


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
