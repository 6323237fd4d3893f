"""Two models' answers to the same questions, question by question: did training help, and by more than chance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.datasets.questions import read_questions
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.baselines import best_trivial
from ravst_ray.evaluation.scoring import make_rubric, read_lines
from ravst_ray.tasks import TASKS, task_of, weights_of

RESAMPLES = 10_000


@dataclass(frozen=True)
class Rise:
    """How rewards changed from one file of predictions to another; means over ``questions``.

    ``before`` and ``after`` are the reward without its format part; ``low`` and ``high`` the 95% interval of the mean
    difference, from resampling pairs (percentile bootstrap).
    """

    questions: int
    before: float
    after: float
    low: float
    high: float
    format_before: float
    format_after: float

    @property
    def share(self) -> float:
        """The rise as a share of the start."""
        return (self.after - self.before) / self.before if self.before else float("inf")


def paired_rise(
    before: str | Path, after: str | Path, annotations: str | Path, config: RewardConfig | None = None, seed: int = 0
) -> Rise:
    """Compare two files of predictions for the same questions; one that is missing earns 0.

    Raises:
        ConfigError: a file can't be used, or holds no prediction.
    """
    settings = config or RewardConfig()
    rubric = make_rubric(settings)
    questions = {pair.qa_id: pair for pair in read_questions(annotations)[0]}

    def parts(path: str | Path) -> np.ndarray:
        """``[N, 2]``: format, and the total without it."""
        found = dict.fromkeys(questions, (0.0, 0.0))
        for line in read_lines(path, ["prediction"], questions):
            pair = questions[line["id"]]
            weights = weights_of(task_of(pair.task), settings)
            tokens = line.get("tokens")
            counted = tokens if isinstance(tokens, int) else None
            scores, _ = rubric.parts(pair.task, line["prediction"], pair.answer, counted)
            rest = sum(weights[name] * score for name, score in scores.items() if name != "format")
            found[line["id"]] = (scores.get("format", 0.0), rest)
        return np.array(list(found.values()))

    if not questions:
        raise ConfigError(f"{annotations}: holds no question")
    first, second = parts(before), parts(after)
    differences = second[:, 1] - first[:, 1]
    low, high = paired_interval(differences, seed)
    (format_before, value_before), (format_after, value_after) = first.mean(0), second.mean(0)
    return Rise(len(differences), value_before, value_after, low, high, format_before, format_after)


def paired_interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of the mean of paired differences ``[N]``, from resampling them (percentile bootstrap)."""
    count = len(differences)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.percentile(draws @ differences / count, [2.5, 97.5])
    return float(low), float(high)


def paired_table(before: Mapping[str, Any], after: Mapping[str, Any], rise: Rise) -> Table:
    """Both evaluations (as ``metrics.json`` has them) beside the best trivial answer, in percent."""
    table = Table(title=f"{rise.questions} unseen questions, greedy answers", title_justify="left")
    for column in ("", "before", "after", "best trivial answer"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("reward without format", f"{rise.before:.3f}", f"{rise.after:.3f}", "", style="bold")
    table.add_row("format", f"{rise.format_before:.3f}", f"{rise.format_after:.3f}", "", end_section=True)
    for task, known in TASKS.items():
        if task not in before:
            continue
        for metric in known.metrics:
            best, name = best_trivial(after["baselines"], task, metric)
            trivial = f"{best:.1f} ({name})" if name else ""
            cells = (_percent(one[task].get(metric)) for one in (before, after))
            table.add_row(f"{task} {metric}", *cells, trivial, end_section=metric == known.metrics[-1])
    low, high = rise.low, rise.high
    table.caption = f"the reward rose by {rise.share:+.0%}; paired 95% interval of the rise [{low:+.3f}, {high:+.3f}]"
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
