"""Wrong questions: those whose answer the toy world's exact truth contradicts.

The *moments* of a name are the events of all its instances, made one where they overlap or touch. An instance is a
*source* in an interval if one of its events shares time with it. Boxes are those of truth's 0.1 s grid; the *asked
seconds* are S, S + 1, … of the interval that the answer is about. :data:`REASONS` says what is wrong:

    when (and where)   not_sounding, wrong_when, other_moment, several_moments, never_visible
    where              missing_source, silent_source, sounding_silent, never_visible
    any <where>        wrong_boxes, wrong_instance, missing_boxes
    any                unreadable

A question about a source that the picture never shows while it sounds can't be told from one about a visible object
without listening: it is counted apart, as off screen, right or wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ravst_ray.core.answers import ObjectAnswer, parse
from ravst_ray.core.frame_times import event_times
from ravst_ray.core.intervals import Interval, merge, overlap
from ravst_ray.records import STATUSES, QAPair, Status
from ravst_ray.toyworld.asked import Asked, read_question
from ravst_ray.toyworld.evaluate import plain_name
from ravst_ray.toyworld.pointing import box_faults
from ravst_ray.toyworld.traits import visible_share

When = Literal["event", "visible"]
Thing = Mapping[str, Any]
Truth = Mapping[str, Any]

REASONS: dict[str, str] = {
    "unreadable": "the question's wording isn't known, or the answer doesn't fit it",
    "not_sounding": "nothing of the name sounds in <when>",
    "wrong_when": "<when> is no moment of the name (or, where what is seen is asked for, not within one)",
    "other_moment": "<when> is a moment, but not the one asked for",
    "several_moments": "the name has several moments, and the question doesn't say which one",
    "never_visible": "no source of the name (a silent object: no instance) can be seen in it",
    "missing_source": "a name that sounds and is seen isn't in the answer",
    "silent_source": "a name in the answer doesn't sound there",
    "sounding_silent": "an object that is said to be silent sounds there",
    "wrong_boxes": "more than a quarter of an object's boxes are on something else, or on nothing",
    "wrong_instance": "for 2 seconds or more a box is on an instance that isn't meant",
    "missing_boxes": "an instance seen in most of the asked seconds has no box in most of those",
}

_SLACK_S = 0.15
_TOUCH_S = 0.05  # events that share less than this only touch: times are rounded to 0.1 s


@dataclass(frozen=True)
class Verdict:
    """What truth says of one question: why it is wrong (nothing: it is right), and whether its source is off screen."""

    reasons: tuple[str, ...]
    off_screen: bool


@dataclass
class Count:
    """Questions of one status: how many are right, wrong, and wrong for each reason (one may have several)."""

    right: int = 0
    wrong: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict) -> None:
        """One more question."""
        self.right += not verdict.reasons
        self.wrong += bool(verdict.reasons)
        self.reasons.update(verdict.reasons)


@dataclass(frozen=True)
class WrongCount:
    """Questions by status; those about sources off screen are in ``off_screen`` alone."""

    in_view: dict[Status, Count]
    off_screen: dict[Status, Count]

    @property
    def kept_share(self) -> float:
        """Right accepted questions of all right ones, sources off screen left aside; 0 where there is none."""
        right = sum(count.right for count in self.in_view.values())
        return self.in_view["accepted"].right / right if right else 0.0


def count_wrong(truth: Truth, pairs: Iterable[QAPair], when: When = "event") -> WrongCount:
    """Hold questions against ``truth.json``; those of videos that it doesn't know are left out."""
    counts = WrongCount(*({status: Count() for status in STATUSES} for _ in range(2)))
    for pair in pairs:
        if pair.video_id in truth:
            verdict = judge_question(truth[pair.video_id], pair, when)
            (counts.off_screen if verdict.off_screen else counts.in_view)[pair.status].add(verdict)
    return counts


