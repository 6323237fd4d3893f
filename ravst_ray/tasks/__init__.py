"""The tasks: what a model can be asked, one file each. A new one is a file, and a line in ``TASKS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.errors import ConfigError
from ravst_ray.tasks.avsr import AVSR
from ravst_ray.tasks.avstr import AVSTR
from ravst_ray.tasks.avtr import AVTR
from ravst_ray.tasks.protocols import Task
from ravst_ray.tasks.video_str import VIDEO_STR

TASKS: dict[str, Task[Any]] = {task.name: task for task in (AVTR, AVSR, AVSTR, VIDEO_STR)}
"""Every task by its name, in the order of tables."""

WHEN, WHERE, WHEN_AND_WHERE = AVTR, AVSR, AVSTR
"""The tasks that annotation makes questions for, by what they ask."""


def part_names() -> list[str]:
    """The parts of all tasks' rewards, each once."""
    return list(dict.fromkeys(name for task in TASKS.values() for name in task.weights))


def malformations() -> dict[str, str]:
    """What all tasks' grammars count as malformed, by kind, and what that means."""
    return {kind: meaning for task in TASKS.values() for kind, meaning in task.malformations.items()}


def task_of(name: str) -> Task[Any]:
    """The task of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"{name!r} is no task; tasks are {', '.join(TASKS)}")
    return TASKS[name]


def weights_of(task: Task[Any], config: RewardConfig) -> Mapping[str, float]:
    """What the parts of a task's reward weigh: the task's own weights, those that are set in their place.

    Raises:
        ConfigError: a part that the task doesn't have, or all weights are 0.
    """
    given = config.weights.get(task.name, {})
    if unknown := sorted(given.keys() - task.weights.keys()):
        raise ConfigError(
            f"reward.weights.{task.name}.{unknown[0]}: {task.name} has no such part; its parts are "
            f"{', '.join(task.weights)}"
        )
    weights = {**task.weights, **given}
    if not any(weights.values()):
        raise ConfigError(f"reward.weights.{task.name}: all weights are 0")
    return weights


Rewarding = TypeVar("Rewarding", bound=RewardConfig)


def settled(config: Rewarding) -> Rewarding:
    """The configuration with the weights of every task in it.

    Raises:
        ConfigError: as :func:`weights_of`, or an unknown task.
    """
    for name in config.weights:
        try:
            task_of(name)
        except ConfigError as error:
            raise ConfigError(f"reward.weights.{name}: {error}") from None
    weights = {task.name: dict(weights_of(task, config)) for task in TASKS.values()}
    return config.model_copy(update={"weights": weights})
