"""JSON in what a model says: after its thinking, in a code fence, amid sentences. Linear in the length of the text."""

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


def spoken(text: str) -> str:
    """What a model says after it has thought.

    Raises:
        MalformedAnswer: the thinking never ends, so what looks like an answer may be a draft.
    """
    _, thought, said = text.rpartition(_THOUGHT)
    if _THINK in said:
        raise MalformedAnswer("the thinking never ends")
    return said if thought else text


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
