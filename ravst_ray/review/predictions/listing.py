"""Which rows the list shows, in which order, and what they come to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ravst_ray.records import QAPair
from ravst_ray.review.predictions.scored import TOTAL, Joined

MAX_PAGE = 200
Order = Literal["file", "worst", "best", "lost", "gained"]
Outcome = Literal["better", "same", "worse", "one"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows, and in which order.

    Attributes:
        task: any of these; empty: all.
        text: a part of the id of the question or the video, or of the question.
        by: a part of the reward, or the total.
        outcome: how the second run did by it; ``one``: only one of them has an answer. Empty: all.
        order: of the questions' file; from the worst or the best of ``run``; most lost or gained first.
        run: 0 or 1.
    """

    task: Collection[str] = ()
    text: str = ""
    by: str = TOTAL
    outcome: Outcome | None = None
    order: Order = "file"
    run: int = 0


class Listing:
    """The rows of one or two runs.

    Args:
        joined: their scores.
        pairs: the questions.
    """

    def __init__(self, joined: Joined, pairs: Sequence[QAPair]):
        self._joined, self._pairs = joined, pairs
        tasks = sorted({pairs[index].task for index in joined.question_R.tolist()})
        self._task_R = np.array([tasks.index(pairs[index].task) for index in joined.question_R.tolist()])
        self._tasks = tasks

    def rows(self, wanted: Wanted) -> tuple[np.ndarray, dict[str, Any]]:
        """Numbers of the rows in their order, and what all rows of the filter come to, whatever their outcome.

        Returns:
            The rows, and ``{"rows", "outcomes": {"better": 3, …} or None, "means": {part: [first, second, change]}}``.
            Means are over the answers that have the part; ``change`` is that of rows that both runs answered.
        """
        some = self._filtered(wanted)
        outcome_R = self._outcomes(wanted.by)
        told: dict[str, Any] = {"rows": len(some), "outcomes": None, "means": self._means(some)}
        if outcome_R is not None:
            told["outcomes"] = {
                name: int((outcome_R[some] == name).sum()) for name in ("better", "same", "worse", "one")
            }
            if wanted.outcome:
                some = some[outcome_R[some] == wanted.outcome]
        return self._sorted(some, wanted), told

    def _filtered(self, wanted: Wanted) -> np.ndarray:
        keep = np.ones(len(self._task_R), bool)
        if wanted.task:
            keep &= np.isin(self._task_R, [self._tasks.index(name) for name in wanted.task if name in self._tasks])
        if wanted.text:
            text = wanted.text.casefold()
            asked = {
                index
                for index in np.unique(self._joined.question_R[keep]).tolist()
                if any(text in part.casefold() for part in _texts(self._pairs[index]))
            }
            keep &= np.isin(self._joined.question_R, sorted(asked))
        return np.flatnonzero(keep)

    def _outcomes(self, by: str) -> np.ndarray | None:
        """``better``, ``same``, ``worse``, ``one`` or ``none`` of each row; None with one run."""
        if len(self._joined.answer_R) < 2:
            return None
        change = self._joined.difference(by)
        both = (self._joined.answer_R[0] >= 0) & (self._joined.answer_R[1] >= 0)
        return np.select([~both, change > 0, change < 0, change == 0], ["one", "better", "worse", "same"], "none")

    def _means(self, some: np.ndarray) -> dict[str, list[float | None]]:
        found: dict[str, list[float | None]] = {}
        for name in self._joined.names:
            columns = [column[some] for column in self._joined.scores(name)]
            if len(columns) > 1:
                columns.append(self._joined.difference(name)[some])
            found[name] = [mean(column) for column in columns]
        return {name: means for name, means in found.items() if any(value is not None for value in means)}

    def _sorted(self, some: np.ndarray, wanted: Wanted) -> np.ndarray:
        """Stable, so that equals stay in the order of the file; those without a score come last."""
        if wanted.order == "file" or (wanted.order in ("lost", "gained") and len(self._joined.answer_R) < 2):
            return some
        if wanted.order in ("lost", "gained"):
            key = self._joined.difference(wanted.by)[some]
        else:
            key = self._joined.scores(wanted.by)[min(wanted.run, len(self._joined.answer_R) - 1)][some]
        key = -key if wanted.order in ("best", "gained") else key
        return some[np.argsort(key, kind="stable")]  # NaN is sorted last


def mean(column: np.ndarray) -> float | None:
    """Of what is there; None where nothing is."""
    there = column[~np.isnan(column)]
    return float(there.mean()) if len(there) else None


def _texts(pair: QAPair) -> tuple[str, ...]:
    return pair.qa_id, pair.video_id, pair.question
