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

_BLUE, _ORANGE, _GREY = "#2f6fde", "#e8833a", "#c9d1da"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "svg.hashsalt": "ravst",
}
_MAX_INTERVALS = 80


def write_plots(
    folder: Path,
    scores: Sequence[QuestionScore],
    pairs: Sequence[QAPair],
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    durations_s: Mapping[str, float],
) -> None:
    """Write ``iou.svg``, ``groups.svg`` and ``intervals.svg`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "iou.svg", 2, lambda axes: _distributions(axes, scores))
    _save(folder / "groups.svg", 2, lambda axes: _by_group(axes, scores))
    _save(folder / "intervals.svg", 1, lambda axes: _intervals(axes[0], pairs, truths, given, durations_s))


def _save(path: Path, columns: int, draw: Callable[[Any], None]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.2 if columns > 1 else 4.2), layout="constrained")
        draw(figure.subplots(1, columns, squeeze=False)[0])
        figure.savefig(path, format="svg", metadata={"Date": None})


def _distributions(axes: Any, scores: Sequence[QuestionScore]) -> None:
    for axis, metric, colour, title in zip(
        axes, ("m_tIoU", "m_vIoU"), (_BLUE, _ORANGE), ("Intervals (tIoU)", "Boxes (vIoU)"), strict=True
    ):
        values = [score.values[metric] for score in scores if metric in score.values]
        axis.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=colour, edgecolor="white", linewidth=0.6)
        if values:
            mean = float(np.mean(values))
            axis.axvline(mean, color="#1c2430", linewidth=1, linestyle="--", label=f"mean {mean:.2f}")
            axis.legend(frameon=False)
        axis.set(title=title, xlabel="IoU", ylabel="questions", xlim=(0, 1))


def _by_group(axes: Any, scores: Sequence[QuestionScore]) -> None:
    for axis, grouping in zip(axes, ("duration", "objects"), strict=True):
        order = ("short", "medium", "long") if grouping == "duration" else ("1", "2", "3", "4+")
        keys = [key for key in order if any(score.groups.get(grouping) == key for score in scores)]
        places = np.arange(len(keys))
        for offset, metric, colour in ((-0.2, "m_tIoU", _BLUE), (0.2, "m_vIoU", _ORANGE)):
            heights = []
            for key in keys:
                values = [s.values[metric] for s in scores if s.groups.get(grouping) == key and metric in s.values]
                heights.append(100 * float(np.mean(values)) if values else 0.0)
            axis.bar(places + offset, heights, width=0.38, color=colour, label=metric)
        axis.set(title=f"By {grouping}", ylabel="percent", xticks=places, xticklabels=keys)
        axis.legend(frameon=False)


def _intervals(
    axis: Any,
    pairs: Sequence[QAPair],
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    durations_s: Mapping[str, float],
) -> None:
    """Each question a line, as shares of its video: the true interval grey, the predicted one a blue bar within."""
    rows: list[tuple[Interval, Interval | None]] = []
    for pair in pairs:
        true, length_s = _first_when(pair, truths[pair.qa_id]), durations_s[pair.video_id]
        if true is None or length_s <= 0:
            continue
        found = _first_when(pair, given.get(pair.qa_id))
        guess = (min(found[0] / length_s, 1.0), min(found[1] / length_s, 1.0)) if found else None
        rows.append(((true[0] / length_s, true[1] / length_s), guess))
    rows.sort(key=lambda row: row[0])
    for place, (true, guess) in enumerate(rows[:: max(1, -(-len(rows) // _MAX_INTERVALS))]):
        axis.barh(place, true[1] - true[0], left=true[0], height=0.9, color=_GREY)
        if guess and guess[1] > guess[0]:
            axis.barh(place, guess[1] - guess[0], left=guess[0], height=0.4, color=_BLUE)
    axis.set(title="Predicted (blue) and true (grey) intervals", xlabel="share of the video", xlim=(0, 1), yticks=[])


def _first_when(pair: QAPair, answer: Any) -> Interval | None:
    intervals = task_of(pair.task).drawing(answer).intervals if answer is not None else ()
    return intervals[0][1] if intervals else None
