"""Trivial answers, by what each task says of itself: no table is shown without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ravst_ray.tasks import TASKS
from ravst_ray.tasks.protocols import Exam

PREVIOUS = "the previous question's answer"


def trivial_names(task: str) -> tuple[str, ...]:
    """What the trivial answers to a task are called, in the order of tables."""
    return (*TASKS[task].trivial, PREVIOUS)


def baseline_answers(exam: Exam) -> dict[str, dict[str, Any]]:
    """Trivial answers by their name and question id, as the questions' tasks have them.

    The previous question is the one of the same task before it in the file; the first takes the last one's answer.
    """
    asked = dict.fromkeys(pair.task for pair in exam.pairs)
    answers: dict[str, dict[str, Any]] = {}
    for name in (task for task in TASKS if task in asked):
        for trivial, found in TASKS[name].trivial_answers(exam).items():
            answers.setdefault(trivial, {}).update(found)
    answers[PREVIOUS] = {}
    previous = {pair.task: pair.qa_id for pair in exam.pairs}
    for pair in exam.pairs:
        answers[PREVIOUS][pair.qa_id] = exam.truths[previous[pair.task]]
        previous[pair.task] = pair.qa_id
    return answers


def best_trivial(baselines: Mapping[str, Any], task: str, metric: str) -> tuple[float, str]:
    """The highest value of a metric among the trivial answers, and which one has it; ``(0, "")`` if none applies."""
    found = [(by_task[task][metric], name) for name, by_task in baselines.items() if by_task.get(task, {}).get(metric)]
    return max(found, default=(0.0, ""))
