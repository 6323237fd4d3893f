"""Step 4, questions: tracks become question-answer pairs of the three tasks, in the published wording.

A question looks at the whole video, not at one event: what sounds in several events is one answer, or is asked for so
that only one time can be meant. What can't be answered without doubt is left out, and counted by reason.

Times are rounded to 0.1 s in questions as in answers, so that no ``<where>`` line lies outside the asked interval
(in the published data some do). An object without any box is left out: it can't be shown to be visible.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ravst_ray.annotate.moments import Moment, asked_as, is_ambiguous, moments_by_name
from ravst_ray.annotate.seen import (
    NameKey,
    grid_step_s,
    heard_here,
    lacks_source,
    lines_of,
    most_at_once,
    tracks_by_name,
)
from ravst_ray.annotate.step import Step
from ravst_ray.annotate.unite import interval_of, meet
from ravst_ray.config.annotate import QuestionsConfig
from ravst_ray.core.answers import BoxLine, ObjectAnswer, render
from ravst_ray.core.intervals import Interval, length
from ravst_ray.core.names import may_be_same, normal_words
from ravst_ray.core.wording import SPATIAL_AUDIBLE, SPATIAL_SILENT, SPATIO_TEMPORAL, TEMPORAL
from ravst_ray.datasets.splits import hash_share
from ravst_ray.records import STATUSES, EventAnnotation, QAPair, Status, Track, VideoItem
from ravst_ray.tasks import WHEN, WHEN_AND_WHERE, WHERE, task_of

_TEMPORAL_TASKS = {WHEN.name: TEMPORAL, WHEN_AND_WHERE.name: SPATIO_TEMPORAL}
_TOKEN = re.compile(r"\d|[^\W\d]+|[^\w\s]|\n")


@dataclass(frozen=True)
class Draft:
    """A question before it has an id. ``rests_on`` are the events (``event_num``) whose claims the answer needs.

    It is ``unsure`` where something sounds that nobody named.
    """

    task: str
    event_num: int
    question: str
    objects: tuple[ObjectAnswer, ...]
    rests_on: tuple[int, ...]
    unsure: bool = False


class MakeQuestions(Step):
    """Writes the questions of every event; ids count from 0 within (video, event, task).

    It comes after quality control: a question is as good as the worst of the events that it rests on.

    Args:
        rules: what is asked.
        max_instances: more of one name at once are a crowd, of which no complete answer can be given.
        seed: of the run; decides, with the ids, which questions are kept where ``rules.per_event`` is set.

    Raises:
        ConfigError: ``rules.per_event`` names a task that there isn't.
    """

    stage = "questions"

    def __init__(self, rules: QuestionsConfig | None = None, max_instances: int = 13, seed: int = 0):
        self._rules = rules or QuestionsConfig()
        for task in self._rules.per_event or ():
            task_of(task)
        self._max_instances = max_instances
        self._seed = seed

    def process(self, item: VideoItem) -> VideoItem:
        """One video; questions come in the order of its events, there when before where before both."""
        end_s = item.meta.duration_s if item.meta else item.video.duration_s
        pairs, left_out = questions_of(
            item.video.video_id, item.annotations, end_s, self._rules, self._max_instances, self._seed
        )
        counted = {f"left_out/{reason}": float(count) for reason, count in left_out.items()}
        return replace(item, qa=pairs).with_stats(**counted)


def questions_of(
    video_id: str,
    annotations: Sequence[EventAnnotation],
    end_s: float,
    rules: QuestionsConfig | None = None,
    max_instances: int = 13,
    seed: int = 0,
) -> tuple[tuple[QAPair, ...], Counter[str]]:
    """The questions of a video with their ids, and how many were left out for which reason.

    Reasons: ``no_length`` (an interval that rounds to nothing can't be answered rightly), ``same_interval`` (two events
    of one interval are asked about once), ``never_visible`` (a name that sounds has no box), ``repeated`` (one that
    sounds several times), ``ambiguous_name``, ``unnamed_source`` (the moment meets an event whose label tells of the
    name, and its objects don't), ``crowd``, ``half_tracked`` (the moment goes on in an event that isn't asked about),
    ``too_long`` (``max_answer_tokens``), ``balance`` (``per_event``).
    """
    rules = rules or QuestionsConfig()
    found, left_out = drafts(annotations, end_s, rules, max_instances)
    kept = _balanced(video_id, found, rules, seed)
    left_out["balance"] += len(found) - len(kept)
    status = {one.event.event_num: one.status for one in annotations}
    asked: Counter[tuple[int, str]] = Counter()
    pairs: list[QAPair] = []
    for draft in kept:
        known: list[Status] = [status[number] for number in draft.rests_on]
        worst = max([*known, "suspect"] if draft.unsure else known, key=STATUSES.index)
        index = asked[draft.event_num, draft.task]
        asked[draft.event_num, draft.task] += 1
        qa_id = f"{video_id}/{draft.event_num}/{draft.task}/{index}"
        answer = render(draft.objects)
        pairs.append(QAPair(qa_id, video_id, draft.event_num, draft.task, draft.question, answer, worst))
    return tuple(pairs), +left_out


def drafts(
    annotations: Sequence[EventAnnotation], end_s: float, rules: QuestionsConfig, max_instances: int = 13
) -> tuple[list[Draft], Counter[str]]:
    """All questions of a video, and how many were left out for which reason (see :func:`questions_of`).

    When, and when and where: one each per audible name and moment. Where: one per event for all that sounds and one
    for all that is silent. Objects of one name count as one, with several boxes a second.
    """
    writer = _Writer(annotations, end_s, rules, max_instances)
    return writer.drafts(), writer.left_out


def answer_tokens(answer: str) -> int:
    """About how many tokens an answer has for a model that splits numbers into digits; never fewer than it needs.

    >>> answer_tokens("1.4: [158.0, 3.0]")
    16
    """
    return sum(1 for _ in _TOKEN.finditer(answer))


class _Writer:
    """The drafts of one video."""

    def __init__(
        self, annotations: Sequence[EventAnnotation], end_s: float, rules: QuestionsConfig, max_instances: int
    ):
        self._annotations = sorted(annotations, key=lambda one: one.event.event_num)
        self._end_s = math.floor(end_s * 10 + 1e-6) / 10
        self._rules = rules
        self._max_instances = max_instances
        self._moments = moments_by_name(annotations)
        self.left_out: Counter[str] = Counter()

    def drafts(self) -> list[Draft]:
        """Of all events that are asked about and weren't set aside."""
        found: list[Draft] = []
        for one in self._annotations:
            if not self._is_asked(one):
                self.left_out["no_length"] += one.event.asked and bool(one.tracks)
                continue
            temporal = [draft for key, name in heard_here(one).items() for draft in self._temporal(one, key, name)]
            found += [draft for draft in temporal if draft.task == WHEN.name]
            found += self._spatial(one)
            found += [draft for draft in temporal if draft.task == WHEN_AND_WHERE.name]
        once = _joined(found)
        self.left_out["same_interval"] += len(found) - len(once)
        return [draft for draft in once if self._fits(draft)]

    def _is_asked(self, one: EventAnnotation) -> bool:
        return one.event.asked and bool(one.tracks) and length(self._within_video(interval_of(one.event))) > 0

    def _within_video(self, interval_s: Interval) -> Interval:
        return min(interval_s[0], self._end_s), min(interval_s[1], self._end_s)

    def _fits(self, draft: Draft) -> bool:
        fits = answer_tokens(render(draft.objects)) <= self._rules.max_answer_tokens
        self.left_out["too_long"] += not fits
        return fits

    def _spatial(self, one: EventAnnotation) -> Iterator[Draft]:
        """Where: one question for all that sounds and one for all that is silent, where there is any."""
        start, end = self._within_video(interval_of(one.event))
        meets = [other for other in self._annotations if other is not one and meet(one.event, other.event)]
        unsure = any(map(lacks_source, meets))
        for wording, audible in ((SPATIAL_AUDIBLE, True), (SPATIAL_SILENT, False)):
            tracks = _heard(one, meets) if audible else _silent(one, meets)
            lines = {key: _within(lines_of(found), start, end) for key, found in tracks.items()}
            objects = tuple(ObjectAnswer(tracks[key][0].name, where=where) for key, where in lines.items() if where)
            if any(most_at_once(found) > self._max_instances for found in tracks.values()):
                self.left_out["crowd"] += 1
            elif objects:
                heard_in = [n for thing in one.objects if normal_words(thing.name) in tracks for n in thing.heard_in]
                rests_on = tuple(sorted({one.event.event_num, *heard_in}))
                question = wording.format(start=start, end=end)
                yield Draft(WHERE.name, one.event.event_num, question, objects, rests_on, unsure)

    def _temporal(self, one: EventAnnotation, key: NameKey, name: str) -> Iterator[Draft]:
        """When, and when and where, of the moment of which this is the first event that is asked about."""
        moments = self._moments[key]
        moment = next(moment for moment in moments if any(event is one for event in moment.events))
        lines = self._lines(moment, key)
        first = next(event for event in moment.events if self._is_asked(event) and key in heard_here(event))
        if one is not first:
            return
        if not lines:
            self.left_out["never_visible"] += len(_TEMPORAL_TASKS)
            return
        when = self._when(moment, lines)
        seen = [length(other.interval_s) > 0 and bool(self._lines(other, key)) for other in moments]
        for task, published in _TEMPORAL_TASKS.items():
            asked = asked_as(published, moment, moments, seen, self._rules, self._end_s)
            reason = self._against(task, moment, name, when)
            if asked is None or reason:
                self.left_out[reason or "repeated"] += 1
                continue
            wording, others = asked
            objects = (ObjectAnswer(name, when=when, where=lines if task == WHEN_AND_WHERE.name else None),)
            rests_on = tuple(event.event.event_num for other in others for event in other.events)
            yield Draft(task, one.event.event_num, wording.format(name=name), objects, rests_on)

    def _against(self, task: str, moment: Moment, name: str, when: Interval) -> str | None:
        """Why a moment isn't asked for."""
        key = normal_words(name)
        if length(when) <= 0:
            return "no_length"
        elsewhere = task == WHEN.name and self._rules.when == "event"
        if is_ambiguous(name, self._annotations, self._moments, elsewhere):
            return "ambiguous_name"
        if any(key not in heard_here(event) for event in moment.events):
            return "unnamed_source"
        half = not all(event.event.asked for event in moment.events)
        if half and (task == WHEN_AND_WHERE.name or self._rules.when == "visible"):
            return "half_tracked"
        if task == WHEN.name:
            return None
        crowded = (most_at_once(tracks_by_name(event, True).get(key, [])) for event in moment.events)
        return "crowd" if any(count > self._max_instances for count in crowded) else None

    def _lines(self, moment: Moment, key: NameKey) -> tuple[BoxLine, ...]:
        """The boxes of a name over a moment: each event's own from where the one before ends, or where it has none."""
        lines: list[BoxLine] = []
        until_s, step_s = -math.inf, min(grid_step_s(one.frame_times_s) for one in moment.events)
        for one in moment.events:
            told = [time_s for time_s, _ in lines]
            for line in lines_of(tracks_by_name(one, True).get(key, [])):
                if line[0] > until_s or all(abs(line[0] - time_s) > step_s - 1e-6 for time_s in told):
                    lines.append(line)
            until_s = max(until_s, interval_of(one.event)[1])
        return _within(sorted(lines, key=lambda line: line[0]), *self._within_video(moment.interval_s))

    def _when(self, moment: Moment, lines: Sequence[BoxLine]) -> Interval:
        start, end = self._within_video(moment.interval_s)
        if self._rules.when == "visible":
            return max(start, lines[0][0]), min(end, lines[-1][0])
        return start, end


