"""The events of a video seen together: what sounds while one lasts may be named by another.

"A dog barks at a man" from 0 to 10 s and "a man speaks" from 2 to 8 s: asked what makes sound between 0 and 10, both
do, and the man isn't silent. So each event gets, before its objects are looked for, what is heard in the events that
it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ravst_ray.core.frame_times import rounded_interval
from ravst_ray.core.intervals import Interval, overlap
from ravst_ray.core.names import normal_words
from ravst_ray.records import Event, EventAnnotation, SceneObject

NameKey = tuple[str, ...]


def unite(annotations: Sequence[EventAnnotation]) -> tuple[EventAnnotation, ...]:
    """All events of a video, each with the objects that sound while it lasts and the silent ones that are its own.

    Two events meet where they share time after rounding to 0.1 s. Of a name that is audible in any event that meets
    this one there is one object, audible, and ``heard_in`` names those events. A silent object is left out where
    what sounds in another event that meets this one may be the same thing ("old man" and "man"). Names count as one
    when their normal form is (see :func:`~ravst_ray.core.names.normal_words`).
    """
    return tuple(_united(one, annotations) if one.objects else one for one in annotations)


def interval_of(event: Event) -> Interval:
    """The event as questions and answers tell it."""
    return rounded_interval(event.start_s, event.end_s)


def may_be_same(one: NameKey, other: NameKey) -> bool:
    """Whether one name may mean the thing that the other does: all words of the shorter are in the longer.

    >>> may_be_same(("man",), ("old", "man")), may_be_same(("red", "drum"), ("blue", "drum"))
    (True, False)
    """
    return set(one) <= set(other) or set(other) <= set(one)


def _united(annotation: EventAnnotation, annotations: Sequence[EventAnnotation]) -> EventAnnotation:
    span = interval_of(annotation.event)
    meets = [one for one in annotations if one is not annotation and overlap(span, interval_of(one.event)) > 0]
    heard: dict[NameKey, list[int]] = {}
    names: dict[NameKey, str] = {}
    for one in (annotation, *meets):
        for thing in one.objects:
            key = normal_words(thing.name)
            if thing.audible and one.event.event_num not in heard.get(key, ()):
                heard.setdefault(key, []).append(one.event.event_num)
                names.setdefault(key, thing.name)
    elsewhere = {normal_words(thing.name) for one in meets for thing in one.objects if thing.audible}
    objects: dict[NameKey, SceneObject] = {}
    for thing in annotation.objects:
        key = normal_words(thing.name)
        if key in heard:
            objects.setdefault(key, SceneObject(thing.name, True, tuple(sorted(heard[key]))))
        elif not any(may_be_same(key, other) for other in elsewhere):
            objects.setdefault(key, SceneObject(thing.name, False))
    for key, numbers in heard.items():
        objects.setdefault(key, SceneObject(names[key], True, tuple(sorted(numbers))))
    return replace(annotation, objects=tuple(objects.values()))
