"""R-AVST's published answers as the claims that they state, in our records: what our own steps are then given.

An answer states when its event is, who is audible or silent in it, and where each is seen. Of a name whose boxes no
question asks for, none are published. A box without area is the published sign for "out of sight".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from math import inf

from ravst_ray.annotate.filter import number_events
from ravst_ray.annotate.unite import NameKey, interval_of, unite
from ravst_ray.core.answers import BoxLine, ObjectAnswer, parse
from ravst_ray.core.frame_times import event_times, rounded_interval
from ravst_ray.core.geometry import is_real_box
from ravst_ray.core.intervals import Interval
from ravst_ray.core.names import normal_words
from ravst_ray.records import EventAnnotation, QAPair, SceneObject, Track, Video

_ASKED = re.compile(r"between ([\d.]+) and ([\d.]+),")
Claim = tuple[NameKey, bool]  # a name's normal form, and whether it is said to sound
STAND_IN = (0.0, 0.0, 9.0, 9.0)
_SIZES = ((320, 240), (480, 360), (640, 360), (640, 480), (854, 480), (1280, 720), (1920, 1080))


def objects_of(pair: QAPair) -> tuple[ObjectAnswer, ...]:
    """What an answer says of each object."""
    return _objects(pair.answer)


@cache
def _objects(answer: str) -> tuple[ObjectAnswer, ...]:
    return parse(answer).objects


def asked_interval(pair: QAPair) -> Interval | None:
    """The interval in the words of a spatial question, as it stands there."""
    found = _ASKED.search(pair.question)
    return (float(found[1]), float(found[2])) if found else None


def event_interval(pair: QAPair) -> Interval:
    """The event that a question is about, to 0.1 s."""
    asked = asked_interval(pair)
    if asked:
        return rounded_interval(*asked)
    when = objects_of(pair)[0].when
    assert when is not None
    return when


def is_silent(pair: QAPair) -> bool:
    """Whether a question asks for what makes no sound."""
    return pair.question.startswith("What silent")


def claims(pairs: Iterable[QAPair]) -> dict[Claim, ObjectAnswer]:
    """What the questions of one event say of each name; of several answers that of the spatial one, which has boxes."""
    found: dict[Claim, ObjectAnswer] = {}
    for pair in sorted(pairs, key=lambda pair: ("AVSR", "AVSTR", "AVTR").index(pair.task)):
        for one in objects_of(pair):
            found.setdefault((normal_words(one.name), not is_silent(pair)), one)
    return found


def annotations(video: Video, pairs: Sequence[QAPair], for_checks: bool = False) -> tuple[EventAnnotation, ...]:
    """All events of a video by its labels, those that were published with their claims; the others are context.

    Args:
        video: as the labels describe it.
        pairs: its published questions.
        for_checks: leave names without published boxes out, and move the times of boxes to the event's grid (those
            of 34 names lie 0.1 s before it, or on another). Else such a name gets a box for each time, so that it may
            be asked for.
    """
    by_interval: defaultdict[Interval, list[QAPair]] = defaultdict(list)
    for pair in pairs:
        by_interval[event_interval(pair)].append(pair)
    bare, given = [], []
    for event in number_events(video.events):
        told = claims(by_interval.pop(interval_of(event), ()))
        given.append({key: one for key, one in told.items() if one.where is not None or not for_checks})
        objects = tuple(SceneObject(one.name, audible) for (_, audible), one in given[-1].items())
        bare.append(EventAnnotation(replace(event, asked=bool(told)), objects))
    return tuple(_tracked(one, told, for_checks) for one, told in zip(unite(bare), given, strict=True))


def _tracked(one: EventAnnotation, told: dict[Claim, ObjectAnswer], snapped: bool) -> EventAnnotation:
    grid_s = event_times(one.event.start_s, one.event.end_s)
    tracks: list[Track] = []
    for thing in one.objects:
        answer = told.get((normal_words(thing.name), thing.audible))
        if answer is None:  # it is heard in another event, whose boxes say nothing of this one
            continue
        lines = [(time_s, STAND_IN) for time_s in grid_s] if answer.where is None else list(answer.where)
        if snapped:
            last = len(grid_s) - 1
            lines = [(grid_s[min(max(round(time_s - grid_s[0]), 0), last)], box) for time_s, box in lines]
        tracks += _tracks(thing, lines, len(tracks))
    return replace(one, frame_times_s=grid_s, tracks=tuple(tracks))


def _tracks(thing: SceneObject, lines: Iterable[BoxLine], first_id: int) -> list[Track]:
    """The k-th box of a second is that of the k-th track."""
    at_once: Counter[float] = Counter()
    found: defaultdict[int, list[BoxLine]] = defaultdict(list)
    for time_s, box in lines:
        if is_real_box(box):
            found[at_once[time_s]].append((time_s, box))
        at_once[time_s] += 1
    return [
        Track(first_id + place, thing.name, thing.audible, *zip(*found[place], strict=True), (1.0,) * len(found[place]))
        for place in sorted(found)
    ]


def tidy(pair: QAPair, within_s: Interval = (0.0, inf)) -> list[ObjectAnswer]:
    """A published answer without what ours never have: boxes without area, names without boxes, lines out of order.

    Nor do they have times outside ``within_s``.
    """
    told = []
    for one in objects_of(pair):
        if one.when is not None:
            one = replace(one, when=(max(one.when[0], within_s[0]), min(one.when[1], within_s[1])))
        if one.where is not None:
            first_s, last_s = within_s
            lines = (line for line in one.where if is_real_box(line[1]) and first_s <= line[0] <= last_s)
            one = replace(one, where=tuple(sorted(lines, key=lambda line: line[0])))
        told.append(one)
    return [one for one in told if one.where != ()]


def picture_size(pairs: Iterable[QAPair]) -> tuple[int, int]:
    """The smallest usual size that holds all boxes of a video: its own isn't published."""
    boxes = [box for pair in pairs for one in objects_of(pair) for _, box in one.where or ()]
    right, bottom = (max((box[place] for box in boxes), default=0.0) for place in (2, 3))
    sizes = sorted((*_SIZES, *((height, width) for width, height in _SIZES)), key=lambda size: size[0] * size[1])
    return next(size for size in sizes if right <= size[0] and bottom <= size[1])
