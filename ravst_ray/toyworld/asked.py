"""What a question asks, read from its wording: the inverse of :mod:`ravst_ray.core.wording`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ravst_ray.core.intervals import Interval
from ravst_ray.core.wording import ORDINALS, SPATIAL_AUDIBLE, SPATIAL_SILENT, SPATIO_TEMPORAL, TEMPORAL

_NUMBER = r"(\d+(?:\.\d+)?)"
_WINDOW = re.compile(rf"Between {_NUMBER} and {_NUMBER}, w(?=hen is the )")
_ORDINAL = re.compile(rf"When is the ({'|'.join(ORDINALS)}) moment ")


@dataclass(frozen=True)
class Asked:
    """A question: either for a moment of a ``name``, or for what is audible or silent in a ``span``.

    ``ordinal`` counts the moments of the name from 1 on; ``window`` holds the one that is meant.
    """

    name: str | None = None
    span: Interval | None = None
    audible: bool = True
    ordinal: int | None = None
    window: Interval | None = None


def read_question(text: str) -> Asked | None:
    """The question as data; None for a wording that isn't known.

    >>> read_question("When is the second moment red drum makes sound and is visible?")
    Asked(name='red drum', span=None, audible=True, ordinal=2, window=None)
    """
    for pattern, audible in ((_AUDIBLE, True), (_SILENT, False)):
        if found := pattern.fullmatch(text):
            return Asked(span=(float(found["start"]), float(found["end"])), audible=audible)
    window = ordinal = None
    if found := _WINDOW.match(text):
        window = (float(found[1]), float(found[2]))
        text = "W" + text[found.end() :]
    if found := _ORDINAL.match(text):
        ordinal = ORDINALS.index(found[1]) + 1
        text = "When is the moment " + text[found.end() :]
    asked = _BOTH.fullmatch(text) or _TEMPORAL.fullmatch(text)
    return Asked(name=asked["name"], ordinal=ordinal, window=window) if asked else None


def _pattern(wording: str) -> re.Pattern[str]:
    """The wording with a group for each of its fields; a field that comes again must say the same again."""
    pattern = re.escape(wording)
    for field, group in (("name", ".+?"), ("start", _NUMBER[1:-1]), ("end", _NUMBER[1:-1])):
        slot = re.escape("{" + field + "}")
        pattern = pattern.replace(slot, f"(?P<{field}>{group})", 1).replace(slot, f"(?P={field})")
    return re.compile(pattern)


_TEMPORAL, _BOTH, _AUDIBLE, _SILENT = map(_pattern, (TEMPORAL, SPATIO_TEMPORAL, SPATIAL_AUDIBLE, SPATIAL_SILENT))
