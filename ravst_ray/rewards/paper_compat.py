"""The reward as the published code computes it, faults included: for comparing numbers, never for training.

Its behaviour was read off its scores. What differs from ours: the format wants ``<when>`` before ``<object>`` before
``<where>`` on every task, so that no true answer is well-formed; times are rounded half to even and boxes of one
rounded second thrown together; each true box takes its best predicted box, however many were guessed; only seconds that
both sides have count; objects without any box line don't count, extra ones cost nothing.
"""

from __future__ import annotations

import re

from ravst_ray.core.geometry import box_iou
from ravst_ray.core.intervals import interval_iou
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import Box

_FORMAT = re.compile(r"\s*<answer>.*?<when>.*?</when>.*?<object>.*?</object>.*?<where>.*?</where>.*?</answer>\s*", re.S)
_WHEN = re.compile(r"<when>\s*\[\s*([-+\d.]+)\s*,\s*([-+\d.]+)\s*\]\s*</when>")
_OBJECT = re.compile(r"<object>(.*?)</object>\s*(?:<when>.*?</when>\s*)?<where>(.*?)</where>", re.S)
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_LINE = re.compile(rf"{_NUMBER}: \[{_NUMBER}, {_NUMBER}, {_NUMBER}, {_NUMBER}\]")

_Objects = list[tuple[str, dict[int, list[Box]]]]


def format_score(completion: str) -> float:
    """1 where the three tags come in the order of the published prompt, else 0."""
    # A plain test first: the expression alone runs long on hostile text.
    places = [completion.find(tag) for tag in ("<answer>", "<when>", "<object>", "<where>", "</answer>")]
    return float(-1 not in places and len(completion) < 100_000 and _FORMAT.fullmatch(completion) is not None)


def spatial_temporal_score(
    completion: str, truth: str, when: bool, where: bool, names: NameMatcher | None = None
) -> float:
    r"""In [0, 1]: tIoU, the mean of object and spatial, or of temporal and spatial score.

    Args:
        completion: the model's text.
        truth: the true answer.
        when: whether answers have intervals.
        where: whether answers have boxes.
        names: how names are compared; by default by equality.

    Raises:
        UnicodeDecodeError: the completion holds a broken escape such as a lone ``\x``.
    """
    completion, truth = (_unescape(text) for text in (completion, truth))
    if not where:
        return _temporal(truth, completion)
    true, predicted = _objects(truth), _objects(completion)
    recall, spatial = _boxes(true, predicted, names or NameMatcher())
    return ((_temporal(truth, completion) if when else recall) + spatial) / 2


def _unescape(text: str) -> str:
    return text.encode("utf-8").decode("unicode_escape") if "\\" in text else text


def _temporal(truth: str, completion: str) -> float:
    true, predicted = _WHEN.search(truth), _WHEN.search(completion)
    if not (true and predicted):
        return 0.0
    try:
        a, b = ((float(found.group(1)), float(found.group(2))) for found in (true, predicted))
    except ValueError:
        return 0.0
    return interval_iou(a, b)


def _objects(text: str) -> _Objects:
    objects: _Objects = []
    for name, block in _OBJECT.findall(text) if text.count("<object>") < 1000 else ():
        seconds: dict[int, list[Box]] = {}
        for found in _LINE.findall(block):
            time_s, x1, y1, x2, y2 = map(float, found)
            seconds.setdefault(round(min(time_s, 1e9)), []).append((x1, y1, x2, y2))
        if seconds:
            objects.append((name.strip(), seconds))
    return objects


def _boxes(true: _Objects, predicted: _Objects, names: NameMatcher) -> tuple[float, float]:
    """Recall of the objects, and the mean over the seconds that both sides of the found ones have."""
    ious: list[float] = []
    found = 0
    free = list(predicted)
    for name, seconds in true:
        match = next((one for one in free if names.same(name, one[0])), None)
        if match is None:
            continue
        free.remove(match)
        found += 1
        for time_s in seconds.keys() & match[1].keys():
            best = [max(box_iou(box, guess) for guess in match[1][time_s]) for box in seconds[time_s]]
            ious.append(sum(best) / len(best))
    return found / len(true) if true else 0.0, sum(ious) / len(ious) if ious else 0.0
