"""Graphs in metres, seen from above: the true one, and a model's turned and moved onto it as it is scored.

Numbers for the template alone, in units of a view box that is ``WIDTH`` wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravst_ray.core.graphs import Graph
from ravst_ray.core.names import NameMatcher
from ravst_ray.rewards.graph_match import match_graphs

WIDTH = 240.0
MOST = 4  # plans
_INNER, _LEAST_M, _FLATTEST, _TALLEST = 0.7, 2.0, 0.4, 1.0


@dataclass(frozen=True)
class Mark:
    """An object; ``side`` is ``"true"`` or ``"said"``, ``label`` empty where a line leads to the true one."""

    x: float
    y: float
    side: str
    label: str


@dataclass(frozen=True)
class Plan:
    """One frame; ``links`` lead from true places to predicted ones, ``metre`` is how long a metre is."""

    time_s: float
    height: float
    metre: float
    marks: tuple[Mark, ...]
    links: tuple[tuple[float, float, float, float], ...]


def floor_plans(true: Graph, said: Graph | None, names: NameMatcher) -> tuple[Plan, ...]:
    """A plan for each of the first ``MOST`` true frames, all in one scale; what lies far off is drawn at the rim.

    Args:
        true: with positions of 3 metres.
        said: the model's, or None.
        names: as in the reward.
    """
    floor_N2 = np.array([node.pos[:2] for frame in true.frames for node in frame.nodes] or [(0.0, 0.0)])
    wide, deep = np.maximum(np.ptp(floor_N2, axis=0), _LEAST_M)
    height = WIDTH * float(np.clip(deep / wide, _FLATTEST, _TALLEST))
    scale = _INNER * min(WIDTH / wide, height / deep)
    middle = (floor_N2.max(0) + floor_N2.min(0)) / 2

    def at(pos: Sequence[float]) -> tuple[float, float]:
        x, y = (np.asarray(pos)[:2] - middle) * (scale, -scale) + (WIDTH / 2, height / 2)
        return float(np.clip(x, 6, WIDTH - 6)), float(np.clip(y, 6, height - 6))

    matched = {frame.time_s: frame for frame in match_graphs(true, said, names).frames}
    plans = []
    for frame in true.frames[:MOST]:
        marks = [Mark(*at(node.pos), "true", node.label) for node in frame.nodes]
        links = []
        if match := matched.get(frame.time_s):
            found = {j: i for i, j in match.pairs}
            for j, (pos, label) in enumerate(zip(match.placed_MD, match.said_labels, strict=True)):
                place = at(pos)
                marks.append(Mark(*place, "said", "" if j in found else label or "?"))
                if j in found:
                    links.append((marks[found[j]].x, marks[found[j]].y, *place))
        plans.append(Plan(frame.time_s, height, float(scale), tuple(marks), tuple(links)))
    return tuple(plans)