def judge_question(video: Truth, pair: QAPair, when: When = "event") -> Verdict:
    """What truth says of one question.

    Args:
        video: the video's entry in ``truth.json``.
        pair: as annotation or the published format gives it.
        when: what ``<when>`` is meant to be, as in ``questions.when`` of the configuration.
    """
    asked, answer = read_question(pair.question), parse(pair.answer)
    if asked is None or answer.malformed or not answer.objects:
        return Verdict(("unreadable",), False)
    if asked.span is not None:
        reasons, hidden = _spatial(video, asked, asked.span, answer.objects)
    else:
        reasons, hidden = _temporal(video, asked, answer.objects[0], when)
    return Verdict(tuple(dict.fromkeys(reasons)), hidden)


def _temporal(video: Truth, asked: Asked, one: ObjectAnswer, when: When) -> tuple[list[str], bool]:
    """Of a question for a moment: reasons, and whether the moment's sources are off screen."""
    if one.when is None or asked.name is None or plain_name(one.name) != plain_name(asked.name):
        return ["unreadable"], False
    things = _named(video, asked.name)
    sources = _sources(things, one.when)
    moments = merge((start, end) for thing in things for start, end in thing["events"])
    reasons = [*_when_faults(asked, one.when, moments, when)] if sources else ["not_sounding"]
    if sources and not any(visible_share(thing, *one.when) for thing in sources):
        reasons.append("never_visible")
    if one.where is not None and sources:
        reasons += box_faults(video, sources, one.where, event_times(*one.when))
    return reasons, bool(sources) and all(_off_screen(thing, one.when) for thing in sources)


def _when_faults(asked: Asked, given: Interval, moments: Sequence[Interval], when: When) -> Iterable[str]:
    fits = [moment for moment in moments if _fits(given, moment, when)]
    if not fits:
        yield "wrong_when"
    candidates = list(moments)
    if asked.window is not None:
        candidates = [moment for moment in moments if overlap(moment, asked.window) > _TOUCH_S]
    if asked.ordinal is not None:
        meant = candidates[asked.ordinal - 1 : asked.ordinal]
    elif len(candidates) > 1:
        yield "several_moments"
        return
    else:
        meant = candidates
    if fits and fits[0] not in meant:
        yield "other_moment"


def _fits(given: Interval, moment: Interval, when: When) -> bool:
    if when == "visible":
        return given[0] >= moment[0] - _SLACK_S and given[1] <= moment[1] + _SLACK_S
    return all(abs(one - other) <= _SLACK_S for one, other in zip(given, moment, strict=True))


def _spatial(video: Truth, asked: Asked, span: Interval, objects: Sequence[ObjectAnswer]) -> tuple[list[str], bool]:
    """Of a question for objects: reasons, and whether something that sounds in the interval is off screen."""
    seconds = event_times(*span)
    sources = _sources(video["objects"], span)
    hidden = any(_off_screen(thing, span) for thing in sources)
    reasons: list[str] = []
    if asked.audible:
        expected = {plain_name(thing["name"]) for thing in sources if _seen_at(thing, seconds)}
        reasons += ["missing_source"] * bool(expected - {plain_name(one.name) for one in objects})
    for one in objects:
        things = _named(video, one.name)
        sounding = _sources(things, span)
        if asked.audible and not sounding:
            reasons.append("silent_source")
        if not asked.audible and sounding:
            reasons.append("sounding_silent")
        right = sounding if asked.audible else things
        if not any(_seen_at(thing, seconds) for thing in right):
            reasons.append("never_visible")
        reasons += box_faults(video, right, one.where or (), seconds)
    return reasons, hidden


def _named(video: Truth, name: str) -> list[Thing]:
    return [thing for thing in video["objects"] if plain_name(thing["name"]) == plain_name(name)]


def _sources(things: Iterable[Thing], span: Interval) -> list[Thing]:
    return [thing for thing in things if any(True for _ in _events_in(thing, span))]


def _events_in(thing: Thing, span: Interval) -> Iterable[Interval]:
    return ((start, end) for start, end in thing["events"] if overlap((start, end), span) > _TOUCH_S)


def _off_screen(thing: Thing, span: Interval) -> bool:
    """Whether it isn't seen in any of its events that reach into the interval."""
    return not any(visible_share(thing, *event) for event in _events_in(thing, span))


def _seen_at(thing: Thing, seconds: Sequence[float]) -> bool:
    return any(f"{second:.1f}" in thing["boxes"] for second in seconds)
