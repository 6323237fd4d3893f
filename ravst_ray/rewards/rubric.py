"""The reward of a completion: ``lf*format + lo*object + lt*temporal + ls*spatial``, with every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.core.answers import ParsedAnswer, parse
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import TASKS, Task
from ravst_ray.rewards import paper_compat
from ravst_ray.rewards.registry import COMPONENTS, Case
from ravst_ray.rewards.spatial import match_boxes


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
    """

    def __init__(self, config: RewardConfig | None = None, names: NameMatcher | None = None):
        self.config = config or RewardConfig()
        self.names = names or NameMatcher()
        self._truth = lru_cache(maxsize=4096)(parse)

    def __reduce__(self):
        return type(self), (self.config, self.names)

    def score(self, task: Task, completion: str, truth: str, truncated: bool = False) -> Reward:
        """The reward of one completion; never raises because of what the completion says.

        Args:
            task: which kind of question was asked.
            completion: the model's text.
            truth: the true answer, in the answer grammar.
            truncated: the completion hit the token limit (``truncated_reward`` says what that earns).

        Raises:
            ValueError: an unknown task.
        """
        if task not in TASKS:
            raise ValueError(f"{task!r} is no task; tasks are {', '.join(TASKS)}")
        if self.config.profile == "paper_compat":
            return self._as_published(task, completion, truth)
        weights = self.config.weights.of(task)
        parts, predicted = self.parts(task, completion, truth)
        total = sum(getattr(weights, name) * score for name, score in parts.items())
        if truncated and self.config.truncated_reward is not None:
            total = self.config.truncated_reward
        return Reward(total, parts, predicted.malformed, weights.total)

    def parts(self, task: Task, completion: str, truth: str) -> tuple[dict[str, float], ParsedAnswer]:
        """All parts of the reward, and the completion as it was read."""
        true, predicted = self._truth(truth), parse(completion)
        match = match_boxes(true.objects, predicted.objects, self.names, self.config.snap_s)
        case = Case(task, true, predicted, match, self.config)
        return {name: score(case) for name, score in COMPONENTS.items()}, predicted

    def _as_published(self, task: Task, completion: str, truth: str) -> Reward:
        malformed = dict(parse(completion).malformed)
        form = paper_compat.format_score(completion)
        try:
            rest = paper_compat.spatial_temporal_score(task, completion, truth, self.names)
        except UnicodeDecodeError:
            # The published code raises here, which costs it the whole batch.
            rest, malformed["bad_escape"] = 0.0, 1
        return Reward(form + rest, {"format": form, "spatial_temporal": rest}, malformed, 2.0)
