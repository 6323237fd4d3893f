"""Numbers behind line charts. As with :mod:`ravst_ray.reports.figures`, templates draw them as SVG and HTML.

Paths live in a square of 1000 x 1000 units, y downwards, which the page stretches to the room that it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ravst_ray.reports.figures import nice_step

Unit = Literal["", "share", "s"]
Along = Literal["step", "time"]
INK = "var(--text)"
COLORS = tuple(f"var(--c{number})" for number in range(1, 7))  # those of the style sheet, light or dark
SIDE = 1000.0
MAX_POINTS = 240
SMOOTH_FROM = 24
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Series:
    """A curve before it is drawn: values by step. ``color`` is CSS."""

    label: str
    values: Mapping[int, float]
    color: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: ``at`` in percent of its length, from the left or from the bottom."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A drawn curve: SVG path data of the values, and of their running mean where there are enough of them.

    ``last`` is the mean of its last steps (see :func:`tail`), over time its largest value, ``shown`` the same for
    people.
    """

    label: str
    color: str
    path: str
    smooth: str
    last: float
    shown: str


@dataclass(frozen=True)
class Chart:
    """A line chart; ``strips`` tell the values where the pointer is (left and width in percent, text)."""

    title: str
    hint: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    strips: tuple[tuple[float, float, str], ...]
    along: Along = "step"


def tail(count: int) -> int:
    """How many of ``count`` steps count as its first or its last ones: a tenth, at least one."""
    return max(1, round(count / 10))


def ends(values: Mapping[int, float], steps: Sequence[int]) -> tuple[float | None, float | None]:
    """Means over the first and over the last steps (:func:`tail`); None where none of them has a value."""
    size = tail(len(steps))
    return mean_over(values, steps[:size]), mean_over(values, steps[-size:])


def mean_over(values: Mapping[int, float], steps: Sequence[int]) -> float | None:
    """Mean over those of ``steps`` that have a value."""
    found = [values[step] for step in steps if step in values]
    return sum(found) / len(found) if found else None


def shown(value: float, unit: Unit = "") -> str:
    """A number for people: ``"12.5%"``, ``"3.21 s"``, ``"0.714"``, ``"2.4e-07"``."""
    if unit == "share":
        return f"{100 * value:.3g}%"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} s" if unit == "s" else text


def moment(seconds: float) -> str:
    """A time since the beginning, for people.

    Example:
        >>> moment(0), moment(90), moment(7200), moment(3665)
        ('0 s', '1 min 30 s', '2 h', '1 h 1 min 5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts) or "0 s"


def chart(
    title: str,
    series: Sequence[Series],
    steps: Sequence[int],
    unit: Unit = "",
    hint: str = "",
    along: Along = "step",
) -> Chart | None:
    """A chart of the series that have any value at ``steps``; None when none has.

    Long runs are drawn in at most ``MAX_POINTS`` points, each the mean of as many neighbouring steps. Along the time,
    ``steps`` are seconds; these curves have no running mean, and what is told of them is their largest value.
    """
    series = [one for one in series if any(step in one.values for step in steps)]
    if not series:
        return None
    bins = _bins(steps)
    binned = [[mean_over(one.values, part) for part in bins] for one in series]
    known = [value for values in binned for value in values if value is not None]
    low, high, y_ticks = scale(min(known), max(known), unit)
    places = [sum(part) / len(part) for part in bins]
    first, last = places[0], places[-1]
    across = [SIDE / 2 if first == last else SIDE * (place - first) / (last - first) for place in places]

    def path(values: Sequence[float], places: Sequence[float]) -> str:
        return _path([(x, SIDE * (1 - (value - low) / (high - low))) for x, value in zip(places, values, strict=True)])

    curves = []
    for one, values in zip(series, binned, strict=True):
        there = [(x, value) for x, value in zip(across, values, strict=True) if value is not None]
        own_places, own = [x for x, _ in there], [value for _, value in there]
        smooth = path(_running_mean(own), own_places) if along == "step" and len(own) >= SMOOTH_FROM else ""
        end = ends(one.values, sorted(step for step in steps if step in one.values))[1] or 0.0
        end = max(one.values.values()) if along == "time" else end
        curves.append(Curve(one.label, one.color, path(own, own_places), smooth, end, shown(end, unit)))
    strips = _strips(bins, across, [one.label for one in series], binned, unit, along)
    x_ticks = _time_ticks(first, last) if along == "time" else _step_ticks(first, last)
    return Chart(title, hint, tuple(curves), x_ticks, y_ticks, strips, along)


def scale(least: float, most: float, unit: Unit = "", whole: bool = False) -> tuple[float, float, tuple[Tick, ...]]:
    """Ends of a y axis, 0 among them, on round numbers, with its marks; ``whole``: on whole numbers."""
    low, high = min(least, 0.0), max(most, 0.0)
    if low == high:
        high = 1.0
    step = max(nice_step(high - low, 4), 1.0 if whole else 0.0)
    below, above = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(
        Tick(100 * (number - below) / (above - below), shown(number * step, unit)) for number in range(below, above + 1)
    )
    return below * step, above * step, ticks


def _bins(steps: Sequence[int]) -> list[Sequence[int]]:
    size = math.ceil(len(steps) / MAX_POINTS)
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def _step_ticks(first: float, last: float) -> tuple[Tick, ...]:
    if first == last:
        return (Tick(50.0, f"{first:g}"),)
    step = max(1, round(nice_step(last - first, 8)))
    marks = range(math.ceil(first / step) * step, math.floor(last) + 1, step)
    return tuple(Tick(100 * (mark - first) / (last - first), str(mark)) for mark in marks)


def _time_ticks(first: float, last: float) -> tuple[Tick, ...]:
    if first == last:
        return (Tick(50.0, moment(first)),)
    step = next((step for step in TIME_STEPS_S if (last - first) / step <= 5), TIME_STEPS_S[-1])
    marks = range(math.ceil(first / step) * step, math.floor(last) + 1, step)
    return tuple(Tick(100 * (mark - first) / (last - first), moment(mark)) for mark in marks)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Path data; steps without a value are passed over, and a single point is a line of no length: a dot."""
    pieces = [f"{x:.1f} {y:.1f}" for x, y in points]
    return f"M{pieces[0]}h0" if len(pieces) == 1 else "M" + "L".join(pieces)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Centred; at both ends over what there is of the window."""
    reach = max(2, len(values) // 24)
    parts = [values[max(place - reach, 0) : place + reach + 1] for place in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _strips(
    bins: Sequence[Sequence[int]],
    across: Sequence[float],
    labels: Sequence[str],
    binned: Sequence[Sequence[float | None]],
    unit: Unit,
    along: Along,
) -> tuple[tuple[float, float, str], ...]:
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(across)), SIDE]
    found = []
    for place, part in enumerate(bins):
        name = f"step {part[0]}" if len(part) == 1 else f"steps {part[0]}–{part[-1]}"
        if along == "time":
            name = moment(part[0]) if len(part) == 1 else f"{moment(part[0])} – {moment(part[-1])}"
        said = [
            f"{label} {shown(value, unit)}"
            for label, values in zip(labels, binned, strict=True)
            if (value := values[place]) is not None
        ]
        left, right = borders[place] / SIDE * 100, borders[place + 1] / SIDE * 100
        found.append((left, right - left, f"{name}: {', '.join(said) or 'nothing'}"))
    return tuple(found)
