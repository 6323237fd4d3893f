"""Two annotators, from whom the toy policy learns to answer: a careful one, and a careless one who is asked more often.

The careless one's intervals are too long and boxes too large; asked what there is, that one looks at the first object
alone and leaves out its colour. A model that imitates both knows the right answers and seldom gives them: which of its
habits is worth something, only the reward can tell it.
"""

from __future__ import annotations

from dataclasses import replace

from ravst_ray.core.answers import ObjectAnswer, parse, render
from ravst_ray.records import Box, VideoView

CARELESS_SHARE = 0.58
LONGER, LARGER = 3.0, 2.2
"""How many times as long an interval is, and the side of a box."""


def careless(answer: str, view: VideoView) -> str:
    """A true answer (in the dataset's space) as the careless annotator gives it."""
    first = _widened(parse(answer).objects[0], view)
    asked_what = first.when is None
    return render([replace(first, name=first.name.split()[-1]) if asked_what else first])


def _widened(one: ObjectAnswer, view: VideoView) -> ObjectAnswer:
    when = one.when
    if when is not None:
        margin_s = (when[1] - when[0]) * (LONGER - 1) / 2
        when = (round(max(when[0] - margin_s, 0.0), 1), round(min(when[1] + margin_s, view.duration_s), 1))
    where = one.where
    if where is not None:
        where = tuple((time_s, _larger(box, view)) for time_s, box in where)
    return ObjectAnswer(one.name, when, where)


def _larger(box: Box, view: VideoView) -> Box:
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) * (LARGER - 1) / 2, (y2 - y1) * (LARGER - 1) / 2
    return (
        round(max(x1 - across, 0.0), 1),
        round(max(y1 - down, 0.0), 1),
        round(min(x2 + across, float(view.video_width)), 1),
        round(min(y2 + down, float(view.video_height)), 1),
    )
