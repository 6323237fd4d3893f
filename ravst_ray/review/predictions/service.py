"""What the page of predictions asks for, as plain data: the session, the list, a question with its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ravst_ray.config.review import PredictionsConfig
from ravst_ray.datasets.places import local_copy, named
from ravst_ray.datasets.questions import read_questions
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.evaluation.scoring import make_rubric
from ravst_ray.records import QAPair
from ravst_ray.review.files import Pictures, VideoFile, Videos, found_file
from ravst_ray.review.predictions import told
from ravst_ray.review.predictions.listing import Listing, Wanted
from ravst_ray.review.predictions.scored import TOTAL, Joined, names_of, read_run, score
from ravst_ray.review.service import UnknownItem
from ravst_ray.tasks import TASKS, task_of

MOST_RUNS = 2
_ASKED_CHARACTERS = 200  # of a question in the list
_WAIT_S = 90.0


class Predictions:
    """One or two files of predictions beside the truth. Safe to use from several threads: nothing changes.

    Args:
        predictions: their places.
        annotations: of the questions, in one of the formats of ``ravst predict``.
        config: how they are scored, and where the videos are.

    Raises:
        ConfigError: a file can't be used, or its answers are to none of the questions.
    """

    def __init__(self, predictions: Sequence[str], annotations: str, config: PredictionsConfig):
        if not 1 <= len(predictions) <= MOST_RUNS:
            raise ConfigError(f"--predictions: {len(predictions)} files; one is shown, or two are compared")
        self.config = config
        self._annotations = annotations
        self._rubric = make_rubric(config)
        self._pairs, self._durations = _questions(annotations)
        self._number = {pair.qa_id: index for index, pair in enumerate(self._pairs)}
        self._names = names_of(predictions)
        self._runs = [read_run(place, self._pairs, annotations, self._rubric) for place in predictions]
        self._joined = Joined(self._runs)
        self._row = {
            (index, sample): row
            for row, (index, sample) in enumerate(
                zip(self._joined.question_R.tolist(), self._joined.sample_R.tolist(), strict=True)
            )
        }
        self._listing = Listing(self._joined, self._pairs)
        self._videos = Videos(config.videos) if config.videos else None
        self.pictures = Pictures(config.fetched_bytes)

    def close(self) -> None:
        """End what was started, remove copies."""
        self.pictures.close()
        for run in self._runs:
            run.lines.close()

    # --- the list ----------------------------------------------------------------------------------------------------

    def session(self) -> dict[str, Any]:
        """What the page needs to know once."""
        asked = {pair.task for pair in self._pairs}
        both = np.all([answer_R >= 0 for answer_R in self._joined.answer_R], axis=0)
        return {
            "annotations": self._annotations.partition("?")[0],
            "questions": len(self._pairs),
            "rows": len(self._row),
            "both": int(both.sum()),
            "tasks": [name for name in TASKS if name in asked],
            "parts": self._joined.names,
            "runs": [self._run(number) for number in range(len(self._runs))],
        }

    def _run(self, number: int) -> dict[str, Any]:
        run = self._runs[number]
        answered = len(set(run.question_A.tolist()))
        return {
            "name": self._names[number],
            "place": run.lines.place.partition("?")[0],
            "answers": len(run.question_A),
            "missing": len(self._pairs) - answered,
            "repeated": len(run.question_A) - answered,
            "truncated": run.truncated,
            "malformed": run.malformed,
            **{kind: run.faults.counts[kind] for kind in ("broken", "foreign")},
            "examples": run.faults.examples,
        }

    def page(self, wanted: Wanted, offset: int, limit: int) -> dict[str, Any]:
        """A page of the list, and what all that the filter lets through come to.

        Raises:
            UnknownItem: no answer has such a part.
        """
        if wanted.by not in self._joined.names:
            raise UnknownItem(f"there is no {wanted.by!r}; there are {', '.join(self._joined.names)}")
        rows, summary = self._listing.rows(wanted)
        items = [self._listed(row, wanted.by) for row in rows[offset : offset + limit].tolist()]
        return {"total": len(rows), "offset": offset, **summary, "items": items}

    def _listed(self, row: int, by: str) -> dict[str, Any]:
        pair = self._pairs[self._joined.question_R[row]]
        values = {name: [_number(column[row]) for column in self._joined.scores(name)] for name in {by, TOTAL}}
        answers = [int(answer_R[row]) for answer_R in self._joined.answer_R]
        return {
            "qa_id": pair.qa_id,
            "sample": int(self._joined.sample_R[row]),
            "video_id": pair.video_id,
            "task": pair.task,
            "kind": pair.kind,
            "question": pair.question[:_ASKED_CHARACTERS],
            "answered": [one >= 0 for one in answers],
            "scores": values[by],
            "totals": values[TOTAL],
            "maximum": next(
                float(run.maximum_A[one]) for run, one in zip(self._runs, answers, strict=True) if one >= 0
            ),
        }

    # --- one row -----------------------------------------------------------------------------------------------------

    def item(self, qa_id: str, sample: int) -> dict[str, Any]:
        """A question, its truth and its answers.

        Raises:
            UnknownItem: there is no answer like that.
        """
        row = self._row.get((self._number.get(qa_id, -1), sample))
        if row is None:
            raise UnknownItem(f"no answer of these files has the id {qa_id!r} and the number {sample}")
        pair = self._pairs[self._joined.question_R[row]]
        task = task_of(pair.task)
        truth = told.truth(pair)
        return {
            "qa_id": pair.qa_id,
            "sample": sample,
            "samples": int((self._joined.question_R == self._joined.question_R[row]).sum()),
            "video_id": pair.video_id,
            "task": pair.task,
            "title": task.title,
            "kind": pair.kind,
            "question": pair.question,
            "asked_s": told.asked_at(task.drawing(task.parse(pair.answer))),
            "span": task.interval(pair, task.parse(pair.answer)),
            "video": {"duration_s": self._durations.get(pair.video_id, 0.0), **found_file(self._find, pair.video_id)},
            "truth": truth,
            "answers": [self._answer(number, row, pair) for number in range(len(self._runs))],
        }

    def _answer(self, number: int, row: int, pair: QAPair) -> dict[str, Any] | None:
        index = int(self._joined.answer_R[number][row])
        if index < 0:
            return None
        run = self._runs[number]
        answer = run.lines.at(int(run.place_A[index]), pair.qa_id)
        if answer is None:
            raise OSError(f"{run.lines.place} has changed since it was read; start ravst review again")
        return told.said(pair, answer, score(self._rubric, pair, answer), self.config, self._rubric.names)

    # --- videos ------------------------------------------------------------------------------------------------------

    def video(self, video_id: str) -> VideoFile:
        """The file of a video that is asked about.

        Raises:
            UnknownItem: no question is about it.
            StepError: its file isn't there.
        """
        if video_id not in self._durations:
            raise UnknownItem(f"no question is about a video {video_id!r}")
        return self._find(video_id)

    def duration_s(self, video_id: str) -> float:
        """As the questions state it, else as the file does; errors as of :meth:`video`."""
        stated_s = self._durations.get(video_id, 0.0)
        return stated_s or float(self.pictures.timeline(self.video(video_id)).result(_WAIT_S).end_s)

    def _find(self, video_id: str) -> VideoFile:
        if self._videos is None:
            raise StepError("missing_file", "No folder of videos was named: start ravst review with --videos DIR.")
        return self._videos.find(video_id)


def _questions(annotations: str) -> tuple[list[QAPair], dict[str, float]]:
    try:
        with local_copy(annotations) as path, named(path, annotations):
            pairs, durations = read_questions(path)
    except StepError as error:
        raise ConfigError(f"annotations file {error.message}") from None
    if not pairs:
        raise ConfigError(f"{annotations}: holds no question")
    return pairs, durations


def _number(value: float) -> float | None:
    return None if value != value else float(value)
