"""The reward of a completion: the weighted sum of its task's parts, with every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.core.names import NameMatcher
from ravst_ray.tasks import settled, task_of, weights_of
from ravst_ray.tasks.protocols import Answer, Case


@dataclass(frozen=True, slots=True)
class Reward:
    """What a completion earned.

    Attributes:
        total: the weighted sum, in [0, maximum].
        parts: each part's score in [0, 1], by name.
        malformed: malformations of the completion by kind.
        maximum: the largest total that the task can give.
    """

    total: float
    parts: Mapping[str, float]
    malformed: Mapping[str, int] = field(default_factory=dict)
    maximum: float = 1.0


class Rubric:
    """Scores completions.

    Example:
        >>> rubric = Rubric()
        >>> truth = "<answer><object>dog</object><when>[0, 4]</when></answer>"
        >>> rubric.score("AVTR", truth, truth).total
        2.0

    Args:
        config: weights and rules.
        names: how object names are compared; by default equality of their normal forms.

    Raises:
        ConfigError: weights for a task or a part that there isn't.
    """

    def __init__(self, config: RewardConfig | None = None, names: NameMatcher | None = None):
        self.config = settled(config or RewardConfig())
        self.names = names or NameMatcher()
        self._truth = lru_cache(maxsize=4096)(_read)

    def __reduce__(self) -> Any:
        return type(self), (self.config, self.names)

    def score(
        self, task: str, completion: str, truth: str, truncated: bool = False, tokens: int | None = None
    ) -> Reward:
        """The reward of one completion; never raises because of what the completion says.

        Args:
            task: which kind of question was asked, by its name.
            completion: the model's text.
            truth: the true answer, in the task's grammar.
            truncated: the completion hit the token limit (``truncated_reward`` says what that earns).
            tokens: the completion's length; None where it isn't known.

        Raises:
            ConfigError: an unknown task.
        """
        if self.config.profile == "paper_compat":
            return self._as_published(task, completion, truth)
        weights = weights_of(task_of(task), self.config)
        parts, predicted = self.parts(task, completion, truth, tokens)
        total = sum(weights[name] * score for name, score in parts.items())
        if truncated and self.config.truncated_reward is not None:
            total = self.config.truncated_reward
        return Reward(total, parts, predicted.malformed, sum(weights.values()))

    def parts(
        self, task: str, completion: str, truth: str, tokens: int | None = None
    ) -> tuple[dict[str, float], Answer]:
        """All parts of the reward, and the completion as it was read."""
        kind = task_of(task)
        predicted = kind.parse(completion)
        case = Case(self._truth(task, truth), predicted, self.names, self.config, tokens)
        return kind.parts(case), predicted

    def _as_published(self, task: str, completion: str, truth: str) -> Reward:
        kind = task_of(task)
        parts, failed = kind.published_parts(completion, truth, self.names)
        return Reward(sum(parts.values()), parts, {**kind.parse(completion).malformed, **failed}, 2.0)


def _read(task: str, truth: str) -> Answer:
    answer: Answer = task_of(task).parse(truth)
    return answer
