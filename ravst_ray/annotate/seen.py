"""What an annotated event says of its names: who is heard in it, where each is seen, and how many at once."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from statistics import median

from ravst_ray.core.answers import BoxLine
from ravst_ray.core.frame_times import round_to_tenth
from ravst_ray.core.names import normal_words
from ravst_ray.records import EventAnnotation, Track

NameKey = tuple[str, ...]


def heard_here(annotation: EventAnnotation) -> dict[NameKey, str]:
    """The names that sound by this event's own word, by their normal form; not those of events that it only meets."""
    number = annotation.event.event_num
    own = [thing.name for thing in annotation.objects if thing.audible and number in (thing.heard_in or (number,))]
    known = {normal_words(thing.name) for thing in annotation.objects}
    own += [track.name for track in annotation.tracks if track.audible and normal_words(track.name) not in known]
    return {normal_words(name): name for name in reversed(own)}


def lacks_source(annotation: EventAnnotation) -> bool:
    """Whether nobody is said to make an event's sound, and not because its source is out of sight."""
    return not _is_told(annotation) and not heard_here(annotation)


def may_hide(annotation: EventAnnotation, key: NameKey) -> bool:
    """Whether an event's label tells of a name by which none of its objects sounds; part of it, where none does."""
    heard, told = heard_here(annotation), set(key) & set(normal_words(annotation.event.label))
    return not _is_told(annotation) and key not in heard and (told == set(key) or bool(told and not heard))


def _is_told(annotation: EventAnnotation) -> bool:
    """Whether an event's source is out of sight; of what is mere context and has no objects, too little is kept."""
    return "nothing_visible" in annotation.reasons or not (annotation.event.asked or annotation.objects)


def tracks_by_name(annotation: EventAnnotation, audible: bool) -> dict[NameKey, list[Track]]:
    """The tracks that have boxes, by the normal form of their name, in the order of the tracks."""
    return _by_name(track for track in annotation.tracks if track.audible == audible)


def _by_name(tracks: Iterable[Track]) -> dict[NameKey, list[Track]]:
    found: defaultdict[NameKey, list[Track]] = defaultdict(list)
    for track in tracks:
        if track.boxes_xyxy_px:
            found[normal_words(track.name)].append(track)
    return dict(found)


def lines_of(tracks: list[Track]) -> tuple[BoxLine, ...]:
    """The ``<where>`` lines of one name by time; of one time, the older track comes first. All to 0.1.

    A track is at one place at a time: of its boxes that round to the same time, the one nearest to it stays.
    """
    return tuple(sorted((line for track in tracks for line in _lines(track)), key=lambda line: line[0]))


def _lines(track: Track) -> Iterator[BoxLine]:
    rounded = [(float(round_to_tenth(time_s)), time_s) for time_s in track.times_s]
    placed = sorted(zip(rounded, track.boxes_xyxy_px, strict=True), key=lambda one: -abs(one[0][0] - one[0][1]))
    for time_s, (x1, y1, x2, y2) in {time_s: box for (time_s, _), box in placed}.items():
        yield time_s, (round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1))


def most_at_once(tracks: list[Track]) -> int:
    """How many of the tracks are seen at the time at which most of them are."""
    return max(Counter(round(time_s, 3) for track in tracks for time_s in track.times_s).values(), default=0)


def several_at_once(annotations: Iterable[EventAnnotation]) -> frozenset[NameKey]:
    """The names of which more than one is seen at a time anywhere in a video, sounding or not."""
    return frozenset(
        key for one in annotations for key, tracks in _by_name(one.tracks).items() if most_at_once(tracks) > 1
    )


def seen_share(annotation: EventAnnotation, tracks: list[Track]) -> float:
    """The share of the event's grid times, in [0, 1], at which at least one of the tracks has a box."""
    grid = {round(time_s, 3) for time_s in annotation.frame_times_s}
    seen = {round(time_s, 3) for track in tracks for time_s in track.times_s}
    return len(grid & seen) / len(grid) if grid else 0.0


def grid_step_s(times_s: tuple[float, ...]) -> float:
    """The usual distance of two grid times; infinite where there is no second one."""
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    return median(gaps) if gaps else math.inf
