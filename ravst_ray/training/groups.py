"""What travels between rollout actors and learner: groups of completions of one prompt, with their rewards."""

from __future__ import annotations

from dataclasses import dataclass

from ravst_ray.media.clips import Clip
from ravst_ray.policy.protocols import Completion
from ravst_ray.tasks.rubric import Reward

__all__ = ["Clip", "Completion", "Group"]


@dataclass(frozen=True)
class Group:
    """G completions of one prompt, scored; never split."""

    question_id: str
    task: str
    prompt_ids: tuple[int, ...]
    clip: Clip | None
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...] = ()

    @property
    def totals(self) -> tuple[float, ...]:
        """The reward of each completion."""
        return tuple(reward.total for reward in self.rewards)
