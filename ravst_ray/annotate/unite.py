"""The events of a video seen together: what sounds while one lasts may be named by another.

"A dog barks at a man" from 0 to 10 s and "a man speaks" from 2 to 8 s: asked what makes sound between 0 and 10, both
do, and the man isn't silent. So each event gets, before its objects are looked for, what is heard in the events that
it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ravst_ray.core.frame_times import rounded_interval
from ravst_ray.core.intervals import Interval, length, overlap
from ravst_ray.core.names import may_be_same, normal_words
from ravst_ray.records import Event, EventAnnotation, SceneObject

NameKey = tuple[str, ...]


def unite(annotations: Sequence[EventAnnotation]) -> tuple[EventAnnotation, ...]:
    """All events of a video, each with the objects that sound while it lasts and the silent ones that are its own.

    Events that :func:`meet` share what sounds: of a name that is audible in any event that meets this one there is one
    object, audible, and ``heard_in`` names those events. A silent object is left out where what sounds in another event
    that meets this one may be the same thing ("old man" and "man"). Names count as one when their normal form is (see
    :func:`~ravst_ray.core.names.normal_words`).
    """
    return tuple(_united(one, annotations) if one.objects else one for one in annotations)


def interval_of(event: Event) -> Interval:
    """The event as questions and answers tell it."""
    return rounded_interval(event.start_s, event.end_s)


def meet(one: Event, other: Event) -> bool:
    """Whether two events share time after rounding to 0.1 s, or before it where one of them rounds to nothing."""
    spans = interval_of(one), interval_of(other)
    blink = min(map(length, spans)) <= 0
    return overlap(*spans) > 0 or (blink and overlap((one.start_s, one.end_s), (other.start_s, other.end_s)) > 0)


def _united(annotation: EventAnnotation, annotations: Sequence[EventAnnotation]) -> EventAnnotation:
    meets = [one for one in annotations if one is not annotation and meet(one.event, annotation.event)]
    heard: dict[NameKey, list[int]] = {}
    names: dict[NameKey, str] = {}
    for one in (annotation, *meets):
        for thing in one.objects:
            key = normal_words(thing.name)
            if thing.audible and one.event.event_num not in heard.get(key, ()):
                heard.setdefault(key, []).append(one.event.event_num)
                names.setdefault(key, thing.name)
    elsewhere = {thing.name for one in meets for thing in one.objects if thing.audible}
    objects: dict[NameKey, SceneObject] = {}
    for thing in annotation.objects:
        key = normal_words(thing.name)
        if key in heard:
            name = thing.name if thing.audible else names[key]
            objects.setdefault(key, SceneObject(name, True, tuple(sorted(heard[key]))))
        elif not any(may_be_same(thing.name, other) for other in elsewhere):
            objects.setdefault(key, SceneObject(thing.name, False))
    for key, numbers in heard.items():
        objects.setdefault(key, SceneObject(names[key], True, tuple(sorted(numbers))))
    return replace(annotation, objects=tuple(objects.values()))
