"""Validation while a run goes on: what the answers to held-out questions are worth, and which step was the best.

::

    every eval_every steps, and before the first:  engines answer greedily ─► metrics ─► OUT/validation.jsonl
                                                                                 ├─► the best checkpoint is kept
                                                                                 └─► patience: the run ends
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.baselines import baseline_answers
from ravst_ray.evaluation.metrics import score_question, summarise
from ravst_ray.records import QAPair
from ravst_ray.rewards.word_vectors import name_matcher
from ravst_ray.tasks import TASKS, task_of
from ravst_ray.tasks.protocols import Exam
from ravst_ray.tasks.rubric import Rubric

NAME = "validation.jsonl"
REWARD = "reward"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Validated:
    """What came of one validation.

    Attributes:
        row: ``step``, ``reward``, ``TASK/metric`` and ``trivial/TASK/metric``, metrics in percent.
        best_step: the step of the best one so far.
        stop: the last ``validation.patience`` ones brought nothing better.
    """

    row: Row
    best_step: int
    stop: bool

    @property
    def best(self) -> bool:
        """Whether no earlier one of this run was as good."""
        return bool(self.row["step"] == self.best_step)


class Validation:
    """Marks the answers of a run's policy to held-out questions.

    Args:
        config: of the run.
        tasks: the questions, by video; a length of 0 s is of an unknown one.
        rows: of earlier validations of this run.
    """

    def __init__(self, config: TrainConfig, tasks: Sequence[VideoTask], rows: Sequence[Row] = ()):
        self.tasks = tuple(tasks)
        self._config = config
        self._rows = list(rows)
        self._pairs = [pair for task in tasks for pair in task.questions]
        if (metric := config.validation.metric) not in self.metrics:
            raise ConfigError(
                f"validation.metric: {metric!r} is none of what these questions have: {', '.join(self.metrics)}"
            )

    @property
    def metrics(self) -> list[str]:
        """What a row has: the reward, and the metrics of the tasks that are asked."""
        asked = {pair.task for pair in self._pairs}
        return [REWARD, *(f"{name}/{metric}" for name in TASKS if name in asked for metric in TASKS[name].metrics)]

    @cached_property
    def _rubric(self) -> Rubric:
        return Rubric(self._config.reward, name_matcher(self._config.reward.names))

    @cached_property
    def _truths(self) -> dict[str, Any]:
        return {pair.qa_id: task_of(pair.task).parse(pair.answer) for pair in self._pairs}

    @cached_property
    def trivial(self) -> dict[str, float]:
        """Of each task's metrics what the best trivial answer has, in percent (``TASK/metric``)."""
        durations = {task.video_id: task.duration_s for task in self.tasks}
        best: dict[str, float] = {}
        for answers in baseline_answers(Exam(self._pairs, self._truths, durations)).values():
            asked = [pair for pair in self._pairs if pair.qa_id in answers]
            for key, value in self._averages(asked, answers).items():
                best[key] = max(value, best.get(key, value))
        return best

    def mark(self, step: int, said: Mapping[str, str]) -> Validated:
        """Mark the answers after a step.

        Args:
            step: the optimizer step, 0 before the first.
            said: completions by question, in seconds and pixels of the video; a missing one counts as no answer.
        """
        rewards = [self._rubric.score(pair.task, said.get(pair.qa_id, ""), pair.answer).total for pair in self._pairs]
        given = {name: task_of(pair.task).parse(said[name]) for pair in self._pairs if (name := pair.qa_id) in said}
        beside = {f"trivial/{key}": value for key, value in self.trivial.items()}
        row = {"step": step, REWARD: math.fsum(rewards) / len(rewards), **self._averages(self._pairs, given), **beside}
        self._rows = [one for one in self._rows if one["step"] < step] + [row]
        metric, patience = self._config.validation.metric, self._config.validation.patience
        best = best_row(self._rows, metric)
        waited = sum(one["step"] > best["step"] for one in self._rows)
        return Validated(row, best["step"], patience is not None and waited >= patience)

    def _averages(self, pairs: Sequence[QAPair], given: Mapping[str, Any]) -> dict[str, float]:
        rules, names = self._rubric.config, self._rubric.names
        scores = [score_question(pair, self._truths[pair.qa_id], given.get(pair.qa_id), names, rules) for pair in pairs]
        summary = summarise(scores, TASKS)
        return {
            f"{name}/{metric}": float(value)
            for name, entry in summary.items()
            for metric in TASKS[name].metrics
            if isinstance(value := entry[metric], float)
        }


def best_row(rows: Sequence[Row], metric: str) -> Row:
    """The row with the highest value, the earliest of several; one without the metric is below all."""
    return max(rows, key=lambda row: (row.get(metric, -math.inf), -row["step"]))


def read_rows(text: str, until: int) -> list[Row]:
    """The rows of ``validation.jsonl`` up to a step; a line that was cut off is left out."""
    found: list[Row] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= until:
            found.append(row)
    return found
