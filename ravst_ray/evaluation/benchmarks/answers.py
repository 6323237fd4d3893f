"""What the benchmarks share: the answer behind the thinking, averages by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median_low

from ravst_ray.core.replies import after_thinking, answer_span
from ravst_ray.evaluation.benchmarks.protocols import Question, Scores


def final_answer(text: str) -> str:
    """What a benchmark's rule is applied to: what a model says when it has thought, without the space around.

    That is the content of its last ``<answer>``, else all of it.

    Example:
        >>> final_answer("<think>A?</think><answer> B </answer>"), final_answer("C."), final_answer("<think>A or B")
        ('B', 'C.', '')
    """
    start, end = answer_span(text)[0] or after_thinking(text)
    return text[start:end].strip()


def means_by_kind(questions: Iterable[Question], scores: Scores, metric: str) -> dict[str, float]:
    """The mean of a metric over the questions of each kind that have a score, in [0, 1]."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for question in questions:
        if question.qa_id in scores:
            values[question.kind].append(scores[question.qa_id][metric])
    return {kind: fmean(found) for kind, found in values.items()}


def percent(values: Iterable[float]) -> float | None:
    """The mean in percent, to 4 decimals; None of nothing."""
    found = list(values)
    return round(100 * fmean(found), 4) if found else None


def commonest(texts: Iterable[str]) -> str:
    """The commonest text, the first in the alphabet of several."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))


def commonest_by_kind(questions: Sequence[Question]) -> dict[str, str]:
    """Each question's kind's commonest true answer."""
    kinds = {one.kind for one in questions}
    best = {kind: commonest(one.truth for one in questions if one.kind == kind) for kind in kinds}
    return {one.qa_id: best[one.kind] for one in questions}


def median_by_kind(questions: Sequence[Question]) -> dict[str, str]:
    """Each question's kind's median true number; of an even count the lower one, so that it is one that was written."""
    kinds = {one.kind for one in questions}
    middle = {kind: median_low(float(one.truth) for one in questions if one.kind == kind) for kind in kinds}
    return {one.qa_id: f"{middle[one.kind]:g}" for one in questions}
