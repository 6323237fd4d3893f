"""What there is to read of an event, and what is known of it without reading. Pure; no model, no network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ravst_ray.annotate.unite import unite
from ravst_ray.core.prompts import clean_objects, parse_objects, says_no_source
from ravst_ray.records import Event, EventAnnotation, SceneObject, Video, VideoItem

NO_MODEL = {"llm": "none: objects given"}
ADAPTED = "llm_adapted/"
"""Of a video's stats: how many of its requests the endpoint wanted otherwise, by what was adapted."""


@dataclass(frozen=True)
class Reading:
    """The objects that a text names; where there are none, the reason for which its event is set aside."""

    objects: tuple[SceneObject, ...] = ()
    reason: str = ""

    def of(self, annotation: EventAnnotation) -> EventAnnotation:
        """The event with what was read."""
        if self.reason:
            return replace(annotation, objects=(), status="rejected", reasons=(self.reason,))
        return replace(annotation, objects=self.objects)


NOTHING_VISIBLE = Reading(reason="nothing_visible")
"""Nothing in the picture makes the sound: thunder, a voice off screen."""
NO_OBJECTS = Reading(reason="no_objects")
"""The model named only what the text doesn't hold."""
NO_TEXT = Reading(reason="no_text")
"""There is neither a caption nor a label."""


def reading_of(answer: str, text: str) -> tuple[Reading, int]:
    """What a model's answer says of a text, and how many of its names the text doesn't hold.

    Raises:
        MalformedAnswer: it is no answer.
    """
    named = parse_objects(answer)
    if not named:
        return NOTHING_VISIBLE, 0
    objects, dropped = clean_objects(named, text)
    return (Reading(tuple(objects)) if objects else NO_OBJECTS), dropped


def text_of(event: Event) -> str:
    """The caption, else the label, in single spaces."""
    return " ".join((event.caption or "").split() or event.label.split())


def other_script(event: Event) -> bool:
    """Whether the names that the event's objects get are in another script than the Latin one."""
    text = "".join(thing.name for thing in event.given_objects or ()) or text_of(event)
    letters = [char for char in text if char.isalpha()]
    return 2 * sum(char > "\u024f" for char in letters) > len(letters)


def lacks_caption(event: Event) -> bool:
    """Whether a caption would help: the event is asked about, and its objects aren't given."""
    return event.asked and not event.given_objects and not (event.caption or "").strip()


def known_reading(event: Event) -> Reading | None:
    """What is known of an event without a language model; None where its text must be read."""
    if event.given_objects:
        return Reading(event.given_objects)
    text = text_of(event)
    if not text:
        return NO_TEXT
    return NOTHING_VISIBLE if says_no_source(text) else None


def needs_model(event: Event, write_captions: bool) -> bool:
    """Whether a model has to caption the event or to read its text."""
    return known_reading(event) is None or (write_captions and lacks_caption(event))


def events_of(item: VideoItem) -> tuple[EventAnnotation, ...]:
    """The item's annotations; where it has none yet, a bare one for each event of its video."""
    return item.annotations or tuple(EventAnnotation(event) for event in item.video.events)


def with_readings(item: VideoItem, annotations: Iterable[EventAnnotation], **provenance: str) -> VideoItem:
    """The item with its events read, and united where they intersect."""
    return replace(item, annotations=unite(tuple(annotations)), provenance={**item.provenance, **provenance})


def known_item(video: Video, write_captions: bool) -> VideoItem | None:
    """A video all of whose events are known without a model, read; None for any other."""
    if any(needs_model(event, write_captions) for event in video.events):
        return None
    item = VideoItem(video)
    known = [(known_reading(one.event) or NO_TEXT).of(one) for one in events_of(item)]
    return with_readings(item, known, **NO_MODEL)
