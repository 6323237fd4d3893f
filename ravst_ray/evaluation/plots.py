"""Plots of an evaluation, as SVG: IoU distributions, metrics by group, predicted against true intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ravst_ray.core.intervals import Interval
from ravst_ray.evaluation.metrics import QuestionScore
from ravst_ray.records import QAPair
from ravst_ray.tasks import task_of

_BLUE, _ORANGE, _GREEN, _GREY = "#2f6fde", "#e8833a", "#3a9d6e", "#c9d1da"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "svg.hashsalt": "ravst",
}
_METRICS = {
    "m_tIoU": (_BLUE, "Intervals (tIoU)"),
    "m_vIoU": (_ORANGE, "Boxes (vIoU)"),
    "m_IoU": (_GREEN, "Boxes (IoU)"),
}
_GROUPINGS = {"duration": ("short", "medium", "long"), "objects": ("1", "2", "3", "4+")}
_MAX_INTERVALS = 80


def write_plots(
    folder: Path,
    scores: Sequence[QuestionScore],
    pairs: Sequence[QAPair],
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    durations_s: Mapping[str, float],
) -> None:
    """Write ``iou.svg``, ``groups.svg`` and ``intervals.svg`` into ``folder``, those that have anything to show."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = [metric for metric in _METRICS if any(metric in score.values for score in scores)]
    groupings = {name: [key for key in order if _own(scores, name, key)] for name, order in _GROUPINGS.items()}
    groupings = {name: keys for name, keys in groupings.items() if keys and metrics}
    rows = _interval_rows(pairs, truths, given, durations_s)
    _save(folder / "iou.svg", len(metrics), lambda axes: _distributions(axes, scores, metrics))
    _save(folder / "groups.svg", len(groupings), lambda axes: _by_group(axes, scores, metrics, groupings))
    _save(folder / "intervals.svg", int(bool(rows)), lambda axes: _intervals(axes[0], rows), height=4.2)


def _save(path: Path, columns: int, draw: Callable[[Any], None], height: float = 3.2) -> None:
    if not columns:
        path.unlink(missing_ok=True)  # of an evaluation before this one
        return
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        draw(figure.subplots(1, columns, squeeze=False)[0])
        figure.savefig(path, format="svg", metadata={"Date": None})


def _own(scores: Sequence[QuestionScore], grouping: str, key: str) -> list[QuestionScore]:
    return [score for score in scores if score.groups.get(grouping) == key]


def _distributions(axes: Any, scores: Sequence[QuestionScore], metrics: Sequence[str]) -> None:
    for axis, metric in zip(axes, metrics, strict=True):
        colour, title = _METRICS[metric]
        values = [score.values[metric] for score in scores if metric in score.values]
        axis.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=colour, edgecolor="white", linewidth=0.6)
        mean = float(np.mean(values))
        axis.axvline(mean, color="#1c2430", linewidth=1, linestyle="--", label=f"mean {mean:.2f}")
        axis.legend(frameon=False)
        axis.set(title=title, xlabel="IoU", ylabel="questions", xlim=(0, 1))


def _by_group(
    axes: Any, scores: Sequence[QuestionScore], metrics: Sequence[str], groupings: Mapping[str, Sequence[str]]
) -> None:
    for axis, (grouping, keys) in zip(axes, groupings.items(), strict=True):
        places = np.arange(len(keys))
        for place, metric in enumerate(metrics):
            heights = []
            for key in keys:
                values = [score.values[metric] for score in _own(scores, grouping, key) if metric in score.values]
                heights.append(100 * float(np.mean(values)) if values else 0.0)
            offset = 0.8 * ((place + 0.5) / len(metrics) - 0.5)
            axis.bar(places + offset, heights, width=0.76 / len(metrics), color=_METRICS[metric][0], label=metric)
        axis.set(title=f"By {grouping}", ylabel="percent", xticks=places, xticklabels=keys)
        axis.legend(frameon=False)


def _interval_rows(
    pairs: Sequence[QAPair],
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    durations_s: Mapping[str, float],
) -> list[tuple[Interval, Interval | None]]:
    """True and predicted intervals as shares of their videos, by the true one's start."""
    rows: list[tuple[Interval, Interval | None]] = []
    for pair in pairs:
        true, length_s = _first_when(pair, truths[pair.qa_id]), durations_s[pair.video_id]
        if true is None or length_s <= 0:
            continue
        found = _first_when(pair, given.get(pair.qa_id))
        guess = (min(found[0] / length_s, 1.0), min(found[1] / length_s, 1.0)) if found else None
        rows.append(((true[0] / length_s, true[1] / length_s), guess))
    return sorted(rows, key=lambda row: row[0])


def _intervals(axis: Any, rows: Sequence[tuple[Interval, Interval | None]]) -> None:
    """Each question a line: the true interval grey, the predicted one a blue bar within."""
    for place, (true, guess) in enumerate(rows[:: max(1, -(-len(rows) // _MAX_INTERVALS))]):
        axis.barh(place, true[1] - true[0], left=true[0], height=0.9, color=_GREY)
        if guess and guess[1] > guess[0]:
            axis.barh(place, guess[1] - guess[0], left=guess[0], height=0.4, color=_BLUE)
    axis.set(title="Predicted (blue) and true (grey) intervals", xlabel="share of the video", xlim=(0, 1), yticks=[])


def _first_when(pair: QAPair, answer: Any) -> Interval | None:
    intervals = task_of(pair.task).drawing(answer).intervals if answer is not None else ()
    return intervals[0][1] if intervals else None
