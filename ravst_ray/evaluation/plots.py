"""Plots of an evaluation's page: IoU distributions, metrics by group, predicted beside true intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ravst_ray.core.intervals import Interval
from ravst_ray.evaluation.metrics import QuestionScore
from ravst_ray.records import QAPair
from ravst_ray.reports.curves import COLORS
from ravst_ray.reports.plots import Plot, distribution, grouped_bars, interval_rows
from ravst_ray.tasks import task_of

_TITLES = {"m_tIoU": "Intervals (tIoU)", "m_vIoU": "Boxes (vIoU)", "m_IoU": "Boxes (IoU)"}
_COLORS = dict(zip(_TITLES, COLORS, strict=False))
_GROUPINGS = {"duration": ("short", "medium", "long"), "objects": ("1", "2", "3", "4+")}
MOST_INTERVALS = 80


def draw_plots(
    scores: Sequence[QuestionScore],
    pairs: Sequence[QAPair],
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    durations_s: Mapping[str, float],
) -> list[Plot]:
    """The plots that have anything to show: of each IoU its distribution, averages by group, intervals."""
    plots = []
    for metric, title in _TITLES.items():
        if values := [score.values[metric] for score in scores if metric in score.values]:
            plots.append(distribution(title, "questions by their IoU", metric, values, _COLORS[metric]))
    for grouping, order in _GROUPINGS.items():
        groups = {key: means for key in order if (means := _means(scores, grouping, key))}
        if groups:
            plots.append(grouped_bars(f"By {grouping}", "averages in percent", groups, _COLORS))
    if rows := _interval_rows(pairs, truths, given, durations_s):
        some = rows[:: -(-len(rows) // MOST_INTERVALS)]
        left_out = f"; {len(some)} of {len(rows)} questions" if len(some) < len(rows) else ""
        plots.append(interval_rows("Predicted and true intervals", f"shares of the video{left_out}", some))
    return plots


def _means(scores: Sequence[QuestionScore], grouping: str, key: str) -> dict[str, float]:
    """Percent by metric, over the questions of one group."""
    own = [score.values for score in scores if score.groups.get(grouping) == key]
    found = {metric: [values[metric] for values in own if metric in values] for metric in _TITLES}
    return {metric: 100 * float(np.mean(values)) for metric, values in found.items() if values}


def _interval_rows(
    pairs: Sequence[QAPair],
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    durations_s: Mapping[str, float],
) -> list[tuple[str, Interval, Interval | None]]:
    """Ids, true and predicted intervals as shares of their videos, by the true one's start."""
    rows: list[tuple[str, Interval, Interval | None]] = []
    for pair in pairs:
        true, length_s = _first_when(pair, truths[pair.qa_id]), durations_s[pair.video_id]
        if true is not None and length_s > 0:
            said = _first_when(pair, given.get(pair.qa_id))
            rows.append((pair.qa_id, _share(true, length_s), _share(said, length_s) if said else None))
    return sorted(rows, key=lambda row: row[1])


def _share(interval: Interval, length_s: float) -> Interval:
    """Within the video, whatever a model says."""
    start, end = (min(max(time_s / length_s, 0.0), 1.0) for time_s in interval)
    return start, end


def _first_when(pair: QAPair, answer: Any) -> Interval | None:
    intervals = task_of(pair.task).drawing(answer).intervals if answer is not None else ()
    return intervals[0][1] if intervals else None
