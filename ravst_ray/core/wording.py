"""The wording of the questions, for those who ask them and those who must recognise them.

The first four are published (R-AVST). A name that sounds several times needs more: which of the times is meant, by
its place (:func:`nth`) or by a stretch of time that holds no other (:func:`within`).
"""

from __future__ import annotations

TEMPORAL = "When is the moment {name} makes sound and is visible?"
SPATIAL_AUDIBLE = "What visible object(s) make sound between {start} and {end}, and where is/are they?"
SPATIAL_SILENT = "What silent object(s) can be seen between {start} and {end}, and where is/are they?"
SPATIO_TEMPORAL = 'When is the moment {name} makes sound and is visible, and where is the "{name}"?'

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def nth(wording: str, place: int) -> str:
    """A temporal wording that asks for one of several moments.

    >>> nth(TEMPORAL, 1)
    'When is the second moment {name} makes sound and is visible?'

    Args:
        wording: ``TEMPORAL`` or ``SPATIO_TEMPORAL``.
        place: from 0 on, at most 9.
    """
    return wording.replace("the moment", f"the {ORDINALS[place]} moment", 1)


def within(wording: str, start_s: float, end_s: float) -> str:
    """A temporal wording that asks for the only moment in a stretch of time.

    >>> within(TEMPORAL, 0.0, 12.5)
    'Between 0.0 and 12.5, when is the moment {name} makes sound and is visible?'
    """
    return f"Between {start_s} and {end_s}, when{wording.removeprefix('When')}"
