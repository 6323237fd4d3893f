"""What is heard together: the objects of events that intersect."""

from __future__ import annotations

from collections.abc import Sequence

from ravst_ray.records import EventAnnotation


def unite(annotations: Sequence[EventAnnotation]) -> tuple[EventAnnotation, ...]:
    """The events of one video, as they are."""
    return tuple(annotations)
