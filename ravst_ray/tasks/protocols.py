"""What a task is: everything that prompts, rewards, evaluation and reports have to know of one kind of question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.core.answers import BoxLine
from ravst_ray.core.graphs import Graph
from ravst_ray.core.intervals import Interval
from ravst_ray.core.names import NameMatcher
from ravst_ray.errors import ConfigError
from ravst_ray.records import Box, QAPair, VideoView
from ravst_ray.tasks.spaces import AnswerSpace


class Answer(Protocol):
    """An answer as a task reads it; ``malformed`` counts its malformations by kind."""

    @property
    def malformed(self) -> Mapping[str, int]:
        """Counts by kind."""


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class Case(Generic[A]):
    """What the parts of a reward may look at; ``tokens`` is the length of the completion where it is known."""

    true: A
    predicted: A
    names: NameMatcher
    config: RewardConfig
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Exam:
    """All questions of a file with their true answers, each as its task reads it, and the videos' lengths."""

    pairs: Sequence[QAPair]
    truths: Mapping[str, Any]
    durations_s: Mapping[str, float]


Dots = tuple[tuple[str, tuple[float, float]], ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What of an answer can be drawn.

    Attributes:
        intervals: names with the intervals in which they are said to be.
        tracks: names with their boxes, by second, in pixels of the video.
        box: one in the second that the question is about, in pixels of the video.
        graphs: by second, labels with their places, as shares of the picture's width and height.
        floor: a graph in metres, which has no place in the picture.
        names: the objects that it names, each as often as it does.
        value: a letter or a number, which is only told.
    """

    intervals: tuple[tuple[str, Interval], ...] = ()
    tracks: tuple[tuple[str, tuple[BoxLine, ...]], ...] = ()
    box: Box | None = None
    graphs: Mapping[float, Dots] = field(default_factory=dict)
    floor: Graph | None = None
    names: tuple[str, ...] = ()
    value: str | None = None


class Task(ABC, Generic[A]):
    """A kind of question. What has no body here every task must say; the rest has a default that says nothing.

    Attributes:
        name: as in configurations, files and metrics.
        title: over its table.
        weights: the parts of its reward, and what each weighs unless the configuration says otherwise. A part with a
            weight of 0 is reported only.
        metrics: what is reported, in this order.
        headline: those of them that tables by group show.
        trivial: what its trivial answers are called, in the order of the table.
        published: rows of others to set beside a run: by model and metric, in percent.
        json_key: how R-AVST's JSON calls it; None for a task that isn't in that format.
        malformations: what its grammar counts as malformed, by kind, and what that means.
        uncounted: a metric that a question may lack, the key under which such questions are counted, and what is said
            of them behind their number.
    """

    name: str
    title: str
    weights: Mapping[str, float]
    metrics: tuple[str, ...]
    headline: tuple[str, ...]
    trivial: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, float]] = {}
    json_key: str | None = None
    malformations: Mapping[str, str] = {}
    uncounted: tuple[str, str, str] | None = None

    @abstractmethod
    def form(self, view: VideoView, config: PromptConfig) -> list[str]:
        """The lines of the prompt that say how the answer is to be written."""

    @abstractmethod
    def parse(self, text: str) -> A:
        """Read a completion or a true answer; never raises, in linear time."""

    @abstractmethod
    def render(self, answer: A) -> str:
        """An answer as text, the inverse of :meth:`parse`.

        Raises:
            ValueError: the grammar can't carry it.
        """

    @abstractmethod
    def parts(self, case: Case[A]) -> dict[str, float]:
        """The parts of the reward, each in [0, 1]: those of ``weights``."""

    @abstractmethod
    def measure(self, true: A, predicted: A, names: NameMatcher, config: RewardConfig) -> dict[str, float]:
        """The metrics of one question, each in [0, 1]; one that says nothing about it is left out."""

    def nothing(self) -> A:
        """What a missing prediction counts as."""
        return self.parse("")

    def asked(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Question and true answer, as texts, of a row of a file of questions."""
        return str(row["question"]), str(row["answer"])

    def to_model(self, answer: str, space: AnswerSpace) -> str:
        """A true answer as the model should give it."""
        return space.to_model(answer)

    def to_video(self, completion: str, space: AnswerSpace) -> str:
        """What a model said, in pixels and seconds of the video; what can't be read stays as it is."""
        return space.to_video(completion)

    def trivial_answers(self, exam: Exam) -> dict[str, dict[str, A]]:
        """Answers without a look at the video, by their name and question; a question may have none."""
        return {}

    def groups(self, pair: QAPair, true: A) -> dict[str, str]:
        """The group of a question in each grouping that the task has (see ``evaluation/groups.py``)."""
        return {"kind": pair.kind} if pair.kind else {}

    def interval(self, pair: QAPair, true: A) -> Interval | None:
        """The seconds that a question is about, where it is about some."""
        return None

    def drawing(self, answer: A) -> Drawing:
        """What a page draws of an answer."""
        return Drawing()

    def published_parts(
        self, completion: str, truth: str, names: NameMatcher
    ) -> tuple[dict[str, float], dict[str, int]]:
        """The reward as published code computes it, faults included, for comparing numbers.

        Returns:
            The parts, whose sum is the reward, and by kind what makes that code fail.

        Raises:
            ConfigError: there is no such code.
        """
        raise ConfigError(f"profile=paper_compat: the reward of {self.name} has no published code to agree with")
