"""The reward as TRL calls it: ``(prompts, completions, **columns) -> list[float | None]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ravst_ray.tasks import part_names
from ravst_ray.tasks.rubric import Reward, Rubric

RewardFunction = Callable[..., list[float | None]]


def total_reward(rubric: Rubric) -> RewardFunction:
    """A reward function that gives the weighted sum.

    Needs the dataset columns ``task`` and ``answer`` (the true answer); takes ``truncated`` (bool) where there is one.
    """
    return _function(rubric, "reward", lambda reward: reward.total)


def component_rewards(rubric: Rubric) -> dict[str, RewardFunction]:
    """One reward function per part of any task, each unweighted in [0, 1]; their weights belong to the trainer.

    A part that a task doesn't have is None for its completions, which TRL leaves out.
    """
    return {name: _function(rubric, f"{name}_reward", partial(_part, name)) for name in part_names()}


def _part(name: str, reward: Reward) -> float | None:
    return reward.parts.get(name)


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion: itself, or what the messages of a conversation say."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion if isinstance(message.get("content"), str))


def _function(rubric: Rubric, name: str, pick: Callable[[Reward], float | None]) -> RewardFunction:
    def reward_function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        truncated = columns.get("truncated") or [False] * len(completions)
        rows = zip(completions, columns["task"], columns["answer"], truncated, strict=True)
        return [pick(rubric.score(task, completion_text(text), answer, cut)) for text, task, answer, cut in rows]

    reward_function.__name__ = name
    return reward_function
