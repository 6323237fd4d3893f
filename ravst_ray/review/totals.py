"""The figures of a whole output under review: what is counted over all rows, and over all questions that are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ravst_ray.config.review import ReviewConfig
from ravst_ray.records import QAPair
from ravst_ray.review.figures import effort, figures, unreviewed
from ravst_ray.review.queue import Placed
from ravst_ray.review.rows import Rows
from ravst_ray.review.verdicts import EventHistory, Target


class Totals:
    """Counts; of a video with verdicts, questions are made again only when another verdict has come.

    Args:
        rows: of the output.
        config: of the review.
        questions_of: gives a video's questions as they are with its verdicts.
    """

    def __init__(self, rows: Rows, config: ReviewConfig, questions_of: Callable[[str], Iterable[QAPair]]):
        self._rows, self._config, self._questions_of = rows, config, questions_of
        self._accepted: dict[str, tuple[Any, int]] = {}

    def figures(
        self, histories: Mapping[Target, EventHistory], order: Sequence[Placed], usd_machine: float
    ) -> dict[str, Any]:
        """All figures.

        Args:
            histories: of all events with verdicts.
            order: the queue.
            usd_machine: what the run has cost.
        """
        sample, left = [], 0
        for placed in order:
            if placed.entry.status == "accepted":
                target = placed.entry.video_id, placed.entry.event_num
                left += not histories.get(target, EventHistory()).reviewers
                if placed.section == "sample":
                    sample.append(target)
        seconds, hours = effort(one for history in histories.values() for one in history.chain)
        usd_people = hours * self._config.usd_per_hour
        questions = self.accepted_questions(histories)
        return {
            **figures(histories),
            "unreviewed": unreviewed(sample, left, histories, self._config.confidence),
            "seconds_per_row": seconds,
            "hours": hours,
            "usd_machine": usd_machine,
            "usd_people": usd_people,
            "accepted_questions": questions,
            "usd_per_accepted_question": (usd_machine + usd_people) / questions if questions else None,
        }

    def accepted_questions(self, histories: Mapping[Target, EventHistory]) -> int:
        """The machine's in videos that nobody has touched, and in the others those that review leaves."""
        touched = {video_id for (video_id, _), history in histories.items() if history.in_force}
        versions: dict[str, list[str | None]] = {video_id: [] for video_id in sorted(touched & self._rows.tasks.keys())}
        for (video_id, _), history in sorted(histories.items()):
            if video_id in versions:
                versions[video_id].append(history.version)
        untouched = (tasks for video_id, tasks in self._rows.tasks.items() if video_id not in versions)
        total = sum(n for tasks in untouched for (_, _, status), n in tasks.items() if status == "accepted")
        return total + sum(self._left(video_id, version) for video_id, version in versions.items())

    def _left(self, video_id: str, version: Any) -> int:
        known = self._accepted.get(video_id)
        if known is None or known[0] != (self._rows.version, version):
            count = sum(pair.status == "accepted" for pair in self._questions_of(video_id))
            known = self._accepted[video_id] = (self._rows.version, version), count
        return known[1]
