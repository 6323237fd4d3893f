"""Counters over annotated events: everything the report's statistics need, one event at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ravst_ray.records import Status

DURATION_GROUPS = ("short", "medium", "long")


@dataclass(frozen=True)
class ReportEvent:
    """One annotated event as the report counts it; ``object_names`` and ``audible`` run in parallel."""

    video_id: str
    duration_s: float
    event_num: int
    label: str
    start_s: float
    end_s: float
    object_names: tuple[str, ...] = ()
    audible: tuple[bool, ...] = ()
    status: Status = "accepted"
    reasons: tuple[str, ...] = ()


@dataclass
class Statistics:
    """Sums over all events. Memory grows with the number of videos (a count each), labels and names, not with events.

    Videos up to ``short_s`` are short, up to ``medium_s`` medium, longer ones long.
    """

    short_s: float = 20.0
    medium_s: float = 40.0
    events: int = 0
    audible: int = 0
    silent: int = 0
    video_s: float = 0.0
    events_by_video: Counter[str] = field(default_factory=Counter)
    duration_groups: Counter[str] = field(default_factory=Counter)
    video_seconds: Counter[int] = field(default_factory=Counter)
    event_seconds: Counter[int] = field(default_factory=Counter)
    objects_per_event: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    audible_names: Counter[str] = field(default_factory=Counter)
    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, event: ReportEvent) -> None:
        """Count one event, and its video when it is seen for the first time."""
        if event.video_id not in self.events_by_video:
            self.video_s += event.duration_s
            self.duration_groups[self.group(event.duration_s)] += 1
            self.video_seconds[_second(event.duration_s)] += 1
        self.events += 1
        self.events_by_video[event.video_id] += 1
        self.event_seconds[_second(event.end_s - event.start_s)] += 1
        self.objects_per_event[len(event.object_names)] += 1
        self.labels[event.label] += 1
        self.status[event.status] += 1
        self.reasons.update(event.reasons)
        for name, audible in zip(event.object_names, event.audible, strict=True):
            self._add_object(" ".join(name.lower().split()), audible)

    def _add_object(self, name: str, audible: bool) -> None:
        self.names[name] += 1
        if audible:
            self.audible += 1
            self.audible_names[name] += 1
        else:
            self.silent += 1

    def group(self, duration_s: float) -> str:
        """The duration group, one of ``DURATION_GROUPS``."""
        if duration_s <= self.short_s:
            return "short"
        return "medium" if duration_s <= self.medium_s else "long"

    @property
    def videos(self) -> int:
        """How many different videos were seen."""
        return len(self.events_by_video)

    @property
    def events_per_video(self) -> Counter[int]:
        """How many videos have 1, 2, 3 … events."""
        return Counter(self.events_by_video.values())

    @property
    def share_audible(self) -> float | None:
        """Audible objects / all objects; None when there is none."""
        total = self.audible + self.silent
        return self.audible / total if total else None


def _second(length_s: float) -> int:
    """The bin of a length: 0 for up to 1 s, 1 for up to 2 s; a round length falls into the bin that it closes."""
    return max(math.ceil(length_s) - 1, 0)


def count_events(events: Iterable[ReportEvent], short_s: float = 20.0, medium_s: float = 40.0) -> Statistics:
    """The statistics of ``events``, read once."""
    statistics = Statistics(short_s=short_s, medium_s=medium_s)
    for event in events:
        statistics.add(event)
    return statistics
