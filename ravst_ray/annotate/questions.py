"""Step 4, questions: tracks become question-answer pairs of the three tasks, in the published wording.

Times are rounded to 0.1 s in questions as in answers, so that no ``<where>`` line lies outside the asked interval
(in the published data some do). An object without any box is left out: it can't be shown to be visible.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ravst_ray.annotate.step import Step
from ravst_ray.core.answers import BoxLine, ObjectAnswer, render
from ravst_ray.core.frame_times import round_to_tenth
from ravst_ray.core.intervals import Interval
from ravst_ray.core.wording import SPATIAL_AUDIBLE, SPATIAL_SILENT, SPATIO_TEMPORAL, TEMPORAL
from ravst_ray.records import EventAnnotation, QAPair, Task, Track, VideoItem


@dataclass(frozen=True)
class Draft:
    """A question before it has an id."""

    task: Task
    question: str
    objects: tuple[ObjectAnswer, ...]


class MakeQuestions(Step):
    """Writes the questions of every event; ids count from 0 within (video, event, task)."""

    stage = "questions"

    def process(self, item: VideoItem) -> VideoItem:
        """One video; questions come in the order of its events, AVTR before AVSR before AVSTR."""
        return replace(item, qa=questions_of(item.video.video_id, item.annotations))


def questions_of(video_id: str, annotations: Sequence[EventAnnotation]) -> tuple[QAPair, ...]:
    """The questions of a video, with their ids."""
    asked: Counter[tuple[int, Task]] = Counter()
    pairs: list[QAPair] = []
    for annotation in annotations:
        number = annotation.event.event_num
        for draft in drafts(annotation):
            index = asked[number, draft.task]
            asked[number, draft.task] += 1
            qa_id = f"{video_id}/{number}/{draft.task}/{index}"
            answer = render(draft.objects)
            pairs.append(QAPair(qa_id, video_id, number, draft.task, draft.question, answer, annotation.status))
    return tuple(pairs)


def drafts(annotation: EventAnnotation) -> Iterator[Draft]:
    """The questions of one event.

    AVTR and AVSTR: one each per audible object. AVSR: one for all audible and one for all silent objects, where there
    are any. Objects of one name count as one, with several boxes a second.
    """
    when = _rounded(annotation)
    start, end = when
    audible, silent = (_lines_by_name(annotation.tracks, audible=flag) for flag in (True, False))
    for name in audible:
        yield Draft("AVTR", TEMPORAL.format(name=name), (ObjectAnswer(name, when=when),))
    for wording, found in ((SPATIAL_AUDIBLE, audible), (SPATIAL_SILENT, silent)):
        if found:
            objects = tuple(ObjectAnswer(name, where=lines) for name, lines in found.items())
            yield Draft("AVSR", wording.format(start=start, end=end), objects)
    for name, lines in audible.items():
        yield Draft("AVSTR", SPATIO_TEMPORAL.format(name=name), (ObjectAnswer(name, when=when, where=lines),))


def _rounded(annotation: EventAnnotation) -> Interval:
    event = annotation.event
    return float(round_to_tenth(event.start_s)), float(round_to_tenth(event.end_s))


def _lines_by_name(tracks: Sequence[Track], audible: bool) -> dict[str, tuple[BoxLine, ...]]:
    """The ``<where>`` lines of each name in the order of the tracks; of one second, the older track comes first."""
    lines: defaultdict[str, list[BoxLine]] = defaultdict(list)
    for track in tracks:
        if track.audible == audible:
            lines[track.name] += _lines(track)
    return {name: tuple(sorted(found, key=lambda line: line[0])) for name, found in lines.items() if found}


def _lines(track: Track) -> Iterator[BoxLine]:
    for time_s, (x1, y1, x2, y2) in zip(track.times_s, track.boxes_xyxy_px, strict=True):
        yield float(round_to_tenth(time_s)), (round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1))
