"""What a benchmark of others is here: its questions as they are asked, its rules, and the rows beside a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Scores = Mapping[str, Mapping[str, float]]
"""By question id, the metrics of one question, each in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of a benchmark.

    Attributes:
        qa_id: unique in the file.
        video: of the videos' folder, with or without its ending; it may lie in a subfolder.
        kind: what the benchmark calls the task of the question.
        prompt: the whole text beside the frames, word for word as the benchmark's own code has it.
        truth: the true answer as text.
        duration_s: of the video, where the benchmark states it.
        groups: where the question belongs in each grouping that the benchmark reports.
        row: of the file, for what only the benchmark itself knows.
    """

    qa_id: str
    video: str
    kind: str
    prompt: str
    truth: str
    duration_s: float | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    row: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        text: the whole of it, thinking included.
        box_scale: the model's units in one pixel of the video, across and down.
        verdict: the judge's mark; None where none was asked.
    """

    text: str
    box_scale: tuple[float, float] = (1.0, 1.0)
    verdict: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A row of others: percent by column, how it was measured as far as that is known ("" if not), where it stands."""

    name: str
    setting: str
    source: str
    values: Mapping[str, float]
    note: str = ""


class Benchmark(ABC):
    """A benchmark; one file each, an instance in ``BENCHMARKS``.

    Attributes:
        name: on the command line.
        title: in tables.
        settings: of ``ravst predict``, as its own code has them: ``key=value``.
        rules: what a reader of the table must know, a sentence or two each.
        tables: titles and columns; the first is the one that groups have too.
        headline: the columns that the command line prints.
    """

    name: str
    title: str
    settings: tuple[str, ...]
    rules: tuple[str, ...]
    tables: tuple[tuple[str, tuple[str, ...]], ...]
    headline: tuple[str, ...]

    @abstractmethod
    def read(self, path: str | Path) -> list[Question]:
        """The questions of a published file, in its order.

        Raises:
            ConfigError: it isn't the benchmark's; the message names the column or the row.
        """

    @abstractmethod
    def score(self, question: Question, answer: Answer, official: bool) -> dict[str, float]:
        """The metrics of one question; ``official``: exactly as the published code, else with its faults mended."""

    @abstractmethod
    def summarise(self, questions: Sequence[Question], scores: Scores, official: bool) -> dict[str, float | None]:
        """Averages by column, in percent; None where there is nothing to average.

        Args:
            questions: of the file, or of a group.
            scores: of all of them; ``official``: only of those that have a prediction.
            official: average as the published code does.
        """

    @abstractmethod
    def trivial(self, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
        """Answers without a look at the videos: texts by the row's name and question id; what has none is missing."""

    def judged(self, question: Question, answer: str) -> list[dict[str, Any]] | None:
        """The conversation by which a judge is asked about an answer; None for a question that needs none."""
        return None
