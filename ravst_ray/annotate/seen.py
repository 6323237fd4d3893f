"""What an annotated event says of its names: who is heard in it, where each is seen, and how many at once."""

from __future__ import annotations

from collections import Counter, defaultdict

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


def tracks_by_name(annotation: EventAnnotation, audible: bool) -> dict[NameKey, list[Track]]:
    """The tracks that have boxes, by the normal form of their name, in the order of the tracks."""
    found: defaultdict[NameKey, list[Track]] = defaultdict(list)
    for track in annotation.tracks:
        if track.audible == audible and track.boxes_xyxy_px:
            found[normal_words(track.name)].append(track)
    return dict(found)


def lines_of(tracks: list[Track]) -> tuple[BoxLine, ...]:
    """The ``<where>`` lines of one name by time; of one time, the older track comes first. All to 0.1."""
    lines = [
        (float(round_to_tenth(time_s)), (round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1)))
        for track in tracks
        for time_s, (x1, y1, x2, y2) in zip(track.times_s, track.boxes_xyxy_px, strict=True)
    ]
    return tuple(sorted(lines, key=lambda line: line[0]))


def most_at_once(tracks: list[Track]) -> int:
    """How many of the tracks are seen at the time at which most of them are."""
    return max(Counter(round(time_s, 3) for track in tracks for time_s in track.times_s).values(), default=0)


def seen_share(annotation: EventAnnotation, tracks: list[Track]) -> float:
    """The share of the event's grid times, in [0, 1], at which at least one of the tracks has a box."""
    grid = {round(time_s, 3) for time_s in annotation.frame_times_s}
    seen = {round(time_s, 3) for track in tracks for time_s in track.times_s}
    return len(grid & seen) / len(grid) if grid else 0.0
