"""When does a name sound in a video? Its events that meet make one moment; asked for one of several, say which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ravst_ray.annotate.seen import NameKey, heard_here, may_hide
from ravst_ray.annotate.unite import interval_of
from ravst_ray.config.annotate import QuestionsConfig
from ravst_ray.core.intervals import Interval
from ravst_ray.core.names import is_plural, may_be_same, normal_words
from ravst_ray.core.wording import ORDINALS, nth, within
from ravst_ray.records import EventAnnotation

_PRECISION_S = 0.1 + 1e-6  # of the times that are told: nobody hears a gap of no more


@dataclass(frozen=True)
class Moment:
    """A time in which a name sounds: the events that make it, by start, and the interval of their union in seconds."""

    events: tuple[EventAnnotation, ...]
    interval_s: Interval


def moments_by_name(annotations: Sequence[EventAnnotation]) -> dict[NameKey, list[Moment]]:
    """The moments of each name in a video, by start. Events that are only context count, too.

    So do those whose label tells of a name that none of their objects has: it may be what sounds there.
    """
    events = sorted(annotations, key=lambda one: (interval_of(one.event), one.event.event_num))
    names = {key for one in events for key in heard_here(one)}
    return {key: _chained([one for one in events if key in heard_here(one) or may_hide(one, key)]) for key in names}


def _chained(events: Sequence[EventAnnotation]) -> list[Moment]:
    moments: list[Moment] = []
    for one in events:
        start_s, end_s = interval_of(one.event)
        if moments and start_s - moments[-1].interval_s[1] <= _PRECISION_S:
            last = moments.pop()
            first_s, until_s = last.interval_s
            moments.append(Moment((*last.events, one), (first_s, max(until_s, end_s))))
        else:
            moments.append(Moment((one,), (start_s, end_s)))
    return moments


def is_ambiguous(
    name: str,
    annotations: Sequence[EventAnnotation],
    moments: Mapping[NameKey, Sequence[Moment]],
    elsewhere: bool = False,
) -> bool:
    """Whether another name that sounds in the video may mean the same thing ("man" and "old man", "men", "person").

    Args:
        name: as it is asked for.
        annotations: the events of the video.
        moments: those of all names.
        elsewhere: count only names that sound at other times; of the same times, either has the same ``<when>``.
    """
    mine = normal_words(name)
    spans = [one.interval_s for one in moments[mine]]
    for key, other in ((key, other) for one in annotations for key, other in heard_here(one).items()):
        if (key, is_plural(other)) == (mine, is_plural(name)) or not may_be_same(name, other, number_tells=True):
            continue
        if key == mine or not (elsewhere and [one.interval_s for one in moments[key]] == spans):
            return True
    return False


def asked_as(
    wording: str, moment: Moment, moments: Sequence[Moment], seen: Sequence[bool], rules: QuestionsConfig, end_s: float
) -> tuple[str, Sequence[Moment]] | None:
    """How just this moment is asked for, and on which moments the answer then rests; None: it isn't.

    Args:
        wording: the published one, which stays where the name sounds once.
        moment: the one that is meant.
        moments: all of its name.
        seen: for each of them, whether the name is known to be visible in it. What is counted are moments in which
            it sounds *and* is visible, so a place among them is told only where all before it are known to be.
        rules: whether to ask by place, by a stretch of time, or not at all.
        end_s: of the video.
    """
    place = moments.index(moment)
    if len(moments) == 1:
        return wording, moments
    if rules.repeated == "skip":
        return None
    if rules.repeated == "ordinal" and all(seen[: place + 1]) and place < len(ORDINALS):
        return nth(wording, place), moments[: place + 1]
    before = [one.interval_s[1] for one in moments[:place]]
    after = [one.interval_s[0] for one in moments[place + 1 :]]
    return within(wording, max(before, default=0.0), min([*after, end_s])), [moment]
