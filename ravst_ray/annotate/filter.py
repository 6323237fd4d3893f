"""Step 1, filter: which videos are worth annotating. Pure; it runs in the driver over all videos at once.

Nothing is dropped silently: each rejected video becomes an errors row of stage ``filter`` with one reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ravst_ray.config.annotate import FilterConfig
from ravst_ray.core.intervals import Interval, merge, union_length
from ravst_ray.datasets.splits import hash_share
from ravst_ray.errors import StepError
from ravst_ray.records import ErrorRow, Event, SceneObject, Video

STAGE = "filter"
DurationGroup = Literal["short", "medium", "long"]

_EPSILON = 1e-9  # a share of exactly the minimum is enough, whatever the floats say


@dataclass(frozen=True)
class FilterResult:
    """Kept videos in their order, with numbered events, and an errors row for each of the others."""

    videos: list[Video]
    rejected: list[ErrorRow]

    @property
    def reasons(self) -> dict[str, int]:
        """How many videos were rejected for each reason, the most frequent first."""
        return dict(Counter(row.reason for row in self.rejected).most_common())


def filter_videos(videos: Iterable[Video], config: FilterConfig, seed: int) -> FilterResult:
    """Number events, choose those to ask about, and sort out videos: too long, too many events, none, or too little.

    The paper's "at most three events" means three distinct labels, and it merges nothing: so say its test videos, held
    against the labels they were made from (docs/recipe.md). Both are settings.

    Args:
        videos: as the reader gives them.
        config: thresholds.
        seed: decides, with the video ids, which videos go where ``config.balance`` is set.
    """
    result = FilterResult([], [])
    for video in videos:
        events = merge_events(video.events) if config.merge_overlapping else number_events(video.events)
        numbered = replace(video, events=events)
        try:
            _check(numbered, config)
            result.videos.append(replace(numbered, events=_asked(events, config)))
        except StepError as error:
            result.rejected.append(_rejection(video, error.reason, error.message))
    return _balance(result, config, seed) if config.balance else result


def duration_group(duration_s: float, config: FilterConfig) -> DurationGroup:
    """The group of a video by its length; bounds belong to the shorter group, and 'long' has no upper bound here."""
    if duration_s <= config.short_s:
        return "short"
    return "medium" if duration_s <= config.medium_s else "long"


def number_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events as they are, numbered from 1 by start, then end, then label; one that is listed twice counts once."""
    groups: defaultdict[tuple[float, float, str], list[Event]] = defaultdict(list)
    for event in events:
        groups[event.start_s, event.end_s, event.label].append(event)
    return _numbered(_join(group, (start_s, end_s)) for (start_s, end_s, _), group in groups.items())


def merge_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """Overlapping or touching events of one label made one; numbered as by :func:`number_events`."""
    by_label: defaultdict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.start_s, event.end_s)):
        by_label[event.label].append(event)
    return _numbered(
        _join([event for event in group if start_s <= event.start_s <= end_s], (start_s, end_s))
        for group in by_label.values()
        for start_s, end_s in merge((event.start_s, event.end_s) for event in group)
    )


def event_share(video: Video) -> float:
    """The share of the video's duration in which at least one event goes on, in [0, 1]."""
    inside = [(min(e.start_s, video.duration_s), min(e.end_s, video.duration_s)) for e in video.events]
    return union_length(inside) / video.duration_s


def _numbered(events: Iterable[Event]) -> tuple[Event, ...]:
    ordered = sorted(events, key=lambda event: (event.start_s, event.end_s, event.label))
    return tuple(replace(event, event_num=number) for number, event in enumerate(ordered, start=1))


def _asked(events: Sequence[Event], config: FilterConfig) -> tuple[Event, ...]:
    """The events with those marked that are asked about."""
    wanted = {"all": len(events), "first": 1}.get(str(config.events_per_video), config.events_per_video)
    return tuple(replace(event, asked=place < int(wanted)) for place, event in enumerate(events))


def _count(video: Video, config: FilterConfig) -> int:
    return len({event.label for event in video.events}) if config.count == "labels" else len(video.events)


def _join(events: Sequence[Event], span: Interval) -> Event:
    """One event over the whole span; what different captions say is kept, each once."""
    captions = dict.fromkeys(event.caption for event in events if event.caption)
    label_id = next((event.label_id for event in events if event.label_id is not None), None)
    return Event(0, *span, events[0].label, label_id, "; ".join(captions) or None, _join_objects(events))


def _join_objects(events: Sequence[Event]) -> tuple[SceneObject, ...] | None:
    """Each given object once; one that is audible in any of the events is so in the joined one."""
    objects = dict.fromkeys(one for event in events for one in event.given_objects or ())
    heard = {one.name for one in objects if one.audible} if len(events) > 1 else set()
    return tuple(one for one in objects if one.audible or one.name not in heard) or None


def _check(video: Video, config: FilterConfig) -> None:
    """Raise ``StepError`` with the first reason against a video."""
    if not video.events:
        raise StepError("no_events", "The video has no events.")
    if video.duration_s > config.max_duration_s:
        limit = f"at most {config.max_duration_s:g} s are taken"
        raise StepError("too_long", f"The video lasts {video.duration_s:g} s; {limit}.")
    count = _count(video, config)
    if count > config.max_events:
        raise StepError("too_many_events", f"{count} {config.count}, above {config.max_events}.")
    share = event_share(video)
    if share < config.min_event_share - _EPSILON:
        raise StepError("low_event_share", f"Events fill {share:.1%} of it, below {config.min_event_share:.1%}.")


def _balance(result: FilterResult, config: FilterConfig, seed: int) -> FilterResult:
    """Keep equally many videos of each number of labels (or events) that occurs: those with the smallest hash."""
    groups: defaultdict[int, list[Video]] = defaultdict(list)
    for video in sorted(result.videos, key=lambda video: hash_share(seed, video.video_id, "balance")):
        groups[_count(video, config)].append(video)
    size = min(map(len, groups.values()), default=0)
    kept = {video.video_id for group in groups.values() for video in group[:size]}
    message = f"Each number of {config.count} keeps {size} videos."
    surplus = [_rejection(v, "balancing", message) for v in result.videos if v.video_id not in kept]
    return FilterResult([v for v in result.videos if v.video_id in kept], result.rejected + surplus)


def _rejection(video: Video, reason: str, message: str) -> ErrorRow:
    return ErrorRow(video.video_id, STAGE, reason, message, retryable=False)
