"""Truth and answers as the page is told them: what each task draws of an answer, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.core.answers import BoxLine
from ravst_ray.core.geometry import is_real_box
from ravst_ray.core.matching import best_assignment
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import QAPair
from ravst_ray.reports.graph_plan import floor_plans
from ravst_ray.review.predictions.lines import Answer
from ravst_ray.review.predictions.scored import weights
from ravst_ray.rewards.spatial import real_seconds
from ravst_ray.tasks import malformations, task_of
from ravst_ray.tasks.protocols import Drawing
from ravst_ray.tasks.rubric import Reward

MOST, MOST_TIMES = 40, 2000
"""Of an answer's objects and of an object's seconds that are shown; a model may say any number."""


def drawn(drawing: Drawing, asked_s: float) -> dict[str, Any]:
    """What the page draws of an answer.

    Args:
        drawing: by its task.
        asked_s: when a lone box is seen.
    """
    tracks = [one for name, lines in drawing.tracks for one in _tracks(name, lines)]
    if drawing.box and is_real_box(drawing.box):
        tracks.append({"name": "answer", "times_s": [asked_s], "boxes_xyxy_px": [list(drawing.box)]})
    return {
        "names": list(drawing.names[:MOST]),
        "value": drawing.value,
        "intervals": [
            {"name": name, "start_s": start_s, "end_s": end_s} for name, (start_s, end_s) in drawing.intervals[:MOST]
        ],
        "tracks": tracks[:MOST],
        "more": max(len(tracks) - MOST, len(drawing.intervals) - MOST, len(drawing.names) - MOST, 0),
        "graphs": [
            {"time_s": time_s, "dots": [{"label": label, "x": x, "y": y} for label, (x, y) in dots]}
            for time_s, dots in sorted(drawing.graphs.items())
        ],
    }


def _tracks(name: str, lines: Sequence[BoxLine]) -> Iterable[dict[str, Any]]:
    """The real boxes of an object in order; where it has several in a second, the others are tracks of their own."""
    seconds = sorted(real_seconds(lines).items())[:MOST_TIMES]
    for layer in range(min(max((len(boxes) for _, boxes in seconds), default=0), MOST)):
        own = [(time_s, list(boxes[layer])) for time_s, boxes in seconds if len(boxes) > layer]
        yield {"name": name, "times_s": [t for t, _ in own], "boxes_xyxy_px": [box for _, box in own]}


def asked_at(true: Drawing) -> float:
    """The first second that the true answer says something about; 0 where it has none."""
    times = [time_s for _, lines in true.tracks for time_s in real_seconds(lines)]
    times += [*true.graphs, *(start_s for _, (start_s, _) in true.intervals)]
    return max(min(times, default=0.0), 0.0)


def names_said(true: Drawing, said: Drawing, names: NameMatcher) -> dict[str, Any]:
    """Each name of an answer with whether it is right, and the true ones that it lacks; one to one."""
    scores = [[names.score(one, other) for other in said.names] for one in true.names]
    pairs = best_assignment(scores)
    right, found = {j for _, j in pairs}, {i for i, _ in pairs}
    return {
        "names": [{"name": name, "right": j in right} for j, name in enumerate(said.names[:MOST])],
        "missed": [name for i, name in enumerate(true.names) if i not in found][:MOST],
    }


def truth(pair: QAPair) -> dict[str, Any]:
    """The true answer."""
    true = _drawing(pair, pair.answer)
    return {"text": pair.answer, **drawn(true, asked_at(true))}


def said(pair: QAPair, answer: Answer, reward: Reward, config: RewardConfig, names: NameMatcher) -> dict[str, Any]:
    """An answer, what is right in it, and what it earned."""
    true, given = _drawing(pair, pair.answer), _drawing(pair, answer.text)
    plans = floor_plans(true.floor, given.floor, names) if true.floor else ()
    says = malformations()
    return {
        "text": answer.text,
        **drawn(given, asked_at(true)),
        **names_said(true, given, names),
        "total": reward.total,
        "maximum": reward.maximum,
        "parts": parts(pair.task, reward, config),
        "malformed": [{"kind": kind, "count": n, "says": says.get(kind, "")} for kind, n in reward.malformed.items()],
        "plans": [asdict(plan) for plan in plans],
        **{name: getattr(answer, name) for name in ("truncated", "tokens", "silent", "others", "verbatim")},
    }


def parts(task: str, reward: Reward, config: RewardConfig) -> list[dict[str, Any]]:
    """Each part of a reward with its weight; those that count first."""
    weighs = weights(task, config)
    found = [{"name": name, "score": score, "weight": weighs.get(name, 1.0)} for name, score in reward.parts.items()]
    return sorted(found, key=lambda part: part["weight"] == 0)


def _drawing(pair: QAPair, text: str) -> Drawing:
    task = task_of(pair.task)
    return task.drawing(task.parse(text))
