"""Metrics of the three tasks: per question, then averaged with bootstrap intervals.

m_tIoU and R1@k are those of moment retrieval; m_vIoU averages over the true seconds, and AP@k is the share of true
seconds with IoU >= k, both as V-STaR defines them (arXiv 2503.11495); ``vIoU_union`` divides by the union of seconds
as VidSTG does (arXiv 2001.06891).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ravst_ray.core.answers import ParsedAnswer
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import QAPair, Task
from ravst_ray.rewards.objects import object_score
from ravst_ray.rewards.spatial import SpatialMatch, match_boxes
from ravst_ray.rewards.temporal import temporal_score

RECALL_AT = (0.3, 0.5, 0.7)
PRECISION_AT = (0.3, 0.5)
_AT_LEAST = 1e-9  # an IoU that is k but for rounding is k

TEMPORAL = ("m_tIoU", *(f"R1@{k}" for k in RECALL_AT))
OBJECTS = ("obj_acc", "obj_precision", "obj_recall")
SPATIAL = (
    "m_vIoU",
    *(f"AP@{k}" for k in PRECISION_AT),
    "m_vIoU_union",
    *(f"vIoU@{k}" for k in PRECISION_AT),
)
METRICS: dict[Task, tuple[str, ...]] = {
    "AVTR": TEMPORAL,
    "AVSR": (*OBJECTS, *SPATIAL),
    "AVSTR": (*TEMPORAL, *OBJECTS, *SPATIAL),
}
"""What is reported per task, in this order."""


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One question's values in [0, 1], by metric; spatial ones are missing where the truth has no box.

    ``answered`` is False for a missing prediction; ``groups`` says where the question belongs (``{"objects": "1"}``).
    """

    qa_id: str
    task: Task
    values: Mapping[str, float]
    answered: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)


def score_question(
    pair: QAPair,
    true: ParsedAnswer,
    predicted: ParsedAnswer | None,
    names: NameMatcher,
    snap_s: float = 0.5,
    groups: Mapping[str, str] | None = None,
) -> QuestionScore:
    """The metrics of one question; a missing prediction (None) counts as an empty answer."""
    given = predicted or ParsedAnswer(())
    values: dict[str, float] = {}
    if pair.task != "AVSR":
        tiou = temporal_score(true, given)
        values["m_tIoU"] = tiou
        values.update({f"R1@{k}": float(tiou >= k - _AT_LEAST) for k in RECALL_AT})
    if pair.task != "AVTR":
        match = match_boxes(true.objects, given.objects, names, snap_s)
        values["obj_acc"] = object_score(true, given, match.pairs)
        values["obj_precision"] = len(match.pairs) / len(given.objects) if given.objects else 0.0
        values["obj_recall"] = len(match.pairs) / len(true.objects) if true.objects else 0.0
        values.update(_spatial(match))
    return QuestionScore(pair.qa_id, pair.task, values, predicted is not None, groups or {})


def _spatial(match: SpatialMatch) -> dict[str, float]:
    """Nothing where the truth has no box."""
    true_seconds = len(match.both) + match.true_only
    if not true_seconds:
        return {}
    union = true_seconds + match.predicted_only
    viou = sum(match.both) / true_seconds
    values = {"m_vIoU": viou, "m_vIoU_union": sum(match.both) / union}
    values.update({f"AP@{k}": sum(s >= k - _AT_LEAST for s in match.both) / true_seconds for k in PRECISION_AT})
    values.update({f"vIoU@{k}": float(viou >= k - _AT_LEAST) for k in PRECISION_AT})
    return values


def summarise(
    scores: Sequence[QuestionScore], tasks: Sequence[Task], bootstrap: int = 0, seed: int = 0
) -> dict[str, dict[str, object]]:
    """Averages in percent, by task.

    Args:
        scores: any tasks mixed.
        tasks: which tasks to report; one without questions is left out.
        bootstrap: resamples of the questions for ``ci95`` (percentile intervals ``[low, high]``); 0: none.
        seed: of the resampling.

    Returns:
        ``{"AVTR": {"n", "n_missing", "m_tIoU", …, "ci95": {"m_tIoU": [low, high], …}}}``; spatial tasks also have
        ``n_no_box``. A metric without any question is None.
    """
    summary: dict[str, dict[str, object]] = {}
    for task in tasks:
        own = [score for score in scores if score.task == task]
        if not own:
            continue
        names = METRICS[task]
        table = np.array([[score.values.get(name, np.nan) for name in names] for score in own]) * 100
        entry: dict[str, object] = {"n": len(own), "n_missing": sum(not score.answered for score in own)}
        if task != "AVTR":
            entry["n_no_box"] = sum("m_vIoU" not in score.values for score in own)
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
