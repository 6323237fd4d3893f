"""Trivial answers. A model that can't beat them has learned nothing, so no table is shown without them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ravst_ray.core.answers import BoxLine, ObjectAnswer, ParsedAnswer
from ravst_ray.core.intervals import Interval
from ravst_ray.records import Box, QAPair, Task

WHOLE_VIDEO = "the whole video"
MIDDLE_HALF = "the middle half"
CENTRE_BOX = "a centre box"
PREVIOUS = "the previous question's answer"
APPLIES: dict[str, tuple[Task, ...]] = {
    WHOLE_VIDEO: ("AVTR", "AVSTR"),
    MIDDLE_HALF: ("AVTR", "AVSTR"),
    CENTRE_BOX: ("AVSR", "AVSTR"),
    PREVIOUS: ("AVTR", "AVSR", "AVSTR"),
}
"""The tasks that a baseline has an answer for."""

_ASKED = re.compile(r"between\s+([\d.]{1,20})\s+and\s+([\d.]{1,20}),")
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


def asked_interval(pair: QAPair, true: ParsedAnswer) -> Interval | None:
    """The interval a question is about: the one it asks within, else the true ``<when>``."""
    found = _ASKED.search(pair.question)
    if found:
        try:
            return float(found.group(1)), float(found.group(2))
        except ValueError:
            return None
    return next((one.when for one in true.objects if one.when is not None), None)


def baseline_answers(
    pairs: Sequence[QAPair], truths: Mapping[str, ParsedAnswer], durations_s: Mapping[str, float]
) -> dict[str, dict[str, ParsedAnswer]]:
    """Trivial answers by baseline and question id.

    The whole video and its middle half name the interval, without boxes. The centre box covers the middle half of
    either side of the frame in every second (of the asked interval, else of the whole video) and goes by the name in
    the question, or by the data's commonest one where the question has none. The previous question is the one of the
    same task before it in the file; the first takes the last one's.
    """
    commonest = Counter(one.name for truth in truths.values() for one in truth.objects).most_common(1)
    default = commonest[0][0] if commonest else "object"
    frames = _frame_sizes(pairs, truths)
    answers: dict[str, dict[str, ParsedAnswer]] = {name: {} for name in APPLIES}
    previous = {pair.task: pair.qa_id for pair in pairs}
    for pair in pairs:
        end_s = durations_s[pair.video_id]
        found = _NAMED.search(pair.question)
        name = found.group(1) if found else default
        if pair.task != "AVSR":
            answers[WHOLE_VIDEO][pair.qa_id] = _one(name, (0.0, end_s))
            answers[MIDDLE_HALF][pair.qa_id] = _one(name, (end_s / 4, end_s * 3 / 4))
        if pair.task != "AVTR":
            asked = asked_interval(pair, ParsedAnswer(())) or (0.0, end_s)
            when = asked if pair.task == "AVSTR" else None
            answers[CENTRE_BOX][pair.qa_id] = _one(name, when, _every_second(asked, frames[pair.video_id]))
        answers[PREVIOUS][pair.qa_id] = truths[previous[pair.task]]
        previous[pair.task] = pair.qa_id
    return answers


def _one(name: str, when: Interval | None, where: tuple[BoxLine, ...] | None = None) -> ParsedAnswer:
    return ParsedAnswer((ObjectAnswer(name, when, where),))


def _every_second(interval: Interval, size: tuple[float, float]) -> tuple[BoxLine, ...]:
    width, height = size
    box: Box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    seconds = int(min(max(interval[1] - interval[0], 0.0), _MAX_SECONDS)) + 1
    return tuple((interval[0] + second, box) for second in range(seconds))


def _frame_sizes(pairs: Sequence[QAPair], truths: Mapping[str, ParsedAnswer]) -> dict[str, tuple[float, float]]:
    """The smallest common frame that holds a video's true boxes: the annotations don't say how large the frame is."""
    extent: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for pair in pairs:
        for one in truths[pair.qa_id].objects:
            for _, (_, _, x2, y2) in one.where or ():
                width, height = extent[pair.video_id]
                extent[pair.video_id] = (max(width, x2), max(height, y2))
    sizes = sorted([*_FRAMES, *((height, width) for width, height in _FRAMES)], key=lambda size: size[0] * size[1])

    def frame(width: float, height: float) -> tuple[float, float]:
        return next((size for size in sizes if size[0] >= width and size[1] >= height), (width, height))

    return {pair.video_id: frame(*extent[pair.video_id]) for pair in pairs}
