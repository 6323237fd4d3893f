"""The verdicts of an output applied to its rows, video by video, for whoever hands the dataset on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ravst_ray.annotate.settings import read_config
from ravst_ray.datasets.places import insist
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.review.log import VerdictLog
from ravst_ray.review.revise import revise, revised_rows

Row = dict[str, Any]


class Reviser:
    """Revises rows by what people have said of them. Only of videos with verdicts is more read than is given.

    Args:
        output: of ``ravst annotate``, at any place.

    Raises:
        ConfigError: there is no such output.
        AbortError: it can't be read.
    """

    def __init__(self, output: str):
        store = DatasetStore(output)
        self._run = read_config(output)
        self._log = insist(lambda: VerdictLog(store), output)
        self._touched = {video_id for (video_id, _), history in self._log.all().items() if history.in_force}
        self._videos: Mapping[str, Row] = (
            {row["video_id"]: row for row in store.rows("videos") if row["video_id"] in self._touched}
            if self._touched
            else {}
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the log can't be read, a sentence each."""
        return self._log.problems

    def __call__(self, video_id: str, annotations: list[Row], qa: list[Row]) -> tuple[list[Row], list[Row]]:
        """All rows of a video as they are with its verdicts; the same rows where there are none."""
        if video_id not in self._touched:
            return annotations, qa
        histories = self._log.histories(video_id)
        annotations = sorted(annotations, key=lambda row: row["event_num"])
        revised = revise(annotations, qa, self._videos.get(video_id), histories, self._run)
        return revised_rows(annotations, qa, revised, histories)