def _within(lines: Sequence[BoxLine], start_s: float, end_s: float) -> tuple[BoxLine, ...]:
    return tuple(line for line in lines if start_s <= line[0] <= end_s)


def _heard(one: EventAnnotation, meets: Sequence[EventAnnotation]) -> dict[NameKey, list[Track]]:
    """The tracks of what sounds in an event; of what only another event that it meets has boxes of, those."""
    tracks = tracks_by_name(one, True)
    for thing in one.objects:
        if thing.audible and not any(may_be_same(thing.name, found[0].name) for found in tracks.values()):
            key = normal_words(thing.name)
            there = (tracks_by_name(other, True) for other in meets if other.event.event_num in thing.heard_in)
            if found := next((tracks_there[key] for tracks_there in there if key in tracks_there), None):
                tracks[key] = found
    return tracks


def _silent(one: EventAnnotation, meets: Sequence[EventAnnotation]) -> dict[NameKey, list[Track]]:
    """The tracks of what is silent in an event and can't be what sounds in another that it meets."""
    heard = [name for other in meets for name in heard_here(other).values()]
    tracks = tracks_by_name(one, False)
    return {key: found for key, found in tracks.items() if not any(may_be_same(found[0].name, name) for name in heard)}


def _joined(found: Sequence[Draft]) -> list[Draft]:
    """The questions, each once: two events of one interval have the same, and the answer has what either knows of."""
    kept: dict[str, Draft] = {}
    for draft in found:
        first = kept.get(draft.question, draft)
        more = [one for one in draft.objects if not any(may_be_same(one.name, had.name) for had in first.objects)]
        kept[draft.question] = replace(
            first,
            objects=(*first.objects, *more),
            rests_on=tuple(sorted({*first.rests_on, *draft.rests_on})),
            unsure=first.unsure or draft.unsure,
        )
    return list(kept.values())


def _balanced(video_id: str, found: Sequence[Draft], rules: QuestionsConfig, seed: int) -> list[Draft]:
    """Of each event and task as many drafts as ``per_event`` wants on average, by hash: other videos don't matter."""
    if rules.per_event is None:
        return list(found)
    groups: defaultdict[tuple[int, str], list[Draft]] = defaultdict(list)
    for draft in found:
        groups[draft.event_num, draft.task].append(draft)
    kept: set[int] = set()
    for (number, task), group in groups.items():
        place = f"{video_id}/{number}/{task}"
        wanted = math.floor(rules.per_event.get(task, len(group)) + hash_share(seed, place, "per_event"))
        ordered = sorted(group, key=lambda draft: hash_share(seed, f"{video_id}/{draft.question}", "question"))
        kept |= {id(draft) for draft in ordered[:wanted]}
    return [draft for draft in found if id(draft) in kept]
