"""Metrics: per question, as its task has them, then averaged with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import QAPair
from ravst_ray.tasks import task_of


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One question's values in [0, 1], by metric; those that say nothing about it are missing.

    ``answered`` is False for a missing prediction; ``groups`` says where the question belongs (``{"objects": "1"}``).
    """

    qa_id: str
    task: str
    values: Mapping[str, float]
    answered: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)


def score_question(
    pair: QAPair,
    true: Any,
    predicted: Any,
    names: NameMatcher,
    config: RewardConfig | None = None,
    groups: Mapping[str, str] | None = None,
) -> QuestionScore:
    """The metrics of one question, by its task; a missing prediction (None) counts as no answer."""
    task = task_of(pair.task)
    given = task.nothing() if predicted is None else predicted
    values = task.measure(true, given, names, config or RewardConfig())
    return QuestionScore(pair.qa_id, pair.task, values, predicted is not None, groups or {})


def summarise(
    scores: Sequence[QuestionScore], tasks: Iterable[str], bootstrap: int = 0, seed: int = 0
) -> dict[str, dict[str, object]]:
    """Averages in percent, by task.

    Args:
        scores: any tasks mixed.
        tasks: which tasks to report; one without questions is left out.
        bootstrap: resamples of the questions for ``ci95`` (percentile intervals ``[low, high]``); 0: none.
        seed: of the resampling.

    Returns:
        ``{task: {"n", "n_missing", "m_tIoU", …, "ci95": {"m_tIoU": [low, high], …}}}``, and what the task counts as
        ``uncounted``. A metric without any question is None.
    """
    summary: dict[str, dict[str, object]] = {}
    for task in tasks:
        own = [score for score in scores if score.task == task]
        if not own:
            continue
        names = task_of(task).metrics
        table = np.array([[score.values.get(name, np.nan) for name in names] for score in own]) * 100
        entry: dict[str, object] = {"n": len(own), "n_missing": sum(not score.answered for score in own)}
        if uncounted := task_of(task).uncounted:
            entry[uncounted[1]] = sum(uncounted[0] not in score.values for score in own)
        entry.update(zip(names, _percent(_means(table, np.ones((1, len(own))))[0]), strict=True))
        if bootstrap:
            entry["ci95"] = dict(zip(names, _intervals(table, bootstrap, seed), strict=True))
        summary[task] = entry
    return summary


def _means(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted column means ``[B, M]`` of ``table [n, M]`` under ``counts [B, n]``; NaN cells are left out."""
    there = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return (counts @ np.where(there, table, 0.0)) / (counts @ there)


def _intervals(table: np.ndarray, bootstrap: int, seed: int) -> list[list[float | None]]:
    generator = np.random.default_rng(seed)
    n = len(table)
    means = np.concatenate(
        [
            _means(table, generator.multinomial(n, np.full(n, 1 / n), size=min(100, bootstrap - done)).astype(float))
            for done in range(0, bootstrap, 100)
        ]
    )
    columns = [column[~np.isnan(column)] for column in means.T]
    return [_percent(np.percentile(column, [2.5, 97.5])) if len(column) else [None, None] for column in columns]


def _percent(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]
