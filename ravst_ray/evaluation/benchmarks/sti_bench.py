"""STI-Bench: 2,064 multiple-choice questions about places, motion and poses (arXiv 2503.23765).

Prompts, frames and rules are those of its published code for open models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from ravst_ray.evaluation.benchmarks.answers import commonest_by_kind, final_answer, means_by_kind, percent
from ravst_ray.evaluation.benchmarks.files import Row, read_rows, unique_ids
from ravst_ray.evaluation.benchmarks.protocols import Answer, Benchmark, Question, Scores

KINDS = (
    "Dimensional Measurement",
    "Spatial Relation",
    "3D Video Grounding",
    "Displacement & Path Length",
    "Speed & Acceleration",
    "Ego-Centric Orientation",
    "Trajectory Description",
    "Pose Estimation",
)
LETTERS = "ABCDE"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"\(([A-E])\)",
        r"Ans\s*=\s*['\"]?([A-E])['\"]?",
        r"Answer\s*[:=]\s*([A-E])",
        r"Option\s+([A-E])",
        r"\b([A-E])\s*(?:is|was)\s*correct",
        r"\b([A-E])[\.\)]\s*$",
    )
)
"""Part of the published rule, in its order; the first that is found anywhere says the answer."""


class STIRow(Row):
    """A row of its file; the seconds go into the prompt as they are written there."""

    Video: str
    Task: str
    ID: str
    Question: str
    Candidates: dict[str, str | None] = Field(description="a mapping, or the text of one in JSON")
    Answer: str
    time_start: int | float | str
    time_end: int | float | str
    Scene: str = ""

    @field_validator("Candidates", mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            return value  # pydantic says that it is no mapping

    @model_validator(mode="after")
    def _fits(self) -> STIRow:
        if self.Task not in KINDS:
            raise ValueError(f"Task is {self.Task!r}, not one of {', '.join(KINDS)}")
        if len(self.Answer) != 1 or self.Answer not in LETTERS or self.Candidates.get(self.Answer) is None:
            raise ValueError(f"Answer is {self.Answer!r}, not the letter of a candidate")
        return self


class STIBench(Benchmark):
    """See :class:`~ravst_ray.evaluation.benchmarks.protocols.Benchmark`."""

    name = "sti-bench"
    title = "STI-Bench"
    settings = (
        "prompt.verbatim=true",
        "frames.uniform=true",
        "frames.max_frames=30",
        f"frames.max_pixels={360 * 420}",
        f"frames.total_pixels={30 * 360 * 420}",
        "sampling.temperature=0",
        "sampling.max_tokens=512",
    )
    rules = (
        "The first of six patterns that is found says the letter, else the last character of the answer does; so 'the "
        "answer: definitely B' is D, and a lone lower-case letter is wrong.",
        "micro is the mean over the questions, which the published code prints; macro is the mean of the eight tasks. "
        "Papers state either as the score.",
        "Frames are of the whole video, whatever seconds the question is about: 30 of at most 360 x 420 pixels.",
    )
    tables = (("STI-Bench", ("micro", "macro", *KINDS)),)
    headline = ("micro", "macro")

    def read(self, path: str | Path) -> list[Question]:
        """See :meth:`Benchmark.read`."""
        rows = read_rows(path, STIRow, self.title)
        ids = unique_ids(f"{row.Video}/{row.ID}" for row in rows)
        return [
            Question(qa_id, row.Video, row.Task, _prompt(row), row.Answer, groups={"scene": row.Scene or "not stated"})
            for qa_id, row in zip(ids, rows, strict=True)
        ]

    def score(self, question: Question, answer: Answer, official: bool) -> dict[str, float]:
        """``score``: 1 where the letter is right. An empty answer, at which the published code fails, is wrong."""
        return {"score": float(said_letter(final_answer(answer.text)) == question.truth)}

    def summarise(self, questions: Sequence[Question], scores: Scores, official: bool) -> dict[str, float | None]:
        """See :meth:`Benchmark.summarise`."""
        means = means_by_kind(questions, scores, "score")
        micro = percent(scores[one.qa_id]["score"] for one in questions if one.qa_id in scores)
        return {"micro": micro, "macro": percent(means.values())} | {kind: percent([means[kind]]) for kind in means}

    def trivial(self, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
        """See :meth:`Benchmark.trivial`."""
        return {"the commonest letter of each kind": commonest_by_kind(questions)}


def said_letter(text: str) -> str:
    """The letter that an answer says by the published rule; "" for none.

    Example:
        >>> [said_letter(text) for text in ("(c)", "B", "I can't tell. D.", "b")]
        ['C', 'B', 'D', '']
    """
    for pattern in _PATTERNS:
        if found := pattern.search(text):
            return found.group(1).upper()
    return text[-1:] if text[-1:] in LETTERS else ""


def _prompt(row: STIRow) -> str:
    candidates = [f"({letter}) {text}" for letter, text in row.Candidates.items() if text is not None]
    asked = f"From {row.time_start} s to {row.time_end} s. {row.Question}"
    return "\n".join([asked, *candidates, "Please output only the option letter!"])
