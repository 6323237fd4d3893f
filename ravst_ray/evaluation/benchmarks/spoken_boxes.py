"""Boxes by second in a model's JSON, and their IoU with the annotated ones, as V-STaR has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ravst_ray.core.geometry import box_iou
from ravst_ray.evaluation.benchmarks.files import Row
from ravst_ray.records import Box

_FENCE = "```"
_CLOSING = {"[": "]", "{": "}"}


class TrueBox(Row):
    """An annotated frame; its second is compared as it is written."""

    timestamp: int | float | str
    xmin: int | float
    ymin: int | float
    xmax: int | float
    ymax: int | float

    @property
    def xyxy_px(self) -> Box:
        """Pixels of the video."""
        return (float(self.xmin), float(self.ymin), float(self.xmax), float(self.ymax))


def read_boxes(text: str) -> dict[str, Any]:
    """What an answer says by second: the first JSON object or list in it, which may stand in a ```json fence.

    Objects in a list are joined, pairs ``[second, box]`` in one are read, single quotes count as double ones; anything
    else is nothing. The demo also closes brackets that are missing, but is never given what that would help.

    Example:
        >>> read_boxes("Here: {'2': [0, 0, 10, 20]}"), read_boxes("at 2: [0, 0, 10, 20]")
        ({'2': [0, 0, 10, 20]}, {})
    """
    _, fence, fenced = text.partition(_FENCE + "json")
    region = fenced.partition(_FENCE)[0] if fence else text
    starts = sorted(at for opening in _CLOSING if (at := region.find(opening)) >= 0)
    for start in starts:
        end = region.rfind(_CLOSING[region[start]])
        if end > start:
            try:
                return _by_second(json.loads(region[start : end + 1].replace("'", '"')))
            except (ValueError, RecursionError):
                return {}
    return {}


def true_ious(true: Sequence[TrueBox], said: Mapping[str, Any], scale: tuple[float, float], exact: bool) -> list[float]:
    """The IoU at each annotated frame, the best of several boxes; 0 where none is said.

    Args:
        true: annotated frames.
        said: boxes by second, of :func:`read_boxes`; a second has one box or a list of them.
        scale: the units of ``said`` in one pixel of the video, across and down.
        exact: seconds must be written alike; else "2.0" is the second 2.
    """
    by_number = {} if exact else {_seconds(key): value for key, value in said.items()}
    ious = []
    for one in true:
        written = str(one.timestamp)
        value = said.get(written, by_number.get(_seconds(written)))
        ious.append(max((box_iou(one.xyxy_px, box) for box in _boxes(value, scale)), default=0.0))
    return ious


def trivial_boxes(width: int, height: int, duration_s: float, margin: float) -> str:
    """The same box in every whole second of a video; ``margin`` is the share of either side that is left out."""
    box = [width * margin, height * margin, width * (1 - margin), height * (1 - margin)]
    return json.dumps({str(second): box for second in range(int(duration_s) + 1)})


def _by_second(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    joined: dict[str, Any] = {}
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            joined |= one
        elif isinstance(one, list) and len(one) >= 2:
            joined[str(one[0])] = one[1]
    return joined


def _boxes(value: Any, scale: tuple[float, float]) -> list[Box]:
    """The boxes that can be read of one second, in pixels of the video."""
    if not isinstance(value, list):
        return []
    found: list[Box] = []
    for one in [value] if len(value) == 4 and _is_number(value[0]) else value:
        if isinstance(one, list) and len(one) == 4 and all(map(_is_number, one)):
            x1, y1, x2, y2 = one
            found.append((x1 / scale[0], y1 / scale[1], x2 / scale[0], y2 / scale[1]))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -1e9 < value < 1e9


def _seconds(text: str) -> float | str:
    """A number, by which seconds are compared; what is none stays as it is written."""
    try:
        return float(text)
    except ValueError:
        return text
