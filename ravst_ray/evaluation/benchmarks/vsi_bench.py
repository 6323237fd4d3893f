"""VSI-Bench: 5,130 questions about rooms, on 288 videos of them (arXiv 2412.14171).

Prompts, frames and rules are those of its published code, a fork of lmms-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import model_validator

from ravst_ray.evaluation.benchmarks.answers import (
    commonest_by_kind,
    final_answer,
    means_by_kind,
    median_by_kind,
    percent,
)
from ravst_ray.evaluation.benchmarks.files import Row, read_rows, unique_ids
from ravst_ray.evaluation.benchmarks.protocols import Answer, Benchmark, Question, Scores
from ravst_ray.rewards.answer import relative_accuracy

DIRECTIONS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))
NUMBERS = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
EIGHT = (*NUMBERS, "object_rel_distance", "object_rel_direction", "route_planning", "obj_appearance_order")
"""The tasks that the overall score is the mean of; the directions are three kinds of question and one task."""

_INTRODUCTION = "These are frames of a video."
_ASKS_NUMBER = "Please answer the question using a single word or phrase."
_ASKS_LETTER = "Answer with the option's letter from the given choices directly."


class VSIRow(Row):
    """A row of its file."""

    id: str
    dataset: str
    scene_name: str
    question_type: Literal[
        "object_counting",
        "object_abs_distance",
        "object_size_estimation",
        "room_size_estimation",
        "object_rel_distance",
        "object_rel_direction_easy",
        "object_rel_direction_medium",
        "object_rel_direction_hard",
        "route_planning",
        "obj_appearance_order",
    ]
    question: str
    options: list[str] | None
    ground_truth: str

    @model_validator(mode="after")
    def _fits(self) -> VSIRow:
        if self.question_type not in NUMBERS and not self.options:
            raise ValueError("a multiple-choice question without options")
        if self.question_type in NUMBERS and not 0 <= _number(self.ground_truth) < float("inf"):
            raise ValueError("ground_truth is no number from 0 on")
        return self


class VSIBench(Benchmark):
    """See :class:`~ravst_ray.evaluation.benchmarks.protocols.Benchmark`."""

    name = "vsi-bench"
    title = "VSI-Bench"
    settings = (
        "prompt.verbatim=true",
        "frames.uniform=true",
        "frames.max_frames=32",
        "sampling.temperature=0",
        "sampling.max_tokens=16",
    )
    rules = (
        "Choice: the first word up to a space, a trailing full stop taken off, must be the letter in any case; '(A)' "
        "and 'A,' fail. Number: that word must be one, and scores its mean relative accuracy over 0.50, 0.55, …, 0.95.",
        "overall is the mean of the eight tasks, of which relative direction is the mean of its three levels; micro is "
        "the mean over the questions. Published rows may mix the two.",
        "Values of one model differ by 5 points between harnesses and by more between counts of frames: run the model "
        "that you compare with yourself. 32 frames show what is needed for 84% of the true answers only (arXiv "
        "2604.24300).",
        "32 frames every 1/32 of the video from its start on; 16 tokens: a model that thinks needs prompt.think=true "
        "and a larger sampling.max_tokens.",
    )
    tables = (
        ("VSI-Bench", ("overall", "micro", *EIGHT)),
        ("Relative direction by level", DIRECTIONS),
    )
    headline = ("overall", "micro")

    def read(self, path: str | Path) -> list[Question]:
        """See :meth:`Benchmark.read`."""
        rows = read_rows(path, VSIRow, self.title)
        ids = unique_ids(row.id for row in rows)
        return [
            Question(
                qa_id,
                f"{row.dataset}/{row.scene_name}",
                row.question_type,
                _prompt(row),
                row.ground_truth,
                groups={"dataset": row.dataset},
            )
            for qa_id, row in zip(ids, rows, strict=True)
        ]

    def score(self, question: Question, answer: Answer, official: bool) -> dict[str, float]:
        """``score``: 0 or 1 for a choice, the relative accuracy of a number."""
        word = final_answer(answer.text).split(" ")[0].rstrip(".").strip()
        if question.kind in NUMBERS:
            return {"score": relative_accuracy(float(question.truth), _number(word), rounding=0.0)}
        return {"score": float(word.lower() == question.truth.lower())}

    def summarise(self, questions: Sequence[Question], scores: Scores, official: bool) -> dict[str, float | None]:
        """``official``: a level of direction without any prediction counts 0 where another has some, as there."""
        means = means_by_kind(questions, scores, "score")
        levels = [means[kind] for kind in DIRECTIONS if kind in means]
        if levels:
            means["object_rel_direction"] = sum(levels) / 3 if official else fmean(levels)
        found: dict[str, float | None] = {kind: percent([means[kind]]) for kind in means}
        overall = percent(means[task] for task in EIGHT if task in means)
        micro = percent(scores[one.qa_id]["score"] for one in questions if one.qa_id in scores)
        return {"overall": overall, "micro": micro, **found}

    def trivial(self, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
        """See :meth:`Benchmark.trivial`."""
        numbers = [one for one in questions if one.kind in NUMBERS]
        choices = [one for one in questions if one.kind not in NUMBERS]
        return {
            "the commonest letter, the median number of each kind": commonest_by_kind(choices) | median_by_kind(numbers)
        }


def _prompt(row: VSIRow) -> str:
    if row.question_type in NUMBERS:
        return "\n".join([_INTRODUCTION, row.question, _ASKS_NUMBER])
    return "\n".join([_INTRODUCTION, row.question, "Options:", *(row.options or ()), _ASKS_LETTER])


def _number(text: str) -> float:
    """As its code reads one; NaN, which scores 0, for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
