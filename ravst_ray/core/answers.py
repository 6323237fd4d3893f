r"""The answer grammar: one renderer, one parser, exact inverses.

::

    <answer>
    <object>trombone</object>
    <when>[0.0, 44.4]</when>
    <where>
    0.0: [243.0, 40.0, 471.0, 104.0]
    1.0: [243.0, 36.0, 471.0, 105.0]
    </where>
    </answer>

Temporal answers have object and when, spatial ones object and where (several objects, several boxes per second),
spatio-temporal ones all three. The parser takes any text, never raises, is linear in its length, and counts what is
malformed by kind; ground truth goes through it as well.

What it reads is the last ``<answer>``, up to its end tag or the end of the text; without one, the whole text. What
stands in ``<think></think>``, or behind a ``<think>`` that never ends, is a draft and isn't read. A name may hold
anything but these tags: a comma is part of it, ``\x`` is two characters. Spaces are free everywhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from ravst_ray.core.intervals import Interval
from ravst_ray.core.replies import ANSWER_MALFORMATIONS, after_thinking, answer_span
from ravst_ray.records import Box

BoxLine = tuple[float, Box]

MALFORMATIONS: dict[str, str] = {
    **ANSWER_MALFORMATIONS,
    "no_object": "the answer names no object",
    "empty_object": "an <object> without a name (left out)",
    "unclosed_object": "</object> is missing",
    "unclosed_when": "</when> is missing",
    "unclosed_where": "</where> is missing",
    "when_without_object": "a <when> before any object (left out)",
    "where_without_object": "a <where> before any object (left out)",
    "several_when": "a second <when> of one object (left out)",
    "several_where": "a second <where> of one object (left out)",
    "stray_tag": "an end tag that closes nothing",
    "stray_text": "text between the parts of the answer",
    "bad_when": "a <when> that isn't two finite numbers in brackets (left out)",
    "inverted_when": "a <when> that ends before it starts",
    "bad_where_line": "a line that isn't 'second: [x1, y1, x2, y2]', all finite (left out)",
    "inverted_box": "a box with x2 < x1 or y2 < y1",
}
"""Every kind of malformation that is counted, and what it means."""

# Runs of spaces inside a tag and numbers are bounded: no text makes the expressions run long.
_TAG = re.compile(r"<\s{0,8}(/?)\s{0,8}(answer|object|when|where)\s{0,8}>")
_NUMBER = r"\s*([-+]?[0-9.][-+0-9.eE]{0,63})\s*"
_WHEN = re.compile(rf"\s*\[{_NUMBER},{_NUMBER}\]\s*")
_LINE = re.compile(rf"{_NUMBER}:\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\s*")


@dataclass(frozen=True, slots=True)
class ObjectAnswer:
    """What an answer says of one object; a part that is None isn't there. ``where`` keeps the order of its lines."""

    name: str
    when: Interval | None = None
    where: tuple[BoxLine, ...] | None = None


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The objects that could be read, and how often each kind of malformation was met (empty for a clean answer)."""

    objects: tuple[ObjectAnswer, ...]
    malformed: Mapping[str, int] = field(default_factory=dict)


def render(objects: Iterable[ObjectAnswer]) -> str:
    """The answer as text, in the published style.

    Raises:
        ValueError: a name that the grammar can't carry (empty, with space around it, or with one of the tags in it),
            or a number that isn't finite.
    """
    lines = ["<answer>"]
    for one in objects:
        drafted = after_thinking(one.name) != (0, len(one.name))
        if not one.name or one.name != one.name.strip() or _TAG.search(one.name) or drafted:
            raise ValueError(f"the answer grammar can't carry the object name {one.name!r}")
        lines.append(f"<object>{one.name}</object>")
        if one.when is not None:
            lines.append(f"<when>{_numbers(one.when)}</when>")
        if one.where is not None:
            lines.append("<where>")
            lines += [_render_line(time_s, box) for time_s, box in one.where]
            lines.append("</where>")
    return "\n".join([*lines, "</answer>"])


def parse(text: str) -> ParsedAnswer:
    """Read a model's or the dataset's text; see the module's docstring.

    Example:
        >>> parse("<answer><object>dog</object><when>[1, 2.5]</when></answer>").objects
        (ObjectAnswer(name='dog', when=(1.0, 2.5), where=None),)
    """
    span, malformed = answer_span(text)
    start, end = span or after_thinking(text)
    reader = _Reader(text, malformed)
    # Without an <answer>, what stands before the first tag doesn't matter.
    reader.read(list(_TAG.finditer(text, start, end)), start if span else None, end)
    return ParsedAnswer(tuple(reader.objects), dict(malformed))


def rewrite_where(text: str, change: Callable[[Sequence[BoxLine]], Iterable[BoxLine]], integer: bool = False) -> str:
    """The text with the box lines of each ``<where>`` replaced by what ``change`` makes of them.

    Lines that can't be read stay, behind the others; a ``<where>`` without any readable line, and all text around,
    stays as it is. So what :func:`parse` finds malformed stays malformed.

    Args:
        text: any text.
        change: gets the readable lines of one ``<where>``, in order.
        integer: write coordinates as whole numbers.
    """
    tags = list(_TAG.finditer(text))
    pieces: list[str] = []
    at = 0
    for place, tag in enumerate(tags):
        if tag.group(2) != "where" or tag.group(1):
            continue
        end = tags[place + 1].start() if place + 1 < len(tags) else len(text)
        readable: list[BoxLine] = []
        others: list[str] = []
        for line in text[tag.end() : end].split("\n"):
            found = _box_line(line)
            if found is not None:
                readable.append(found)
            elif line and not line.isspace():
                others.append(line)
        if readable:
            lines = [_render_line(time_s, box, integer) for time_s, box in change(readable)]
            pieces += [text[at : tag.end()], "\n".join(["", *lines, *others, ""])]
            at = end
    return "".join([*pieces, text[at:]])


class _Reader:
    """One pass over the tags inside an answer."""

    def __init__(self, text: str, malformed: Counter[str]):
        self.text = text
        self.malformed = malformed
        self.objects: list[ObjectAnswer] = []

    def read(self, tags: list[re.Match[str]], start: int | None, end: int) -> None:
        """Read from ``start`` (None: what stands before the first tag doesn't matter) to ``end``."""
        at = start
        place = 0
        while place < len(tags):
            tag = tags[place]
            if at is not None and self.text[at : tag.start()].strip():
                self.malformed["stray_text"] += 1
            place += 1
            at = tag.end()
            if tag.group(1) or tag.group(2) == "answer":
                self.malformed["stray_tag"] += 1
                continue
            kind = tag.group(2)
            following = tags[place] if place < len(tags) else None
            content_end = following.start() if following else end
            if following and following.group(1) and following.group(2) == kind:
                place += 1
                at = following.end()
            else:
                self.malformed[f"unclosed_{kind}"] += 1
                at = content_end
            self._part(kind, self.text[tag.end() : content_end])
        if at is not None and self.text[at:end].strip():
            self.malformed["stray_text"] += 1
        if not self.objects:
            self.malformed["no_object"] += 1

    def _part(self, kind: str, content: str) -> None:
        if kind == "object":
            if name := content.strip():
                self.objects.append(ObjectAnswer(name))
            else:
                self.malformed["empty_object"] += 1
        elif not self.objects:
            self.malformed[f"{kind}_without_object"] += 1
        elif getattr(self.objects[-1], kind) is not None:
            self.malformed[f"several_{kind}"] += 1
        else:
            last = self.objects[-1]
            if kind == "when":
                self.objects[-1] = ObjectAnswer(last.name, self._when(content), last.where)
            else:
                self.objects[-1] = ObjectAnswer(last.name, last.when, self._where(content))

    def _when(self, content: str) -> Interval | None:
        found = _WHEN.fullmatch(content)
        values = _floats(found.groups()) if found else None
        if values is None:
            self.malformed["bad_when"] += 1
            return None
        if values[1] < values[0]:
            self.malformed["inverted_when"] += 1
        return (values[0], values[1])

    def _where(self, content: str) -> tuple[BoxLine, ...]:
        lines: list[BoxLine] = []
        for text in content.split("\n"):
            line = _box_line(text)
            if line is not None:
                x1, y1, x2, y2 = line[1]
                if x2 < x1 or y2 < y1:
                    self.malformed["inverted_box"] += 1
                lines.append(line)
            elif text and not text.isspace():
                self.malformed["bad_where_line"] += 1
        return tuple(lines)


def _box_line(text: str) -> BoxLine | None:
    found = _LINE.fullmatch(text)
    values = _floats(found.groups()) if found else None
    if values is None:
        return None
    time_s, x1, y1, x2, y2 = values
    return (time_s, (x1, y1, x2, y2))


def _render_line(time_s: float, box: Box, integer: bool = False) -> str:
    numbers = "[" + ", ".join(str(round(value)) for value in box) + "]" if integer else _numbers(box)
    return f"{_numbers((time_s,))[1:-1]}: {numbers}"


def _floats(texts: Iterable[str]) -> list[float] | None:
    """Finite numbers, else None."""
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    return values if all(map(isfinite, values)) else None


def _numbers(values: Iterable[float]) -> str:
    numbers = [float(value) for value in values]
    if not all(map(isfinite, numbers)):
        raise ValueError(f"the answer grammar can't carry {numbers}")
    return "[" + ", ".join(map(repr, numbers)) + "]"
