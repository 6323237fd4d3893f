"""Trivial answers to the questions of R-AVST. A model that can't beat them has learned nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from ravst_ray.core.answers import BoxLine, ObjectAnswer, ParsedAnswer
from ravst_ray.core.intervals import Interval
from ravst_ray.records import Box
from ravst_ray.tasks.protocols import Exam

WHOLE_VIDEO = "the whole video"
MIDDLE_HALF = "the middle half"
CENTRE_BOX = "a centre box"

_NAMED = re.compile(r"When is the moment (.{1,500}?) makes sound and is visible")
_FRAMES = (
    (320, 180),
    (320, 240),
    (480, 270),
    (480, 360),
    (640, 360),
    (640, 480),
    (854, 480),
    (1280, 720),
    (1920, 1080),
)
_MAX_SECONDS = 3600


def names(when: bool, where: bool) -> tuple[str, ...]:
    """What the trivial answers of a task with intervals, with boxes, are called."""
    return (*((WHOLE_VIDEO, MIDDLE_HALF) if when else ()), *((CENTRE_BOX,) if where else ()))


def answers(exam: Exam, asked: Mapping[str, Interval], when: bool, where: bool) -> dict[str, dict[str, ParsedAnswer]]:
    """Trivial answers by their name and question id.

    The whole video and its middle half name the interval, without boxes. The centre box covers the middle half of
    either side of the frame in every second of ``asked`` and goes by the name in the question, or by the data's
    commonest one where the question has none.

    Args:
        exam: all questions with answers of this grammar.
        asked: the interval that each question to answer is about.
        when: whether the task's answers have intervals.
        where: whether the task's answers have boxes.
    """
    commonest = Counter(one.name for pair in exam.pairs for one in exam.truths[pair.qa_id].objects).most_common(1)
    default = commonest[0][0] if commonest else "object"
    frames = _frame_sizes(exam)
    found: dict[str, dict[str, ParsedAnswer]] = {name: {} for name in names(when, where)}
    for pair in exam.pairs:
        if pair.qa_id not in asked:
            continue
        end_s = exam.durations_s[pair.video_id]
        stated = _NAMED.search(pair.question)
        name = stated.group(1) if stated else default
        if when:
            found[WHOLE_VIDEO][pair.qa_id] = _one(name, (0.0, end_s))
            found[MIDDLE_HALF][pair.qa_id] = _one(name, (end_s / 4, end_s * 3 / 4))
        if where:
            interval = asked[pair.qa_id]
            lines = _every_second(interval, frames[pair.video_id])
            found[CENTRE_BOX][pair.qa_id] = _one(name, interval if when else None, lines)
    return found


def common_frame(width: float, height: float) -> tuple[float, float]:
    """The smallest common frame of at least this size; the size itself where none is as large.

    >>> common_frame(500, 100)
    (640, 360)
    """
    sizes = sorted([*_FRAMES, *((down, across) for across, down in _FRAMES)], key=lambda size: size[0] * size[1])
    return next((size for size in sizes if size[0] >= width and size[1] >= height), (width, height))


def _one(name: str, when: Interval | None, where: tuple[BoxLine, ...] | None = None) -> ParsedAnswer:
    return ParsedAnswer((ObjectAnswer(name, when, where),))


def _every_second(interval: Interval, size: tuple[float, float]) -> tuple[BoxLine, ...]:
    width, height = size
    box: Box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    seconds = int(min(max(interval[1] - interval[0], 0.0), _MAX_SECONDS)) + 1
    return tuple((interval[0] + second, box) for second in range(seconds))


def _frame_sizes(exam: Exam) -> dict[str, tuple[float, float]]:
    """The smallest common frame that holds a video's true boxes: the annotations don't say how large the frame is."""
    extent: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for pair in exam.pairs:
        for one in exam.truths[pair.qa_id].objects:
            for _, (_, _, x2, y2) in one.where or ():
                width, height = extent[pair.video_id]
                extent[pair.video_id] = (max(width, x2), max(height, y2))
    return {pair.video_id: common_frame(*extent[pair.video_id]) for pair in exam.pairs}
