"""The parts of the reward by name. A new part is one file, one line here, one weight in ``config/rewards.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.core.answers import ParsedAnswer
from ravst_ray.records import Task
from ravst_ray.rewards.format import format_score
from ravst_ray.rewards.objects import object_score
from ravst_ray.rewards.spatial import SpatialMatch, spatial_score
from ravst_ray.rewards.temporal import temporal_score


@dataclass(frozen=True, slots=True)
class Case:
    """What every part of the reward may look at."""

    task: Task
    true: ParsedAnswer
    predicted: ParsedAnswer
    match: SpatialMatch
    config: RewardConfig


COMPONENTS: dict[str, Callable[[Case], float]] = {
    "format": lambda case: format_score(case.task, case.predicted),
    "object": lambda case: object_score(case.true, case.predicted, case.match.pairs),
    "temporal": lambda case: temporal_score(case.true, case.predicted),
    "spatial": lambda case: spatial_score(case.match, case.config.spatial_domain),
}
"""Each gives a score in [0, 1]; a part that a task doesn't ask for weighs 0 there."""
