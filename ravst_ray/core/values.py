"""A short answer as a value: a letter, a number, a box or an interval; written and read."""

from __future__ import annotations

import re
from math import isfinite

Value = str | float | tuple[float, ...]
"""A capital letter of a choice; a number; a box of 4 numbers ``(x1, y1, x2, y2)`` or an interval of 2."""

MOST = 1e6
"""The largest magnitude of a number that is read; a million metres, seconds or pixels is far beyond any answer."""

# Every repetition is bounded, so no text makes the expressions run long.
_NUMBER = r"\s{0,8}([-+]?(?:\d{1,32}(?:\.\d{0,32})?|\.\d{1,32})(?:[eE][-+]?\d{1,3})?)\s{0,8}"
_UNIT = r"(?:[A-Za-z°²³%][A-Za-z°²³%/^. ]{0,30}(?:(?<=[A-Za-z^])[23])?\s{0,8})?\.?"
_LETTER = re.compile(r"(?:\(\s?([A-Za-z])\s?\)|([A-Za-z])(?:[.):,]|$))")
_SCALAR = re.compile(_NUMBER + _UNIT)
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER}(?:,{_NUMBER},{_NUMBER})?\]\s{{0,8}}{_UNIT}")


def render_value(value: Value) -> str:
    """The value as text, numbers with at most two decimals.

    Example:
        >>> [render_value(value) for value in ("B", 3.0, 2.444, (12.0, 30.5, 80.0, 99.004))]
        ['B', '3', '2.44', '[12.0, 30.5, 80.0, 99.0]']

    Raises:
        ValueError: what isn't one letter, or 1, 2 or 4 finite numbers of at most a million.
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, tuple):
        text = "[" + ", ".join(repr(round(float(number), 2) + 0.0) for number in value) + "]"
    else:
        number = round(float(value), 2) + 0.0
        text = str(int(number)) if number.is_integer() else repr(number)
    if read_value(text) is None or (isinstance(value, str) and read_value(text) != value):
        raise ValueError(f"{value!r} is no letter, number, box or interval")
    return text


def read_value(text: str) -> Value | None:
    """What a text says, if it says nothing but one value, with its unit or the option's words; None otherwise.

    Example:
        >>> [read_value(text) for text in ("(b)", "B. left", "2.5 m", "[1, 4.5]", "B or C", "1e308")]
        ['B', 'B', 2.5, (1.0, 4.5), None, None]
    """
    text = text.strip()
    if letter := _LETTER.match(text):
        return (letter[1] or letter[2]).upper()
    found = _SCALAR.fullmatch(text) or _LIST.fullmatch(text)
    if not found:
        return None
    numbers = tuple(float(number) for number in found.groups() if number is not None)
    if not all(isfinite(number) and abs(number) <= MOST for number in numbers):
        return None
    return numbers if text.startswith("[") else numbers[0]
